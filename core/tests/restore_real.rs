//! Backups of a real PostgreSQL, taken with the local provider, restored and started: to each kind of target, with
//! tablespaces moved, in place, and as a verification. With every version found on this machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use barman_snap::catalog::Catalog;
use barman_snap::catalog::store::StoreOptions;
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::id::{BackupId, IdSource, SystemIds, Token};
use barman_snap::model::{BackupInfo, BackupStatus, EngineRecord, SnapshotRecord};
use barman_snap::postgres::{BackupControl, StartRequest};
use barman_snap::provider::local::{LocalOptions, LocalProvider};
use barman_snap::provider::{CreateRequest, SnapshotProvider, SnapshotState, VolumeSelection, VolumeSnapshot};
use barman_snap::restore::host::look;
use barman_snap::restore::plan::{places_to_look_at, plan};
use barman_snap::restore::proof::Outcome;
use barman_snap::restore::target::parse_time;
use barman_snap::restore::{
    ArchiveFacts, PlanInput, Proof, Purpose, RestoreRequest, Restored, SqlCheck, TargetOptions, TargetPoint, Tools,
    VerifyDepth, VerifyInput, VerifyOptions, WalSource, archive_facts, provision, store_proof, verify,
};
use barman_snap::wal::WalArchive;
use barman_snap::{ErrorKind, Result};
use support::{Cluster, bin_dirs, give, path};

/// A server with two tablespaces, a WAL archive, and a backup.
struct World {
    cluster: Cluster,
    provider: LocalProvider,
    id: BackupId,
    info: BackupInfo,
    record: EngineRecord,
}

const SUM: &str = "SELECT sum(n) || ' ' || count(*) FROM (SELECT n FROM one UNION ALL SELECT n FROM two UNION ALL \
                   SELECT n FROM main) AS all_rows";

