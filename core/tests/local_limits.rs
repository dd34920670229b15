//! The local provider where a process may have few files open, as under systemd, cron and ssh, only lower.
//!
//! The limit is one of a process, so each test runs itself again as a child that has it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]
#![allow(clippy::print_stdout, reason = "a child tells its parent what it has needed")]

mod support_fs;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use barman_snap::clock::{Clock, SystemClock};
use barman_snap::id::{IdSource, SystemIds};
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method};
use barman_snap::provider::{
    CreateRequest, CreateVolumeRequest, SnapshotProvider, SnapshotState, Volume, VolumeSelection, VolumeSnapshot,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support_fs::{Kind, mounted, text};

const LIMIT: u64 = 64;
const CHILD: &str = "BARMAN_SNAP_TEST_LIMITED";
/// Directories in each other.
const DEEP: usize = 400;

/// Runs one test of this program as a child with a low limit and the directory to work in; the memory it has needed.
fn limited(test: &str, directory: &Path) -> u64 {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    let memory = said.lines().find_map(|line| line.split("memory: ").nth(1)).unwrap();
    memory.parse().unwrap()
}

/// In memory where that is possible: to flush a disk that others write to takes longer than all the rest.
fn quick() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// In the child: the directory to work in, with the limit set.
fn in_child() -> Option<PathBuf> {
    let directory = std::env::var_os(CHILD)?;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum }).unwrap();
    Some(directory.into())
}

/// The most memory that this process has had, in KiB.
fn tell_memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("memory: {}", most.trim().trim_end_matches(" kB"));
}

/// Backs up `data` next to itself, restores the copy next to it, and removes both.
async fn round_trip(method: Method, data: &Path) {
    let provider = LocalProvider::new(LocalOptions { method, jobs: 8, ..LocalOptions::default() });
    let instance = provider.instance(None).await.unwrap();
    let volumes = provider.volumes(&instance, &VolumeSelection::Holding(vec![data.to_owned()])).await.unwrap();
    let volume: &Volume = &volumes[0];
    assert_eq!(volume.method, method.to_string());
    let backup_id = "20260529T101112".parse().unwrap();
    let request = CreateRequest {
        token: SystemIds.token(),
        mark: "main.0123456789abcdef".into(),
        instance,
        volumes: vec![VolumeSnapshot { volume: volume.clone(), name: provider.snapshot_name(volume, &backup_id) }],
        backup_id,
        tags: Default::default(),
    };
    provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
    let ticket = provider.create(&request).await.unwrap().remove(0);
    let clock = SystemClock::new();
    loop {
        match provider.status(&ticket).await.unwrap().state {
            SnapshotState::Ready => break,
            SnapshotState::Failed { reason } => panic!("{reason}"),
            _ => clock.sleep(Duration::from_millis(5)).await,
        }
    }
    let destination = data.with_file_name("restored");
    let wanted = CreateVolumeRequest {
        ticket: ticket.clone(),
        token: SystemIds.token(),
        subtree: PathBuf::new(),
        destination: Some(destination.clone()),
        instance: None,
        mark: String::new(),
        exclude_content: Vec::new(),
    };
    let restored = provider.create_volume(&wanted).await.unwrap();
    assert_eq!(count(&destination), count(data));
    provider.delete(&ticket).await.unwrap();
    provider.delete_volume(&restored).await.unwrap();
    assert!(!destination.exists() && !Path::new(&ticket.snapshot).exists());
}

/// How many entries there are below, and the sum of what distinguishes them.
fn count(directory: &Path) -> (u64, u64) {
    let mut seen = (0, 0_u64);
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let (mode, time) = (u64::from(meta.mode()), meta.mtime_nsec().unsigned_abs());
            seen = (seen.0 + 1, seen.1.wrapping_add(mode * 31 + time));
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    seen
}

/// Far more directories than files may be open, beside and in each other.
fn make_directories(data: &Path) {
    for n in 0..300 {
        let database = data.join(format!("base/{n}"));
        std::fs::create_dir_all(&database).unwrap();
        std::fs::write(database.join("PG_VERSION"), n.to_string()).unwrap();
    }
    let mut deep = data.join("deep");
    deep.extend(std::iter::repeat_n("d", DEEP));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("end"), "end").unwrap();
    // Wide below deep: what was closed on the way down has to be found again.
    for n in 0..300 {
        std::fs::create_dir(data.join("deep/d/d").join(format!("wide{n}"))).unwrap();
    }
}

#[tokio::test]
async fn many_and_deep_directories_are_copied_restored_and_removed_with_few_open_files() {
    if let Some(directory) = in_child() {
        round_trip(Method::Copy, &directory.join("data")).await;
        return tell_memory();
    }
    let temp = quick();
    make_directories(&temp.path().join("data"));
    limited("many_and_deep_directories_are_copied_restored_and_removed_with_few_open_files", temp.path());
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "something was left behind");
}

#[tokio::test]
async fn many_and_deep_directories_are_shared_restored_and_removed_with_few_open_files() {
    if let Some(directory) = in_child() {
        round_trip(Method::Reflink, &directory.join("data")).await;
        return tell_memory();
    }
    let Some(fs) = mounted(Kind::Xfs, 512) else { return };
    make_directories(&fs.path().join("data"));
    limited("many_and_deep_directories_are_shared_restored_and_removed_with_few_open_files", fs.path());
    assert_eq!(std::fs::read_dir(fs.path()).unwrap().count(), 1, "something was left behind: {}", text(fs.path()));
}

#[tokio::test]
async fn memory_does_not_grow_with_the_number_of_files() {
    if let Some(directory) = in_child() {
        round_trip(Method::Copy, &directory.join("data")).await;
        return tell_memory();
    }
    let needed = [200, 20_000].map(|number| {
        let temp = quick();
        let data = temp.path().join("data/base/1");
        std::fs::create_dir_all(&data).unwrap();
        for n in 0..number {
            // Names as long as they can be, so that whoever keeps them all is noticed.
            std::fs::write(data.join(format!("{n:0240}")), "").unwrap();
        }
        limited("memory_does_not_grow_with_the_number_of_files", temp.path())
    });
    // The names alone are 5 MB, and were twice in memory.
    assert!(needed[1] < needed[0] + 3000, "{needed:?} KiB");
}
