//! `describe-host` and `check` with a real server: what is described is where things are, what fails is told with what to do.
#![allow(clippy::print_stdout, reason = "the reports are shown to whoever runs the test with --no-capture")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use barman_snap_tests::command::run;
use barman_snap_tests::fs::Kind;
use barman_snap_tests::need;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::site::{SERVER, Site};
use barman_snap_tests::wait::wait_for;
use serde_json::Value;

/// The line of a report with this name.
#[track_caller]
fn line(report: &Value, name: &str) -> Value {
    let lines = report["lines"].as_array().expect("a report has lines");
    lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("no line {name:?} in {report}")).clone()
}

/// The report, whatever its verdict; every line that is not all right has to say what to do.
#[track_caller]
fn check(site: &Site, rest: &[&str]) -> Value {
    let ran = site.run("check", &[rest, &["--format", "json"]].concat());
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{}: {error}", ran.line));
    println!("{report:#}");
    let lines = report["lines"].as_array().expect("a report has lines");
    let bad: Vec<_> = lines.iter().filter(|line| line["ok"] == false).collect();
    assert!(bad.iter().all(|line| line["hint"].is_string()), "a failing line does not say what to do: {bad:?}");
    assert_eq!(ran.code(), i32::from(!bad.is_empty()), "{}", ran.line);
    report
}

fn describe(site: &Site, rest: &[&str]) -> Value {
    let ran = site.snap.run(std::iter::once("describe-host").chain(rest.iter().copied())).expect_success();
    serde_json::from_str(&ran.stdout).expect("it is JSON")
}

#[test]
fn a_host_is_described_with_the_real_places_of_its_server() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).start());
    let host = describe(&site, &["-d", "postgres"]);
    assert_eq!(host["version"], 1);
    let real = |path: &Path| host["real_paths"][path.to_str().expect("paths are UTF-8")].as_str().map(str::to_owned);
    let data = site.cluster.data().canonicalize().expect("the data directory is there");
    let wal = data.join("pg_wal");
    assert_eq!(real(site.cluster.data()).as_deref(), data.to_str());
    assert_eq!(real(&wal).as_deref(), wal.canonicalize().expect("it is there").to_str());
    for (_, location) in site.cluster.tablespaces() {
        assert!(real(location).is_some(), "{}", location.display());
    }
    // The device of the file system is there, by the number that the kernel gives.
    let number = run(Command::new("findmnt").args(["-n", "-o", "MAJ:MIN"]).arg(site.fs().path()));
    let devices = host["block_devices"].as_array().expect("there are some");
    assert!(devices.iter().any(|device| device["number"] == number.text().trim()), "{number:?} in {devices:?}");
    // Without a connection, by the directory; the server names its tablespaces as the links say.
    let named = describe(&site, &["--path", &site.cluster.data().display().to_string()]);
    assert_eq!(named["real_paths"], host["real_paths"]);
    // Local snapshots are taken where they are.
    let file = site.place().join("host.json");
    std::fs::write(&file, host.to_string()).expect("it can be written");
    let file = file.display().to_string();
    let refused = site.run("backup", &["--host-description", &file]);
    assert_eq!(refused.code(), 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("takes snapshots on this host only"), "{}", refused.stderr);
    assert_eq!(line(&check(&site, &["--host-description", &file]), "host")["ok"], false);
    let absent = site.snap.run(["describe-host", "--path", "/does/not/exist"]);
    assert_eq!((absent.code(), absent.stdout.as_str()), (1, ""), "{}", absent.stderr);
}

#[test]
fn check_sees_an_archiver_that_works_fails_and_stores_elsewhere() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).on_one_volume().start());
    site.cluster.archive_wal();
    let report = check(&site, &[]);
    assert!(line(&report, "archiver")["detail"].as_str().is_some_and(|detail| detail.contains("archived last: 0000")));
    let archive_with = |command: &str| {
        site.cluster.sql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
        site.cluster.sql("SELECT pg_reload_conf()");
        site.cluster
            .sql("CREATE TABLE IF NOT EXISTS filler (x int); INSERT INTO filler VALUES (1); SELECT pg_switch_wal()");
    };
    let count = |column: &str| site.cluster.sql(&format!("SELECT {column} FROM pg_stat_archiver"));
    archive_with("false");
    wait_for("the archiver to fail", Duration::from_secs(30), || (count("failed_count") != "0").then_some(()));
    let archiver = line(&check(&site, &[]), "archiver");
    assert!(archiver["detail"].as_str().is_some_and(|detail| detail.starts_with("it fails: 0000")), "{archiver}");
    let before = count("archived_count");
    archive_with("true");
    wait_for("the archiver to go on", Duration::from_secs(60), || (count("archived_count") != before).then_some(()));
    let archiver = line(&check(&site, &[]), "archiver");
    assert!(archiver["detail"].as_str().is_some_and(|detail| detail.contains("not in this catalog")), "{archiver}");
    assert!(archiver["hint"].as_str().is_some_and(|hint| hint.contains("wal-archive")), "{archiver} of {SERVER}");
    let external = check(&site, &["--wal-external"]);
    assert!(external["lines"].as_array().is_some_and(|lines| lines.iter().all(|line| line["name"] != "archiver")));
}
