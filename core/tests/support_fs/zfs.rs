//! A pool in a file, of the kernel's ZFS or, where it has none, of `zfs-fuse`. Gone when dropped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use barman_snap::clock::{Clock, SystemClock};

use super::{is_root, run, text};

/// See the [module documentation](self).
pub(crate) struct Pool {
    name: String,
    daemon: Option<std::process::Child>,
    directory: tempfile::TempDir,
}

/// A pool, or `None` after saying why the test is skipped.
pub(crate) async fn pool(name: &str) -> Option<Pool> {
    Pool::new(name).await.map_err(|why| eprintln!("skipped: {why}")).ok()
}

/// A pool of the kernel's ZFS: the other one does less.
pub(crate) async fn real_pool(name: &str) -> Option<Pool> {
    if !Path::new("/sys/module/zfs").exists() {
        eprintln!("skipped: the kernel has no ZFS (make test-vm has one)");
        return None;
    }
    pool(name).await
}

impl Pool {
    async fn new(name: &str) -> Result<Self, String> {
        if !is_root() {
            return Err("a pool needs root".into());
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        run("chmod", &["755", text(directory.path())])?;
        let mut pool = Self { name: name.to_owned(), daemon: None, directory };
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
        std::fs::File::create(pool.image())
            .and_then(|file| file.set_len(256 << 20))
            .map_err(|error| error.to_string())?;
        run("zpool", &["create", "-m", text(&pool.mount_point()), name, text(&pool.image())])?;
        Ok(pool)
    }

    pub(crate) fn is_fuse(&self) -> bool {
        self.daemon.is_some()
    }

    /// A directory of its own beside the pool.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// The full name of a dataset.
    pub(crate) fn name_of(&self, dataset: &str) -> String {
        format!("{}/{dataset}", self.name)
    }

    /// The bytes that a new dataset could have.
    pub(crate) fn available(&self) -> u64 {
        let arguments = ["get", "-H", "-p", "-o", "value", "available", &self.name];
        let output = std::process::Command::new("zfs").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    /// Makes a dataset with these properties; gives where it is mounted unless they say something else.
    pub(crate) fn dataset(&self, dataset: &str, properties: &[&str]) -> PathBuf {
        let name = self.name_of(dataset);
        let options = properties.iter().flat_map(|property| ["-o", property]);
        let arguments: Vec<&str> = ["create"].into_iter().chain(options).chain([name.as_str()]).collect();
        run("zfs", &arguments).unwrap();
        self.mount_point().join(dataset)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // It may be exported.
        if run("zpool", &["list", &self.name]).is_ok()
            && let Err(why) = run("zpool", &["destroy", "-f", &self.name])
        {
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
