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

/// A pool in a file, served by `zfs-fuse` where the kernel has no ZFS.
struct Pool {
    name: &'static str,
    daemon: Option<std::process::Child>,
    directory: tempfile::TempDir,
}

impl Pool {
    async fn new(name: &'static str) -> Result<Self, String> {
        if !support_fs::is_root() {
            return Err("a pool needs root".into());
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut pool = Self { name, daemon: None, directory };
        if run("zfs", &["list"]).is_err() {
            let daemon = std::process::Command::new("zfs-fuse").arg("-n").stderr(std::process::Stdio::null()).spawn();
            pool.daemon = Some(daemon.map_err(|error| format!("neither ZFS in the kernel nor zfs-fuse: {error}"))?);
            for _ in 0..200 {
                if run("zfs", &["list"]).is_ok() {
                    break;
                }
                SystemClock::new().sleep(Duration::from_millis(20)).await;
            }
        }
        let image = pool.directory.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(256 << 20)).map_err(|error| error.to_string())?;
        run("zpool", &["create", "-m", text(&pool.mount_point()), name, text(&image)])?;
        Ok(pool)
    }

    fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(why) = run("zpool", &["destroy", "-f", self.name]) {
            eprintln!("cannot destroy the pool {}: {why}", self.name);
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
            // The daemon mounts its statistics there, and does not take them away.
            let _ = run("umount", &["/zfs-kstat"]);
            let _ = std::fs::remove_dir("/zfs-kstat");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zfs_snapshots_pass() {
    let pool = match Pool::new("bsnapconf").await {
        Ok(pool) => pool,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    // One volume: zfs-fuse takes one snapshot per call only, which real ZFS does not.
    let options = LocalOptions { method: Method::Zfs, ..LocalOptions::default() };
    let fixture = Local::new(options, vec![pool.mount_point()], pool.directory.path().join("scratch"));
    let report = conformance::run(&fixture).await;
    let skipped: Vec<_> = report.skipped().iter().map(|(name, _)| *name).collect();
    assert_eq!(
        skipped,
        ["named_volumes_come_in_the_order_of_their_names", "several_volumes_are_cut_by_one_call_or_refused"]
    );
}
