//! How far a restored server shall recover, and which backup suits that.
//!
//! Pure: text in, values and refusals out. What PostgreSQL checks only after minutes of replay (two kinds of target at
//! once, a target before the end of the backup) is refused here, before anything is created. The meaning of each target
//! is PostgreSQL's (manual, "Recovery Target").

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeZone, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::resolve::{Chosen, PassedOver, UNREADABLE, incomplete};
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::model::{BackupInfo, BackupStatus, Lsn, Timeline, TimelineHistory};

/// Where recovery stops. Exactly one kind, as PostgreSQL demands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum TargetPoint {
    /// At the end of the WAL that can be had.
    EndOfWal,
    /// As soon as the cluster is consistent, that is at the end of the backup.
    Immediate,
    /// At the first commit after (or at, if inclusive) this time.
    Time(DateTime<FixedOffset>),
    /// At this position.
    Lsn(Lsn),
    /// At the end of this transaction.
    Xid(u64),
    /// At a restore point of this name (`pg_create_restore_point`).
    Name(String),
}

/// The timeline to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetTimeline {
    /// Nothing is said; PostgreSQL's default, which is the newest timeline since version 12.
    #[default]
    Default,
    /// The one the backup was taken on.
    Current,
    /// The newest one that branches off from the backup's.
    Latest,
    /// This one.
    Id(Timeline),
}

/// What the server does when it has reached the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetAction {
    /// Ends recovery and opens for writing on a new timeline. The default: who restores wants a server that works.
    #[default]
    Promote,
    /// Stays read-only so that one can look, and perhaps move the target forward. PostgreSQL's own default.
    Pause,
    /// Stops.
    Shutdown,
}

impl TargetAction {
    /// The value of `recovery_target_action`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The whole recovery target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryTarget {
    /// Where to stop.
    pub point: TargetPoint,
    /// Stop just after the target (true, the default) or just before it. Only time, LSN and xid know the difference.
    pub inclusive: bool,
    /// Which timeline to follow.
    pub timeline: TargetTimeline,
    /// What to do there.
    pub action: TargetAction,
}

impl Default for RecoveryTarget {
    fn default() -> Self {
        Self {
            point: TargetPoint::EndOfWal,
            inclusive: true,
            timeline: TargetTimeline::Default,
            action: TargetAction::Promote,
        }
    }
}

/// The options as a user gives them, before it is known whether they make sense together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// `--target-time`, already with its zone; see [`parse_time`].
    pub time: Option<DateTime<FixedOffset>>,
    /// `--target-lsn`
    pub lsn: Option<Lsn>,
    /// `--target-xid`
    pub xid: Option<u64>,
    /// `--target-name`
    pub name: Option<String>,
    /// `--target-immediate`
    pub immediate: bool,
    /// `--exclusive`: stop just before the target.
    pub exclusive: bool,
    /// `--target-tli`: `current`, `latest` or a number.
    pub timeline: TargetTimeline,
    /// `--target-action`
    pub action: Option<TargetAction>,
}

impl TargetOptions {
    /// The target that the options mean, or a refusal when they contradict each other.
    pub fn into_target(self) -> Result<RecoveryTarget> {
        let points = [
            self.time.map(|time| ("time", TargetPoint::Time(time))),
            self.lsn.map(|lsn| ("lsn", TargetPoint::Lsn(lsn))),
            self.xid.map(|xid| ("xid", TargetPoint::Xid(xid))),
            self.name.map(|name| ("name", TargetPoint::Name(name))),
            self.immediate.then_some(("immediate", TargetPoint::Immediate)),
        ];
        let mut given: Vec<_> = points.into_iter().flatten().collect();
        if given.len() > 1 {
            let names: Vec<_> = given.iter().map(|(name, _)| *name).collect();
            return Err(Error::invalid(format!("more than one recovery target: {}", names.join(", ")))
                .with_hint("PostgreSQL accepts only one of time, lsn, xid, name and immediate"));
        }
        let point = given.pop().map_or(TargetPoint::EndOfWal, |(_, point)| point);
        let target = RecoveryTarget {
            inclusive: !self.exclusive,
            timeline: self.timeline,
            action: self.action.unwrap_or_default(),
            point,
        };
        target.check()?;
        Ok(target)
    }
}

