//! From what a user types to a backup, and why it is that one. Pure.
//!
//! The words are Barman's. Where Barman takes whatever is newest, we take what can be restored: `last` and a name never mean a
//! backup that failed or is still running. Those are reached by their id.
//!
//! The invariant: nothing is passed over without a word, and `last` is never a guess: with a newer backup that cannot be read
//! nobody knows which one is the last.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::CatalogEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::model::{BackupInfo, BackupStatus};

/// The words that are no names of backups.
pub const SHORTCUTS: [&str; 5] = ["first", "oldest", "last", "latest", "last-failed"];

/// The backup that was meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Its id.
    pub backup_id: BackupId,
    /// What the user has asked for: an id, a name, `last`, `auto`, …
    pub asked: String,
    /// Why it is this one.
    pub because: String,
    /// The others that one could have expected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
}

/// A backup that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Its id.
    pub backup_id: BackupId,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backup {}: {}", self.backup_id, self.because)?;
        for (at, one) in self.passed_over.iter().enumerate() {
            let before = if at == 0 { "; passed over: " } else { ", " };
            write!(f, "{before}{} ({})", one.backup_id, one.why)?;
        }
        Ok(())
    }
}

/// The backup that `text` means. An id is taken as it is, whether or not there is such a backup.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`InvalidInput`](ErrorKind::InvalidInput) if several backups have that name;
/// [`Corrupt`](ErrorKind::Corrupt) if a backup that may be the last one cannot be read.
pub fn resolve(text: &str, entries: &[CatalogEntry]) -> Result<Chosen> {
    let chosen = |backup_id: BackupId, because: &str, passed_over| Chosen {
        backup_id,
        asked: text.to_owned(),
        because: because.to_owned(),
        passed_over,
    };
    if BackupId::looks_like(text) {
        return Ok(chosen(text.parse()?, "its id was given", Vec::new()));
    }
    let complete = |entry: &&CatalogEntry| entry.status().is_some_and(BackupStatus::is_copied);
    let failed = |entry: &&CatalogEntry| entry.status() == Some(BackupStatus::Failed);
    let none = |what: String| Err(Error::not_found(what).with_hint("see barman-snap list"));
    let (found, because) = match text {
        "first" | "oldest" => (entries.iter().filter(complete).map(|entry| &entry.id).min(), "the oldest complete one"),
        "last" | "latest" => (entries.iter().filter(complete).map(|entry| &entry.id).max(), "the newest complete one"),
        "last-failed" => (entries.iter().filter(failed).map(|entry| &entry.id).max(), "the newest one that failed"),
        name => return named(name, entries).map(|(id, over)| chosen(id, "the complete one of that name", over)),
    };
    let Some(id) = found else {
        return none(match text {
            "last-failed" => "there is no failed backup".into(),
            _ => "there is no complete backup".into(),
        });
    };
    // Only what lies on the side from which it was looked for.
    let nearer = |entry: &&CatalogEntry| if text.starts_with('l') { entry.id > *id } else { entry.id < *id };
    let nearer: Vec<&CatalogEntry> = entries.iter().filter(nearer).collect();
    if let ("last" | "latest", Some(unreadable)) = (text, nearer.iter().rfind(|entry| entry.info.is_err())) {
        return Err(Error::corrupt(format!(
            "which backup is the last cannot be told: the backup.info of {}, which is newer than {id}, cannot be read",
            unreadable.id
        ))
        .with_hint(format!("fix it, or choose by an id: {id} is the newest complete one that can be read")));
    }
    // A backup that is complete has not failed, which needs no word.
    let passed_over = nearer.into_iter().filter(|entry| !complete(entry)).map(passed_over).collect();
    Ok(chosen(id.clone(), because, passed_over))
}

/// The only complete backup of a name, and what may have been meant besides.
fn named(name: &str, entries: &[CatalogEntry]) -> Result<(BackupId, Vec<PassedOver>)> {
    let named: Vec<&CatalogEntry> = entries.iter().filter(|entry| entry.name() == Some(name)).collect();
    let (good, other): (Vec<_>, Vec<_>) =
        named.into_iter().partition(|entry| entry.status().is_some_and(BackupStatus::is_copied));
    let none = |what: String| Err(Error::not_found(what).with_hint("see barman-snap list"));
    match (good.as_slice(), other.as_slice()) {
        ([one], _) => {
            let unreadable = entries.iter().filter(|entry| entry.info.is_err());
            Ok((one.id.clone(), other.into_iter().chain(unreadable).map(passed_over).collect()))
        }
        ([], []) => none(format!("there is no backup named {name:?}")),
        ([], incomplete) => none(format!("no backup named {name:?} is complete; not complete: {}", join(incomplete))),
        (several, _) => {
            let message = format!("several backups are named {name:?}: {}", join(several));
            Err(Error::new(ErrorKind::InvalidInput, message).with_hint("name one by its id"))
        }
    }
}

