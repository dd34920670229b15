//! Retention as arithmetic: the cases of Barman's documentation, and those in which Barman loses data.
#![allow(clippy::unwrap_used, reason = "a test may panic, say why it skips, and use the real time")]

use barman_snap::catalog::Keep;
use barman_snap::catalog::retention::{BackupFacts, Retention, RetentionPolicy, WalPlan, classify};
use barman_snap::model::BackupStatus::{self, Done, Failed, Started, WaitingForWals};
use chrono::{DateTime, Duration, TimeZone, Utc};
use proptest::prelude::*;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 3, 1, 0, 0, 0).unwrap()
}

/// A backup that ended `days` ago and needs the segments from `begin` to the next one.
fn backup(days: i64, status: BackupStatus, begin: u32) -> BackupFacts {
    let end = now() - Duration::days(days);
    BackupFacts {
        id: barman_snap::id::BackupId::at(end.naive_utc()),
        status: Some(status),
        end_time: Some(end.fixed_offset()),
        keep: None,
        begin: Some(segment(1, begin)),
        end: Some(segment(1, begin + 1)),
        deletion_begun: false,
    }
}

fn segment(timeline: u32, number: u32) -> barman_snap::model::Segment {
    format!("{timeline:08X}00000000{number:08X}").parse().unwrap()
}

fn kept(mut backup: BackupFacts, keep: Keep) -> BackupFacts {
    backup.keep = Some(keep);
    backup
}

