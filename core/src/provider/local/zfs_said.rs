//! What the commands of ZFS say when something does not work, and what to do about it.
//!
//! They have one exit code for everything, so their words count. Nothing of the command line is repeated: it is long, and who
//! reads it wants to know what is wrong, and the command that helps. Pure.

use std::path::Path;

use crate::error::{Error, ErrorKind};

/// The longest part of what was said that is repeated.
const LONGEST: usize = 300;

/// The error for a command that failed: `verb` is its name, such as `zfs snapshot`, `about` the dataset or snapshot.
pub(super) fn failure(verb: &str, said: &str, about: &str) -> Error {
    let said = in_one_line(said);
    let message = if said.is_empty() { format!("{verb} failed for {about}") } else { format!("{verb}: {said}") };
    let kind = meaning(&said);
    let error = Error::new(kind, message);
    match hint(kind, verb, &said, about) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// The error for a command that is not there.
pub(super) fn no_command(program: &Path) -> Error {
    Error::new(ErrorKind::Precondition, format!("cannot run {}", program.display()))
        .with_hint("install the ZFS tools, or choose another method for local snapshots")
}

/// What a message means.
pub(super) fn meaning(said: &str) -> ErrorKind {
    let says = |words: &str| said.contains(words);
    match () {
        () if says("modules are not loaded") || says("modules cannot be auto-loaded") => ErrorKind::Precondition,
        () if says("/dev/zfs") && !says("permission denied") && !says("Permission denied") => ErrorKind::Precondition,
        () if says("does not exist") || says("could not find") || says("no such pool") => ErrorKind::NotFound,
        () if says("already exists") => ErrorKind::Conflict,
        () if says("permission denied") || says("Permission denied") => ErrorKind::PermissionDenied,
        () if says("out of space") || says("no space") || says("quota exceeded") || says("limit") => {
            ErrorKind::Exhausted
        }
        () if says("dependent clones") || says("is busy") || says("read-only") || says("key not loaded") => {
            ErrorKind::Precondition
        }
        () if says("I/O is currently suspended") => ErrorKind::Unavailable,
        () => ErrorKind::Provider,
    }
}

fn hint(kind: ErrorKind, verb: &str, said: &str, about: &str) -> Option<String> {
    let dataset = about.split('@').next().unwrap_or(about);
    let pool = super::zfs::pool(about);
    match kind {
        ErrorKind::PermissionDenied if verb.ends_with("clone") => {
            Some(format!("to read the snapshot, run as root, or mount {dataset}"))
        }
        ErrorKind::PermissionDenied => Some(format!(
            "run as root, or let this user do it: zfs allow USER {} {dataset}",
            super::zfs_permits::NEEDED.join(",")
        )),
        ErrorKind::Exhausted if verb.ends_with("snapshot") => {
            Some(format!("see zfs get -r quota,refreservation,snapshot_limit,available {dataset}"))
        }
        ErrorKind::Precondition if said.contains("not loaded") && !said.contains("key") => {
            Some("modprobe zfs, then zpool import".to_owned())
        }
        ErrorKind::Precondition if said.contains("key not loaded") => Some(format!("zfs load-key {dataset}")),
        ErrorKind::Precondition if said.contains("dependent clones") => {
            Some(format!("see zfs get clones {about}; destroy the clone, or zfs promote it"))
        }
        ErrorKind::Precondition if said.contains("is busy") => Some(format!("see zfs holds {about}")),
        ErrorKind::Unavailable => Some(format!("see zpool status {pool}")),
        _ => None,
    }
}

/// The first lines as one, without what it says about its own use.
fn in_one_line(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut text = lines.take_while(|line| !line.starts_with("usage:")).collect::<Vec<_>>().join("; ");
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).chain(['…']).collect();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_command_keep_their_meaning() {
        for (said, kind) in [
            ("cannot open 'p@x': dataset does not exist", ErrorKind::NotFound),
            ("cannot open 'tank': no such pool", ErrorKind::NotFound),
            ("cannot create snapshot 'p@x': dataset already exists", ErrorKind::Conflict),
            ("cannot create snapshots : permission denied", ErrorKind::PermissionDenied),
            ("cannot create snapshot 'p@x': out of space", ErrorKind::Exhausted),
            ("cannot destroy snapshot p@x: dataset is busy", ErrorKind::Precondition),
            ("cannot destroy 'p@x': snapshot has dependent clones", ErrorKind::Precondition),
            ("The ZFS modules are not loaded.", ErrorKind::Precondition),
            ("something else", ErrorKind::Provider),
        ] {
            assert_eq!(meaning(said), kind, "{said}");
        }
    }

    #[test]
    fn a_failure_is_what_was_said_and_what_helps_and_nothing_of_the_command_line() {
        let error = failure("zfs snapshot", "cannot create snapshots : permission denied\n", "tank/pg@main-1");
        assert_eq!(error.message(), "zfs snapshot: cannot create snapshots : permission denied");
        assert!(
            error.any_hint().unwrap().ends_with("zfs allow USER snapshot,destroy,mount,userprop tank/pg"),
            "{error}"
        );
        let error = failure(
            "zfs destroy",
            "cannot destroy 'tank/pg@a': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\ntank/c\n",
            "tank/pg@a",
        );
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.message().contains("tank/c"), "{error}");
        assert!(failure("zfs list", &"x".repeat(1000), "a").message().len() < 400);
        assert_eq!(failure("zfs list", "", "tank").message(), "zfs list failed for tank");
    }
}
