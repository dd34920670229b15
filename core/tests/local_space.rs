//! Local copies and the space that they share with a live server, and with each other.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

mod support_fs;
mod support_local;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use barman_snap::ErrorKind;
use barman_snap::id::{IdSource, SystemIds};
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method, SNAPSHOT_DIRECTORY};
use barman_snap::provider::{CreateRequest, CreateVolumeRequest, SnapshotProvider, SnapshotState};
use rustix::fs::FlockOperation;
use support_fs::{Kind, Mounted, mounted, text};
use support_local::{holding, make_cluster, request, settled};

/// A provider that copies to `fs`, as a process of its own would have it.
fn copier(fs: &Mounted) -> LocalProvider {
    let snapshot_directory = Some(fs.path().to_owned());
    LocalProvider::new(LocalOptions { method: Method::Copy, snapshot_directory, jobs: 1, ..LocalOptions::default() })
}

/// A data directory of some size elsewhere, and what is needed to ask for its snapshot.
async fn source(temp: &Path, name: &str, megabytes: usize, provider: &LocalProvider) -> CreateRequest {
    let data = temp.join(name);
    make_cluster(&data);
    std::fs::write(data.join("base/1/big"), vec![1; megabytes << 20]).unwrap();
    let volumes = holding(provider, &[data]).await;
    request(provider, &volumes[0]).await
}