impl RecoveryTarget {
    /// Refuses what PostgreSQL would refuse when it reads its configuration.
    pub(super) fn check(&self) -> Result<()> {
        let orderable = matches!(self.point, TargetPoint::Time(_) | TargetPoint::Lsn(_) | TargetPoint::Xid(_));
        if !self.inclusive && !orderable {
            return Err(Error::invalid("an exclusive recovery target needs a time, an lsn or an xid"));
        }
        match &self.point {
            // A name longer than this never fits into the record that pg_create_restore_point writes.
            TargetPoint::Name(name) if name.is_empty() || name.len() > 63 => {
                Err(Error::invalid(format!("not the name of a restore point: {name:?}"))
                    .with_hint("1 to 63 bytes, as given to pg_create_restore_point"))
            }
            TargetPoint::Xid(0..=2) => Err(Error::invalid("transactions begin at 3; a smaller xid is never committed")),
            TargetPoint::EndOfWal if self.action == TargetAction::Shutdown => {
                Err(Error::invalid("a shutdown at the target needs a target")
                    .with_hint("give --target-time, --target-lsn, --target-xid, --target-name or --target-immediate"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.inclusive { "up to and including" } else { "up to but not including" };
        match &self.point {
            TargetPoint::EndOfWal => f.write_str("to the end of the archived WAL")?,
            TargetPoint::Immediate => f.write_str("to the end of the backup")?,
            TargetPoint::Time(time) => write!(f, "{side} {time}")?,
            TargetPoint::Lsn(lsn) => write!(f, "{side} {lsn}")?,
            TargetPoint::Xid(xid) => write!(f, "{side} transaction {xid}")?,
            TargetPoint::Name(name) => write!(f, "to the restore point {name:?}")?,
        }
        match self.timeline {
            TargetTimeline::Default => {}
            TargetTimeline::Current => f.write_str(" on the timeline of the backup")?,
            TargetTimeline::Latest => f.write_str(" on the newest timeline")?,
            TargetTimeline::Id(timeline) => write!(f, " on timeline {timeline}")?,
        }
        match self.point {
            TargetPoint::EndOfWal => Ok(()),
            _ => write!(f, ", then {}", self.action.as_str()),
        }
    }
}

/// Reads a time as people write it: RFC 3339, or `2026-05-29 10:11:12[.5][+02[:00]]`; without a zone it is in `zone`.
///
/// # Errors
/// `invalid_input` when it is no time, or when the zone has it twice or not at all (summer time).
pub fn parse_time<Z: TimeZone>(text: &str, zone: &Z) -> Result<DateTime<FixedOffset>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time);
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z"] {
        if let Ok(time) = DateTime::parse_from_str(text, format) {
            return Ok(time);
        }
    }
    let naive = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y%m%dT%H%M%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .ok_or_else(|| {
            Error::invalid(format!("not a time: {text:?}")).with_hint("write it like 2026-05-29 10:11:12+02:00")
        })?;
    zone.from_local_datetime(&naive).single().map(|time| time.fixed_offset()).ok_or_else(|| {
        Error::invalid(format!("the local time {text:?} exists twice or not at all"))
            .with_hint("add its zone, for example +02:00")
    })
}

/// Reads `current`, `latest` or the number of a timeline (decimal).
pub fn parse_timeline(text: &str) -> Result<TargetTimeline> {
    match text {
        "current" => Ok(TargetTimeline::Current),
        "latest" => Ok(TargetTimeline::Latest),
        number => match number.parse() {
            Ok(id) if id >= 1 => Ok(TargetTimeline::Id(Timeline(id))),
            _ => {
                Err(Error::invalid(format!("not a timeline: {text:?}")).with_hint("current, latest or a number from 1"))
            }
        },
    }
}

/// What is known of the timelines in the archive: those that have a history file.
pub type Ancestry = BTreeMap<Timeline, TimelineHistory>;

/// The newest timeline as PostgreSQL finds it: it asks for the history of each next number, and stops at the first that is
/// missing (`findNewestTimeLine`).
pub(super) fn newest(own: Timeline, ancestry: &Ancestry) -> Timeline {
    let next = |timeline: &Timeline| timeline.0.checked_add(1).map(Timeline).filter(|next| ancestry.contains_key(next));
    std::iter::successors(Some(own), next).last().unwrap_or(own)
}

/// The timeline that is followed from a backup of timeline `own`.
pub(super) fn followed(own: Timeline, target: &RecoveryTarget, ancestry: &Ancestry) -> Timeline {
    match (&target.point, target.timeline) {
        // The end of the backup lies on its own timeline, whatever branches off later.
        (TargetPoint::Immediate, TargetTimeline::Default) | (_, TargetTimeline::Current) => own,
        (_, TargetTimeline::Id(wanted)) => wanted,
        (_, TargetTimeline::Default | TargetTimeline::Latest) => newest(own, ancestry),
    }
}

/// True if WAL of timeline `wanted` continues a backup that ended at `end` on timeline `own`.
pub(super) fn continues(own: Timeline, end: Lsn, wanted: Timeline, ancestry: &Ancestry) -> bool {
    own == wanted || ancestry.get(&wanted).is_some_and(|history| history.reaches(own, end))
}

/// The backup that `auto` means: the newest complete one from which the target can be reached. An entry without metadata is
/// one that cannot be read.
///
/// # Errors
/// `invalid_input` for a target by name or xid, whose place in time is not known before the WAL is read; `not_found` when
/// no backup suits.
pub fn choose_backup<'a>(
    entries: impl IntoIterator<Item = (&'a BackupId, Option<&'a BackupInfo>)>,
    target: &RecoveryTarget,
    ancestry: &Ancestry,
) -> Result<Chosen> {
    if let TargetPoint::Name(_) | TargetPoint::Xid(_) = target.point {
        return Err(Error::invalid("a backup cannot be chosen for a target by name or transaction").with_hint(
            "when that was is known only after the WAL is read: give the id of a backup that ended before it",
        ));
    }
    let (mut suitable, mut other) = (Vec::new(), Vec::new());
    for (id, info) in entries {
        match info.map_or_else(|| Some(UNREADABLE.to_owned()), |info| unsuitable(info, target, ancestry)) {
            None => suitable.push((info.and_then(|info| info.end_time).map(|time| time.with_timezone(&Utc)), id)),
            Some(why) => other.push(PassedOver { backup_id: id.clone(), why }),
        }
    }
    let Some((_, id)) = suitable.into_iter().max() else {
        return Err(Error::not_found(format!("no complete backup from which one can recover {target}"))
            .with_hint("a backup must have ended before the target; `barman-snap list` shows the times"));
    };
    Ok(Chosen {
        backup_id: id.clone(),
        asked: "auto".to_owned(),
        because: format!("the newest complete one from which one can recover {target}"),
        passed_over: other.into_iter().filter(|one| one.backup_id > *id).collect(),
    })
}

