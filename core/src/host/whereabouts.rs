//! Where a directory lies: on which machine, on which file system, and where that is mounted.
//!
//! What it is: a note that is taken when something is put into a directory ([`Whereabouts::of`]), stored, and held later against
//! what is there then ([`Whereabouts::why_unseen`]). What it is not: proof that anything is in the directory.
//!
//! The invariant: an empty directory means "gone" only to the one who looks into the right file system. Host names change and
//! repeat, disks move, a mount point without its file system is an empty directory, too. The identity of the file system, where
//! it has one, is what counts; the machine only where it has none.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Mount, MountTable};
use crate::error::{Error, Result};

/// See the [module documentation](self). It is stored: members are only added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The directory.
    pub directory: PathBuf,
    /// The name of the host, for people.
    pub host: String,
    /// `/etc/machine-id`; empty where there is none.
    #[serde(default)]
    pub machine: String,
    /// Where its file system is mounted.
    pub mount_point: PathBuf,
    /// The directory of the file system that is mounted there: `/`, or more for bind mounts and subvolumes.
    pub fs_root: PathBuf,
    /// The type of the file system.
    pub fs_type: String,
    /// The device, or whatever the file system calls its source.
    pub source: String,
    /// What tells this file system from all others: `uuid:…`, or `fsid:…` as statvfs(3) has it; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

impl Whereabouts {
    /// Where `directory` lies; it need not exist, its file system is that of the nearest directory above which does.
    ///
    /// # Errors
    /// If the mounts cannot be read, or a directory on the way cannot be looked at.
    pub fn of(directory: &Path) -> Result<Self> {
        let existing = nearest(directory)?;
        // Looking at it has mounted what is mounted only when somebody looks.
        let mounts = MountTable::current()?;
        let mount = mounts
            .of_path(&existing)
            .ok_or_else(|| Error::precondition(format!("not on any mounted file system: {}", directory.display())))?;
        Ok(Self {
            directory: directory.to_owned(),
            host: super::host_name(),
            machine: super::machine_id(),
            mount_point: mount.mount_point.clone(),
            fs_root: mount.fs_root.clone(),
            fs_type: mount.fs_type.clone(),
            source: mount.source.clone(),
            identity: identity(mount, &existing),
        })
    }

    /// Why the directory that was meant cannot be seen from here, if it cannot.
    ///
    /// # Errors
    /// As [`of`](Self::of); that it may not be looked at is an error, too.
    pub fn why_unseen(&self) -> Result<Option<String>> {
        let here = Self::of(&self.directory)?;
        if let Some(why) = self.differs(&here) {
            return Ok(Some(why));
        }
        match std::fs::read_dir(&self.directory) {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look into", &self.directory, error)),
        }
    }

    /// What differs between this place and `here`, the one that its path leads to now. Pure.
    fn differs(&self, here: &Self) -> Option<String> {
        let place = self.directory.display();
        let point = self.mount_point.display();
        let known = self.identity.as_deref().zip(here.identity.as_deref()).filter(|(a, b)| kind(a) == kind(b));
        match known {
            // Whatever the host is called now, and wherever the disk has been meanwhile.
            Some((then, now)) if then == now => {}
            Some(_) if here.mount_point == self.mount_point => {
                return Some(format!("another file system than at the time is mounted at {point}"));
            }
            _ if self.is_elsewhere(here) => {
                return Some(format!("{place} lies on host {}, this is {}", self.host, here.host));
            }
            _ => {}
        }
        if here.mount_point != self.mount_point {
            return Some(format!("the file system of {place} is not mounted at {point}"));
        }
        if here.fs_root != self.fs_root || here.fs_type != self.fs_type {
            return Some(format!("something else than at the time is mounted at {point}"));
        }
        // The name of a disk may change with every start of the host, that of a share does not.
        let is_share = self.source.contains(':') || self.source.starts_with("//");
        (is_share && here.source != self.source)
            .then(|| format!("{} is mounted at {point}, and not {}", here.source, self.source))
    }

    fn is_elsewhere(&self, here: &Self) -> bool {
        match (self.machine.as_str(), here.machine.as_str()) {
            ("", _) | (_, "") => self.host != here.host,
            (then, now) => then != now,
        }
    }
}

fn kind(identity: &str) -> Option<&str> {
    identity.split_once(':').map(|(kind, _)| kind)
}

/// The nearest directory at or above `path` that exists, without links.
fn nearest(path: &Path) -> Result<PathBuf> {
    for ancestor in path.ancestors() {
        match ancestor.canonicalize() {
            Ok(real) => return Ok(real),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("look at", ancestor, error)),
        }
    }
    Err(Error::invalid(format!("not an absolute path: {}", path.display())))
}

