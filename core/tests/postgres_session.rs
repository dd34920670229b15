//! The life of a session that holds a backup open: what it survives, and how its end is noticed.

#![allow(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

mod support;

use std::time::Duration;

use barman_snap::postgres::{BackupControl, PostgresControl, StartRequest};
use barman_snap::{ErrorKind, Retry};
use support::{Cluster, bare, bin_dirs, connect, major};
use tokio::time::timeout;

const OURS: &str = "application_name = 'barman_snap'";

fn request() -> StartRequest {
    StartRequest { label: "Barman backup test 20260529T101112".to_owned(), fast: true }
}

/// True as soon as the server has no session of ours any more.
fn all_gone(cluster: &Cluster) -> bool {
    (0..50).any(|_| {
        let count = cluster.sql(&format!("SELECT pg_sleep(0.1); SELECT count(*) FROM pg_stat_activity WHERE {OURS}"));
        count.ends_with('0')
    })
}

#[tokio::test]
async fn no_timeout_of_the_server_ends_the_session_that_holds_a_backup() {
    for bin in bin_dirs() {
        let mut conf =
            "statement_timeout = 1000\nlock_timeout = 1000\nidle_in_transaction_session_timeout = 1000\n".to_owned();
        if major(&bin) >= 14 {
            conf.push_str("idle_session_timeout = 1000");
        }
        let cluster = Cluster::start(&bin, &conf);
        let mut control = cluster.connect("").await.unwrap();
        control.start(&request()).await.unwrap();
        assert!(timeout(Duration::from_secs(3), control.lost()).await.is_err(), "the connection was lost");
        assert_eq!(control.simple_query("SELECT pg_sleep(1.5), 1").await.unwrap()[0][1].as_deref(), Some("1"));
        control.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_terminated_session_is_noticed_without_asking() {
    for bin in bin_dirs() {
        let cluster = Cluster::start(&bin, "");
        let mut control = cluster.connect("").await.unwrap();
        control.start(&request()).await.unwrap();
        cluster.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}"));
        let error = timeout(Duration::from_secs(2), control.lost()).await.expect("not noticed in two seconds");
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Postgres, Some("57P01")));
        assert!(error.to_string().contains("administrator command"), "{error}");
        let error = control.stop().await.unwrap_err();
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Postgres, Some("57P01")), "the first reason is kept");
        assert_eq!(control.alive().await.unwrap_err().kind(), ErrorKind::Postgres);
    }
}

#[tokio::test]
async fn a_session_that_is_terminated_within_a_statement_is_lost() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    let mut control = cluster.connect("").await.unwrap();
    let kill = format!("SELECT pg_sleep(0.5); SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}");
    let killer = tokio::task::spawn_blocking(move || {
        cluster.sql(&kill);
        cluster
    });
    let error =
        timeout(Duration::from_secs(10), control.simple_query("SELECT pg_sleep(60)")).await.unwrap().unwrap_err();
    // When the last message and the end of the connection arrive together, the postgres crate reports only the end.
    assert!(matches!(error.sqlstate(), Some("57P01") | None), "{error}");
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Postgres, Retry::Unknown));
    let reason = timeout(Duration::from_secs(2), control.lost()).await.unwrap();
    assert_eq!(reason.message(), error.message());
    drop(killer.await.unwrap());
}

#[tokio::test]
async fn a_server_that_crashes_is_noticed_without_asking() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    let tcp = format!("host=127.0.0.1 port={} user=postgres", cluster.port);
    let (mut socket, mut tcp) = (cluster.connect("").await.unwrap(), connect(&tcp, &bare()).await.unwrap());
    cluster.sql("SELECT 1");
    let data = cluster.data();
    cluster.run("pg_ctl", &["-D", support::path(&data), "-m", "immediate", "-w", "stop"]);
    for control in [&mut socket, &mut tcp] {
        let error = timeout(Duration::from_secs(2), control.lost()).await.expect("not noticed in two seconds");
        assert_eq!(error.kind(), ErrorKind::Postgres);
    }
}

#[tokio::test]
async fn closing_and_dropping_cancel_the_statement_that_runs() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    for close in [true, false] {
        let mut control = cluster.connect("").await.unwrap();
        let sleep = control.simple_query("SELECT pg_sleep(600)");
        assert!(timeout(Duration::from_millis(500), sleep).await.is_err());
        if close {
            timeout(Duration::from_secs(4), control.close()).await.expect("close hangs");
        } else {
            drop(control);
        }
        assert!(all_gone(&cluster), "close: {close}");
    }
}