/// Why the target cannot be reached from a backup; none if it can.
fn unsuitable(info: &BackupInfo, target: &RecoveryTarget, ancestry: &Ancestry) -> Option<String> {
    if info.status != BackupStatus::Done {
        return Some(incomplete(info));
    }
    let (Some(end), Some(own)) = (info.end_xlog, info.timeline) else {
        return Some("its metadata do not say where it ended".to_owned());
    };
    match target.point {
        TargetPoint::Time(time) if info.end_time.is_none_or(|ended| ended > time) => {
            return Some("it ended after the target".to_owned());
        }
        TargetPoint::Lsn(lsn) if end > lsn => return Some(format!("it ended at {end}, after the target")),
        _ => {}
    }
    let followed = followed(own, target, ancestry);
    (!continues(own, end, followed, ancestry))
        .then(|| format!("timeline {followed} does not continue it, which ended at {end} on timeline {own}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::FixedOffset;

    fn utc() -> FixedOffset {
        FixedOffset::east_opt(0).unwrap()
    }

    fn done(timeline: u32, end: u64, at: &str) -> BackupInfo {
        BackupInfo {
            status: BackupStatus::Done,
            timeline: Some(Timeline(timeline)),
            end_xlog: Some(Lsn(end)),
            end_time: Some(parse_time(at, &utc()).unwrap()),
            ..BackupInfo::default()
        }
    }

    #[test]
    fn two_kinds_of_target_are_refused() {
        let options = TargetOptions { xid: Some(700), immediate: true, ..TargetOptions::default() };
        let error = options.into_target().unwrap_err();
        assert_eq!(error.message(), "more than one recovery target: xid, immediate");
    }

    #[test]
    fn what_postgresql_would_refuse_later_is_refused_now() {
        for options in [
            TargetOptions { immediate: true, exclusive: true, ..TargetOptions::default() },
            TargetOptions { name: Some(String::new()), ..TargetOptions::default() },
            TargetOptions { name: Some("x".repeat(64)), ..TargetOptions::default() },
            TargetOptions { xid: Some(2), ..TargetOptions::default() },
            TargetOptions { action: Some(TargetAction::Shutdown), ..TargetOptions::default() },
        ] {
            assert!(options.clone().into_target().is_err(), "{options:?}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let east = FixedOffset::east_opt(7200).unwrap();
        let expected = parse_time("2026-05-29T08:11:12Z", &east).unwrap();
        for text in
            ["2026-05-29 10:11:12", "2026-05-29 08:11:12+00", "2026-05-29 10:11:12.000+02:00", "20260529T101112"]
        {
            assert_eq!(parse_time(text, &east).unwrap(), expected, "{text}");
        }
        for text in ["", "yesterday", "2026-13-01 00:00:00"] {
            assert!(parse_time(text, &east).is_err(), "{text}");
        }
    }

    #[test]
    fn auto_takes_the_newest_backup_that_ended_before_the_target() {
        let ids: Vec<BackupId> =
            ["20260101T000000", "20260102T000000", "20260103T000000"].iter().map(|id| id.parse().unwrap()).collect();
        let mut infos = [
            done(1, 0x100, "2026-01-01 00:10:00"),
            done(1, 0x200, "2026-01-02 00:10:00"),
            done(2, 0x300, "2026-01-03 00:10:00"),
        ];
        let ancestry = Ancestry::from([(
            Timeline(2),
            TimelineHistory::parse(Timeline(2), "1\t0/180\tno recovery target\n").unwrap(),
        )]);
        let choose = |infos: &[BackupInfo], options: TargetOptions| {
            let target = options.into_target().unwrap();
            let entries = ids.iter().zip(infos.iter().map(Some));
            choose_backup(entries, &target, &ancestry).map(|chosen| chosen.backup_id.to_string())
        };
        let own = || TargetOptions { timeline: TargetTimeline::Current, ..TargetOptions::default() };
        let at = |text: &str| TargetOptions { time: parse_time(text, &utc()).ok(), ..own() };
        assert_eq!(choose(&infos, TargetOptions::default()).unwrap(), "20260103T000000");
        assert_eq!(choose(&infos, at("2026-01-02 12:00:00")).unwrap(), "20260102T000000");
        // The moment of its end is enough; a second earlier is not.
        assert_eq!(choose(&infos, at("2026-01-02 00:10:00")).unwrap(), "20260102T000000");
        assert_eq!(choose(&infos, at("2026-01-02 00:09:59")).unwrap(), "20260101T000000");
        assert!(choose(&infos, at("2025-12-31 00:00:00")).is_err());
        let lsn = |lsn| TargetOptions { lsn: Some(Lsn(lsn)), ..own() };
        assert_eq!(choose(&infos, lsn(0x2ff)).unwrap(), "20260102T000000");
        // Timeline 2 left timeline 1 at 180: the second backup ended beyond that.
        let on_two = |time: &str| TargetOptions { timeline: TargetTimeline::Id(Timeline(2)), ..at(time) };
        assert_eq!(choose(&infos, on_two("2026-01-02 12:00:00")).unwrap(), "20260101T000000");
        // Which is the newest one, and what PostgreSQL follows unless told otherwise.
        let followed = TargetOptions { timeline: TargetTimeline::Default, ..at("2026-01-02 12:00:00") };
        assert_eq!(choose(&infos, followed).unwrap(), "20260101T000000");
        // A failed backup is never chosen.
        infos[2].status = BackupStatus::Failed;
        assert_eq!(choose(&infos, own()).unwrap(), "20260102T000000");
        assert!(choose(&infos, TargetOptions { name: Some("x".into()), ..TargetOptions::default() }).is_err());
        // What is newer and not taken is said, also where nobody can read why.
        let entries = ids.iter().zip([Some(&infos[0]), None, Some(&infos[2])]);
        let chosen = choose_backup(entries, &own().into_target().unwrap(), &ancestry).unwrap().to_string();
        assert_eq!(
            chosen,
            "backup 20260101T000000: the newest complete one from which one can recover to the end of the archived WAL on the \
             timeline of the backup; passed over: 20260102T000000 (its backup.info cannot be read), 20260103T000000 (it is FAILED)"
        );
    }
}