impl World {
    async fn new(bin: &Path) -> Self {
        let cluster = Cluster::start(bin, "max_connections = 37");
        let archive = cluster.dir.path().join("archive");
        for name in ["archive", "ts1", "ts2"] {
            fs::create_dir(cluster.dir.path().join(name)).unwrap();
            give(&cluster.dir.path().join(name));
        }
        cluster.sql("ALTER SYSTEM SET archive_mode = on");
        cluster.sql(&format!("ALTER SYSTEM SET archive_command = 'cp %p {}/%f'", archive.display()));
        let checksums = cluster.sql("SHOW data_checksums");
        cluster.run("pg_ctl", &["-D", path(&cluster.data()), "-w", "stop"]);
        if checksums == "off" {
            cluster.run("pg_checksums", &["--enable", "--no-sync", "-D", path(&cluster.data())]);
        }
        cluster.up();
        for (name, table) in [("ts1", "one"), ("ts2", "two")] {
            cluster.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}/{name}'", cluster.dir.path().display()));
            cluster.sql(&format!("CREATE TABLE {table} (n bigint PRIMARY KEY) TABLESPACE {name}"));
        }
        cluster.sql("CREATE TABLE main (n bigint)");
        cluster.sql("CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS n");
        cluster.sql("SELECT pg_create_physical_replication_slot('held', true)");
        cluster.sql("INSERT INTO one SELECT generate_series(1, 1000)");
        // What an earlier restore has left: it must not get in the way of this one.
        cluster.sql("ALTER SYSTEM SET recovery_target_xid = '4711'");
        cluster.sql("ALTER SYSTEM SET archive_cleanup_command = 'false'");
        let conf = cluster.data().join("postgresql.conf");
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + "\nrecovery_target_name = 'old'\n").unwrap();
        let place = Some(cluster.dir.path().to_owned());
        let provider = LocalProvider::new(LocalOptions { snapshot_directory: place, ..LocalOptions::default() });
        let id = "20260529T095900".parse().unwrap();
        let (info, record) = back_up(&cluster, &provider, &id).await;
        Self { cluster, provider, id, info, record }
    }

    fn archive(&self) -> PathBuf {
        self.cluster.dir.path().join("archive")
    }

    /// A catalog with everything that the server has archived.
    async fn catalog(&self) -> Catalog {
        let url = self.cluster.dir.path().join("catalog");
        let catalog = Catalog::open(path(&url), &StoreOptions::default(), "main").await.unwrap();
        let archive = WalArchive::new(&catalog);
        for entry in fs::read_dir(self.archive()).unwrap().flatten() {
            archive.archive(&entry.path()).await.unwrap();
        }
        catalog
    }

    fn wal(&self) -> WalSource {
        WalSource::Command(format!("cp {}/%f %p", self.archive().display()))
    }

    /// Ends the segment and waits until it is archived.
    fn archive_all(&self) {
        let segment = self.cluster.sql("SELECT pg_walfile_name(pg_switch_wal())");
        let file = self.archive().join(&segment);
        wait_for(&format!("{segment} to be archived"), || {
            file.exists() && fs::metadata(&file).unwrap().len() == 16 << 20
        });
    }

    async fn restore(&self, request: &RestoreRequest) -> Result<Restored> {
        let host = look(&places_to_look_at(&self.info, request)?)?;
        let clock = SystemClock::new();
        let plan = plan(PlanInput {
            backup_id: &self.id,
            info: &self.info,
            record: &self.record,
            request,
            host: &host,
            archive: &ArchiveFacts::default(),
            devices: None,
            now: clock.now(),
        })?;
        provision(&plan, self.tools(&clock, &|| false)).await
    }

    fn tools<'a>(&'a self, clock: &'a SystemClock, cancelled: &'a (dyn Fn() -> bool + Send + Sync)) -> Tools<'a> {
        Tools { provider: &self.provider, clock, cancelled, progress: &|_| {} }
    }

    /// Restores to a target beside the original, with both tablespaces moved, and starts what came out.
    async fn restore_and_start(&self, options: TargetOptions) -> Cluster {
        let dir = tempfile::Builder::new().prefix("barman-snap-pg-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        give(dir.path());
        let mut request = RestoreRequest::new(dir.path().join("data"), self.wal(), token());
        request.tablespaces =
            ["ts1", "ts2"].map(|name| format!("{name}:{}/{name}", dir.path().display()).parse().unwrap()).into();
        request.recovery = options.into_target().unwrap();
        request.purpose = Some(Purpose::Clone);
        self.restore(&request).await.unwrap();
        let port = self.cluster.port + 1;
        let restored = Cluster { bin: self.cluster.bin.clone(), dir, port };
        move_socket(&restored);
        restored.up();
        wait_for("the end of recovery", || restored.sql("SELECT pg_is_in_recovery()") == "f");
        for name in ["ts1", "ts2"] {
            let location = restored
                .sql(&format!("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{name}'"));
            assert_eq!(Path::new(&location), restored.dir.path().join(name));
        }
        restored
    }

    async fn verify(&self, options: &VerifyOptions, cancelled: &(dyn Fn() -> bool + Send + Sync)) -> Result<Proof> {
        let clock = SystemClock::new();
        let catalog = self.catalog().await;
        let reader = WalArchive::new(&catalog);
        let facts = archive_facts(&catalog, &self.info).await?;
        let input = VerifyInput {
            server: "main",
            backup_id: &self.id,
            info: &self.info,
            record: &self.record,
            archive: &facts,
            devices: None,
            token: &token(),
            wal: &self.wal(),
            reader: Some(&reader),
            options,
        };
        verify(input, self.tools(&clock, cancelled)).await
    }

    /// Nothing of a verification is left on the disk.
    fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.cluster.dir.path())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("barman-snap-verify-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn token() -> Token {
    SystemIds.token()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::yield_now();
        std::process::Command::new("sleep").arg("0.05").status().unwrap();
    }
    panic!("waited in vain for {what}");
}

/// A restored server that runs beside the original has to have its own socket.
fn move_socket(restored: &Cluster) {
    let file = restored.data().join("postgresql.conf");
    let own = format!(
        "\nport = {}\nunix_socket_directories = '{}'\nlisten_addresses = ''\n",
        restored.port,
        restored.dir.path().display()
    );
    fs::write(&file, fs::read_to_string(&file).unwrap() + &own).unwrap();
}