fn entries(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).filter(|name| name != "lost+found").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_copies_at_once_that_fit_only_one_by_one_one_is_refused() {
    let Some(fs) = mounted(Kind::Ext4, 300) else { return };
    let temp = tempfile::tempdir().unwrap();
    let (one, other) = (copier(&fs), copier(&fs));
    let first = source(temp.path(), "one", 150, &one).await;
    let second = source(temp.path(), "other", 150, &other).await;
    // Both see that there is room, before either has begun.
    one.check_requests(std::slice::from_ref(&first)).await.unwrap();
    other.check_requests(std::slice::from_ref(&second)).await.unwrap();
    let results = tokio::join!(one.create(&first), other.create(&second));
    let (made, refused): (Vec<_>, Vec<_>) =
        [(&one, results.0), (&other, results.1)].into_iter().partition(|(_, result)| result.is_ok());
    assert_eq!((made.len(), refused.len()), (1, 1));
    assert_eq!(refused[0].1.as_ref().unwrap_err().kind(), ErrorKind::Exhausted);
    let (provider, tickets) = (made[0].0, made[0].1.as_ref().unwrap());
    assert_eq!(settled(provider, &tickets[0]).await, SnapshotState::Ready);
    provider.delete(&tickets[0]).await.unwrap();
    assert_eq!(entries(fs.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_living_process_is_yet_to_write_counts_and_that_of_a_dead_one_does_not() {
    let Some(fs) = mounted(Kind::Ext4, 300) else { return };
    let temp = tempfile::tempdir().unwrap();
    let provider = copier(&fs);
    let request = source(temp.path(), "data", 20, &provider).await;
    let place = fs.path().join(SNAPSHOT_DIRECTORY);
    std::fs::create_dir(&place).unwrap();
    let record = serde_json::json!({
        "version": 1, "state": "creating", "token": SystemIds.token(), "mark": "main.0123456789abcdef",
        "backup_id": "20260529T101112", "name": "theirs", "volume": "/theirs", "root": "/theirs", "method": "copy",
        "needs": 200 << 20,
    });
    std::fs::write(place.join("theirs.json"), record.to_string()).unwrap();
    let theirs = File::open(place.join("theirs.json")).unwrap();
    rustix::fs::flock(theirs.as_fd(), FlockOperation::LockExclusive).unwrap();

    let error = provider.check_requests(std::slice::from_ref(&request)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.message().ends_with("other copies are yet to write 200 MiB"), "{error}");
    assert_eq!(provider.create(&request).await.unwrap_err().kind(), ErrorKind::Exhausted);
    assert_eq!(entries(&place), ["theirs.json"]);
    // It has written most of it.
    std::fs::write(place.join("theirs.written"), (190 << 20).to_string()).unwrap();
    provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
    std::fs::remove_file(place.join("theirs.written")).unwrap();
    provider.check_requests(std::slice::from_ref(&request)).await.unwrap_err();
    // It dies.
    drop(theirs);
    provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
    let ticket = provider.create(&request).await.unwrap().remove(0);
    assert_eq!(settled(&provider, &ticket).await, SnapshotState::Ready);
    provider.delete(&ticket).await.unwrap();
    assert_eq!(entries(&place), ["theirs.json"]);
}

/// Takes all space but `left` bytes.
fn fill(fs: &Mounted, left: u64) -> PathBuf {
    let filler = fs.path().join("filler");
    let file = File::create(&filler).unwrap();
    let mut length = 0;
    // In steps: a copy may take from it, too.
    loop {
        let stat = rustix::fs::statvfs(fs.path()).unwrap();
        let step = (stat.f_bfree * stat.f_frsize).saturating_sub(left).min(64 << 20);
        if step == 0 || rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), length, step).is_err() {
            break;
        }
        length += step;
    }
    filler
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_gets_full_under_a_copy_stops_it_early_and_leaves_nothing() {
    let Some(fs) = mounted(Kind::Ext4, 600) else { return };
    let temp = tempfile::tempdir().unwrap();
    let provider = copier(&fs);
    let request = source(temp.path(), "data", 300, &provider).await;
    // Before it begins: refused with numbers, whatever is left.
    for left in [1 << 20, 64 << 20] {
        let filler = fill(&fs, left);
        for error in [
            provider.check_requests(std::slice::from_ref(&request)).await.unwrap_err(),
            provider.create(&request).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
            let said = error.chain();
            assert!(said.contains("MiB needed") || said.contains("No space left"), "{said}");
            assert!(!said.contains('\n'), "{said}");
        }
        std::fs::remove_file(filler).unwrap();
        assert_eq!(entries(fs.path()), [""; 0]);
    }
    // While it runs: somebody else takes all, or nearly all.
    for left in [16 << 20, 0] {
        provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
        let ticket = provider.create(&request).await.unwrap().remove(0);
        let filler = fill(&fs, left);
        let SnapshotState::Failed { reason } = settled(&provider, &ticket).await else {
            panic!("the copy of a disk that is full has come to its end")
        };
        assert!(reason.contains("MiB free") || reason.contains("No space left"), "{reason}");
        assert!(!reason.contains('\n'), "{reason}");
        provider.delete(&ticket).await.unwrap();
        std::fs::remove_file(filler).unwrap();
        assert_eq!(entries(fs.path()), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_can_be_asked_how_much_it_will_write() {
    let (Some(btrfs), Some(ext4)) = (mounted(Kind::Btrfs, 512), mounted(Kind::Ext4, 128)) else { return };
    let data = btrfs.subvolume("pg");
    make_cluster(&data);
    std::fs::write(data.join("pg_wal/segment"), vec![1; 16 << 20]).unwrap();
    let provider = LocalProvider::default();
    let volumes = holding(&provider, &[data]).await;
    let ticket = support_local::take(&provider, &volumes[0]).await;
    let wanted = |at: &Path, exclude: &[&str]| CreateVolumeRequest {
        ticket: ticket.clone(),
        token: SystemIds.token(),
        subtree: PathBuf::new(),
        destination: Some(at.join("not/yet/there")),
        instance: None,
        mark: String::new(),
        exclude_content: exclude.iter().map(PathBuf::from).collect(),
    };
    let shared = provider.restore_space(&wanted(btrfs.path(), &[])).await.unwrap();
    assert_eq!(shared, None, "blocks are shared within the file system, also between its subvolumes");
    let all = provider.restore_space(&wanted(ext4.path(), &[])).await.unwrap().unwrap();
    let without = provider.restore_space(&wanted(ext4.path(), &["pg_wal"])).await.unwrap().unwrap();
    assert_eq!(all.directory, ext4.path());
    assert_eq!(all.bytes - without.bytes, (16 << 20) + 1024, "the segment, and what a file costs");
    // 50 files of 64 KiB, and little more.
    assert!((50 * 65536..80 * 65536).contains(&without.bytes), "{without:?}");
    assert!(all.free > 64 << 20 && all.free < 128 << 20, "{} of {}", all.free, text(ext4.path()));
    provider.delete(&ticket).await.unwrap();
    assert_eq!(provider.restore_space(&wanted(ext4.path(), &[])).await.unwrap_err().kind(), ErrorKind::NotFound);
}
