//! Which of the four methods takes the snapshot of a volume. Choosing is pure; looking is in `discovery`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// How local snapshots are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Method {
    /// The best one that works, for each volume by itself: btrfs or ZFS where the volume lies on such, else reflink where
    /// the file system shares blocks between files (XFS, btrfs, bcachefs), else copy.
    #[default]
    Auto,
    /// A read-only snapshot of a btrfs subvolume: at one instant, in milliseconds.
    Btrfs,
    /// A snapshot of a ZFS dataset: at one instant, in milliseconds.
    Zfs,
    /// A tree of files that share their blocks with the originals. Takes some time, made consistent by backup mode.
    Reflink,
    /// A plain copy. Takes time and space as the data does, made consistent by backup mode.
    Copy,
}

impl Method {
    /// The name in options and metadata.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Btrfs => "btrfs",
            Self::Zfs => "zfs",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Auto, Self::Btrfs, Self::Zfs, Self::Reflink, Self::Copy]
            .into_iter()
            .find(|method| method.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(format!("not a method of the local provider: {text:?}"))
                    .with_hint("one of auto, btrfs, zfs, reflink, copy")
            })
    }
}

/// What was seen at a directory that is to be snapshotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Sight {
    /// It is in a btrfs subvolume whose root can be reached.
    pub(super) subvolume: bool,
    /// This process may make snapshots of that subvolume.
    pub(super) may_snapshot: bool,
    /// It is in a ZFS dataset that the `zfs` command knows.
    pub(super) dataset: bool,
    /// Files can share blocks between it and the snapshot directory.
    pub(super) reflink: bool,
}

/// The method for `path`: what was asked for, if it works there.
pub(super) fn choose(asked: Method, sight: Sight, path: &Path) -> Result<Method> {
    let cannot = |why: &str| {
        Error::new(ErrorKind::Unsupported, format!("method {asked} does not work for {}: {why}", path.display()))
            .with_hint("leave the method to auto, or choose another one")
    };
    match asked {
        Method::Auto if sight.subvolume && sight.may_snapshot => Ok(Method::Btrfs),
        Method::Auto if sight.dataset => Ok(Method::Zfs),
        Method::Auto if sight.reflink => Ok(Method::Reflink),
        Method::Auto | Method::Copy => Ok(Method::Copy),
        Method::Btrfs if !sight.subvolume => Err(cannot("it is in no btrfs subvolume whose root can be reached")),
        Method::Btrfs if !sight.may_snapshot => Err(cannot("the subvolume belongs to another user")),
        Method::Zfs if !sight.dataset => Err(cannot("it is in no ZFS dataset that the zfs command lists")),
        Method::Reflink if !sight.reflink => {
            Err(cannot("its file system cannot share blocks with the snapshot directory, or that cannot be written"))
        }
        Method::Btrfs | Method::Zfs | Method::Reflink => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(sight: Sight) -> Method {
        choose(Method::Auto, sight, Path::new("/x")).unwrap()
    }

    #[test]
    fn auto_takes_the_best_that_works() {
        let all = Sight { subvolume: true, may_snapshot: true, dataset: true, reflink: true };
        assert_eq!(auto(all), Method::Btrfs);
        assert_eq!(auto(Sight { may_snapshot: false, dataset: false, ..all }), Method::Reflink);
        assert_eq!(auto(Sight { subvolume: false, ..all }), Method::Zfs);
        assert_eq!(auto(Sight::default()), Method::Copy);
    }

    #[test]
    fn what_was_asked_for_and_does_not_work_is_an_error_with_the_reason() {
        for (method, word) in [(Method::Btrfs, "subvolume"), (Method::Zfs, "dataset"), (Method::Reflink, "share")] {
            let error = choose(method, Sight::default(), Path::new("/x")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains(word) && error.message().contains("/x"), "{error}");
        }
        assert_eq!(choose(Method::Copy, Sight::default(), Path::new("/x")).unwrap(), Method::Copy);
    }

    #[test]
    fn a_method_round_trips_as_text() {
        for method in [Method::Auto, Method::Btrfs, Method::Zfs, Method::Reflink, Method::Copy] {
            assert_eq!(method.to_string().parse::<Method>().unwrap(), method);
        }
        assert!("lvm".parse::<Method>().is_err());
    }
}
