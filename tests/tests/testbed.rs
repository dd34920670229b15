//! The test bed itself: every version on every file system, under load, and nothing left behind.

use std::process::Command;
use std::time::Duration;

use barman_snap_tests::barman::Peer;
use barman_snap_tests::command::run;
use barman_snap_tests::fs::{Kind, LoopFs};
use barman_snap_tests::load::{Load, fill};
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::s3::MotoServer;
use barman_snap_tests::scratch::{mounts_below, processes_below};
use barman_snap_tests::wait::pass;
use barman_snap_tests::{checks, need};

/// Two tablespaces and a WAL of its own on the file system, writes, a crash, and everything is there and sound.
fn serves_under_load_and_leaves_nothing(version: u32, kind: Kind) {
    let installation = need!(Installation::of(version));
    let fs = need!(LoopFs::new(kind, 2048));
    let (mount, image) = (fs.path().to_owned(), fs.image());
    let cluster = Cluster::builder(&installation)
        .data(fs.volume("main").join("data"))
        .wal(fs.volume("wal").join("pg_wal"))
        .tablespace("hot", fs.volume("hot").join("ts"))
        .tablespace("cold", fs.volume("cold").join("ts"))
        .start();
    assert!(cluster.sql("SHOW data_directory").starts_with(&mount.display().to_string()));
    fill(&cluster, 1);
    let before = checks::sums(&cluster);
    let load = Load::start(&cluster, 4);
    pass(Duration::from_secs(1));
    load.stop();
    cluster.stop(Stop::Immediate);
    cluster.start();

    let after = checks::sums(&cluster);
    for table in ["public.pgbench_history", "public.ticks", "public.in_hot", "public.in_cold"] {
        assert!(after[table].0 > before[table].0, "the load wrote nothing to {table}");
    }
    assert_eq!(checks::pgbench_balanced(&cluster), Ok(()));
    assert_eq!(checks::amcheck_ok(&cluster), Ok(()));
    cluster.stop(Stop::Fast);
    assert!(checks::checksums_ok(&installation, cluster.data()).expect("no page is bad") > 1000);

    drop(cluster);
    drop(fs);
    assert!(mounts_below(&mount).is_empty() && processes_below(&mount).is_empty() && !mount.exists());
    let devices = run(Command::new("losetup").args(["--noheadings", "--output", "BACK-FILE"]));
    assert!(!devices.stdout.contains(&image.display().to_string()), "a loop device is left: {}", devices.stdout);
}

#[test]
fn postgresql_15_serves_on_btrfs() {
    serves_under_load_and_leaves_nothing(15, Kind::Btrfs);
}

#[test]
fn postgresql_15_serves_on_xfs() {
    serves_under_load_and_leaves_nothing(15, Kind::XfsReflink);
}

#[test]
fn postgresql_15_serves_on_ext4() {
    serves_under_load_and_leaves_nothing(15, Kind::Ext4);
}

#[test]
fn postgresql_17_serves_on_btrfs() {
    serves_under_load_and_leaves_nothing(17, Kind::Btrfs);
}

#[test]
fn postgresql_17_serves_on_xfs() {
    serves_under_load_and_leaves_nothing(17, Kind::XfsReflink);
}

#[test]
fn postgresql_17_serves_on_ext4() {
    serves_under_load_and_leaves_nothing(17, Kind::Ext4);
}

#[test]
fn postgresql_18_serves_on_btrfs() {
    serves_under_load_and_leaves_nothing(18, Kind::Btrfs);
}

#[test]
fn postgresql_18_serves_on_xfs() {
    serves_under_load_and_leaves_nothing(18, Kind::XfsReflink);
}

#[test]
fn postgresql_18_serves_on_ext4() {
    serves_under_load_and_leaves_nothing(18, Kind::Ext4);
}

#[test]
fn a_panic_leaves_neither_server_nor_mount() {
    let installation = need!(Installation::newest());
    let fs = need!(LoopFs::new(Kind::XfsReflink, 512));
    let mount = fs.path().to_owned();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let fs = fs;
        let cluster = Cluster::builder(&installation).data(fs.path().join("data")).start();
        fill(&cluster, 1);
        let _load = Load::start(&cluster, 2);
        assert!(!processes_below(cluster.data()).is_empty());
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(processes_below(&mount).is_empty() && mounts_below(&mount).is_empty() && !mount.exists());
}

