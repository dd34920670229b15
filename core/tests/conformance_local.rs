//! The local provider passes the suites with each method, on real file systems.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

mod support_fs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::conformance::{self, Fixture, Report};
use barman_snap::id::{IdSource, SystemIds, Token};
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method, SNAPSHOT_DIRECTORY};
use barman_snap::provider::{SnapshotProvider, Volume};
use support_fs::zfs::pool;
use support_fs::{Kind, mounted, run, text};

struct Local {
    provider: LocalProvider,
    options: LocalOptions,
    clock: SystemClock,
    directories: Vec<PathBuf>,
    scratch: PathBuf,
}

impl Local {
    fn new(options: LocalOptions, directories: Vec<PathBuf>, scratch: PathBuf) -> Self {
        std::fs::create_dir_all(&scratch).unwrap();
        let provider = LocalProvider::new(options.clone());
        Self { provider, options, clock: SystemClock::new(), directories, scratch }
    }
}

#[async_trait]
impl Fixture for Local {
    fn provider(&self) -> &dyn SnapshotProvider {
        &self.provider
    }

    fn later(&self) -> Box<dyn SnapshotProvider> {
        Box::new(LocalProvider::new(self.options.clone()))
    }

    fn volume_names(&self) -> Vec<String> {
        self.directories.iter().map(|path| path.display().to_string()).collect()
    }

    async fn write(&self, volume: &Volume, path: &Path, bytes: &[u8]) {
        let path = volume.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn scratch(&self) -> PathBuf {
        self.scratch.join(SystemIds.token().as_str())
    }

    fn token(&self) -> Token {
        SystemIds.token()
    }

    async fn pause(&self) {
        self.clock.sleep(Duration::from_millis(2)).await;
    }
}

async fn passes(asked: Method, chosen: Method, directories: Vec<PathBuf>, scratch: PathBuf) -> Report {
    let options = LocalOptions { method: asked, ..LocalOptions::default() };
    let top = scratch.parent().unwrap().to_owned();
    let fixture = Local::new(options, directories.clone(), scratch);
    let instance = fixture.provider.instance(None).await.unwrap();
    let names = barman_snap::provider::VolumeSelection::Named(fixture.volume_names());
    for volume in fixture.provider.volumes(&instance, &names).await.unwrap() {
        assert_eq!(volume.method, chosen.as_str());
    }
    let report = conformance::run(&fixture).await;
    assert_eq!(report.skipped(), []);
    for directory in directories {
        for ancestor in directory.ancestors().take_while(|ancestor| ancestor.starts_with(&top)) {
            assert!(!ancestor.join(SNAPSHOT_DIRECTORY).exists(), "nothing is left at {}", ancestor.display());
        }
    }
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn btrfs_snapshots_pass() {
    let Some(fs) = mounted(Kind::Btrfs, 512) else { return };
    for asked in [Method::Auto, Method::Btrfs] {
        let name = |n: &str| format!("{asked}-{n}");
        let directories = vec![fs.subvolume(&name("a")), fs.subvolume(&name("b"))];
        passes(asked, Method::Btrfs, directories, fs.path().join("scratch")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_trees_on_xfs_pass() {
    let Some(fs) = mounted(Kind::Xfs, 512) else { return };
    let directories = vec![fs.directory("a"), fs.directory("b")];
    passes(Method::Auto, Method::Reflink, directories, fs.path().join("scratch")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_trees_on_btrfs_pass() {
    let Some(fs) = mounted(Kind::Btrfs, 512) else { return };
    let directories = vec![fs.directory("a"), fs.directory("b")];
    passes(Method::Reflink, Method::Reflink, directories, fs.path().join("scratch")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_on_ext4_pass() {
    let Some(fs) = mounted(Kind::Ext4, 512) else { return };
    let directories = vec![fs.directory("a"), fs.directory("b")];
    passes(Method::Auto, Method::Copy, directories, fs.path().join("scratch")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_without_any_privilege_or_mount_pass() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().canonicalize().unwrap();
    let directories: Vec<PathBuf> = ["a", "b"].iter().map(|name| base.join(name)).collect();
    directories.iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let options =
        LocalOptions { method: Method::Copy, snapshot_directory: Some(base.clone()), ..LocalOptions::default() };
    let fixture = Local::new(options, directories, base.join("scratch"));
    let report = conformance::run(&fixture).await;
    assert_eq!(report.skipped(), []);
    assert!(!base.join(SNAPSHOT_DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn zfs_snapshots_pass() {
    let Some(pool) = pool("bsnapconf").await else { return };
    let scratch = pool.directory().join("scratch");
    if pool.is_fuse() {
        // One volume: zfs-fuse takes one snapshot per call only, which real ZFS does not.
        let options = LocalOptions { method: Method::Zfs, ..LocalOptions::default() };
        let fixture = Local::new(options, vec![pool.mount_point()], scratch);
        let report = conformance::run(&fixture).await;
        let skipped: Vec<_> = report.skipped().iter().map(|(name, _)| *name).collect();
        assert_eq!(
            skipped,
            ["named_volumes_come_in_the_order_of_their_names", "several_volumes_are_cut_by_one_call_or_refused"]
        );
        return;
    }
    let directories = vec![pool.dataset("a", &[]), pool.dataset("b", &[])];
    passes(Method::Auto, Method::Zfs, directories, scratch).await;
    // Of these ZFS itself knows no mount point: one mounted by hand, and a directory of one mounted elsewhere.
    let legacy = pool.directory().join("legacy");
    pool.dataset("legacy", &["mountpoint=legacy"]);
    std::fs::create_dir(&legacy).unwrap();
    run("mount", &["-t", "zfs", &pool.name_of("legacy"), text(&legacy)]).unwrap();
    let (inner, bound) = (pool.dataset("c", &[]).join("in/side"), pool.directory().join("bound"));
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::create_dir(&bound).unwrap();
    run("mount", &["--bind", text(&inner), text(&bound)]).unwrap();
    let directories = vec![legacy.clone(), bound.clone()];
    passes(Method::Auto, Method::Zfs, directories, pool.directory().join("scratch2")).await;
    for mount_point in [&legacy, &bound] {
        run("umount", &[text(mount_point)]).unwrap();
    }
}
