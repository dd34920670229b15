//! The stored form of the journal: golden files of versions 1 to 3, one entry per line, taken from real sessions (that of
//! version 2 from one with the provider in memory; that of version 3 is the same one with a saved configuration). They are described in `docs/format/journal.md`, and have to be readable for ever.

#![allow(clippy::unwrap_used, reason = "a test: a panic is the report")]

use std::os::unix::ffi::OsStrExt;

use barman_snap::catalog::{Layout, ObjectSpace, ServerName};
use barman_snap::id::BackupId;
use barman_snap::model::SavedConfig;
use barman_snap::session::journal::{Entry, Journal};
use barman_snap::session::{Event, Phase, SessionState};
use barman_snap::{ErrorKind, Retry};
use serde_json::Value;

const PUBLISHED: &str = include_str!("fixtures/journal/published.jsonl");
const UNDONE: &str = include_str!("fixtures/journal/undone.jsonl");
const AFTER_CUT: &str = include_str!("fixtures/journal/after_cut.jsonl");
const SAVED_CONFIG: &str = include_str!("fixtures/journal/saved_config.jsonl");
const OBJECT: &[u8] = include_bytes!("fixtures/saved_config/version_1.json");
const EXCLUDED: &str = include_str!("fixtures/journal/excluded.jsonl");

