//! Whether WAL archiving works: what the settings say, what the archiver has done, and whether it did it here.
//!
//! Pure. A command that is set and fails, or that stores somewhere else, looks right in the settings; a backup would wait for
//! its WAL until the time is over.

use crate::postgres::{ArchiverState, ServerFacts};
use crate::provider::Findings;

const LINE: &str = "archiving";

const WITHOUT: &str = "without it there is no recovery to a point in time; a single backup is still complete, as the engine \
                       stores the WAL of the backup itself";

/// What the settings say. True if there should be an archiver at work.
pub(super) fn settings(report: &mut Findings, facts: &ServerFacts) -> bool {
    let detail = format!("archive_mode = {}, archive_command = {:?}", facts.archive_mode, facts.archive_command);
    let hint = match facts.archive_mode.as_str() {
        "off" => Some(WITHOUT),
        "on" if facts.in_recovery => Some("a standby archives only with archive_mode = always"),
        _ if facts.archive_command.is_empty() => Some(WITHOUT),
        _ => None,
    };
    match hint {
        Some(hint) => report.bad(LINE, detail, Some(hint)),
        None => report.good(LINE, detail),
    }
    hint.is_none()
}

/// What the archiver has done. `elsewhere`: the file that it archived last, with the settings that hold now, is not in the catalog.
pub(super) fn archiver(report: &mut Findings, state: &ArchiverState, elsewhere: bool) {
    const LINE: &str = "archiver";
    let archived = state.last_archived.as_ref();
    let last = archived.map_or_else(|| "nothing so far".to_owned(), |(file, time)| format!("{file} at {time}"));
    let failed = state.last_failed.as_ref().filter(|(_, failed)| archived.is_none_or(|(_, time)| failed > time));
    if let Some((file, time)) = failed {
        let detail =
            format!("it fails: {file} at {time}, {} failures in all; archived last: {last}", state.failed_count);
        return report.bad(
            LINE,
            detail,
            Some(
                "the log of the server says what archive_command answered; run the command by hand as the user of the server, \
                 with the path of a file in pg_wal",
            ),
        );
    }
    if elsewhere {
        return report.bad(
            LINE,
            format!("archived last: {last}, but it is not in this catalog"),
            Some(
                "archive_command stores it somewhere else, or nowhere: let it be `barman-snap wal-archive URL SERVER %p` with the same URL \
                 and SERVER, or give --wal-external if that is meant",
            ),
        );
    }
    match (state.archived_now(), state.settings_since) {
        (None, Some(since)) if archived.is_some() => report.good(
            LINE,
            format!("archived last: {last}, before the settings were loaded at {since}; pg_switch_wal() shows whether it works"),
        ),
        (None, _) => report.good(LINE, "archived last: nothing so far; pg_switch_wal() shows whether it works"),
        (Some(_), _) => report.good(LINE, format!("archived last: {last}")),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, FixedOffset};

    use super::*;

    fn at(second: u32) -> DateTime<FixedOffset> {
        DateTime::parse_from_rfc3339(&format!("2026-05-29T10:11:{second:02}+00:00")).unwrap()
    }

    fn line(archived: Option<u32>, failed: Option<u32>, elsewhere: bool) -> (bool, String) {
        let event = |second: Option<u32>, file: &str| second.map(|second| (file.to_owned(), at(second)));
        let state = ArchiverState {
            last_archived: event(archived, "A"),
            last_failed: event(failed, "F"),
            failed_count: 7,
            settings_since: Some(at(3)),
        };
        let mut report = Findings::default();
        archiver(&mut report, &state, elsewhere);
        let line = &report.lines[0];
        assert_eq!(line.ok, line.hint.is_none(), "what is wrong says what to do");
        (line.ok, line.detail.clone())
    }

    #[test]
    fn what_counts_is_which_came_last() {
        assert_eq!(line(Some(5), Some(4), false), (true, "archived last: A at 2026-05-29 10:11:05 +00:00".into()));
        assert!(!line(Some(4), Some(5), false).0);
        let (ok, detail) = line(None, Some(5), false);
        assert_eq!(
            (ok, detail.as_str()),
            (false, "it fails: F at 2026-05-29 10:11:05 +00:00, 7 failures in all; archived last: nothing so far")
        );
        assert!(line(None, None, false).0);
        assert!(line(Some(2), None, false).1.contains("before the settings were loaded at 2026-05-29 10:11:03"));
    }

    #[test]
    fn an_archive_somewhere_else_is_none_of_ours() {
        let (ok, detail) = line(Some(5), None, true);
        assert!(!ok && detail.contains("not in this catalog"), "{detail}");
    }
}
