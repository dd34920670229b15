//! The catalog over Cloud Storage, against the fake's XML API, and what the JSON API of Google's own libraries sees of it.
//!
//! Variables of a process cannot be changed safely, so a test runs its other half, which is marked `ignore`, in a process of
//! its own.
#![allow(clippy::unwrap_used, reason = "a panic is a failure")]

#[path = "../../core/tests/catalog_shared/mod.rs"]
mod catalog_shared;

use std::process::Command;

use barman_snap::catalog::{Catalog, Keep, PutNew, StoreOptions};
use barman_snap::model::{BackupInfo, BackupStatus};
use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::cloud::{Api, Cloud, CloudSet, Fault};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::{need, own_dev};
use catalog_shared::{behaves, one_of_many_wins};

const URL: &str = "BARMAN_SNAP_TEST_URL";
const ENDPOINT: &str = "BARMAN_SNAP_TEST_GCP_ENDPOINT";

async fn open() -> Catalog {
    Catalog::open(&std::env::var(URL).unwrap(), &StoreOptions::default(), "pg1").await.unwrap()
}

#[test]
fn objects_behave_as_on_every_other_backend() {
    own_dev!();
    let set = need!(CloudSet::start(&[Cloud::Gcp]));
    let api = set.of(Cloud::Gcp);
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "half_behaves", "--ignored", "--nocapture"])
        .envs(api.env().iter().cloned())
        .env(URL, api.catalog())
        .env(ENDPOINT, api.endpoint())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.contains("1 passed"), "{out}{err}");
}

#[tokio::test]
#[ignore = "the other half of objects_behave_as_on_every_other_backend"]
async fn half_behaves() {
    let catalog = open().await;
    behaves(catalog.space()).await;
    one_of_many_wins(catalog.space()).await;
    catalog.check_writable().await.unwrap();
    assert!(catalog.space().list("").await.unwrap().is_empty());
    // What a lost reply hides is seen, and throttling is waited for.
    let api = Api::at(Cloud::Gcp, &std::env::var(ENDPOINT).unwrap());
    api.faults(&[Fault::lost_reply("storage.objects.create").on("lost"), Fault::throttle("storage.objects.list")]);
    let hidden = catalog.space().put_new("pg1/lost", "mine").await.unwrap();
    assert!(matches!(&hidden, PutNew::Created) || hidden == PutNew::Exists("mine".into()), "{hidden:?}");
    catalog.space().delete("pg1/lost").await.unwrap();
    let id = "20260529T101112".parse().unwrap();
    let info = BackupInfo { status: BackupStatus::Done, ..BackupInfo::default() };
    assert!(catalog.create(&id, &info).await.unwrap());
    let other = open().await;
    assert!(!other.create(&id, &info).await.unwrap(), "an id can be claimed once");
    catalog.set_keep(&id, Keep::Full).await.unwrap();
    assert_eq!(other.keep(&id).await.unwrap(), Some(Keep::Full));
    assert_eq!(other.list().await.unwrap().len(), 1);
}

#[test]
fn a_segment_goes_there_and_comes_back_by_the_command_line() {
    own_dev!();
    let set = need!(CloudSet::start(&[Cloud::Gcp]));
    let api = set.of(Cloud::Gcp);
    let snap = need!(BarmanSnap::found()).with_env(api.env().iter().cloned());
    let place = Scratch::new();
    let name = "000000010000000000000001";
    let mut segment: Vec<u8> = (0..16 << 20).map(|at: u32| (at / 7).to_le_bytes()[0]).collect();
    segment[..40].copy_from_slice(&first_page_header());
    std::fs::write(place.path().join(name), &segment).unwrap();
    let url = api.catalog();
    let path = |name: &str| place.path().join(name).display().to_string();
    snap.run(["wal-archive", url, "pg1", &path(name), "--gzip"]).expect_success();
    // Archived already, with the same content.
    snap.run(["wal-archive", url, "pg1", &path(name), "--gzip"]).expect_success();
    snap.run(["wal-restore", url, "pg1", name, &path("back")]).expect_success();
    assert!(std::fs::read(place.path().join("back")).unwrap() == segment, "byte for byte");
    // Only an archive that is seen can lack a file: not another prefix, nor a bucket that does not exist.
    let absent = |url: &str| snap.run(["wal-restore", url, "pg1", "000000010000000000000002", &path("none")]);
    assert_eq!(absent(url).code(), 1);
    for url in [format!("{url}/elsewhere"), "gs://no-such-bucket/p".to_owned()] {
        let ran = absent(&url);
        assert_eq!(ran.code(), 2, "{}\n{}", ran.line, ran.stderr);
    }
}

/// What the first page of segment 1 of timeline 1 begins with (`XLogLongPageHeaderData` of PostgreSQL 15).
fn first_page_header() -> [u8; 40] {
    let mut header = Vec::with_capacity(40);
    header.extend(0xD110_u16.to_le_bytes());
    header.extend(2_u16.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header.extend((16_u64 << 20).to_le_bytes());
    header.extend(0_u64.to_le_bytes());
    header.extend(7_406_321_547_896_325_411_u64.to_le_bytes());
    header.extend((16_u32 << 20).to_le_bytes());
    header.extend(8192_u32.to_le_bytes());
    header.try_into().unwrap()
}
