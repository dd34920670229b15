//! Volumes made from snapshots.
//!
//! Providers without [`directory_restore`](crate::provider::Capabilities::directory_restore) put their content on a device
//! that a test has to mount; their suites are in the tests of the clouds.

use std::path::{Path, PathBuf};

use super::{Bench, Outcome, ok, refused};
use crate::error::ErrorKind;
use crate::provider::{CreateVolumeRequest, RestoredVolume, Ticket};

/// Leaves a suite that needs directories.
macro_rules! need_directories {
    ($bench:expr) => {
        if !$bench.provider.capabilities().directory_restore {
            return Outcome::Skipped("the provider restores to devices, not to directories".into());
        }
    };
}

fn request(bench: &Bench<'_>, ticket: &Ticket, subtree: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        ticket: ticket.clone(),
        token: bench.fixture.token(),
        subtree: subtree.into(),
        destination: Some(bench.fixture.scratch()),
        exclude_content: Vec::new(),
        instance: None,
        mark: String::new(),
    }
}

fn path(volume: &RestoredVolume) -> PathBuf {
    volume.path.clone().unwrap_or_else(|| panic!("a directory is reachable at once: {volume:?}"))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) async fn a_snapshot_holds_what_was_there_at_its_cut(bench: &Bench<'_>) -> Outcome {
    need_directories!(bench);
    let ticket = bench.ready().await;
    let source = &bench.volumes[0];
    bench.fixture.write(source, Path::new("data/file"), b"after").await;
    bench.fixture.write(source, Path::new("data/later"), b"later").await;
    let made = bench.provider.create_volume(&request(bench, &ticket, "")).await;
    let volume = ok("a ready snapshot can be restored", made);
    let root = path(&volume);
    assert_eq!(read(&root.join("data/file")), b"before", "writes after the cut are not in it");
    assert!(!root.join("data/later").exists(), "files made after the cut are not in it");
    assert_eq!(read(&root.join("other/file")), b"other", "an empty subtree is all of it");
    ok("a restored volume can be deleted", bench.provider.delete_volume(&volume).await);
    bench.fixture.write(source, Path::new("data/file"), b"before").await;
    bench.delete(&ticket).await;
    Outcome::Passed
}

pub(super) async fn a_subtree_is_restored_without_what_is_excluded(bench: &Bench<'_>) -> Outcome {
    need_directories!(bench);
    let ticket = bench.ready().await;
    let wanted = CreateVolumeRequest { exclude_content: vec!["pg_wal".into()], ..request(bench, &ticket, "data") };
    let volume = ok("a subtree can be restored", bench.provider.create_volume(&wanted).await);
    let root = path(&volume);
    assert_eq!(Some(&root), wanted.destination.as_ref(), "it is where it was asked for");
    assert_eq!(read(&root.join("deep/er/file")), b"deep");
    assert!(!root.join("other").exists() && !root.join("data").exists(), "nothing but the subtree is there");
    let left = std::fs::read_dir(root.join("pg_wal")).map(Iterator::count);
    assert_eq!(left.ok(), Some(0), "an excluded directory is made and empty");
    ok("a restored volume can be deleted", bench.provider.delete_volume(&volume).await);
    assert!(!root.exists(), "what was made is gone");
    bench.delete(&ticket).await;
    Outcome::Passed
}

pub(super) async fn a_directory_that_is_not_empty_is_refused_and_untouched(bench: &Bench<'_>) -> Outcome {
    need_directories!(bench);
    let ticket = bench.ready().await;
    let wanted = request(bench, &ticket, "data");
    let destination = wanted.destination.clone().unwrap_or_default();
    let precious = destination.join("precious");
    std::fs::create_dir_all(&destination)
        .and_then(|()| std::fs::write(&precious, "x"))
        .unwrap_or_else(|e| panic!("{e}"));
    let error = refused("a directory with content is refused", bench.provider.create_volume(&wanted).await);
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert_eq!(read(&precious), b"x");
    assert_eq!(std::fs::read_dir(&destination).map(Iterator::count).ok(), Some(1), "nothing was added");
    std::fs::remove_file(&precious).unwrap_or_else(|e| panic!("{e}"));
    let volume = ok("an empty directory is fine", bench.provider.create_volume(&wanted).await);
    ok("a restored volume can be deleted", bench.provider.delete_volume(&volume).await);
    let _ = std::fs::remove_dir(&destination);
    bench.delete(&ticket).await;
    Outcome::Passed
}

pub(super) async fn a_snapshot_that_is_gone_cannot_be_restored(bench: &Bench<'_>) -> Outcome {
    need_directories!(bench);
    let ticket = bench.ready().await;
    bench.delete(&ticket).await;
    let wanted = request(bench, &ticket, "");
    let error = refused("a deleted snapshot cannot be restored", bench.provider.create_volume(&wanted).await);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!wanted.destination.unwrap_or_default().exists(), "nothing was made");
    Outcome::Passed
}

pub(super) async fn a_volume_is_attached_detached_and_deleted_any_number_of_times(bench: &Bench<'_>) -> Outcome {
    need_directories!(bench);
    let ticket = bench.ready().await;
    let wanted = request(bench, &ticket, "");
    let volume = ok("a ready snapshot can be restored", bench.provider.create_volume(&wanted).await);
    let attached = ok("a volume can be attached", bench.provider.attach(&volume, &bench.instance).await);
    assert_eq!(attached.path, volume.path);
    for _ in 0..2 {
        ok("not attached is success", bench.provider.detach(&attached, &bench.instance).await);
    }
    for _ in 0..2 {
        ok("gone already is success", bench.provider.delete_volume(&volume).await);
    }
    bench.delete(&ticket).await;
    Outcome::Passed
}

pub(super) async fn what_no_restore_made_is_not_deleted(bench: &Bench<'_>) -> Outcome {
    need_directories!(bench);
    let directory = bench.fixture.scratch();
    let precious = directory.join("precious");
    std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&precious, "x")).unwrap_or_else(|e| panic!("{e}"));
    let volume =
        RestoredVolume { id: directory.display().to_string(), path: Some(directory.clone()), ..Default::default() };
    refused("what no restore made is not deleted", bench.provider.delete_volume(&volume).await);
    assert_eq!(read(&precious), b"x");
    let _ = std::fs::remove_dir_all(&directory);
    Outcome::Passed
}
