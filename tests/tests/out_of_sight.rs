//! What cannot be seen is not gone, and what cannot be recorded is not begun: every command, on a real cluster whose file system is
//! not mounted, and with a catalog that is read-only. And an `archive_command` that stores nothing is not green.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use barman_snap_tests::command::attempt;
use barman_snap_tests::fs::Kind;
use barman_snap_tests::load::fill;
use barman_snap_tests::need;
use barman_snap_tests::pg::{Installation, Stop};
use barman_snap_tests::site::{Site, wait_until_promoted};
use barman_snap_tests::skip::{Missing, Need};
use barman_snap_tests::user::is_root;

/// Every file of the catalog, to the byte.
fn catalog(site: &Site) -> BTreeMap<String, Vec<u8>> {
    site.objects("")
        .into_iter()
        .map(|key| (key.clone(), std::fs::read(site.object(&key)).expect("it can be read")))
        .collect()
}

/// Where the programs of its PostgreSQL are.
fn bin(site: &Site) -> String {
    site.cluster.installation().bin().display().to_string()
}

/// The commands that look at snapshots or at what names them, and the exit code of each while those cannot be seen.
fn commands<'a>(id: &'a str, target: &'a str, bin: &'a str) -> Vec<(&'static str, Vec<&'a str>, i32)> {
    vec![
        ("list", vec![], 0),
        ("show", vec![id], 0),
        // Both backups are complete, so no session is left.
        ("recover", vec!["--dry-run"], 0),
        ("recover", vec![], 0),
        ("recover", vec!["--force", "--discard"], 0),
        ("gc", vec![], 0),
        ("gc", vec!["--apply", "--keep-undone", "0"], 0),
        ("delete", vec!["-b", id, "--dry-run"], 1),
        ("delete", vec!["-b", id], 1),
        ("delete", vec!["-r", "REDUNDANCY 1", "--dry-run"], 5),
        ("delete", vec!["-r", "REDUNDANCY 1"], 5),
        ("restore", vec![id, target, "--dry-run"], 1),
        ("restore", vec![id, target], 1),
        ("verify", vec![id, "--pg-bin-dir", bin], 1),
    ]
}

#[test]
fn no_command_takes_snapshots_for_gone_whose_file_system_is_not_mounted() {
    for kind in [Kind::Btrfs, Kind::Ext4] {
        let site = need!(Site::plan(&need!(Installation::newest()), kind).on_one_volume().size_mib(1024).start());
        fill(&site.cluster, 1);
        let (older, newer) = (site.backup(&[]), site.backup(&[]));
        site.cluster.stop(Stop::Fast);
        let before = catalog(&site);
        site.fs().unmount();
        let target = site.place().join("target").display().to_string();
        for (command, rest, code) in commands(&older, &target, &bin(&site)) {
            let ran = site.run(command, &rest);
            assert_eq!(ran.code(), code, "{command} {rest:?}: {}{}", ran.stdout, ran.stderr);
            let why = format!("{}{}", ran.stdout, ran.stderr);
            if code != 0 || command == "gc" {
                assert!(why.contains("is not mounted at"), "{command} {rest:?}: {why}");
            }
        }
        assert!(!Path::new(&target).exists(), "a restore that cannot read its snapshots makes nothing");
        site.fs().mount_again();
        let after = catalog(&site);
        assert!(
            before == after,
            "changed: {:?}",
            after.iter().filter(|(key, bytes)| before.get(*key) != Some(bytes)).map(|(key, _)| key).collect::<Vec<_>>()
        );
        site.ok("verify", &[&older, "--pg-bin-dir", &bin(&site)]);
        let restored = site.restore(&newer, "restored", &["--clone"]);
        wait_until_promoted(&restored);
    }
}

#[test]
fn on_a_catalog_that_is_read_only_nothing_is_deleted() {
    if !is_root() {
        return Missing::new(Need::Root, "mounting").report();
    }
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).on_one_volume().start());
    let id = site.backup(&[]);
    // Its archiver would go on.
    site.cluster.stop(Stop::Fast);
    let (snapshots, before) = (site.snapshots(), catalog(&site));
    let mount =
        |words: &[&str]| assert!(attempt(Command::new("mount").args(words).arg(&site.url)).success(), "{words:?}");
    mount(&["--bind", &site.url]);
    mount(&["-o", "remount,bind,ro"]);
    let ran = site.run("delete", &["-b", &id]);
    assert!(attempt(Command::new("umount").arg(&site.url)).success());
    assert_ne!(ran.code(), 0, "{}", ran.stdout);
    assert!(ran.stderr.contains("ead-only file system"), "{}", ran.stderr);
    assert_eq!(site.snapshots(), snapshots, "the snapshot is there");
    assert!(catalog(&site) == before, "and so is all that is written of it");
    site.ok("delete", &["-b", &id]);
    assert!(site.snapshots().is_empty() && site.listed().is_empty());
}

#[test]
fn an_archive_command_that_stores_nothing_is_not_green() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).on_one_volume().start());
    site.cluster.sql("ALTER SYSTEM SET archive_command = '/bin/true'");
    site.cluster.sql("SELECT pg_reload_conf()");
    let backup = site.run("backup", &["--immediate-checkpoint"]);
    assert_eq!(backup.code(), 5, "{}{}", backup.stdout, backup.stderr);
    assert!(backup.stderr.contains("was archived, but it is not in this catalog"), "{}", backup.stderr);
    let check = site.run("check", &[]);
    assert_eq!(check.code(), 1, "{}", check.stdout);
    assert!(check.stdout.contains("archiver: FAILED"), "{}", check.stdout);
    // The backup is complete all the same.
    site.ok("verify", &[&site.listed()[0], "--pg-bin-dir", &bin(&site)]);
    let command = format!("{} wal-archive {} main %p", site.snap.path().display(), site.url);
    site.cluster.sql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
    site.cluster.sql("SELECT pg_reload_conf()");
    site.cluster.archive_wal();
    site.ok("check", &[]);
    site.ok("backup", &["--immediate-checkpoint"]);
}
