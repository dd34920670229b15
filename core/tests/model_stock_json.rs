//! The JSON of stock `barman-cloud-backup-show`: its members, their order and their types.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use barman_snap::model::BackupInfo;
use serde_json::{Value, json};

fn show(text: &str) -> Value {
    BackupInfo::parse(text).unwrap().info.to_stock_json(&"20260529T101112".parse().unwrap())
}

#[test]
fn a_finished_snapshot_backup_is_shown_as_stock_shows_it() {
    let expected = json!({
        "backup_label": "'START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\\nCHECKPOINT LOCATION: 0/9000060\\nBACKUP METHOD: streamed\\nBACKUP FROM: primary\\nSTART TIME: 2026-05-29 10:11:13 UTC\\nLABEL: Barman backup pg1 20260529T101112\\nSTART TIMELINE: 1\\n'",
        "backup_name": "nightly", "begin_offset": 40, "begin_time": "Fri May 29 10:11:13 2026",
        "begin_wal": "000000010000000000000009", "begin_xlog": "0/9000028", "children_backup_ids": null,
        "cluster_size": 34359738368_u64, "compression": null, "config_file": "/var/lib/pgsql/16/data/postgresql.conf",
        "copy_stats": {"copy_time": 168.531, "total_time": 168.531}, "data_checksums": "on", "deduplicated_size": null,
        "encryption": null, "end_offset": 312, "end_time": "Fri May 29 10:14:02 2026",
        "end_wal": "000000010000000000000009", "end_xlog": "0/9000138", "error": null,
        "hba_file": "/var/lib/pgsql/16/data/pg_hba.conf", "ident_file": "/var/lib/pgsql/16/data/pg_ident.conf",
        "included_files": ["/var/lib/pgsql/16/data/postgresql.auto.conf"], "mode": null, "parent_backup_id": null,
        "pgdata": "/var/lib/pgsql/16/data", "server_name": "pg1", "size": null,
        "snapshots_info": {
            "provider": "aws", "provider_info": {"account_id": "123456789012", "region": "eu-west-1"},
            "snapshots": [
                {"mount": {"mount_options": "rw,noatime", "mount_point": "/var/lib/pgsql"},
                 "provider": {"device_name": "/dev/sdf", "snapshot_id": "snap-0aa",
                    "snapshot_name": "pg-data-20260529t101112", "snapshot_lock_mode": null}},
                {"mount": {"mount_options": "rw,noatime", "mount_point": "/srv/tbs1"},
                 "provider": {"device_name": "/dev/sdg", "snapshot_id": "snap-0bb",
                    "snapshot_name": "vol-0123456789abcdef0-20260529t101112", "snapshot_lock_mode": "governance"}}
            ]
        },
        "status": "DONE", "summarize_wal": null, "systemid": "7406321547896325411",
        "tablespaces": [["tbs1", 16387, "/srv/tbs1/pg"]], "timeline": 1, "version": 160009,
        "xlog_segment_size": 16777216, "backup_id": "20260529T101112",
        "begin_time_iso": "2026-05-29T10:11:13.123456+00:00", "end_time_iso": "2026-05-29T10:14:02.654321+02:00"
    });
    let shown = show(include_str!("fixtures/backup_info/aws_snapshot_two_disks_locked.info"));
    // As text, because the order of the members counts.
    assert_eq!(shown.to_string(), expected.to_string());
}

#[test]
fn what_is_unset_is_null_except_the_four_members_that_stock_leaves_out() {
    let shown = show(include_str!("fixtures/backup_info/failed_at_start.info"));
    let members = shown.as_object().unwrap();
    for absent in ["backup_name", "snapshots_info", "begin_time_iso", "end_time_iso"] {
        assert!(!members.contains_key(absent), "{absent}");
    }
    for null in ["begin_time", "begin_xlog", "copy_stats", "tablespaces", "timeline", "included_files", "backup_label"]
    {
        assert_eq!(members.get(null), Some(&Value::Null), "{null}");
    }
    assert_eq!(members.len(), 33 + 1);
    assert_eq!(members["status"], "FAILED");
}

#[test]
fn the_day_of_a_time_is_padded_with_a_space_and_children_are_one_text() {
    let shown = show("begin_time=2026-03-01 09:08:07+01:00\nchildren_backup_ids=20260302T000000,20260303T000000\n");
    assert_eq!(shown["begin_time"], "Sun Mar  1 09:08:07 2026");
    assert_eq!(shown["begin_time_iso"], "2026-03-01T09:08:07+01:00");
    assert_eq!(shown["children_backup_ids"], "20260302T000000,20260303T000000");
}

#[test]
fn configuration_that_an_older_version_kept_in_the_metadata_is_not_shown() {
    let golden = include_str!("fixtures/backup_info/aws_snapshot_two_disks_locked.info");
    let record = "{'version': 1, 'provider': 'local', 'token': '0123456789abcdef0123456789abcdef', 'snapshots': [], \
                  'config_files': {'/etc/pg.conf': 'password=s3cret'}, 'wal_external': True}";
    let old = golden.replace("'copy_time'", &format!("'barman_snap': {record}, 'copy_time'"));
    assert_ne!(old, golden);
    let json = show(&old);
    let shown = &json["copy_stats"]["barman_snap"];
    assert!(shown.get("config_files").is_none() && shown["wal_external"] == true, "{shown}");
    assert!(!json.to_string().contains("s3cret"));
    let record = BackupInfo::parse(&old).unwrap().info.engine_record().unwrap().unwrap();
    assert_eq!(record.config_files["/etc/pg.conf"], "password=s3cret", "a restore has it still");
}
