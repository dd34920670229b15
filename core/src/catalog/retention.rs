//! Which backups are obsolete, and which WAL nobody needs any more. Pure: no I/O, no clock.
//!
//! Grammar and classes are Barman's, so that both tools delete the same backups. The arithmetic of the WAL is not:
//!
//! * Backups that are still running need their WAL, too.
//! * The boundary is the lowest begin of all backups that stay, whatever their ids say, because ids are local times and jump
//!   back when summer time ends.
//! * While there is a backup whose needs are unknown (an unreadable `backup.info`), no WAL is deleted.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Duration, FixedOffset, Utc};

use super::{CatalogEntry, Keep};
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::model::{BackupStatus, Segment, WalName};

/// A retention policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionPolicy {
    /// `REDUNDANCY n`: the newest n complete backups.
    Redundancy(u32),
    /// `RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS`: what is needed to go back that far. A month has 31 days.
    Window {
        /// The length of the window.
        days: u32,
    },
}

impl FromStr for RetentionPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("not a retention policy: {text:?}"))
                .with_hint("REDUNDANCY 3, or RECOVERY WINDOW OF 4 WEEKS (DAYS, WEEKS, MONTHS)")
        };
        let upper = text.to_ascii_uppercase();
        let number = |word: &str| {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| word.parse::<u32>().ok()).flatten().ok_or_else(bad)
        };
        match upper.split_ascii_whitespace().collect::<Vec<_>>().as_slice() {
            ["REDUNDANCY", n] => Ok(Self::Redundancy(number(n)?)),
            ["RECOVERY", "WINDOW", "OF", n, unit] => {
                let days = match *unit {
                    "DAY" | "DAYS" => 1,
                    "WEEK" | "WEEKS" => 7,
                    "MONTH" | "MONTHS" => 31,
                    _ => return Err(bad()),
                };
                Ok(Self::Window { days: number(n)?.checked_mul(days).ok_or_else(bad)? })
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for RetentionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redundancy(n) => write!(f, "REDUNDANCY {n}"),
            Self::Window { days } => write!(f, "RECOVERY WINDOW OF {days} DAYS"),
        }
    }
}

/// What a policy says of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Needed.
    Valid,
    /// To be deleted.
    Obsolete,
    /// Not needed by the policy, but by the minimum redundancy (`OBSOLETE*`).
    ObsoleteButNeeded,
    /// Kept by its annotation, whatever the policy says.
    Kept(Keep),
    /// Not complete: no policy touches it (`-`).
    NotComplete,
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "VALID",
            Self::Obsolete => "OBSOLETE",
            Self::ObsoleteButNeeded => "OBSOLETE*",
            Self::Kept(Keep::Full) => "KEEP:FULL",
            Self::Kept(Keep::Standalone) => "KEEP:STANDALONE",
            Self::NotComplete => "-",
        })
    }
}

/// What retention has to know of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFacts {
    /// Its id.
    pub id: BackupId,
    /// Its status; none if its `backup.info` cannot be read.
    pub status: Option<BackupStatus>,
    /// When it ended.
    pub end_time: Option<DateTime<FixedOffset>>,
    /// Whether it is kept.
    pub keep: Option<Keep>,
    /// The first segment that it needs.
    pub begin: Option<Segment>,
    /// The last segment that it needs to be consistent.
    pub end: Option<Segment>,
    /// Whether its deletion was begun and is not complete.
    pub deletion_begun: bool,
}

impl BackupFacts {
    /// The facts of an entry of the catalog.
    pub fn of(entry: &CatalogEntry) -> Self {
        let info = entry.info.as_ref().ok();
        let segment = |name: Option<&String>| name.and_then(|name| name.parse().ok());
        Self {
            id: entry.id.clone(),
            status: entry.status(),
            end_time: info.and_then(|info| info.end_time),
            keep: entry.keep,
            begin: segment(info.and_then(|info| info.begin_wal.as_ref())),
            end: segment(info.and_then(|info| info.end_wal.as_ref())),
            deletion_begun: info.is_some_and(|info| super::delete::begun(info).is_some()),
        }
    }
}

