//! Whether anything in a directory was touched, down to a byte that was written and put back.
//!
//! Of each file: which it is, whose, its mode, size, and the times of its last changes. No program can set the time of
//! the last change of an inode, so an equal one means that neither content nor metadata were written. That is more
//! than equal content would say, and costs no reading.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How closely something is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It may not have been touched.
    Closely,
    /// It is the same file still, but its owner may write to it.
    Loosely,
    /// It may change, come and go, with all below it.
    Away,
}

/// What is there, and when it was last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint(BTreeMap<PathBuf, String>);

impl Footprint {
    /// Looks at everything below `roots`, at each path as `how` says.
    pub fn of(roots: &[PathBuf], how: impl Fn(&Path) -> Look) -> Self {
        let mut found = BTreeMap::new();
        roots.iter().for_each(|root| look(root, &how, &mut found));
        Self(found)
    }

    /// What has been changed, made and removed since, one line each; empty when nothing was touched.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let paths = self.0.keys().chain(later.0.keys().filter(|path| !self.0.contains_key(*path)));
        let changed = paths.filter_map(|path| match (self.0.get(path), later.0.get(path)) {
            (before, after) if before == after => None,
            (None, _) => Some(format!("{} is new", path.display())),
            (_, None) => Some(format!("{} is gone", path.display())),
            (Some(before), Some(after)) => Some(format!("{} was {before}, is {after}", path.display())),
        });
        changed.collect()
    }
}

fn look(path: &Path, how: &impl Fn(&Path) -> Look, found: &mut BTreeMap<PathBuf, String>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    let closely = match how(path) {
        Look::Away => return,
        how => how == Look::Closely,
    };
    let whose = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    let seen = match (meta.is_dir(), fs::read_link(path)) {
        // Its times change when something temporary comes and goes in it, as it may.
        (true, _) => format!("directory {whose}"),
        (_, Ok(to)) => format!("link to {} {whose}", to.display()),
        _ if !closely => format!("file {} {whose} {} bytes", meta.ino(), meta.size()),
        _ => {
            let (changed, inode) = (meta.ctime_nsec() + meta.ctime() * 1_000_000_000, meta.ino());
            format!("file {inode} {whose} {} bytes, {changed}", meta.size())
        }
    };
    found.insert(path.to_owned(), seen);
    for entry in fs::read_dir(path).into_iter().flatten().flatten().filter(|_| meta.is_dir()) {
        look(&entry.path(), how, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_file_that_was_written_and_put_back_has_changed() {
        let place = Scratch::new();
        let file = place.path().join("file");
        fs::write(&file, "one").expect("it is written");
        fs::write(place.path().join("noise"), "one").expect("it is written");
        let look = || {
            Footprint::of(&[place.path().to_owned()], |path| match path.ends_with("noise") {
                true => Look::Loosely,
                false => Look::Closely,
            })
        };
        let before = look();
        crate::wait::pass(std::time::Duration::from_millis(20));
        fs::write(place.path().join("noise"), "two").expect("it is written");
        assert_eq!(before.changes(&look()), Vec::<String>::new());
        fs::write(&file, "two").expect("it is written");
        fs::write(&file, "one").expect("it is written");
        assert_eq!(before.changes(&look()).len(), 1);
        fs::remove_file(&file).expect("it is there");
        assert_eq!(before.changes(&look()), [format!("{} is gone", file.display())]);
    }
}