/// What tells a file system from all others.
fn identity(mount: &Mount, directory: &Path) -> Option<String> {
    match mount.fs_type.as_str() {
        // statfs(2) of ext4 is made of its UUID, and needs neither udev nor /dev. That of XFS is the number of the device.
        "ext2" | "ext3" | "ext4" => {
            rustix::fs::statvfs(directory).ok().map(|stat| format!("fsid:{:016x}", stat.f_fsid))
        }
        "btrfs" => btrfs_uuid(&mount.source),
        _ => uuid_of_device(&mount.device_number),
    }
}

/// `/sys/fs/btrfs/<uuid>/devices/<device>`: a btrfs has no device number of its own.
fn btrfs_uuid(source: &str) -> Option<String> {
    let device = Path::new(source).canonicalize().ok()?;
    let name = device.file_name()?.to_owned();
    let known = std::fs::read_dir("/sys/fs/btrfs").ok()?.flatten();
    let found = known.into_iter().find(|entry| entry.path().join("devices").join(&name).exists())?;
    Some(format!("uuid:{}", found.file_name().to_str()?))
}

/// `/dev/disk/by-uuid`, which udev keeps.
fn uuid_of_device(number: &str) -> Option<String> {
    let known = std::fs::read_dir("/dev/disk/by-uuid").ok()?.flatten();
    let is_it = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|metadata| {
            let device = metadata.rdev();
            format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)) == number
        })
    };
    let found = known.into_iter().find(|entry| is_it(&entry.path()))?;
    Some(format!("uuid:{}", found.file_name().to_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Whereabouts {
        Whereabouts {
            directory: "/srv/pg/.barman_snap".into(),
            host: "db1".into(),
            machine: "m1".into(),
            mount_point: "/srv".into(),
            fs_root: "/".into(),
            fs_type: "xfs".into(),
            source: "/dev/sdb".into(),
            identity: Some("uuid:1".into()),
        }
    }

    fn why(then: &Whereabouts, change: impl FnOnce(&mut Whereabouts)) -> Option<String> {
        let mut now = place();
        change(&mut now);
        then.differs(&now)
    }

    #[test]
    fn the_same_file_system_is_the_same_place_whatever_host_and_device_are_called() {
        assert_eq!(why(&place(), |now| (now.host, now.machine) = ("db9".into(), "m9".into())), None);
        assert_eq!(why(&place(), |now| now.source = "/dev/sdx".into()), None);
    }

    #[test]
    fn without_an_identity_the_machine_counts_and_without_that_the_name_of_the_host() {
        let then = Whereabouts { identity: None, ..place() };
        assert_eq!(why(&then, |now| now.host = "renamed".into()), None);
        assert!(why(&then, |now| now.machine = "m2".into()).is_some_and(|why| why.contains("host db1")));
        let then = Whereabouts { machine: String::new(), ..then };
        assert!(why(&then, |now| now.host = "db2".into()).is_some_and(|why| why.contains("this is db2")));
    }

    #[test]
    fn a_mount_point_without_its_file_system_is_not_the_place() {
        let root = |now: &mut Whereabouts| (now.mount_point, now.identity) = ("/".into(), Some("uuid:root".into()));
        assert_eq!(
            why(&place(), root).as_deref(),
            Some("the file system of /srv/pg/.barman_snap is not mounted at /srv")
        );
        assert!(
            why(&place(), |now| now.identity = Some("uuid:2".into())).is_some_and(|why| why.starts_with("another"))
        );
        assert!(why(&place(), |now| now.fs_root = "/sub".into()).is_some_and(|why| why.starts_with("something else")));
        let nameless = Whereabouts { identity: None, ..place() };
        assert!(why(&nameless, |now| now.fs_type = "ext4".into()).is_some());
        let share = Whereabouts { identity: None, source: "nas:/a".into(), ..place() };
        assert!(why(&share, |now| now.source = "nas:/b".into()).is_some_and(|why| why.contains("nas:/a")));
    }

    #[test]
    fn identities_of_two_kinds_say_nothing_of_each_other() {
        let then = Whereabouts { identity: Some("fsid:1".into()), ..place() };
        assert_eq!(why(&then, |_| {}), None);
    }

    #[test]
    fn a_directory_that_exists_is_seen_and_so_is_one_that_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("a/b")] {
            let place = Whereabouts::of(&path).unwrap();
            assert_eq!(place.why_unseen().unwrap(), None, "{place:?}");
        }
    }
}
