//! The server that answers and the files that are cut have to be one: whoever else may answer at the same path is refused.
//!
//! What happens on two hosts with equal paths, behind a virtual IP or with a wrong port, is made on one host by a mount
//! namespace: in it another data directory lies at the path that the server names. All of it needs root.

use std::path::Path;
use std::process::Command;

use barman_snap_tests::command::{Ran, attempt};
use barman_snap_tests::fs::Kind;
use barman_snap_tests::load::fill;
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::site::Site;
use barman_snap_tests::skip::{Missing, Need};
use barman_snap_tests::user::{is_root, server_user};

/// What begins a command in a mount namespace where `there` lies at `here`, as the user of the server.
fn elsewhere(there: &Path, here: &Path, namespaces: &[&str]) -> Result<Vec<String>, Missing> {
    if !is_root() {
        return Err(Missing::new(Need::Root, "namespaces of its own"));
    }
    let user = server_user().expect("it is root");
    let script = format!(
        "mount --bind '{}' '{}' && exec setpriv --reuid={} --regid={} --clear-groups \"$@\"",
        there.display(),
        here.display(),
        user.uid,
        user.gid
    );
    let words = [&["unshare", "--mount"], namespaces, &["sh", "-c", &script, "sh"]].concat();
    Ok(words.into_iter().map(str::to_owned).collect())
}

/// Runs a command of the program behind these words.
fn run_behind(before: &[String], site: &Site, command: &str, rest: &[&str]) -> Ran {
    let inner = site.snap.command_that_mounts(site.args(command, rest));
    let mut outer = Command::new(&before[0]);
    outer.args(&before[1..]).arg(inner.get_program()).args(inner.get_args()).env_clear().current_dir("/");
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    attempt(&mut outer)
}

/// `backup` and `check` say the same, and nothing has come of it.
#[track_caller]
fn refused(before: &[String], site: &Site, why: &[&str]) {
    let backup = run_behind(before, site, "backup", &["--immediate-checkpoint"]);
    assert_eq!(backup.code(), 1, "{}{}", backup.stdout, backup.stderr);
    let check = run_behind(before, site, "check", &[]);
    assert_eq!(check.code(), 1, "{}", check.stdout);
    let data = site.cluster.data().display().to_string();
    for what in why.iter().chain(&[data.as_str(), "is not the one whose files are in"]) {
        assert!(backup.stderr.contains(what), "{what:?} in {}", backup.stderr);
        assert!(check.stdout.contains(what), "{what:?} in {}", check.stdout);
    }
    assert!(check.stdout.contains("data directory: FAILED"), "{}", check.stdout);
    assert!(site.listed().is_empty() && site.snapshots().is_empty(), "something is left");
    // The archiver writes down the system identifier; a session would have a journal.
    assert!(site.objects("sessions").iter().all(|key| key == "sessions/system-id"), "a session was begun");
}

#[test]
fn the_primary_is_not_backed_up_with_the_files_of_its_standby_or_of_another_cluster() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).on_one_volume().start());
    let primary = &site.cluster;
    fill(primary, 1);
    let standby = primary.standby(site.fs().volume("standby").join("data"));
    standby.catch_up_with(primary);
    let swapped = need!(elsewhere(standby.data(), primary.data(), &[]));
    let way = format!("-h {} -p 5432", standby.socket_dir().display());
    refused(&swapped, &site, &["it is a primary, the files are those of a standby", &way]);

    // The standby of the standby's host, asked for the files of the primary: the other way round.
    let there = standby.socket_dir().display().to_string();
    let other_way = need!(elsewhere(primary.data(), standby.data(), &[]));
    let backup = run_behind(&other_way, &site, "backup", &["-h", &there]);
    assert!(backup.stderr.contains("it is a standby, the files are those of a primary"), "{}", backup.stderr);
    drop(standby);

    let other = Cluster::builder(primary.installation()).data(site.fs().volume("other").join("data")).start();
    let swapped = need!(elsewhere(other.data(), primary.data(), &[]));
    let system = other.sql("SELECT system_identifier FROM pg_control_system()");
    refused(&swapped, &site, &[&format!("that of the files {system}")]);
    let ran = site.run("backup", &["--primary-dbname", &other.dsn()]);
    assert!(ran.stderr.contains(&format!("is not the primary: its system identifier is {system}")), "{}", ran.stderr);
    // Nor with the files of a cluster that does not run, of the same or of another one.
    other.stop(Stop::Fast);
    let ran = run_behind(&swapped, &site, "backup", &[]);
    assert!(ran.stderr.contains("no server runs on the files"), "{}", ran.stderr);
}

#[test]
fn a_copy_of_the_data_directory_is_told_from_the_one_that_the_server_has() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).on_one_volume().start());
    let copy = site.fs().volume("copy").join("data");
    let ran = attempt(Command::new("cp").args(["-a", "--reflink=always"]).arg(site.cluster.data()).arg(&copy));
    assert!(ran.success(), "{}", ran.stderr);
    // Down to postmaster.pid and pg_control, all facts are equal.
    let swapped = need!(elsewhere(&copy, site.cluster.data(), &[]));
    refused(&swapped, &site, &["a file that it was asked to make in its data directory is not there", "is it a copy"]);
}

#[test]
fn in_a_container_with_processes_of_its_own_the_server_is_still_known() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).on_one_volume().start());
    let same = need!(elsewhere(
        site.cluster.data(),
        site.cluster.data(),
        &["--pid", "--fork", "--mount-proc", "--ipc", "--uts"]
    ));
    let check = run_behind(&same, &site, "check", &[]);
    assert!(check.stdout.contains("data directory: OK (it is that of the server at socket "), "{}", check.stdout);
}
