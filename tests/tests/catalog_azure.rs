//! The catalog over Azure's blobs, against Azurite, in both forms of its URL.
//!
//! Variables of a process cannot be changed safely, so each test runs its other half, which is marked `ignore`, in a process of
//! its own.
#![allow(clippy::unwrap_used, reason = "a panic is a failure")]

#[path = "../../core/tests/catalog_shared/mod.rs"]
mod catalog_shared;

use std::process::Command;

use barman_snap::catalog::{Catalog, Keep, StoreOptions};
use barman_snap::model::{BackupInfo, BackupStatus};
use barman_snap_tests::azurite::Azurite;
use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::need;
use barman_snap_tests::scratch::Scratch;
use catalog_shared::{behaves, one_of_many_wins};

const URL: &str = "BARMAN_SNAP_TEST_URL";
const OTHER: &str = "BARMAN_SNAP_TEST_OTHER_URL";

/// Runs the ignored test `name` of this file.
fn run_half(server: &Azurite, name: &str, url: &str, other: &str) {
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .envs(server.env())
        .env(URL, url)
        .env(OTHER, other)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.contains("1 passed"), "{name} failed:\n{out}{err}");
}

async fn open(variable: &str) -> Catalog {
    Catalog::open(&std::env::var(variable).unwrap(), &StoreOptions::default(), "pg1").await.unwrap()
}

#[test]
fn blobs_behave_as_every_other_backend() {
    let server = need!(Azurite::start());
    // A container is empty only once, so each form has a prefix of its own.
    run_half(&server, "half_behaves", &server.url("emulator"), "");
    run_half(&server, "half_behaves", &server.public_url("public"), "");
}

#[tokio::test]
#[ignore = "the other half of blobs_behave_as_every_other_backend"]
async fn half_behaves() {
    let catalog = open(URL).await;
    behaves(catalog.space()).await;
    one_of_many_wins(catalog.space()).await;
    catalog.check_writable().await.unwrap();
    assert!(catalog.space().list("").await.unwrap().is_empty());
}

#[test]
fn both_forms_of_the_url_are_one_catalog() {
    let server = need!(Azurite::start());
    run_half(&server, "half_both_forms", &server.url("p q"), &server.public_url("p q"));
}

#[tokio::test]
#[ignore = "the other half of both_forms_of_the_url_are_one_catalog"]
async fn half_both_forms() {
    let (one, other) = (open(URL).await, open(OTHER).await);
    let id = "20260529T101112".parse().unwrap();
    let info = BackupInfo { status: BackupStatus::Done, ..BackupInfo::default() };
    assert!(one.create(&id, &info).await.unwrap());
    assert!(!other.create(&id, &info).await.unwrap(), "an id can be claimed once");
    one.set_keep(&id, Keep::Full).await.unwrap();
    assert_eq!(other.keep(&id).await.unwrap(), Some(Keep::Full));
}

#[test]
fn a_segment_goes_there_and_comes_back_by_the_command_line() {
    let server = need!(Azurite::start());
    let snap = need!(BarmanSnap::found()).with_env(server.env());
    let place = Scratch::new();
    let name = "000000010000000000000001";
    let segment = segment();
    std::fs::write(place.path().join(name), &segment).unwrap();
    let (url, public) = (server.url("wal"), server.public_url("wal"));
    let path = |name: &str| place.path().join(name).display().to_string();
    let archived = snap.run(["wal-archive", url.as_str(), "pg1", &path(name), "--gzip"]);
    archived.expect_success();
    // Archived already, with the same content.
    snap.run(["wal-archive", url.as_str(), "pg1", &path(name), "--gzip"]).expect_success();
    // By the other form of the URL.
    let restored = snap.run(["wal-restore", public.as_str(), "pg1", name, &path("back")]);
    restored.expect_success();
    assert!(std::fs::read(place.path().join("back")).unwrap() == segment, "byte for byte");
    // Only an archive that is seen can lack a file: not another prefix, nor a container that does not exist.
    let absent = |url: &str| snap.run(["wal-restore", url, "pg1", "000000010000000000000002", &path("none")]);
    assert_eq!(absent(&public).code(), 1);
    for url in [server.url("elsewhere"), url.replace(Azurite::CONTAINER, "no-such-container")] {
        let ran = absent(&url);
        assert_eq!(ran.code(), 2, "{}\n{}", ran.line, ran.stderr);
    }
}

/// What PostgreSQL 17 would write as its first segment, as far as anybody looks: the long header of the first page
/// (`XLogLongPageHeaderData`), and noise.
fn segment() -> Vec<u8> {
    let mut segment: Vec<u8> = (0..16_u32 << 20).map(|at| (at / 7).to_le_bytes()[0]).collect();
    let header = [
        &0xD116_u16.to_le_bytes()[..],
        &2_u16.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &0x0100_0000_u64.to_le_bytes(),
        &0_u64.to_le_bytes(),
        &7_000_000_000_000_000_001_u64.to_le_bytes(),
        &(16_u32 << 20).to_le_bytes(),
        &8192_u32.to_le_bytes(),
    ]
    .concat();
    segment[..header.len()].copy_from_slice(&header);
    segment
}