/// Classes, oldest first.
fn classes(policy: &str, minimum: u32, backups: &[BackupFacts]) -> String {
    let classes = classify(policy.parse().unwrap(), minimum, backups, now());
    classes.iter().map(|(_, class)| class.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_grammar_is_that_of_barman() {
    let parse = |text: &str| text.parse::<RetentionPolicy>();
    assert_eq!(parse(" redundancy  3 ").unwrap(), RetentionPolicy::Redundancy(3));
    assert_eq!(parse("Recovery window of 1 day").unwrap(), RetentionPolicy::Window { days: 1 });
    assert_eq!(parse("RECOVERY WINDOW OF 2 WEEKS").unwrap(), RetentionPolicy::Window { days: 14 });
    assert_eq!(parse("RECOVERY WINDOW OF 2 MONTHS").unwrap(), RetentionPolicy::Window { days: 62 });
    for bad in [
        "",
        "REDUNDANCY",
        "REDUNDANCY -1",
        "REDUNDANCY 3 x",
        "RECOVERY WINDOW OF 2 YEARS",
        "MAIN",
        "RECOVERY WINDOW OF 999999999 MONTHS",
        "REDUNDANCY 99999999999",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn redundancy_counts_complete_backups_from_the_newest() {
    let backups =
        [backup(9, Done, 1), backup(7, Failed, 2), backup(5, Done, 3), backup(3, Done, 5), backup(1, Started, 7)];
    assert_eq!(classes("REDUNDANCY 2", 0, &backups), "OBSOLETE - VALID VALID -");
    assert_eq!(classes("REDUNDANCY 1", 0, &backups), "OBSOLETE - OBSOLETE VALID -");
    assert_eq!(classes("REDUNDANCY 1", 3, &backups), "VALID - VALID VALID -");
    assert_eq!(classes("REDUNDANCY 0", 0, &backups), "OBSOLETE - OBSOLETE OBSOLETE -");
}

#[test]
fn a_kept_backup_takes_a_place() {
    let backups = [backup(9, Done, 1), backup(5, Done, 3), kept(backup(3, Done, 5), Keep::Full)];
    assert_eq!(classes("REDUNDANCY 1", 0, &backups), "OBSOLETE OBSOLETE KEEP:FULL");
    let backups = [kept(backup(9, Done, 1), Keep::Standalone), backup(5, Done, 3), backup(3, Done, 5)];
    assert_eq!(classes("REDUNDANCY 1", 0, &backups), "KEEP:STANDALONE OBSOLETE VALID");
}

#[test]
fn a_window_needs_the_first_backup_before_it() {
    let backups = [backup(30, Done, 1), backup(20, Done, 3), backup(10, Done, 5), backup(2, Done, 7)];
    assert_eq!(classes("RECOVERY WINDOW OF 7 DAYS", 0, &backups), "OBSOLETE OBSOLETE VALID VALID");
    assert_eq!(classes("RECOVERY WINDOW OF 7 DAYS", 3, &backups), "OBSOLETE OBSOLETE* VALID VALID");
    assert_eq!(classes("RECOVERY WINDOW OF 1 DAYS", 0, &backups), "OBSOLETE OBSOLETE OBSOLETE VALID");
    assert_eq!(classes("RECOVERY WINDOW OF 365 DAYS", 0, &backups), "VALID VALID VALID VALID");
    assert_eq!(classes("RECOVERY WINDOW OF 4294967295 DAYS", 0, &backups), "VALID VALID VALID VALID");
}

fn deletes(plan: &WalPlan, timeline: u32, number: u32) -> bool {
    plan.deletes(format!("{}", segment(timeline, number)).parse().unwrap())
}

#[test]
fn wal_goes_up_to_the_first_backup_that_stays() {
    let plan = WalPlan::new(&[backup(9, Done, 10)], &[backup(5, Done, 20), backup(1, Done, 30)]);
    assert!(deletes(&plan, 1, 19));
    assert!(!deletes(&plan, 1, 20));
    assert!(!deletes(&plan, 2, 19), "a higher timeline may belong to somebody");
    assert!(!plan.deletes("00000001.history".parse().unwrap()));
    assert!(plan.deletes("000000010000000000000013.00000028.backup".parse().unwrap()));
    assert!(!plan.deletes("000000010000000000000014.00000028.backup".parse().unwrap()));
    assert!(plan.touches("0000000100000000") && !plan.touches("0000000100000001") && !plan.touches("0000000200000000"));
}

#[test]
fn an_older_backup_that_stays_keeps_all_wal_from_its_begin() {
    let plan = WalPlan::new(&[backup(5, Done, 20)], &[backup(9, Done, 10), backup(1, Done, 30)]);
    assert!(deletes(&plan, 1, 9));
    assert!((10..40).all(|number| !deletes(&plan, 1, number)));
}

#[test]
fn a_running_backup_protects_its_wal() {
    // Stock: "O (DONE, old), A (STARTED, older begin), B (DONE, newer begin)": REDUNDANCY 1 removed the WAL of A.
    let plan = WalPlan::new(&[backup(9, Done, 10)], &[backup(2, Started, 20), backup(1, Done, 30)]);
    assert!(deletes(&plan, 1, 19));
    assert!((20..30).all(|number| !deletes(&plan, 1, number)));
    let mut unknown = backup(2, Started, 20);
    unknown.begin = None;
    let plan = WalPlan::new(&[backup(9, Done, 10)], &[unknown, backup(1, Done, 30)]);
    assert!(plan.before.is_none() && plan.reason.is_some());
}

#[test]
fn a_failed_backup_needs_no_wal_and_an_unreadable_one_may_need_all() {
    let plan = WalPlan::new(&[backup(9, Done, 10)], &[backup(5, Failed, 12), backup(1, Done, 30)]);
    assert!(deletes(&plan, 1, 29));
    let mut unreadable = backup(5, Done, 12);
    (unreadable.status, unreadable.begin) = (None, None);
    let plan = WalPlan::new(&[backup(9, Done, 10)], &[unreadable, backup(1, Done, 30)]);
    assert!((0..50).all(|number| !deletes(&plan, 1, number)));
}

#[test]
fn a_standalone_backup_protects_only_its_own_wal() {
    let alone = kept(backup(20, Done, 5), Keep::Standalone);
    let plan = WalPlan::new(&[backup(9, Done, 10)], &[alone, backup(1, Done, 30)]);
    let gone: Vec<_> = (0..40).filter(|number| deletes(&plan, 1, *number)).collect();
    assert_eq!(gone, (0..30).filter(|number| ![5, 6].contains(number)).collect::<Vec<_>>());
}

#[test]
fn a_standalone_backup_after_the_deleted_one_still_serves_the_times_after_it() {
    // A window of 7 days: the one of 20 days goes, and that of 5 days is what the time before the next is restored from.
    let alone = kept(backup(5, Done, 20), Keep::Standalone);
    let plan = WalPlan::new(&[backup(20, Done, 10)], &[alone, backup(3, Done, 30)]);
    assert!(deletes(&plan, 1, 19));
    assert!((20..40).all(|number| !deletes(&plan, 1, number)));
}

#[test]
fn when_nothing_is_left_the_wal_from_the_newest_deleted_backup_on_stays() {
    let plan = WalPlan::new(&[backup(9, Done, 10), backup(1, Done, 30)], &[]);
    assert!(deletes(&plan, 1, 29) && !deletes(&plan, 1, 30));
    assert!(WalPlan::new(&[], &[]).before.is_none());
}

fn any_backup() -> impl Strategy<Value = BackupFacts> {
    let status = prop::sample::select(vec![Done, Failed, Started, WaitingForWals]);
    let keep = prop::option::of(prop::sample::select(vec![Keep::Full, Keep::Standalone]));
    (0..100_i64, status, keep, 1..4_u32, 0..60_u32, 0..4_u32).prop_map(
        |(days, status, keep, timeline, begin, length)| {
            let keep = keep.filter(|_| status == Done);
            let (begin, end) = (Some(segment(timeline, begin)), Some(segment(timeline, begin + length)));
            BackupFacts { keep, begin, end, ..backup(days, status, 0) }
        },
    )
}

proptest! {
    /// Whatever is deleted: no backup that stays loses a segment that it needs.
    #[test]
    fn no_backup_that_stays_loses_wal(
        deleted in prop::collection::vec(any_backup(), 0..4),
        remaining in prop::collection::vec(any_backup(), 0..6),
    ) {
        let plan = WalPlan::new(&deleted, &remaining);
        for backup in remaining.iter().filter(|backup| backup.status != Some(Failed)) {
            let (begin, end) = (backup.begin.unwrap(), backup.end.unwrap());
            // Standalone, and a later one had to go: only its own WAL stays.
            let passed = deleted.iter().any(|deleted| deleted.begin.unwrap().seg > begin.seg);
            let alone = backup.keep == Some(Keep::Standalone) && passed;
            let last = if alone { end.seg } else { 100 };
            for number in begin.seg..=last {
                // Its own timeline, and those that recovery may follow from it.
                for timeline in begin.timeline.0..5 {
                    let own = timeline == begin.timeline.0;
                    if own || !alone {
                        prop_assert!(!deletes(&plan, timeline, number), "{backup:?} needs {number} of {timeline}: {plan:?}");
                    }
                }
            }
        }
    }

    /// A policy never leaves fewer complete backups than the minimum redundancy, if there were enough.
    #[test]
    fn a_policy_leaves_the_minimum_redundancy(
        backups in prop::collection::vec(any_backup(), 0..12),
        minimum in 0..6_u32,
        days in 0..60_u32,
    ) {
        for policy in [RetentionPolicy::Window { days }, RetentionPolicy::Redundancy(days % 4)] {
            let classes = classify(policy, minimum, &backups, now());
            let left = classes.iter().filter(|(_, class)| !matches!(class, Retention::Obsolete | Retention::NotComplete));
            let complete = backups.iter().filter(|backup| backup.status == Some(Done)).count();
            prop_assert!(left.count() >= complete.min(minimum as usize));
        }
    }
}