fn passed_over(entry: &CatalogEntry) -> PassedOver {
    let why = match &entry.info {
        Ok(info) => incomplete(info),
        Err(_) => UNREADABLE.to_owned(),
    };
    PassedOver { backup_id: entry.id.clone(), why }
}

/// Why a backup whose metadata cannot be read is passed over.
pub(crate) const UNREADABLE: &str = "its backup.info cannot be read";

/// Why a backup that is not complete is passed over.
pub(crate) fn incomplete(info: &BackupInfo) -> String {
    let status = info.status.as_str();
    match (info.status, info.error.as_deref()) {
        (BackupStatus::Started, _) => format!("it is {status}: being taken, or left by its process"),
        (_, Some(error)) if !error.is_empty() => format!("it is {status}: {error}"),
        _ => format!("it is {status}"),
    }
}

fn join(entries: &[&CatalogEntry]) -> String {
    entries.iter().map(|entry| entry.id.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackupInfo;

    fn entry(id: &str, status: BackupStatus, name: Option<&str>) -> CatalogEntry {
        let info = BackupInfo { status, backup_name: name.map(str::to_owned), ..BackupInfo::default() };
        CatalogEntry { id: id.parse().unwrap(), info: Ok(info), keep: None, warnings: vec![] }
    }

    fn catalog() -> Vec<CatalogEntry> {
        use BackupStatus::{Done, Failed, Started};
        let mut entries = vec![
            entry("20260101T000000", Failed, Some("weekly")),
            entry("20260102T000000", Done, Some("weekly")),
            entry("20260103T000000", Done, Some("twice")),
            entry("20260104T000000", Done, Some("twice")),
            entry("20260105T000000", Failed, Some("broken")),
            entry("20260106T000000", Started, None),
        ];
        entries.push(unreadable("20250101T000000"));
        entries
    }

    fn unreadable(id: &str) -> CatalogEntry {
        let info = Err(Error::corrupt("line 1"));
        CatalogEntry { id: id.parse().unwrap(), info, keep: None, warnings: vec![] }
    }

    #[test]
    fn shortcuts_mean_what_can_be_restored() {
        let find = |text: &str| resolve(text, &catalog()).unwrap().backup_id.to_string();
        for (text, id) in [
            ("first", "20260102T000000"),
            ("oldest", "20260102T000000"),
            ("last", "20260104T000000"),
            ("latest", "20260104T000000"),
            ("last-failed", "20260105T000000"),
            ("weekly", "20260102T000000"),
            ("20300101T000000", "20300101T000000"),
        ] {
            assert_eq!(find(text), id, "{text}");
        }
    }

    #[test]
    fn what_is_not_unique_or_not_complete_is_refused_with_the_ids() {
        let error = |text: &str| resolve(text, &catalog()).unwrap_err();
        assert_eq!(error("twice").kind(), ErrorKind::InvalidInput);
        assert!(error("twice").message().contains("20260103T000000, 20260104T000000"));
        assert!(error("broken").message().contains("20260105T000000"));
        assert_eq!(error("unknown").kind(), ErrorKind::NotFound);
        assert_eq!(resolve("last", &[]).unwrap_err().kind(), ErrorKind::NotFound);
    }
    #[test]
    fn nothing_is_passed_over_without_a_word() {
        let told = |text: &str| resolve(text, &catalog()).unwrap().to_string();
        for (text, words) in [
            (
                "last",
                "backup 20260104T000000: the newest complete one; passed over: 20260105T000000 (it is FAILED), \
                 20260106T000000 (it is STARTED: being taken, or left by its process)",
            ),
            (
                "first",
                "backup 20260102T000000: the oldest complete one; passed over: 20260101T000000 (it is FAILED), \
                 20250101T000000 (its backup.info cannot be read)",
            ),
            (
                "weekly",
                "backup 20260102T000000: the complete one of that name; passed over: 20260101T000000 (it is FAILED), \
                 20250101T000000 (its backup.info cannot be read)",
            ),
            ("20300101T000000", "backup 20300101T000000: its id was given"),
        ] {
            assert_eq!(told(text), words);
        }
    }

    #[test]
    fn what_is_last_is_not_guessed_when_a_newer_one_cannot_be_read() {
        let mut entries = catalog();
        entries.push(unreadable("20260107T000000"));
        for text in ["last", "latest"] {
            let error = resolve(text, &entries).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.message().contains("20260107T000000, which is newer than 20260104T000000"), "{error}");
        }
        assert_eq!(resolve("first", &entries).unwrap().backup_id.to_string(), "20260102T000000");
    }
}