fn entries(golden: &str) -> Vec<Entry> {
    golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// True if everything that `golden` says is also said by `now`; fields may have been added.
fn holds(now: &Value, golden: &Value) -> bool {
    match (now, golden) {
        (Value::Object(now), Value::Object(golden)) => {
            golden.iter().all(|(key, value)| now.get(key).is_some_and(|now| holds(now, value)))
        }
        (Value::Array(now), Value::Array(golden)) => {
            now.len() == golden.len() && now.iter().zip(golden).all(|(now, golden)| holds(now, golden))
        }
        (now, golden) => now == golden,
    }
}

/// A store that holds the journal `golden`, and the id of its backup.
async fn stored(golden: &str) -> (Journal, ObjectSpace, Layout, BackupId) {
    let space = ObjectSpace::in_memory();
    let layout = Layout::new("", ServerName::new("shop").unwrap()).unwrap();
    let id = SessionState::replay(&entries(golden)).unwrap().plan.backup_id;
    for (number, line) in golden.lines().enumerate() {
        space.put(&layout.session_entry(&id, number as u64), line.to_owned()).await.unwrap();
    }
    (Journal::new(space.clone(), layout.clone()), space, layout, id)
}

#[test]
fn nothing_is_lost_when_it_is_read_and_written_again() {
    for line in [PUBLISHED, UNDONE, AFTER_CUT, SAVED_CONFIG, EXCLUDED].into_iter().flat_map(str::lines) {
        let golden: Value = serde_json::from_str(line).unwrap();
        let entry: Entry = serde_json::from_str(line).unwrap();
        assert_eq!(entry.version, entry.record.version(), "the lowest that has all of it");
        let now = serde_json::to_value(&entry).unwrap();
        assert!(holds(&now, &golden), "golden: {golden:#}\nnow: {now:#}");
    }
}

#[test]
fn a_published_session_of_version_1_replays() {
    let state = SessionState::replay(&entries(PUBLISHED)).unwrap();
    assert_eq!(state.phase, Phase::Published);
    assert!(state.is_past_the_line());
    assert_eq!(state.plan.backup_name.as_deref(), Some("noon"));
    assert_eq!(state.tickets.len(), 2);
    assert!(state.stopped.unwrap().label.starts_with("START WAL LOCATION: "));
}

#[test]
fn an_undone_session_of_version_1_replays() {
    let journal = entries(UNDONE);
    let state = SessionState::replay(&journal).unwrap();
    assert_eq!(state.phase, Phase::Undone);
    assert!(!state.is_past_the_line());
    assert_eq!(state.undo_reason.as_deref(), Some("its process ended while it was snapshotting"));
    let adopted = journal.iter().find(|entry| entry.record.event() == Some(Event::Adopted)).unwrap();
    assert_eq!((adopted.epoch, state.epoch), (1, 1));
}

#[test]
fn a_session_of_version_2_replays_to_the_tickets_that_count() {
    let state = SessionState::replay(&entries(AFTER_CUT)).unwrap();
    assert_eq!(state.phase, Phase::Published);
    assert!(state.plan.after_cut.promote && state.promoted && state.plan.after_cut.secure && state.secured);
    for ticket in &state.tickets {
        assert!(ticket.snapshot.ends_with("/durable"), "{ticket:?}");
        assert_eq!(ticket.attributes["locked_until"], "2027-01-01T00:00:00Z");
    }
    assert!(!SessionState::replay(&entries(PUBLISHED)).unwrap().plan.after_cut.promote, "absent in version 1");
}

#[test]
fn a_session_of_version_3_names_the_object_with_the_configuration_files() {
    let plan = SessionState::replay(&entries(SAVED_CONFIG)).unwrap().plan;
    let config = SavedConfig::decode(OBJECT, &plan.saved_config.unwrap(), &plan.token).unwrap();
    let [main, odd] = config.files.as_slice() else { panic!("{config:?}") };
    assert_eq!((main.path.to_str(), main.mode), (Some("/etc/postgresql/17/main/postgresql.conf"), 0o644));
    assert!(main.content.windows(4).any(|bytes| bytes == b"'\xe9 '"), "bytes, and no text");
    assert_eq!(odd.path.as_os_str().as_bytes(), b"/etc/postgresql/17/main/conf.d/\xe9.conf");
    assert_eq!((odd.mode, &*odd.content), (0o600, &b"work_mem = 5MB\n"[..]));
    assert_eq!(config.encode().unwrap(), OBJECT);
}

#[test]
fn a_session_of_version_3_says_what_is_left_out() {
    let state = SessionState::replay(&entries(EXCLUDED)).unwrap();
    assert_eq!((state.phase, entries(EXCLUDED)[0].version), (Phase::Published, 3));
    assert_eq!(state.plan.excluded_tablespaces[0].name, "scratch");
    assert!(SessionState::replay(&entries(PUBLISHED)).unwrap().plan.excluded_tablespaces.is_empty(), "absent before");
}

#[tokio::test]
async fn a_journal_is_read_up_to_its_first_gap() {
    let (journal, space, layout, id) = stored(UNDONE).await;
    assert_eq!(journal.read(&id).await.unwrap(), entries(UNDONE));
    space.delete(&layout.session_entry(&id, 3)).await.unwrap();
    assert_eq!(journal.read(&id).await.unwrap(), entries(UNDONE)[..3]);
}

#[tokio::test]
async fn of_two_writers_of_the_same_number_the_second_is_fenced() {
    let (journal, _, _, id) = stored(UNDONE).await;
    let mine = entries(UNDONE).pop().unwrap();
    // Not an error: the reply to the first attempt may have been lost.
    let twice = Entry { sequence: mine.sequence + 1, ..mine.clone() };
    journal.append(&id, &twice).await.unwrap();
    journal.append(&id, &twice).await.unwrap();
    let other = Entry { nonce: "another".into(), ..twice };
    let error = journal.append(&id, &other).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Fenced, Retry::Never));
}

#[tokio::test]
async fn a_newer_version_is_refused_and_a_wrong_number_is_damage() {
    let (journal, space, layout, id) = stored(UNDONE).await;
    let last = entries(UNDONE).len() as u64 - 1;
    let put = |change: fn(&mut Value)| {
        let mut entry: Value = serde_json::from_str(UNDONE.lines().last().unwrap()).unwrap();
        change(&mut entry);
        let (space, key) = (space.clone(), layout.session_entry(&id, last));
        async move { space.put(&key, entry.to_string()).await.unwrap() }
    };
    put(|entry| entry["version"] = 4.into()).await;
    assert_eq!(journal.read(&id).await.unwrap_err().kind(), ErrorKind::Unsupported);
    put(|entry| entry["sequence"] = 77.into()).await;
    assert_eq!(journal.read(&id).await.unwrap_err().kind(), ErrorKind::Corrupt);
    put(|entry| entry["later"] = "a field of a later program".into()).await;
    assert_eq!(journal.read(&id).await.unwrap(), entries(UNDONE));
}
