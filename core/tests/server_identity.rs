//! Which server it is, with real servers: on a described host, and from the beginning of a backup to its end.

#![allow(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName};
use barman_snap::clock::SystemClock;
use barman_snap::host::devices::HostDescription;
use barman_snap::postgres::BackupControl;
use barman_snap::session::{BackupRequest, BackupSession, Phase, Step, WalPolicy, step};
use barman_snap::testing::MemoryProvider;
use barman_snap::testing::memory::MemoryOptions;
use barman_snap::{Engine, ErrorKind};
use support::{Cluster, bin_dirs, path};

fn request() -> BackupRequest {
    BackupRequest { wal: WalPolicy::External, immediate_checkpoint: true, ..BackupRequest::default() }
}

/// An engine whose volume, a made-up one, holds the cluster.
fn engine(cluster: &Cluster, host: Option<HostDescription>) -> (Engine, MemoryProvider) {
    let provider = MemoryProvider::new(Arc::new(SystemClock::new()), MemoryOptions::default());
    provider.add_volume(cluster.dir.path().canonicalize().unwrap());
    let catalog = Catalog::new(ObjectSpace::in_memory(), Layout::new("", ServerName::new("pg1").unwrap()).unwrap());
    let mut builder = Engine::on(catalog).provider(Arc::new(provider.clone()));
    if let Some(host) = host {
        builder = builder.host_description(Arc::new(host));
    }
    (builder.build(), provider)
}

async fn describe(cluster: &Cluster) -> HostDescription {
    let mut control = cluster.connect("").await.unwrap();
    let made = HostDescription::with_server(Some(&mut control as &mut dyn BackupControl), &[]).await.unwrap();
    // As it is stored and read.
    HostDescription::from_json(&made.to_json().unwrap()).unwrap()
}

/// What planning a backup of the server comes to with that description; a refusal is one line with a way out.
async fn planned(cluster: &Cluster, host: HostDescription) -> Result<(), String> {
    let mut control = cluster.connect("").await.unwrap();
    let planned = engine(cluster, Some(host)).0.plan_backup(&mut control, &request()).await;
    planned.map(drop).map_err(|error| {
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert!(error.hint().is_some() && !error.to_string().contains('\n'), "{error}");
        error.to_string()
    })
}

/// The description as if the server of `from` lay at the path of `to`, as it does on two hosts that are set up alike.
fn at_the_path_of(host: &HostDescription, from: &Cluster, to: &Cluster) -> HostDescription {
    let text = host.to_json().unwrap();
    HostDescription::from_json(&text.replace(path(&from.data()), path(&to.data()))).unwrap()
}

#[tokio::test]
async fn a_described_server_is_told_from_its_standby_and_from_itself_before_a_restart() {
    let primary = Cluster::start(&bin_dirs()[0], "");
    let standby = Cluster::standby(&primary, "");
    planned(&primary, describe(&primary).await).await.unwrap();
    planned(&standby, describe(&standby).await).await.unwrap();

    let alike = at_the_path_of(&describe(&standby).await, &standby, &primary);
    let refused = planned(&primary, alike).await.unwrap_err();
    assert!(refused.contains("is not the one that was described on host"), "{refused}");

    // Without a connection there are only the files, which tell a standby from its primary.
    let by_path = |cluster: &Cluster| HostDescription::capture(Path::new("/"), &[cluster.data()]).unwrap();
    planned(&primary, by_path(&primary)).await.unwrap();
    let refused = planned(&primary, at_the_path_of(&by_path(&standby), &standby, &primary)).await.unwrap_err();
    assert!(refused.contains("it is a primary, the files are those of a standby"), "{refused}");

    let mut old = describe(&primary).await;
    let before = old.clone();
    old.servers.clear();
    let refused = planned(&primary, old).await.unwrap_err();
    assert!(refused.contains("does not say which server runs on") && refused.contains("describe-host -d"), "{refused}");

    primary.run("pg_ctl", &["-D", path(&primary.data()), "-m", "fast", "-w", "-l", "/dev/null", "restart"]);
    let refused = planned(&primary, before).await.unwrap_err();
    assert!(refused.contains("if it was restarted since, describe the host anew"), "{refused}");
    planned(&primary, describe(&primary).await).await.unwrap();
}

/// A session that has cut all its volumes, and has not left backup mode yet.
async fn cut(cluster: &Cluster, engine: &Engine) -> BackupSession {
    let control = Box::new(cluster.connect("").await.unwrap());
    let mut session = engine.backup(control, &request()).await.unwrap();
    while step::next(session.state()) != Some(Step::Stop) {
        session.next_step().await.unwrap();
    }
    session
}

/// The session ends with this reason, and nothing is left of it.
async fn undone(mut session: BackupSession, provider: &MemoryProvider, why: &str) {
    let error = session.run().await.unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(session.phase(), Phase::Undone);
    assert!(provider.existing().is_empty(), "snapshots are left");
}

#[tokio::test]
async fn what_happens_to_a_server_between_begin_and_end_undoes_the_backup() {
    let primary = Cluster::start(&bin_dirs()[0], "");
    let (engine_here, provider) = engine(&primary, None);
    let mut whole = cut(&primary, &engine_here).await;
    whole.run().await.unwrap();
    let seen = whole.state().plan.sighting.clone().unwrap();
    assert_eq!(seen.directory, Some(primary.data()));
    for ticket in provider.existing() {
        barman_snap::provider::SnapshotProvider::delete(&provider, &ticket).await.unwrap();
    }

    // A server that cannot make a file is known by what it has written already; what was tried leaves the session usable.
    let (signs, away) = (primary.data().join("pg_snapshots"), primary.dir.path().join("away"));
    std::fs::rename(&signs, &away).unwrap();
    let mut control = primary.connect("").await.unwrap();
    assert!(control.leave_sign().await.is_err());
    let mut session = cut(&primary, &engine_here).await;
    session.run().await.unwrap();
    std::fs::rename(&away, &signs).unwrap();
    for ticket in provider.existing() {
        barman_snap::provider::SnapshotProvider::delete(&provider, &ticket).await.unwrap();
    }

    // Another directory is mounted over the data, or a switch-over of the storage happens: a copy lies there now.
    let session = cut(&primary, &engine_here).await;
    let aside: PathBuf = primary.dir.path().join("aside");
    let copy = |from: &Path, to: &Path| Command::new("cp").args(["-a", path(from), path(to)]).status().unwrap();
    std::fs::rename(primary.data(), &aside).unwrap();
    assert!(copy(&aside, &primary.data()).success());
    undone(session, &provider, "is not the one whose files are in").await;
    std::fs::remove_dir_all(primary.data()).unwrap();
    std::fs::rename(&aside, primary.data()).unwrap();

    let session = cut(&primary, &engine_here).await;
    primary.run("pg_ctl", &["-D", path(&primary.data()), "-m", "fast", "-w", "-l", "/dev/null", "restart"]);
    undone(session, &provider, "the connection to PostgreSQL was lost").await;

    let standby = Cluster::standby(&primary, "");
    let (engine_there, provider) = engine(&standby, None);
    let session = cut(&standby, &engine_there).await;
    standby.run("pg_ctl", &["-D", path(&standby.data()), "-w", "promote"]);
    undone(session, &provider, "the standby was promoted during the backup").await;
}