/// What `policy` says of each backup, in the order of their ids. A minimum redundancy above that of the policy counts.
pub fn classify(
    policy: RetentionPolicy,
    minimum_redundancy: u32,
    backups: &[BackupFacts],
    now: DateTime<Utc>,
) -> Vec<(BackupId, Retention)> {
    let mut newest_first: Vec<_> = backups.iter().collect();
    newest_first.sort_by(|a, b| b.id.cmp(&a.id));
    let window = |days| Duration::try_days(i64::from(days)).and_then(|window| now.checked_sub_signed(window));
    let (mut counted, mut covered) = (0_u32, false);
    let mut classes: Vec<_> = newest_first
        .into_iter()
        .map(|backup| {
            // A deletion that was interrupted is ended by the next run.
            if backup.deletion_begun && backup.keep.is_none() {
                return (backup.id.clone(), Retention::Obsolete);
            }
            if backup.status != Some(BackupStatus::Done) {
                return (backup.id.clone(), Retention::NotComplete);
            }
            let class = match policy {
                RetentionPolicy::Redundancy(n) if counted < n.max(minimum_redundancy) => Retention::Valid,
                RetentionPolicy::Redundancy(_) => Retention::Obsolete,
                // The first backup that is older than the window is what the beginning of the window is restored from.
                RetentionPolicy::Window { days } if !covered => {
                    covered = backup.end_time.zip(window(days)).is_some_and(|(end, start)| end < start);
                    Retention::Valid
                }
                RetentionPolicy::Window { .. } if counted < minimum_redundancy => Retention::ObsoleteButNeeded,
                RetentionPolicy::Window { .. } => Retention::Obsolete,
            };
            if class != Retention::Obsolete {
                counted += 1;
            }
            (backup.id.clone(), backup.keep.map_or(class, Retention::Kept))
        })
        .collect();
    classes.reverse();
    classes
}

/// Which WAL may be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalPlan {
    /// All WAL that lies before this segment, on its timeline and lower ones. None: nothing may be deleted.
    pub before: Option<Segment>,
    /// First and last segments of what stays nevertheless, for backups that are kept standalone.
    pub protected: Vec<(Segment, Segment)>,
    /// Why nothing may be deleted, if that is so.
    pub reason: Option<String>,
}

impl WalPlan {
    /// What may be deleted once the backups `deleted` are gone and the backups `remaining` stay.
    pub fn new(deleted: &[BackupFacts], remaining: &[BackupFacts]) -> Self {
        let nothing = |reason: String| Self { reason: Some(reason), ..Self::default() };
        let mut plan = Self::default();
        // What was kept standalone goes on to serve times after it for as long as no backup after it has had to go: until
        // then it may be what the beginning of a recovery window is restored from.
        let newest_deleted = deleted.iter().filter_map(|backup| backup.begin).max_by_key(position);
        let is_passed = |begin: Segment| newest_deleted.is_some_and(|deleted| position(&deleted) > position(&begin));
        for backup in remaining {
            match (backup.status, backup.keep, backup.begin, backup.end) {
                (None, ..) => return nothing(format!("which WAL backup {} needs is not known", backup.id)),
                (Some(BackupStatus::Failed), ..) => {}
                (_, Some(Keep::Standalone), Some(begin), Some(end)) if is_passed(begin) => {
                    plan.protected.push((begin, end));
                }
                (_, _, Some(begin), _) => plan.before = Some(plan.before.map_or(begin, |old| lower(old, begin))),
                // It has not got so far as to know where it begins.
                _ => return nothing(format!("where backup {} begins is not known", backup.id)),
            }
        }
        if plan.before.is_none() {
            // Nothing is left that goes on: the WAL from the newest deleted backup on stays, as with Barman, so that the
            // archive has no hole when the next backup is taken.
            plan.before = newest_deleted;
        }
        if plan.before.is_none() {
            return nothing("no backup says where its WAL begins".into());
        }
        plan
    }

    /// Whether a file of the archive may be deleted. Histories of timelines never are.
    pub fn deletes(&self, name: WalName) -> bool {
        let (Some(before), Some(segment)) = (self.before, name.segment()) else { return false };
        segment.timeline <= before.timeline
            && position(&segment) < position(&before)
            && !self.protected.iter().any(|(first, last)| {
                // A backup may have begun on one timeline and ended on the next; positions go on all the same.
                (first.timeline..=last.timeline).contains(&segment.timeline)
                    && (position(first)..=position(last)).contains(&position(&segment))
            })
    }

    /// Whether a folder of the archive (`0000000100000000`) can hold anything that may be deleted.
    pub fn touches(&self, folder: &str) -> bool {
        let first: Option<Segment> = format!("{folder}00000000").parse().ok();
        self.before.zip(first).is_some_and(|(before, first)| {
            first.timeline <= before.timeline && first.log <= before.log && folder.len() == 16
        })
    }
}

fn position(segment: &Segment) -> (u32, u32) {
    (segment.log, segment.seg)
}

fn lower(a: Segment, b: Segment) -> Segment {
    std::cmp::min_by_key(a, b, |segment| (position(segment), segment.timeline))
}
