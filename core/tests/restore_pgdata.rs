//! The effects of a restore on a real file system, with links laid as traps: each leads to an "original" that must come
//! out of it unharmed.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use barman_snap::id::Token;
use barman_snap::restore::config::ConfigPlan;
use barman_snap::restore::pgdata::prepare;
use barman_snap::restore::plan::PlannedFile;
use barman_snap::restore::settings::Setting;
use barman_snap::restore::tablespaces::PlacedTablespace;
use barman_snap::restore::{Purpose, RecoveryTarget, RestorePlan, unwanted};

fn plan_for(target: &Path, tablespace: &Path) -> RestorePlan {
    let file = |name: &str, content: &str| PlannedFile { name: name.into(), content: content.into() };
    RestorePlan {
        backup_id: "20260529T095900".parse().unwrap(),
        provider: "local".into(),
        token: Token::from_bits(7),
        target: target.into(),
        major: 15,
        set_aside: vec![],
        pieces: vec![],
        devices: None,
        empty: unwanted::EMPTIED.map(str::to_owned).into(),
        empty_if_there: unwanted::LOGS.map(str::to_owned).into(),
        make: vec!["pg_wal/archive_status".into(), "pg_tblspc".into()],
        remove: unwanted::REMOVED.map(str::to_owned).into(),
        wal: None,
        tablespaces: vec![PlacedTablespace {
            oid: 16384,
            name: "ts1".into(),
            original: "/srv/ts1".into(),
            location: tablespace.into(),
            inside: false,
            left_out: false,
        }],
        write: vec![file("recovery.signal", ""), file("backup_label", "LABEL: x\n")],
        purpose: Purpose::Clone,
        because: None,
        note: None,
        config: ConfigPlan {
            hba: Some("/etc/pg_hba.conf".into()),
            saved: [("/etc/pg_hba.conf".into(), b"new".to_vec())].into(),
            ..ConfigPlan::default()
        },
        settings: vec![Setting::new("restore_command", "cp /wal/%f %p")],
        configuration: vec![],
        no_workers: vec![],
        gap: None,
        system_id: None,
        owner: None,
        recovery: RecoveryTarget::default(),
        warnings: vec![],
        chosen: None,
    }
}

/// A data directory as it comes out of a snapshot of a running server.
fn lay_out(target: &Path, tablespace: &Path, original: &Path) {
    for directory in ["base/5", "global", "pg_replslot/slot", "pg_tblspc", "pg_notify"] {
        fs::create_dir_all(target.join(directory)).unwrap();
    }
    fs::create_dir_all(tablespace.join("PG_15_202209061/5")).unwrap();
    fs::create_dir_all(original).unwrap();
    fs::write(original.join("precious"), "x").unwrap();
    for (name, content) in [
        ("PG_VERSION", "15\n"),
        ("postmaster.pid", "1\n"),
        ("standby.signal", ""),
        ("pg_hba.conf", "old"),
        ("postgresql.auto.conf", "work_mem = '8MB'\nrestore_command = 'old'\n"),
        ("base/5/16400", "table"),
        ("base/5/t3_16401", "temporary"),
        ("base/5/pg_internal.init", "cache"),
        ("pg_replslot/slot/state", "x"),
        ("pg_notify/0000", "x"),
    ] {
        fs::write(target.join(name), content).unwrap();
    }
    fs::write(tablespace.join("PG_15_202209061/5/t3_16402"), "temporary").unwrap();
    for link in ["pg_wal", "log", "pg_tblspc/16384", "pg_tblspc/16999", "pg_stat_tmp"] {
        symlink(original, target.join(link)).unwrap();
    }
    symlink(original.join("precious"), target.join("backup_label")).unwrap();
}

#[test]
fn a_snapshot_of_a_running_server_becomes_a_data_directory_and_no_link_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let [target, tablespace, original] = ["data", "ts", "original"].map(|name| dir.path().join(name));
    lay_out(&target, &tablespace, &original);
    let plan = plan_for(&target, &tablespace);
    let done = prepare(&plan).unwrap();
    assert_eq!(done.written, 3, "the configuration in use is written over one that was not");

    assert_eq!(fs::read_to_string(original.join("precious")).unwrap(), "x");
    assert_eq!(fs::read_dir(&original).unwrap().count(), 1);
    for gone in ["postmaster.pid", "standby.signal", "base/5/t3_16401", "base/5/pg_internal.init", "pg_replslot/slot"] {
        assert!(!target.join(gone).exists(), "{gone}");
    }
    assert!(!tablespace.join("PG_15_202209061/5/t3_16402").exists());
    for directory in ["pg_wal", "pg_wal/archive_status", "pg_stat_tmp", "log", "pg_notify", "pg_snapshots"] {
        assert!(fs::symlink_metadata(target.join(directory)).unwrap().is_dir(), "{directory}");
    }
    assert_eq!(fs::read_link(target.join("pg_tblspc/16384")).unwrap(), tablespace);
    assert!(fs::symlink_metadata(target.join("pg_tblspc/16999")).is_err());

    assert_eq!(fs::read_to_string(target.join("backup_label")).unwrap(), "LABEL: x\n");
    assert_eq!(fs::read_to_string(target.join("pg_hba.conf")).unwrap(), "new");
    assert_eq!(fs::read_to_string(target.join("base/5/16400")).unwrap(), "table");
    let auto = fs::read_to_string(target.join("postgresql.auto.conf")).unwrap();
    assert_eq!(auto, "work_mem = '8MB'\n# written by barman-snap restore\nrestore_command = 'cp /wal/%f %p'\n");
    let mode = |name: &str| fs::symlink_metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("backup_label"), mode("pg_wal")), (0o700, 0o600, 0o700));

    // Carried out twice it is the same.
    let auto_before = auto;
    prepare(&plan).unwrap();
    assert_eq!(fs::read_to_string(target.join("postgresql.auto.conf")).unwrap(), auto_before);
}

#[test]
fn group_access_of_the_original_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let [target, tablespace, original] = ["data", "ts", "original"].map(|name| dir.path().join(name));
    lay_out(&target, &tablespace, &original);
    fs::set_permissions(&target, fs::Permissions::from_mode(0o750)).unwrap();
    prepare(&plan_for(&target, &tablespace)).unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&target), 0o750);
    assert_eq!(mode(&target.join("recovery.signal")), 0o640);
}

#[test]
fn what_is_not_a_data_directory_of_the_planned_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [target, tablespace, original] = ["data", "ts", "original"].map(|name| dir.path().join(name));
    lay_out(&target, &tablespace, &original);
    let plan = RestorePlan { major: 16, ..plan_for(&target, &tablespace) };
    let error = prepare(&plan).unwrap_err();
    assert!(error.message().ends_with("is not a data directory of PostgreSQL 16 (PG_VERSION is \"15\")"), "{error}");
    assert!(target.join("postmaster.pid").exists());
}