async fn back_up(cluster: &Cluster, provider: &LocalProvider, id: &BackupId) -> (BackupInfo, EngineRecord) {
    let mut control = cluster.connect("").await.unwrap();
    let facts = control.facts().await.unwrap();
    let instance = provider.instance(None).await.unwrap();
    let roots = ["data", "ts1", "ts2"].map(|name| cluster.dir.path().join(name).display().to_string());
    let volumes = provider.volumes(&instance, &VolumeSelection::Named(roots.into())).await.unwrap();
    let started = control.start(&StartRequest { label: format!("Barman backup main {id}"), fast: true }).await.unwrap();
    // Rows that are written in between are in the WAL only, or torn in the snapshot.
    cluster.sql("INSERT INTO two SELECT generate_series(1, 1000)");
    let token = token();
    let snapshots = volumes
        .iter()
        .map(|volume| VolumeSnapshot { volume: volume.clone(), name: provider.snapshot_name(volume, id) });
    let mut tickets = Vec::new();
    for snapshot in snapshots {
        let request = CreateRequest {
            token: token.clone(),
            mark: "main".into(),
            backup_id: id.clone(),
            instance: instance.clone(),
            volumes: vec![snapshot],
            tags: BTreeMap::new(),
        };
        tickets.extend(provider.create(&request).await.unwrap());
    }
    for ticket in &tickets {
        while provider.status(ticket).await.unwrap().state != SnapshotState::Ready {
            SystemClock::new().sleep(Duration::from_millis(20)).await;
        }
    }
    let stopped = control.stop().await.unwrap();
    control.switch_wal().await.unwrap();
    let info = BackupInfo {
        backup_label: Some(stopped.label),
        begin_xlog: Some(started.lsn),
        end_xlog: Some(stopped.lsn),
        begin_time: Some(started.time),
        end_time: Some(stopped.time),
        pgdata: Some(facts.data_directory.display().to_string()),
        config_file: facts.config_file.clone(),
        server_name: Some("main".into()),
        status: BackupStatus::Done,
        systemid: Some(facts.system_id.clone()),
        tablespaces: Some(facts.tablespaces.clone()),
        timeline: Some(stopped.timeline),
        version: Some(facts.version),
        xlog_segment_size: Some(facts.segment_size),
        ..BackupInfo::default()
    };
    let record = EngineRecord {
        version: EngineRecord::VERSION,
        provider: "local".into(),
        token,
        snapshots: tickets
            .into_iter()
            .zip(volumes)
            .map(|(ticket, volume)| SnapshotRecord {
                ticket,
                mount_point: volume.mount_point.display().to_string(),
                mount_options: volume.mount_options,
                file_systems: volume.file_systems,
            })
            .collect(),
        tablespace_map: Some(stopped.tablespace_map),
        wal_external: false,
        from_standby: false,
        settings: facts.settings,
        config_files: BTreeMap::new(),
        saved_config: None,
        saved_files: Vec::new(),
        real_paths: Default::default(),
        excluded_tablespaces: Vec::new(),
        bytes_copied: None,
        timings: Default::default(),
    };
    (info, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_to_each_kind_of_target() {
    for bin in bin_dirs() {
        let world = World::new(&bin).await;
        let at_end_of_backup = world.cluster.sql(SUM);
        world.cluster.sql("INSERT INTO main SELECT generate_series(1, 500)");
        let wanted = world.cluster.sql(SUM);
        let lsn = world.cluster.sql("SELECT pg_create_restore_point('here')");
        let time = world.cluster.sql("SELECT clock_timestamp()");
        world.cluster.sql("SELECT pg_sleep(0.05)");
        world.cluster.sql("INSERT INTO main SELECT generate_series(501, 900)");
        let all = world.cluster.sql(SUM);
        world.archive_all();

        let time = Some(parse_time(&time, &chrono::Utc).unwrap());
        for (name, options, expected) in [
            ("time", TargetOptions { time, ..TargetOptions::default() }, &wanted),
            ("lsn", TargetOptions { lsn: Some(lsn.parse().unwrap()), ..TargetOptions::default() }, &wanted),
            ("name", TargetOptions { name: Some("here".into()), ..TargetOptions::default() }, &wanted),
            ("immediate", TargetOptions { immediate: true, ..TargetOptions::default() }, &at_end_of_backup),
            ("none", TargetOptions::default(), &all),
        ] {
            let restored = world.restore_and_start(options).await;
            assert_eq!(&restored.sql(SUM), expected, "{name}");
            assert_eq!(restored.sql("SELECT count(*) FROM fleeting"), "0");
            assert_eq!(restored.sql("SELECT count(*) FROM pg_replication_slots"), "0");
            assert_eq!(restored.sql("SHOW archive_mode"), "off");
            assert_eq!(restored.sql("SHOW max_connections"), "37");
        }
        // The original has noticed nothing.
        assert_eq!(world.cluster.sql(SUM), all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_in_place_keeps_what_was_there() {
    for bin in bin_dirs() {
        let world = World::new(&bin).await;
        let at_end_of_backup = world.cluster.sql(SUM);
        world.cluster.sql("INSERT INTO main SELECT generate_series(1, 500)");
        world.archive_all();
        let mut request = RestoreRequest::new(world.cluster.data(), world.wal(), token());
        request.recovery.point = TargetPoint::Immediate;

        let error = world.restore(&request).await.unwrap_err();
        assert!(error.message().ends_with("/data is not empty"), "{error}");
        request.in_place = true;
        let error = world.restore(&request).await.unwrap_err();
        assert!(error.message().starts_with("a server is running on "), "{error}");

        world.cluster.run("pg_ctl", &["-D", path(&world.cluster.data()), "-w", "stop"]);
        let restored = world.restore(&request).await.unwrap();
        assert_eq!(restored.set_aside.len(), 3);
        assert!(restored.set_aside.iter().all(|one| one.to.exists() && !one.building.exists()));
        assert!(restored.set_aside[0].to.join("PG_VERSION").exists());
        world.cluster.up();
        wait_for("the end of recovery", || world.cluster.sql("SELECT pg_is_in_recovery()") == "f");
        assert_eq!(world.cluster.sql(SUM), at_end_of_backup);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_leaves_nothing_behind() {
    let world = World::new(&bin_dirs()[0]).await;
    let dir = tempfile::tempdir().unwrap();
    let mut request = RestoreRequest::new(dir.path().join("deep/data"), world.wal(), token());
    request.tablespaces =
        ["ts1", "ts2"].map(|name| format!("{name}:{}/{name}", dir.path().display()).parse().unwrap()).into();
    fs::create_dir(dir.path().join("ts1")).unwrap();
    // The snapshot of the second tablespace is lost.
    let lost = &world.record.snapshots[2].ticket;
    world.provider.delete(lost).await.unwrap();
    let error = world.restore(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["ts1"]);
    assert_eq!(fs::read_dir(dir.path().join("ts1")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_backup_is_proven_and_nothing_is_left() {
    for bin in bin_dirs() {
        let world = World::new(&bin).await;
        let expected = world.cluster.sql(SUM);
        world.archive_all();
        let check = SqlCheck { database: "postgres".into(), sql: SUM.into(), expect: Some(expected.clone()) };
        let options = VerifyOptions { bin_dir: Some(bin.clone()), sql: vec![check], ..VerifyOptions::default() };
        let proof = world.verify(&options, &|| false).await.unwrap();
        assert!(proof.passed, "{}", proof.to_json().unwrap());
        let outcome = |name: &str| proof.checks.iter().find(|check| check.name == name).map(|check| check.outcome);
        for name in ["restore", "recovery", "identity", "amcheck", "sql", "shutdown", "checksums"] {
            assert_eq!(outcome(name), Some(Outcome::Passed), "{name}");
        }
        assert_eq!(proof.sql[0].rows, [[Some(expected)]]);
        let major = world.info.version.unwrap() / 10_000;
        assert!(proof.postgres.contains(&format!("(PostgreSQL) {major}")), "{}", proof.postgres);
        let catalog = world.catalog().await;
        let key = store_proof(&catalog, &proof).await.unwrap();
        assert_eq!(key, format!("main/proofs/20260529T095900/{}.json", proof.stamp(0)));
        // Another one of the same second is kept as well.
        let other = Proof { duration_ms: proof.duration_ms + 1, ..proof.clone() };
        let second = store_proof(&catalog, &other).await.unwrap();
        assert_eq!(second, format!("main/proofs/20260529T095900/{}.json", proof.stamp(1)));
        let (stored, _) = catalog.space().get(&key).await.unwrap().unwrap();
        assert_eq!(Proof::parse(std::str::from_utf8(&stored).unwrap()).unwrap(), proof);
        world.assert_clean();
        // Proof of all WAL: rows after the backup are there as well.
        world.cluster.sql("INSERT INTO main SELECT generate_series(1, 500)");
        let check = SqlCheck { database: "postgres".into(), sql: SUM.into(), expect: Some(world.cluster.sql(SUM)) };
        world.archive_all();
        let options = VerifyOptions { depth: VerifyDepth::EndOfWal, sql: vec![check], ..options };
        let proof = world.verify(&options, &|| false).await.unwrap();
        assert!(proof.passed, "{}", proof.to_json().unwrap());
        world.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_recorded_as_such() {
    let bin = &bin_dirs()[0];
    let world = World::new(bin).await;
    world.archive_all();
    let options = VerifyOptions { bin_dir: Some(bin.clone()), ..VerifyOptions::default() };
    let failed = |proof: &Proof| {
        let failed = proof.checks.iter().filter(|check| check.outcome == Outcome::Failed);
        failed.map(|check| check.name.clone()).collect::<Vec<_>>()
    };
    // A byte of a table is wrong: of the catalog pg_proc, which no WAL of the backup repairs.
    let file = world.cluster.sql("SELECT pg_relation_filepath('pg_description')");
    let tree = find(Path::new(&world.record.snapshots[0].ticket.snapshot), &file);
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o600)).unwrap();
    let page = fs::OpenOptions::new().write(true).open(&tree).unwrap();
    page.write_at(&[0xA5; 64], 4 * 8192 + 4000).unwrap();
    drop(page);
    let proof = world.verify(&options, &|| false).await.unwrap();
    assert!(!proof.passed);
    assert!(failed(&proof).contains(&"checksums".to_owned()), "{}", proof.to_json().unwrap());
    assert!(proof.summary().contains("failed: "), "{}", proof.summary());
    world.assert_clean();

    // The WAL is gone: the server says so itself.
    for entry in fs::read_dir(world.archive()).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
    fs::remove_dir_all(world.cluster.dir.path().join("catalog")).unwrap();
    let proof = world.verify(&options, &|| false).await.unwrap();
    assert_eq!(failed(&proof), ["restore"], "{}", proof.to_json().unwrap());
    let options = VerifyOptions { depth: VerifyDepth::EndOfWal, ..options };
    let proof = world.verify(&options, &|| false).await.unwrap();
    assert_eq!(failed(&proof), ["recovery"]);
    let recovery = proof.checks.iter().find(|check| check.name == "recovery").unwrap();
    assert!(recovery.detail.contains("FATAL"), "{}", recovery.detail);
    assert!(!proof.log.is_empty());
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_verification_leaves_nothing_and_proves_nothing() {
    let bin = &bin_dirs()[0];
    let world = World::new(bin).await;
    world.archive_all();
    let options = VerifyOptions { bin_dir: Some(bin.clone()), ..VerifyOptions::default() };
    // Each number of questions that are answered with "go on" is another moment.
    for moments in [1, 4, 6, 9] {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let cancelled = || asked.fetch_add(1, Ordering::Relaxed) >= moments;
        let error = world.verify(&options, &cancelled).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{moments}: {}", error.chain());
        world.assert_clean();
    }
    // The future itself is dropped while the server runs.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let running = tokio::sync::Notify::new();
    let cancelled = || {
        if asked.fetch_add(1, Ordering::Relaxed) == 9 {
            running.notify_one();
        }
        false
    };
    tokio::select! {
        biased;
        () = running.notified() => {}
        result = world.verify(&options, &cancelled) => panic!("it never asked ten times: {result:?}"),
    }
    SystemClock::new().sleep(Duration::from_millis(500)).await;
    world.assert_clean();
}

/// A file somewhere inside a snapshot.
fn find(snapshot: &Path, file: &str) -> PathBuf {
    let found =
        std::process::Command::new("find").arg(snapshot).arg("-path").arg(format!("*/{file}")).output().unwrap();
    let text = String::from_utf8(found.stdout).unwrap();
    PathBuf::from(text.lines().next().unwrap_or_else(|| panic!("no {file} in {}", snapshot.display())))
}
