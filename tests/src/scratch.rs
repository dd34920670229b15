//! Directories that vanish, with everything that runs or is mounted in them.
//!
//! Invariant: everything the test bed makes outside of this process lies below a directory named
//! `bsnap-<process id>-…`, so it can be found and removed also by another process after this one was killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use rustix::process::{Pid, Signal, kill_process};

use crate::{command, user};

const PREFIX: &str = "bsnap-";

/// A directory of the server user that is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one, below `BARMAN_SNAP_TEST_DIR` or `/var/tmp`. The name is short: sockets may have 107 bytes only.
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let path = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(base())
            .unwrap_or_else(|error| panic!("cannot make a directory in {}: {error}", base().display()))
            .keep();
        user::give(&path);
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory in it, for the server user.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        user::make_dir(&path);
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        clear(&self.path);
    }
}

/// The processes that work in a directory or below: servers and their children, above all.
pub fn processes_below(path: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(path))).collect()
}

/// The mount points in a directory, the innermost first.
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(path)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

fn base() -> PathBuf {
    std::env::var_os("BARMAN_SNAP_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// Ends, unmounts and removes. Says what it could not do and goes on: it may be called while a test panics.
fn clear(path: &Path) {
    for _ in 0..100 {
        let running = processes_below(path);
        if running.is_empty() {
            break;
        }
        for pid in running {
            if let Some(pid) = Pid::from_raw(pid) {
                // It may have ended by itself meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        crate::wait::pass(std::time::Duration::from_millis(20));
    }
    for point in mounts_below(path) {
        let gone = command::attempt(Command::new("umount").arg(&point)).success();
        // Somebody still has a file open there; the device is freed when the file is closed.
        if !gone && !command::attempt(Command::new("umount").arg("-l").arg(&point)).success() {
            eprintln!("could not unmount {}", point.display());
        }
    }
    if !mounts_below(path).is_empty() {
        return;
    }
    open_up(path);
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("could not remove {}: {error}", path.display());
    }
}

/// Lets the owner write to all directories in it: snapshots are read-only, and only root may remove from such.
fn open_up(path: &Path) {
    if user::is_root() {
        return;
    }
    // What cannot be opened up cannot be removed either; that is told then.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Removes what tests left that were killed.
pub fn sweep() {
    for (owner, path) in all() {
        if !Path::new(&format!("/proc/{owner}")).exists() {
            clear(&path);
        }
    }
}

/// The directories that a process has made and not removed.
pub fn made_by(pid: u32) -> Vec<PathBuf> {
    all().into_iter().filter(|(owner, _)| *owner == pid).map(|(_, path)| path).collect()
}

/// Every directory of this kind, with the id of the process that made it.
fn all() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(base()).into_iter().flatten().flatten();
    let owned = entries.filter_map(|entry| {
        let owner = entry.file_name().to_str()?.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()?;
        Some((owner, entry.path()))
    });
    owned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_scratch_ends_what_works_in_it() {
        let scratch = Scratch::new();
        let path = scratch.path().to_owned();
        let mut child = Command::new("sleep").arg("600").current_dir(&path).spawn().expect("sleep runs");
        assert_eq!(processes_below(&path), [child.id().cast_signed()]);
        drop(scratch);
        assert!(!child.wait().expect("it has ended").success());
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_test_left_is_swept() {
        let mut gone = Command::new("true").spawn().expect("true runs");
        gone.wait().expect("true ends");
        let left = base().join(format!("{PREFIX}{}-left", gone.id()));
        fs::create_dir_all(left.join("data")).expect("the directory is made");
        sweep();
        assert!(!left.exists());
    }
}
