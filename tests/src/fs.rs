//! File systems in image files: btrfs, XFS with reflinks and ext4, mounted through loop devices, and ZFS, whose pool lies in one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{attempt, run};
use crate::scratch::Scratch;
use crate::skip::{Missing, Need};
use crate::user;

/// A kind of file system that the local provider treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Subvolumes and snapshots.
    Btrfs,
    /// Reflinks.
    XfsReflink,
    /// Neither: plain copies.
    Ext4,
    /// Datasets and snapshots. Few kernels have it; `make test-vm` runs one that does.
    Zfs,
}

impl Kind {
    /// All that every machine of the tests has.
    pub const ALL: [Self; 3] = [Self::Btrfs, Self::XfsReflink, Self::Ext4];

    /// The name in `/proc/filesystems`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::XfsReflink => "xfs",
            Self::Ext4 => "ext4",
            Self::Zfs => "zfs",
        }
    }

    fn make(self) -> Command {
        let (program, options): (_, &[&str]) = match self {
            Self::Btrfs => ("mkfs.btrfs", &["-q"]),
            Self::XfsReflink => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
            Self::Ext4 => ("mkfs.ext4", &["-q"]),
            Self::Zfs => ("zpool", &["create", "-O", "compression=off"]),
        };
        let mut command = Command::new(program);
        command.args(options);
        command
    }

    /// Whether such a file system can be made and mounted on this machine.
    pub fn available(self) -> Result<(), Missing> {
        let need = if self == Self::Zfs { Need::Tool("zfs") } else { Need::FileSystem(self.name()) };
        if !user::is_root() {
            return Err(Missing::new(need, "only root may mount it"));
        }
        // A pool lies in the file itself.
        if self != Self::Zfs && !Path::new("/dev/loop-control").exists() {
            return Err(Missing::new(need, "the kernel has no loop devices"));
        }
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.lines().any(|line| line.split_whitespace().last() == Some(self.name())) {
            return Err(Missing::new(need, "the kernel does not know it (modprobe may help)"));
        }
        match self.make().arg("-V").output() {
            Ok(_) => Ok(()),
            Err(_) => Err(Missing::new(need, "there is no program to make one; run tools/setup.sh test")),
        }
    }
}

/// A mounted file system of its own, which belongs to the server user and is gone when this is dropped.
#[derive(Debug)]
pub struct LoopFs {
    kind: Kind,
    mount: PathBuf,
    scratch: Scratch,
}

impl LoopFs {
    /// Makes and mounts one. The image is sparse, so `size_mib` costs nothing; XFS wants 300 at least.
    pub fn new(kind: Kind, size_mib: u64) -> Result<Self, Missing> {
        Self::with_options(kind, size_mib, "")
    }

    /// Like [`new`](Self::new), with mount options (`user_subvol_rm_allowed`, say).
    pub fn with_options(kind: Kind, size_mib: u64, options: &str) -> Result<Self, Missing> {
        kind.available()?;
        let scratch = Scratch::new();
        let image = scratch.path().join("image");
        let file = std::fs::File::create(&image).expect("the image file is made");
        file.set_len(size_mib << 20).expect("a sparse file can have any size");
        let mount = scratch.dir("fs");
        if kind == Kind::Zfs {
            let made = Self { kind, mount, scratch };
            run(kind.make().arg("-m").arg(&made.mount).arg(made.pool()).arg(&image));
            user::give(&made.mount);
            return Ok(made);
        }
        run(kind.make().arg(&image));
        let mut options = options.to_owned();
        options.push_str(if options.is_empty() { "loop" } else { ",loop" });
        // With this option the loop device goes away with the mount.
        run(Command::new("mount").arg("-o").arg(&options).arg(&image).arg(&mount));
        user::give(&mount);
        Ok(Self { kind, mount, scratch })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Takes it out of sight. Nobody may be at work on it; what has just ended may hold it for a moment.
    #[track_caller]
    pub fn unmount(&self) {
        crate::wait::wait_for("the file system to be left alone", std::time::Duration::from_secs(20), || {
            attempt(Command::new("umount").arg(&self.mount)).success().then_some(())
        });
    }

    /// Mounts it where it was.
    #[track_caller]
    pub fn mount_again(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(&self.mount));
    }

    /// Its image file.
    pub fn image(&self) -> PathBuf {
        self.scratch.path().join("image")
    }

    /// The pool of a ZFS.
    pub fn pool(&self) -> String {
        let name = self.scratch.path().file_name().and_then(|name| name.to_str()).expect("its name is made by us");
        // As a name of a pool, which begins with a letter and has no dots.
        name.replace('.', "_")
    }

    /// A new place in it that a snapshot can be taken of: a subvolume on btrfs, a dataset of ZFS, a directory elsewhere.
    pub fn volume(&self, name: &str) -> PathBuf {
        let path = self.mount.join(name);
        if self.kind == Kind::Btrfs {
            run(Command::new("btrfs").args(["subvolume", "create"]).arg(&path));
            user::give(&path);
        } else if self.kind == Kind::Zfs {
            run(Command::new("zfs").arg("create").arg(format!("{}/{name}", self.pool())));
            user::give(&path);
        } else {
            user::make_dir(&path);
        }
        path
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if self.kind == Kind::Zfs {
            // What still works in it keeps it busy.
            for pid in
                crate::scratch::processes_below(&self.mount).into_iter().filter_map(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            let gone = attempt(Command::new("zpool").args(["destroy", "-f"]).arg(self.pool()));
            if !gone.success() && !gone.stderr.contains("no such pool") {
                eprintln!("could not destroy the pool {}: {}", self.pool(), gone.stderr);
            }
        }
    }
}
