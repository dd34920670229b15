//! From what a user types to the id of a backup. Pure.
//!
//! The words are Barman's. Where Barman takes whatever is newest, we take what can be restored: `last` and a name never mean a
//! backup that failed or is still running. Those are reached by their id.

use super::CatalogEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::model::BackupStatus;

/// The words that are no names of backups.
pub const SHORTCUTS: [&str; 5] = ["first", "oldest", "last", "latest", "last-failed"];

/// The backup that `text` means. An id is taken as it is, whether or not there is such a backup.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`InvalidInput`](ErrorKind::InvalidInput) if several backups have that name.
pub fn resolve(text: &str, entries: &[CatalogEntry]) -> Result<BackupId> {
    if BackupId::looks_like(text) {
        return text.parse();
    }
    let complete = |entry: &&CatalogEntry| entry.status().is_some_and(BackupStatus::is_copied);
    let failed = |entry: &&CatalogEntry| entry.status() == Some(BackupStatus::Failed);
    let ids = |found: Vec<&CatalogEntry>| found.into_iter().map(|entry| entry.id.clone()).collect::<Vec<_>>();
    let none = |what: String| Err(Error::not_found(what).with_hint("see barman-snap list"));
    let found = match text {
        "first" | "oldest" => entries.iter().filter(complete).map(|entry| &entry.id).min(),
        "last" | "latest" => entries.iter().filter(complete).map(|entry| &entry.id).max(),
        "last-failed" => entries.iter().filter(failed).map(|entry| &entry.id).max(),
        name => {
            let named: Vec<_> = entries.iter().filter(|entry| entry.name() == Some(name)).collect();
            let good: Vec<_> = named.iter().copied().filter(|entry| complete(entry)).collect();
            return match (ids(good).as_slice(), ids(named).as_slice()) {
                ([id], _) => Ok(id.clone()),
                ([], []) => none(format!("there is no backup named {name:?}")),
                ([], incomplete) => {
                    none(format!("no backup named {name:?} is complete; not complete: {}", join(incomplete)))
                }
                (several, _) => {
                    let message = format!("several backups are named {name:?}: {}", join(several));
                    Err(Error::new(ErrorKind::InvalidInput, message).with_hint("name one by its id"))
                }
            };
        }
    };
    match found {
        Some(id) => Ok(id.clone()),
        None if text == "last-failed" => none("there is no failed backup".into()),
        None => none("there is no complete backup".into()),
    }
}

fn join(ids: &[BackupId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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
        let info = Err(Error::corrupt("line 1"));
        entries.push(CatalogEntry { id: "20260107T000000".parse().unwrap(), info, keep: None, warnings: vec![] });
        entries
    }

    #[test]
    fn shortcuts_mean_what_can_be_restored() {
        let find = |text: &str| resolve(text, &catalog()).unwrap().to_string();
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
}
