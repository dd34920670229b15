//! Volumes made from snapshots: directories with their content, or disks that are attached and mounted.

use std::path::{Path, PathBuf};

use super::{Bench, Outcome, ok, refused};
use crate::error::ErrorKind;
use crate::provider::{CreateVolumeRequest, RestoredVolume, Ticket};

/// Leaves a suite about directories.
macro_rules! need_directories {
    ($bench:expr) => {
        if !restores_directories($bench) {
            return Outcome::Skipped("the provider restores to devices, not to directories".into());
        }
    };
}

fn restores_directories(bench: &Bench<'_>) -> bool {
    bench.provider.capabilities().directory_restore
}

fn request(bench: &Bench<'_>, ticket: &Ticket, subtree: &str) -> CreateVolumeRequest {
    let directories = restores_directories(bench);
    CreateVolumeRequest {
        ticket: ticket.clone(),
        token: bench.fixture.token(),
        subtree: subtree.into(),
        destination: directories.then(|| bench.fixture.scratch()),
        exclude_content: Vec::new(),
        instance: (!directories).then(|| bench.instance.clone()),
        mark: if directories { String::new() } else { "conformance".into() },
    }
}

async fn make(bench: &Bench<'_>, request: &CreateVolumeRequest) -> RestoredVolume {
    ok("a ready snapshot can be restored", bench.provider.create_volume(request).await)
}

async fn attach(bench: &Bench<'_>, volume: &RestoredVolume) -> RestoredVolume {
    let attached = ok("a volume can be attached", bench.provider.attach(volume, &bench.instance).await);
    assert_eq!(attached.id, volume.id, "it stays the same volume");
    assert!(restores_directories(bench) || !attached.hints.is_empty(), "an attached disk can be found: {attached:?}");
    attached
}

/// Detaches and deletes.
async fn remove(bench: &Bench<'_>, volume: &RestoredVolume) {
    ok("a volume can be detached", bench.provider.detach(volume, &bench.instance).await);
    ok("a restored volume can be deleted", bench.provider.delete_volume(volume).await);
}

fn path(volume: &RestoredVolume) -> PathBuf {
    volume.path.clone().unwrap_or_else(|| panic!("a directory is reachable at once: {volume:?}"))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) async fn a_snapshot_holds_what_was_there_at_its_cut(bench: &Bench<'_>) -> Outcome {
    let ticket = bench.ready().await;
    let source = &bench.volumes[0];
    bench.fixture.write(source, Path::new("data/file"), b"after").await;
    bench.fixture.write(source, Path::new("data/later"), b"later").await;
    let volume = attach(bench, &make(bench, &request(bench, &ticket, "")).await).await;
    let opened = bench.fixture.open(&volume).await;
    if let Some(root) = &opened {
        assert_eq!(read(&root.join("data/file")), b"before", "writes after the cut are not in it");
        assert!(!root.join("data/later").exists(), "files made after the cut are not in it");
        assert_eq!(read(&root.join("other/file")), b"other", "an empty subtree is all of it");
        bench.fixture.close(&volume).await;
    }
    remove(bench, &volume).await;
    bench.fixture.write(source, Path::new("data/file"), b"before").await;
    bench.delete(&ticket).await;
    match opened {
        Some(_) => Outcome::Passed,
        None => Outcome::Skipped("the fixture cannot read what is on a device".into()),
    }
}

pub(super) async fn a_subtree_is_restored_without_what_is_excluded(bench: &Bench<'_>) -> Outcome {
    need_directories!(bench);
    let ticket = bench.ready().await;
    let wanted = CreateVolumeRequest { exclude_content: vec!["pg_wal".into()], ..request(bench, &ticket, "data") };
    let space = ok("it can be asked how much it will write", bench.provider.restore_space(&wanted).await);
    assert!(!wanted.destination.as_ref().is_some_and(|path| path.exists()), "to ask makes nothing");
    let volume = ok("a subtree can be restored", bench.provider.create_volume(&wanted).await);
    let root = path(&volume);
    assert_eq!(Some(&root), wanted.destination.as_ref(), "it is where it was asked for");
    if let Some(space) = space {
        assert!(root.starts_with(&space.directory), "the space is where it is needed: {space:?}");
        assert!(
            volume.bytes_copied.is_none_or(|bytes| bytes <= space.bytes),
            "no less is written: {space:?} {volume:?}"
        );
        let without =
            CreateVolumeRequest { destination: Some(bench.fixture.scratch()), ..request(bench, &ticket, "data") };
        let all = ok("it can be asked again", bench.provider.restore_space(&without).await);
        assert!(all.is_some_and(|all| all.bytes > space.bytes), "what is excluded does not count: {space:?}");
    }
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
    let ticket = bench.ready().await;
    bench.delete(&ticket).await;
    let wanted = request(bench, &ticket, "");
    let error = refused("a deleted snapshot cannot be restored", bench.provider.create_volume(&wanted).await);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!wanted.destination.unwrap_or_default().exists(), "nothing was made");
    let listed = ok("volumes can be listed", bench.provider.list_volumes("conformance").await);
    assert!(!listed.iter().any(|volume| volume.carries(&wanted.token)), "nothing was made: {listed:?}");
    Outcome::Passed
}

