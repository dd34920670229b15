//! Real file systems for tests: image files, mounted through loop devices, gone when dropped (also by a panic).
//!
//! They need root and the tools of the file system. Where these are missing, [`Mounted::new`] says why, and the test that
//! wanted one prints it and is skipped.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]
#![allow(dead_code, reason = "shared by several test programs, none of which uses all of it")]

pub(crate) mod zfs;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Btrfs,
    Xfs,
    Ext4,
}

/// A mounted file system of its own.
#[derive(Debug)]
pub(crate) struct Mounted {
    mount_point: PathBuf,
    _directory: tempfile::TempDir,
}

impl Mounted {
    /// Makes and mounts one of `megabytes` (sparse), or says why that cannot be done here.
    pub(crate) fn new(kind: Kind, megabytes: u64) -> Result<Self, String> {
        Self::with_options(kind, megabytes, "loop")
    }

    /// The same with mount options.
    pub(crate) fn with_options(kind: Kind, megabytes: u64, options: &str) -> Result<Self, String> {
        if !is_root() {
            return Err("loop mounts need root".into());
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        // Other users have to pass through it.
        run("chmod", &["755", text(directory.path())])?;
        let image = directory.path().join("image");
        let mount_point = directory.path().join("mnt");
        std::fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(megabytes << 20).map_err(|error| error.to_string())?;
        match kind {
            Kind::Btrfs => run("mkfs.btrfs", &["-q", text(&image)])?,
            Kind::Xfs => run("mkfs.xfs", &["-q", "-m", "reflink=1", text(&image)])?,
            Kind::Ext4 => run("mkfs.ext4", &["-q", text(&image)])?,
        }
        // With `-o loop` the device goes with the mount.
        run("mount", &["-o", options, text(&image), text(&mount_point)])?;
        Ok(Self { mount_point, _directory: directory })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Makes a directory on it.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.mount_point.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Makes a btrfs subvolume on it.
    pub(crate) fn subvolume(&self, name: &str) -> PathBuf {
        let path = self.mount_point.join(name);
        run("btrfs", &["-q", "subvolume", "create", text(&path)]).unwrap();
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(why) =
            run("umount", &[text(&self.mount_point)]).or_else(|_| run("umount", &["-l", text(&self.mount_point)]))
        {
            eprintln!("cannot unmount {}: {why}", self.mount_point.display());
        }
    }
}

/// A file system, or `None` after saying why the test is skipped.
pub(crate) fn mounted(kind: Kind, megabytes: u64) -> Option<Mounted> {
    Mounted::new(kind, megabytes).map_err(|why| eprintln!("skipped: no {kind:?} file system: {why}")).ok()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
