//! What a verification may lack on its own host: space, memory, open files. It says nothing about the backup.
//!
//! PostgreSQL and the programs that it runs say so in their own words, and often in another line than the one that ends it: a
//! `restore_command` which cannot write makes the WAL "missing". So all lines are looked at, and the invariant is: where one of
//! them tells of a shortage, nothing that failed is taken for the fault of the backup.

use std::path::Path;

use crate::error::{Error, ErrorKind};

/// The message of the system (`%m`; it is in English here), and what is short.
const SIGNS: [(&str, &str, &str); 4] = [
    ("No space left on device", "space", "make room, or name a larger place with --work-dir"),
    (
        "Disk quota exceeded",
        "space",
        "the quota of its user is used up: raise it, or name another place with --work-dir",
    ),
    ("Cannot allocate memory", "memory", "verify on a host, or in a control group, that has more"),
    ("Too many open files", "files that may be open", "raise the limit (ulimit -n)"),
];

/// Whether a text tells of a shortage.
pub(super) fn is_told(text: &str) -> bool {
    SIGNS.iter().any(|(sign, ..)| text.contains(sign))
}

/// The error for a place with no room: a server that cannot even write its log ends without a word.
pub(super) fn of_room<'a>(places: impl IntoIterator<Item = &'a Path>) -> Option<Error> {
    const FEW_BYTES: u64 = 1 << 20;
    const FEW_FILES: u64 = 4;
    let is_full = |place: &Path| {
        // Where files are not counted there are none in all.
        rustix::fs::statvfs(place).is_ok_and(|free| {
            free.f_bavail.saturating_mul(free.f_frsize) < FEW_BYTES || (free.f_files > 0 && free.f_favail < FEW_FILES)
        })
    };
    places.into_iter().find(|place| is_full(place)).and_then(|_| error(SIGNS[0].0))
}

/// The error for a text that tells of one.
pub(super) fn error(text: &str) -> Option<Error> {
    let (_, what, hint) = SIGNS.iter().find(|(sign, ..)| text.contains(sign))?;
    Some(Error::new(ErrorKind::Exhausted, format!("the verification has run out of {what}")).with_hint(*hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_postgresql_and_of_its_programs_are_known() {
        for (line, what) in [
            ("PANIC:  could not write to file \"pg_wal/xlogtemp.1\": No space left on device", "space"),
            ("cp: cannot create regular file 'pg_wal/RECOVERYXLOG': No space left on device", "space"),
            ("error: cannot write /x: Disk quota exceeded (os error 122)", "space"),
            ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", "memory"),
        ] {
            assert!(is_told(line));
            let error = error(line).unwrap();
            assert!(error.message().ends_with(what) && error.hint().is_some(), "{error}");
        }
        assert!(error("FATAL:  could not locate required checkpoint record").is_none());
    }
}