pub(super) async fn a_volume_is_attached_detached_and_deleted_any_number_of_times(bench: &Bench<'_>) -> Outcome {
    let ticket = bench.ready().await;
    let volume = make(bench, &request(bench, &ticket, "")).await;
    let attached = attach(bench, &volume).await;
    assert!(!restores_directories(bench) || attached.path == volume.path, "a directory stays where it is");
    for one in [&attached, &volume] {
        ok("not attached is success", bench.provider.detach(one, &bench.instance).await);
    }
    for one in [&volume, &attached] {
        ok("gone already is success", bench.provider.delete_volume(one).await);
    }
    ok("what is gone is not attached", bench.provider.detach(&attached, &bench.instance).await);
    bench.delete(&ticket).await;
    Outcome::Passed
}

pub(super) async fn what_no_restore_made_is_not_deleted(bench: &Bench<'_>) -> Outcome {
    if !restores_directories(bench) {
        let source = &bench.volumes[0];
        let volume =
            RestoredVolume { id: source.id.clone(), attributes: source.attributes.clone(), ..Default::default() };
        refused("what no restore made is not deleted", bench.provider.delete_volume(&volume).await);
        bench.fixture.write(source, Path::new("data/file"), b"before").await;
        return Outcome::Passed;
    }
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

/// What a restore that was killed has left can be found by a later process, and told from what another one has made.
pub(super) async fn a_volume_can_be_listed_until_it_is_attached_or_gone(bench: &Bench<'_>) -> Outcome {
    let later = bench.fixture.later();
    let listed = async || ok("volumes can be listed", later.list_volumes("conformance").await);
    if restores_directories(bench) {
        assert_eq!(listed().await, [], "directories are not listed");
        return Outcome::Passed;
    }
    let ticket = bench.ready().await;
    let wanted = request(bench, &ticket, "");
    let volume = make(bench, &wanted).await;
    assert!(volume.carries(&wanted.token), "it carries the token: {volume:?}");
    let ours = async || listed().await.into_iter().filter(|found| found.carries(&wanted.token)).collect::<Vec<_>>();
    let found = ours().await;
    assert_eq!(found.iter().map(|found| &found.id).collect::<Vec<_>>(), [&volume.id], "it is listed with its token");
    assert!(found[0].created().is_some(), "it is known when it was made: {found:?}");
    assert!(!found[0].was_used(), "it was not attached yet: {found:?}");
    let others = ok("volumes can be listed", later.list_volumes("conformanc").await);
    assert!(!others.iter().any(|found| found.id == volume.id), "a part of the mark is another catalog");
    let attached = attach(bench, &volume).await;
    assert_eq!(ours().await, [], "what is attached is in use");
    ok("a volume can be detached", bench.provider.detach(&attached, &bench.instance).await);
    let again = ours().await;
    assert!(again.len() == 1 && again[0].was_used(), "that it was attached is not forgotten: {again:?}");
    ok("all that is needed is in the list", later.delete_volume(&found[0]).await);
    assert_eq!(ours().await, [], "what was deleted is not listed");
    bench.delete(&ticket).await;
    Outcome::Passed
}

/// For a restore to volumes that the user has attached.
pub(super) async fn an_attached_volume_is_known_by_its_snapshot(bench: &Bench<'_>) -> Outcome {
    let from = async |tickets: &[Ticket]| bench.provider.attached_from(&bench.instance, tickets).await;
    if restores_directories(bench) {
        assert_eq!(refused("directories are not attached", from(&[]).await).kind(), ErrorKind::Unsupported);
        return Outcome::Passed;
    }
    let tickets = [bench.ready().await, bench.ready().await];
    let volume = attach(bench, &make(bench, &request(bench, &tickets[1], "")).await).await;
    let found = ok("attached volumes are known by their snapshots", from(&tickets).await);
    let ids: Vec<_> = found.iter().map(|found| found.as_ref().map(|volume| volume.id.as_str())).collect();
    assert_eq!(ids, [None, Some(volume.id.as_str())], "one answer for each snapshot, in their order");
    remove(bench, &volume).await;
    let found = ok("attached volumes are known by their snapshots", from(&tickets).await);
    assert_eq!(found, [None, None], "what is not attached does not count");
    for ticket in &tickets {
        bench.delete(ticket).await;
    }
    Outcome::Passed
}
