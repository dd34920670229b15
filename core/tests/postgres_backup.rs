//! The contract of `BackupControl` against real servers, every version on this machine.

#![allow(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

mod support;

use barman_snap::ErrorKind;
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::model::{SegmentSize, Timeline};
use barman_snap::postgres::{BackupControl, StartRequest};
use support::{Cluster, bin_dirs, path};

fn request() -> StartRequest {
    StartRequest { label: "Barman backup it's \\ 20260529T101112".to_owned(), fast: true }
}

#[tokio::test]
async fn a_backup_starts_and_stops_and_the_facts_are_right() {
    for bin in bin_dirs() {
        let cluster = Cluster::start(&bin, "archive_mode = on\narchive_command = 'true'");
        let space = cluster.dir.path().join("space one");
        std::fs::create_dir(&space).unwrap();
        support::give(&space);
        cluster.sql(&format!("CREATE TABLESPACE \"one's\" LOCATION '{}'", path(&space)));
        let mut control = cluster.connect("").await.unwrap();

        let facts = control.facts().await.unwrap();
        assert_eq!(facts.version, control.version());
        assert_eq!(facts.data_directory, cluster.data());
        assert_eq!(facts.config_file.as_deref(), Some(path(&cluster.data().join("postgresql.conf"))));
        assert_eq!(facts.system_id, cluster.sql("SELECT system_identifier FROM pg_control_system()"));
        assert!(!facts.in_recovery);
        assert_eq!(facts.segment_size, SegmentSize::DEFAULT);
        assert_eq!((facts.archive_mode.as_str(), facts.archive_command.as_str()), ("on", "true"));
        assert_eq!(facts.summarize_wal.is_some(), facts.version >= 170_000);
        assert_eq!(facts.settings["max_connections"], "100");
        assert_eq!(facts.settings.len(), 5);
        assert!(facts.cluster_size.unwrap() > 1 << 20);
        assert!((SystemClock::new().now() - facts.now.to_utc()).num_seconds().abs() < 60);
        let space_of: Vec<_> =
            facts.tablespaces.iter().map(|space| (space.name.as_str(), space.location.as_str())).collect();
        assert_eq!(space_of, [("one's", path(&space))]);

        control.check_privileges().await.unwrap();
        let started = control.start(&request()).await.unwrap();
        assert_eq!((started.timeline, started.in_recovery), (Timeline(1), false));
        control.alive().await.unwrap();
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
        let stopped = control.stop().await.unwrap();
        assert!(stopped.lsn > started.lsn && stopped.time >= started.time);
        assert!(stopped.label.contains(&format!("START WAL LOCATION: {}", started.lsn)), "{}", stopped.label);
        assert!(stopped.label.contains("LABEL: Barman backup it's \\ 20260529T101112\n"), "{}", stopped.label);
        assert_eq!(stopped.tablespace_map, format!("{} {}\n", facts.tablespaces[0].oid, path(&space)));
        assert_eq!(stopped.timeline, Timeline(1));

        control.restore_point("barman_20260529T101112").await.unwrap();
        control.switch_wal().await.unwrap();
        assert!(control.flushed_lsn().await.unwrap() >= stopped.lsn);
        control.close().await;
        assert_eq!(control.alive().await.unwrap_err().kind(), ErrorKind::Postgres);
    }
}