#[test]
fn a_standby_follows_with_tablespaces_of_its_own() {
    let installation = need!(Installation::newest());
    let place = barman_snap_tests::scratch::Scratch::new();
    let primary = Cluster::builder(&installation).tablespace("hot", place.path().join("hot")).start();
    fill(&primary, 1);
    let standby = primary.standby(place.path().join("standby"));
    primary.sql("INSERT INTO ticks DEFAULT VALUES");
    standby.catch_up_with(&primary);
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(checks::sums(&standby), checks::sums(&primary));
}

#[test]
fn a_changed_row_changes_the_sums_and_a_changed_page_its_checksum() {
    let installation = need!(Installation::newest());
    let cluster = Cluster::builder(&installation).start();
    fill(&cluster, 1);
    let before = checks::sums(&cluster);
    cluster.sql("UPDATE pgbench_tellers SET tbalance = 1 WHERE tid = 1");
    assert_ne!(checks::sums(&cluster), before);
    assert!(checks::pgbench_balanced(&cluster).is_err());

    let file = cluster.data().join(cluster.sql("SELECT pg_relation_filepath('pgbench_accounts')"));
    cluster.stop(Stop::Fast);
    assert!(checks::checksums_ok(&installation, cluster.data()).is_ok());
    let mut bytes = std::fs::read(&file).expect("the table is a file");
    bytes[8191] ^= 1;
    std::fs::write(&file, bytes).expect("the table can be written");
    let bad = checks::checksums_ok(&installation, cluster.data()).expect_err("a bit was turned");
    assert!(bad.contains("checksum verification failed"), "{bad}");
}

#[test]
fn wal_is_archived_and_a_copied_cluster_can_be_adopted() {
    let installation = need!(Installation::newest());
    let place = barman_snap_tests::scratch::Scratch::new();
    let archive = place.dir("archive");
    let cluster = Cluster::builder(&installation)
        .segment_mib(1)
        .archive_command(&format!("cp %p {}/%f", archive.display()))
        .start();
    cluster.archive_wal();
    assert!(std::fs::read_dir(&archive).expect("the archive is there").count() > 0);
    fill(&cluster, 1);
    let expected = checks::sums(&cluster);
    cluster.stop(Stop::Fast);

    let copy = place.path().join("copy");
    run(Command::new("cp").arg("-a").arg(cluster.data()).arg(&copy));
    let adopted = Cluster::adopt(&installation, &copy);
    adopted.start();
    assert_eq!(adopted.sql("SHOW archive_mode"), "off");
    assert_eq!(checks::sums(&adopted), expected);
    drop(adopted);
    assert!(copy.exists(), "an adopted directory is not ours to remove");
    assert!(processes_below(&copy).is_empty());
}

#[test]
fn a_server_can_be_reached_over_the_network_when_asked_to() {
    let installation = need!(Installation::newest());
    let cluster = Cluster::builder(&installation).tcp().start();
    let mut psql = cluster.command("psql");
    let ran = run(psql.env("PGHOST", "127.0.0.1").args(["-XAtc", "SELECT inet_server_port()"]));
    assert_eq!(ran.text(), cluster.port().to_string());
}

#[test]
fn stock_barman_finds_an_empty_catalog_on_the_s3_server() {
    let server = need!(MotoServer::start());
    let peer = need!(Peer::found());
    let mut list = peer.command("backup-list");
    let ran = run(list.args(["--format", "json", &server.url("catalog"), "main"]).envs(server.env()));
    assert_eq!(ran.text(), r#"{"backups_list": []}"#);

    // What it writes can be seen.
    let place = barman_snap_tests::scratch::Scratch::new();
    let segment = place.path().join("000000010000000000000001");
    std::fs::write(&segment, vec![7; 1 << 20]).expect("the file is written");
    run(peer.command("wal-archive").arg(server.url("catalog")).arg("main").arg(&segment).envs(server.env()));
    let key = "catalog/main/wals/0000000100000000/000000010000000000000001";
    assert_eq!(server.keys("catalog"), [key]);
    assert_eq!(server.get(key), vec![7; 1 << 20]);
}