#[tokio::test]
async fn dropping_the_control_ends_the_backup() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    let mut control = cluster.connect("").await.unwrap();
    control.start(&request()).await.unwrap();
    drop(control);
    assert!(all_gone(&cluster));
}

#[tokio::test]
async fn a_backup_cannot_be_started_twice_or_stopped_without_start() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    let mut control = cluster.connect("").await.unwrap();
    let error = control.stop().await.unwrap_err();
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Precondition, Some("55000")), "{error}");
    control.start(&request()).await.unwrap();
    assert_eq!(control.start(&request()).await.unwrap_err().kind(), ErrorKind::Precondition);
    control.stop().await.unwrap();
}

#[tokio::test]
async fn every_missing_privilege_is_named_and_the_grants_are_right() {
    for bin in bin_dirs() {
        let cluster = Cluster::start(&bin, "");
        cluster.sql("CREATE ROLE \"Bo b\" LOGIN");
        let dsn = format!("host={} port={} user='Bo b'", cluster.socket(), cluster.port);
        let mut control = connect(&dsn, &bare()).await.unwrap();
        let error = control.check_privileges().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let grants: Vec<_> =
            error.context().iter().filter(|(key, _)| *key == "grant").map(|(_, grant)| grant).collect();
        assert_eq!(grants.len(), 6, "{error}");
        assert!(grants.contains(&&"GRANT EXECUTE ON FUNCTION pg_switch_wal() TO \"Bo b\"".to_owned()), "{error}");
        assert_eq!(control.facts().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(control.start(&request()).await.unwrap_err().sqlstate(), Some("42501"));

        for grant in grants {
            cluster.sql(grant);
        }
        control.check_privileges().await.unwrap();
        assert!(control.facts().await.unwrap().cluster_size.is_some());
        control.start(&request()).await.unwrap();
        control.stop().await.unwrap();
        control.switch_wal().await.unwrap();
        control.restore_point("x").await.unwrap();
    }
}

#[tokio::test]
async fn a_standby_can_be_backed_up_and_chosen_by_its_kind() {
    for bin in bin_dirs() {
        let primary = Cluster::start(&bin, "");
        let standby = Cluster::standby(&primary, "");
        let mut control = standby.connect("").await.unwrap();
        control.check_privileges().await.unwrap();
        assert!(control.facts().await.unwrap().in_recovery);
        let started = control.start(&request()).await.unwrap();
        assert!(started.in_recovery);
        let stopped = control.stop().await.unwrap();
        assert!(stopped.label.contains("BACKUP FROM: standby"), "{}", stopped.label);
        assert_eq!(stopped.timeline, started.timeline);
        assert!(control.flushed_lsn().await.unwrap() >= started.lsn);
        control.switch_wal().await.unwrap();
        control.restore_point("nothing").await.unwrap();

        let both = format!(
            "host={},{} port={},{} user=postgres",
            primary.socket(),
            standby.socket(),
            primary.port,
            standby.port
        );
        let reached = async |attrs: &str| {
            let control: PostgresControl =
                connect(&format!("{both} target_session_attrs={attrs}"), &bare()).await.unwrap();
            control.host().to_owned()
        };
        for attrs in ["any", "primary", "read-write"] {
            assert!(reached(attrs).await.contains(primary.socket()), "{attrs}");
        }
        for attrs in ["standby", "read-only", "prefer-standby"] {
            assert!(reached(attrs).await.contains(standby.socket()), "{attrs}");
        }
        let none = primary.connect("target_session_attrs=standby").await.unwrap_err();
        assert!(none.to_string().contains("is not a standby"), "{none}");
        primary.connect("target_session_attrs=prefer-standby").await.unwrap();
    }
}

#[tokio::test]
async fn sql_of_the_user_sees_its_own_tables_and_leaves_nothing_open() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    cluster.sql("CREATE TABLE public.t AS SELECT 1 AS a, NULL::text AS b");
    let mut control = cluster.connect("").await.unwrap();
    let rows = control.simple_query("SELECT * FROM t; SELECT 'x'").await.unwrap();
    assert_eq!(rows, [vec![Some("1".to_owned()), None], vec![Some("x".to_owned())]]);
    let error = control.simple_query("BEGIN; SELECT nonsense").await.unwrap_err();
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Postgres, Some("42703")));
    control.alive().await.unwrap();
    let rows = control.simple_query("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    assert!(rows.is_empty());
    assert_eq!(control.simple_query("SELECT count(*) FROM t").await.unwrap()[0][0].as_deref(), Some("1"));
}
