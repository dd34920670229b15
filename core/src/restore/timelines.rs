//! Which timeline a restore follows, and what of the others it would leave behind.
//!
//! Pure; used by [`plan`](super::plan::plan). PostgreSQL follows the newest timeline unless told otherwise. After a failover
//! that is right. After the promotion of a clone that archives into the catalog of its original it is wrong: what the original
//! has committed since is not replayed, and nobody is told.
//!
//! The invariants:
//! * WAL of a timeline that went on after the followed one had begun is left behind only by the word of the user. What a dying
//!   primary archived before that is lost by a failover anyway: it is said.
//! * A timeline is followed only along a history that the archive has, and that no other history contradicts.
//! * The number that was looked at is written into the settings: what is newest may be another one when the server starts.

use std::collections::{BTreeMap, BTreeSet};

use chrono::SubsecRound;

use super::plan::{ArchiveFacts, PlanInput};
use super::settings::{Purpose, WalSource};
use super::target::{TargetPoint, TargetTimeline, continues, followed, newest};
use crate::error::{Error, Result};
use crate::model::{Lsn, Segment, SegmentSize, Timeline, TimelineHistory};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Followed {
    /// What to tell PostgreSQL.
    pub(super) timeline: TargetTimeline,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
    /// The archive goes on behind a segment that it lacks; also among the warnings.
    pub(super) gap: Option<String>,
}

/// The way from the end of a backup along one timeline, and the archive beside it.
#[derive(Clone, Debug)]
pub(super) struct Way<'a> {
    archive: &'a ArchiveFacts,
    /// Of the followed timeline.
    history: TimelineHistory,
    own: Timeline,
    end: Lsn,
    size: SegmentSize,
    /// The archived segments of each timeline, from the begin of the backup on.
    segments: BTreeMap<Timeline, BTreeSet<Segment>>,
}

impl<'a> Way<'a> {
    /// None when nobody looked at the archive, or nobody may: the WAL is kept by another tool.
    pub(super) fn of(input: &PlanInput<'a>) -> Option<Self> {
        let (info, archive) = (input.info, input.archive);
        if input.record.wal_external || !matches!(input.request.wal, WalSource::Catalog { .. }) {
            return None;
        }
        let (names, own, end) = (archive.segments.as_ref()?, info.timeline?, info.end_xlog?);
        let mut segments: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for segment in names.iter().filter_map(|name| name.parse::<Segment>().ok()) {
            segments.entry(segment.timeline).or_default().insert(segment);
        }
        let followed = followed(own, &input.request.recovery, &archive.ancestry);
        let history = archive.ancestry.get(&followed).cloned().unwrap_or(TimelineHistory::root(followed));
        let size = info.xlog_segment_size.unwrap_or(SegmentSize::DEFAULT);
        Some(Self { archive, history, own, end, size, segments })
    }

    fn followed(&self) -> Timeline {
        self.history.timeline()
    }

    /// Where the archived WAL of this way ends.
    pub(super) fn archived_until(&self) -> Lsn {
        self.archived().map(|(segment, left)| self.end_of(segment).min(left)).max().unwrap_or(self.end)
    }

    /// The archived segments of this way, and where it leaves the timeline of each.
    fn archived(&self) -> impl Iterator<Item = (Segment, Lsn)> {
        let segments = self.segments.values().flatten().copied();
        segments
            .filter_map(|segment| Some((segment, self.left_at(segment.timeline)?)))
            .filter(|(segment, left)| segment.start(self.size) < *left)
    }

    /// Where this way leaves a timeline; none if it is not on the way.
    fn left_at(&self, timeline: Timeline) -> Option<Lsn> {
        if timeline == self.followed() {
            return Some(Lsn(u64::MAX));
        }
        self.history.ancestors().iter().find(|one| one.timeline == timeline).map(|one| one.switch)
    }

    fn end_of(&self, segment: Segment) -> Lsn {
        segment.next(self.size).map_or(Lsn(u64::MAX), |next| next.start(self.size))
    }

    fn history_of(&self, timeline: Timeline) -> TimelineHistory {
        self.archive.ancestry.get(&timeline).cloned().unwrap_or(TimelineHistory::root(timeline))
    }
}

/// Decides which timeline is followed.
///
/// # Errors
/// `precondition` where that would be a guess, or would silently leave WAL behind; each names the numbers to choose from.
pub(super) fn follow(input: &PlanInput<'_>) -> Result<Followed> {
    let asked = input.request.recovery.timeline;
    let Some(way) = Way::of(input) else { return Ok(Followed { timeline: asked, warnings: Vec::new(), gap: None }) };
    let chosen = matches!(asked, TargetTimeline::Current | TargetTimeline::Id(_));
    reachable(input, &way, asked)?;
    let mut warnings = Vec::new();
    match unknown_timelines(&way) {
        Some((said, hint)) if !chosen && input.request.recovery.point != TargetPoint::Immediate => {
            return Err(Error::precondition(said).with_hint(hint));
        }
        Some((said, hint)) => warnings.push(format!("{said}: {hint}")),
        None => {}
    }
    contradictions(&way, &mut warnings)?;
    if !chosen {
        left_behind(input, &way, &mut warnings)?;
    }
    let gap = gap(&way);
    warnings.extend(gap.clone());
    warnings.extend(out_of_reach(input, &way));
    Ok(Followed { timeline: written(input, &way), warnings, gap })
}

/// The timeline has to be in the archive, and to go on from the backup.
fn reachable(input: &PlanInput<'_>, way: &Way<'_>, asked: TargetTimeline) -> Result<()> {
    let (backup_id, ancestry, followed) = (input.backup_id, &way.archive.ancestry, way.followed());
    if continues(way.own, way.end, followed, ancestry) {
        return Ok(());
    }
    let ended = format!("backup {backup_id}, which ended at {} on timeline {}", way.end, way.own);
    if !matches!(asked, TargetTimeline::Id(_)) {
        return Err(Error::precondition(format!(
            "timeline {followed}, the newest in the archive, does not continue {ended}"
        ))
        .with_hint("--target-tli current stays on the timeline of the backup; --target-tli N names another"));
    }
    let known: Vec<_> = ancestry.keys().map(ToString::to_string).collect();
    let what = match ancestry.contains_key(&followed) {
        true => format!("timeline {followed} does not continue {ended}"),
        false => format!("timeline {followed} is not in the archive"),
    };
    Err(Error::invalid(what).with_hint(format!(
        "the backup is on {}, the archive has histories of: {}",
        way.own,
        known.join(", ")
    )))
}

/// Timelines that have WAL and no history: nobody can say where they come from, and PostgreSQL, which goes by the histories,
/// stops before them.
fn unknown_timelines(way: &Way<'_>) -> Option<(String, String)> {
    let ancestry = &way.archive.ancestry;
    let mut lost: BTreeSet<Timeline> =
        way.segments.keys().copied().filter(|one| *one > way.own && !ancestry.contains_key(one)).collect();
    // A gap among the histories hides those behind it.
    let last = newest(way.own, ancestry);
    let hidden: Vec<Timeline> = ancestry.keys().copied().filter(|one| *one > last).collect();
    if let Some(behind) = hidden.last() {
        lost.extend((last.0 + 1..behind.0).map(Timeline).filter(|one| !ancestry.contains_key(one)).take(MANY));
    }
    let first = lost.first()?;
    let files: Vec<String> = lost.iter().map(|one| format!("{:08X}.history", one.0)).collect();
    let what = match way.segments.contains_key(first) {
        true => format!("the archive has WAL of timeline {first}, but not {}", files.join(", ")),
        false => format!("the archive has timeline {}, but not {}", list(&hidden), files.join(", ")),
    };
    let hint = format!(
        "PostgreSQL follows no timeline behind a history that is missing: archive the file from pg_wal of a server that has it, \
         or choose with --target-tli (the backup is on timeline {})",
        way.own
    );
    Some((what, hint))
}

/// So many missing histories are named.
const MANY: usize = 8;

/// Histories that do not tell the same story. Refused on the way, said elsewhere.
fn contradictions(way: &Way<'_>, warnings: &mut Vec<String>) -> Result<()> {
    for (timeline, history) in &way.archive.ancestry {
        for (at, parent) in history.ancestors().iter().enumerate() {
            let Some(other) = way.archive.ancestry.get(&parent.timeline) else { continue };
            let place = |one: &crate::model::timeline::Ancestor| (one.timeline, one.switch);
            let here = history.ancestors()[..at].iter().map(place);
            if here.eq(other.ancestors().iter().map(place)) {
                continue;
            }
            let said = format!(
                "the histories of timelines {} and {timeline} contradict each other about where timeline {0} comes from",
                parent.timeline
            );
            let hint = "one of the files is of another cluster, or of a timeline whose number was used twice";
            if *timeline == way.followed() {
                return Err(Error::precondition(said).with_hint(format!(
                    "{hint}; choose another timeline with --target-tli, or remove the wrong file"
                )));
            }
            warnings.push(format!("{said}: {hint}"));
        }
    }
    Ok(())
}

/// What another timeline has and the followed one does not replay.
struct Left {
    timeline: Timeline,
    /// Where the two part.
    fork: Lsn,
    /// Where the other one's archived WAL ends.
    until: Lsn,
    /// It has a whole segment of its own behind the fork.
    is_whole: bool,
    /// It has archived after the followed timeline had begun.
    went_on: bool,
}

fn left_behind(input: &PlanInput<'_>, way: &Way<'_>, warnings: &mut Vec<String>) -> Result<()> {
    let followed = way.followed();
    let beyond = |left: &Left| match &input.request.recovery.point {
        TargetPoint::Immediate => false,
        TargetPoint::Lsn(lsn) => *lsn > left.fork,
        _ => true,
    };
    let others = way.segments.keys().filter(|one| **one != followed);
    let left: Vec<Left> = others.filter_map(|one| left_of(way, *one)).filter(beyond).collect();
    let told = |one: &Left| {
        let branches = match way.left_at(one.timeline) {
            Some(_) => format!("timeline {followed} branches off from timeline {} at {}", one.timeline, one.fork),
            None => format!("timelines {} and {followed} part at {}", one.timeline, one.fork),
        };
        let amount = mib(one.until.0.saturating_sub(one.fork.0));
        (branches, format!("timeline {} goes on to {}", one.timeline, one.until), amount)
    };
    if left.iter().any(|one| one.went_on) {
        let all: Vec<String> = left
            .iter()
            .filter(|one| one.went_on)
            .map(|one| {
                let (branches, goes_on, amount) = told(one);
                format!("{branches}; {goes_on}; {amount} of WAL would not be replayed")
            })
            .collect();
        let numbers: Vec<Timeline> =
            left.iter().filter(|one| one.went_on).map(|one| one.timeline).chain([followed]).collect();
        return Err(Error::precondition(all.join("; ")).with_hint(format!(
            "a clone may have been promoted that archives here: choose with --target-tli {}",
            list(&numbers)
        )));
    }
    warnings.extend(left.iter().filter(|one| one.is_whole).map(|one| {
        let (branches, goes_on, amount) = told(one);
        format!(
            "{branches}, and is followed; {goes_on}: {amount} of WAL that was archived before timeline {followed} began is not \
             replayed (--target-tli {} replays it)",
            one.timeline
        )
    }));
    Ok(())
}

fn left_of(way: &Way<'_>, timeline: Timeline) -> Option<Left> {
    let history = way.history_of(timeline);
    if !(timeline == way.own || history.reaches(way.own, way.end)) {
        return None;
    }
    let fork = fork(&history, &way.history)?;
    let stored = |name: &str| way.archive.stored.get(name);
    let born = stored(&format!("{:08X}.history", way.followed().0));
    // What has no time cannot be said to have been there before.
    let is_later = |segment: &Segment| match (stored(&segment.to_string()), born) {
        (Some(at), Some(born)) => at > born,
        _ => segment.start(way.size) >= fork,
    };
    let mine: Vec<Segment> =
        way.segments.get(&timeline)?.iter().copied().filter(|segment| way.end_of(*segment) > fork).collect();
    let last = mine.last()?;
    Some(Left {
        timeline,
        fork,
        until: way.end_of(*last),
        is_whole: mine.iter().any(|segment| segment.start(way.size) >= fork),
        went_on: mine.iter().any(is_later),
    })
}

/// Where the ways to two timelines part; none if they have nothing in common.
fn fork(one: &TimelineHistory, other: &TimelineHistory) -> Option<Lsn> {
    let way = |history: &TimelineHistory| {
        let lines: Vec<_> = history.ancestors().iter().map(|line| (line.timeline, line.switch)).collect();
        lines.into_iter().chain([(history.timeline(), Lsn(u64::MAX))])
    };
    let mut common = None;
    for ((timeline, switch), (other, other_switch)) in way(one).zip(way(other)) {
        if timeline != other {
            break;
        }
        common = Some(switch.min(other_switch));
        if switch != other_switch {
            break;
        }
    }
    common
}

/// A segment that is missing in the middle: PostgreSQL takes it for the end.
fn gap(way: &Way<'_>) -> Option<String> {
    let until = way.archived_until();
    let there = |segment: Segment| {
        let candidates = way.history.candidates(segment, way.size);
        candidates.iter().any(|one| way.segments.get(&one.timeline).is_some_and(|have| have.contains(one)))
    };
    let mut needed = way.history.needed(way.end, until, way.size);
    let missing = needed.find(|segment| !there(*segment))?;
    let next = needed.find(|segment| there(*segment))?;
    Some(format!(
        "the archive lacks {missing}: recovery ends there, and the WAL from {next} on, up to {until}, is not replayed"
    ))
}

/// A target that the archive may not reach: PostgreSQL replays everything and then refuses to open.
fn out_of_reach(input: &PlanInput<'_>, way: &Way<'_>) -> Option<String> {
    let then = "PostgreSQL stops with \"recovery ended before configured recovery target was reached\"; without a target the \
                server recovers as far as the archive goes";
    match &input.request.recovery.point {
        TargetPoint::Time(time) => {
            let stored = |(segment, _): (Segment, Lsn)| way.archive.stored.get(&segment.to_string()).copied();
            let last = way.archived().filter_map(stored).max()?;
            let last = last.with_timezone(&time.timezone()).trunc_subsecs(0);
            let said =
                format!("target time {time} is later than the last archived segment, which was stored at {last}");
            (*time > last).then(|| format!("{said}: if there is no later commit, {then}"))
        }
        TargetPoint::Xid(xid) => Some(format!(
            "whether the archive has transaction {xid} is only known once its WAL is read: if not, {then}"
        )),
        TargetPoint::Name(name) => Some(format!(
            "whether the archive has a restore point {name:?} is only known once its WAL is read: if not, {then}"
        )),
        TargetPoint::Immediate if Segment::offset(way.end, way.size) == 0 => {
            let next = Segment::of(way.end, way.own, way.size);
            let there = way.segments.get(&way.own).is_some_and(|have| have.contains(&next));
            let said = format!("the backup ends with a segment, and the archive has no {next}");
            (!there).then(|| format!("{said}: PostgreSQL looks there for the end of the backup, and {then}"))
        }
        TargetPoint::EndOfWal | TargetPoint::Immediate | TargetPoint::Lsn(_) => None,
    }
}

/// The timeline for the settings. A standby has to go on asking for the newest one.
fn written(input: &PlanInput<'_>, way: &Way<'_>) -> TargetTimeline {
    let asked = input.request.recovery.timeline;
    let followed = way.followed();
    match asked {
        TargetTimeline::Default | TargetTimeline::Latest if input.request.purpose == Some(Purpose::Standby) => asked,
        // PostgreSQL refuses a number without a history, except 1.
        _ if followed == way.own && followed > Timeline(1) && !way.archive.ancestry.contains_key(&followed) => {
            TargetTimeline::Current
        }
        TargetTimeline::Current => asked,
        _ => TargetTimeline::Id(followed),
    }
}

fn list(timelines: &[Timeline]) -> String {
    timelines.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, FixedOffset, Utc};

    use super::super::host::HostFacts;
    use super::super::plan::RestoreRequest;
    use super::super::target::RecoveryTarget;
    use super::*;
    use crate::id::Token;
    use crate::model::{BackupInfo, EngineRecord};

    /// Seconds after some moment.
    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    /// An archive of files, each with the second at which it was stored; a history with its text.
    fn archive(segments: &[(&str, i64)], histories: &[(u32, &str, i64)]) -> ArchiveFacts {
        let mut facts = ArchiveFacts { segments: Some(BTreeSet::new()), ..ArchiveFacts::default() };
        for (name, second) in segments {
            let name = format!("{:0>8}{:0>16}", &name[..1], &name[2..]);
            facts.stored.insert(name.clone(), at(*second));
            facts.segments.as_mut().unwrap().insert(name);
        }
        for (number, text, second) in histories {
            let history = TimelineHistory::parse(Timeline(*number), text).unwrap();
            facts.stored.insert(format!("{number:08X}.history"), at(*second));
            facts.ancestry.insert(Timeline(*number), history);
        }
        facts
    }

    /// A backup of timeline 1 from 0/2000028 to 0/2000100.
    fn asked(archive: &ArchiveFacts, recovery: RecoveryTarget, standby: bool) -> Result<Followed> {
        let info = BackupInfo {
            timeline: Some(Timeline(1)),
            begin_xlog: Some(Lsn(0x200_0028)),
            end_xlog: Some(Lsn(0x200_0100)),
            ..BackupInfo::default()
        };
        let wal = WalSource::Catalog { program: vec!["bs".into()], url: "/c".into(), server: "main".into() };
        let mut request = RestoreRequest::new("/new", wal, Token::from_bits(1));
        (request.recovery, request.purpose) = (recovery, standby.then_some(Purpose::Standby));
        follow(&PlanInput {
            backup_id: &"20260529T095900".parse().unwrap(),
            info: &info,
            record: &EngineRecord::new("local", Token::from_bits(1)),
            request: &request,
            host: &HostFacts::default(),
            archive,
            devices: None,
            now: at(1000),
        })
    }

    fn on(timeline: TargetTimeline) -> RecoveryTarget {
        RecoveryTarget { timeline, ..RecoveryTarget::default() }
    }

    fn to(point: TargetPoint) -> RecoveryTarget {
        RecoveryTarget { point, ..RecoveryTarget::default() }
    }

    #[track_caller]
    fn refused(archive: &ArchiveFacts, words: &[&str]) {
        for timeline in [TargetTimeline::Default, TargetTimeline::Latest] {
            let told = asked(archive, on(timeline), false).unwrap_err().chain();
            assert!(words.iter().all(|word| told.contains(word)), "{words:?}: {told}");
        }
    }

    const TWO: &str = "1\t0/4800000\tno recovery target specified\n";

    #[test]
    fn the_number_that_was_seen_is_written_and_a_standby_goes_on_asking() {
        let alone = archive(&[("1 2", 1), ("1 3", 2)], &[]);
        let followed = asked(&alone, RecoveryTarget::default(), false).unwrap();
        assert_eq!(followed, Followed { timeline: TargetTimeline::Id(Timeline(1)), warnings: vec![], gap: None });
        assert_eq!(asked(&alone, RecoveryTarget::default(), true).unwrap().timeline, TargetTimeline::Default);
        let nobody_looked = ArchiveFacts::default();
        let elsewhere = on(TargetTimeline::Id(Timeline(7)));
        assert_eq!(asked(&nobody_looked, elsewhere.clone(), false).unwrap().timeline, elsewhere.timeline);
    }

    #[test]
    fn an_ordinary_failover_is_followed_without_a_word() {
        // The old primary ended within segment 4; the new one has copied that.
        let failover = archive(&[("1 2", 1), ("1 3", 2), ("2 4", 5), ("2 5", 6)], &[(2, TWO, 4)]);
        let followed = asked(&failover, RecoveryTarget::default(), false).unwrap();
        assert_eq!(followed, Followed { timeline: TargetTimeline::Id(Timeline(2)), warnings: vec![], gap: None });
        // It had archived segment 4 before.
        let whole = archive(&[("1 2", 1), ("1 3", 2), ("1 4", 3), ("2 4", 5)], &[(2, TWO, 4)]);
        assert_eq!(asked(&whole, RecoveryTarget::default(), false).unwrap().warnings, Vec::<String>::new());
    }

    #[test]
    fn what_a_dying_primary_had_archived_before_the_failover_is_said() {
        let lost = archive(&[("1 2", 1), ("1 3", 2), ("1 4", 3), ("1 5", 4), ("2 4", 5)], &[(2, TWO, 4)]);
        let followed = asked(&lost, RecoveryTarget::default(), false).unwrap();
        assert_eq!(followed.timeline, TargetTimeline::Id(Timeline(2)));
        let [warning] = followed.warnings.as_slice() else { panic!("{:?}", followed.warnings) };
        assert!(warning.starts_with("timeline 2 branches off from timeline 1 at 0/4800000"), "{warning}");
        assert!(warning.contains("timeline 1 goes on to 0/6000000: 24 MiB"), "{warning}");
    }

    #[test]
    fn an_original_that_goes_on_beside_its_clone_is_for_the_user_to_choose() {
        let clone = archive(&[("1 2", 1), ("1 3", 2), ("1 4", 9), ("2 4", 5)], &[(2, TWO, 4)]);
        refused(
            &clone,
            &[
                "timeline 2 branches off from timeline 1 at 0/4800000; timeline 1 goes on to 0/5000000",
                "8 MiB of WAL would not be replayed",
                "--target-tli 1 or 2",
            ],
        );
        for number in [1, 2] {
            let timeline = TargetTimeline::Id(Timeline(number));
            assert_eq!(asked(&clone, on(timeline), false).unwrap(), Followed { timeline, warnings: vec![], gap: None });
        }
        // Nothing is lost up to where they part.
        for point in [TargetPoint::Lsn(Lsn(0x480_0000)), TargetPoint::Immediate] {
            asked(&clone, to(point), false).unwrap();
        }
        asked(&clone, to(TargetPoint::Lsn(Lsn(0x480_0001))), false).unwrap_err();
        // The clone has left nothing but its history; and stores that have forgotten when what was stored.
        refused(&archive(&[("1 2", 1), ("1 3", 2), ("1 5", 9)], &[(2, TWO, 4)]), &["--target-tli 1 or 2"]);
        let mut timeless = archive(&[("1 2", 1), ("1 5", 2), ("2 4", 5)], &[(2, TWO, 4)]);
        timeless.stored.clear();
        refused(&timeless, &["--target-tli 1 or 2"]);
    }

    #[test]
    fn siblings_are_told_apart_by_who_went_on_last() {
        let three = "1\t0/5000000\tafter the second attempt\n";
        // Recovered twice to some earlier time: the first attempt was given up.
        let again = archive(&[("1 2", 1), ("2 4", 5), ("2 5", 6), ("3 5", 9)], &[(2, TWO, 4), (3, three, 8)]);
        let followed = asked(&again, RecoveryTarget::default(), false).unwrap();
        assert_eq!(followed.timeline, TargetTimeline::Id(Timeline(3)));
        assert!(followed.warnings[0].starts_with("timelines 2 and 3 part at 0/4800000"), "{:?}", followed.warnings);
        let both = archive(&[("1 2", 1), ("2 4", 5), ("2 5", 10), ("3 5", 9)], &[(2, TWO, 4), (3, three, 8)]);
        refused(&both, &["timelines 2 and 3 part at 0/4800000", "--target-tli 2 or 3"]);
        // A clone of before the backup is nobody's business.
        let early = archive(&[("1 2", 1), ("2 2", 9)], &[(2, "1\t0/2000050\tx\n", 4)]);
        let own = asked(&early, on(TargetTimeline::Current), false).unwrap();
        assert_eq!(own, Followed { timeline: TargetTimeline::Current, warnings: vec![], gap: None });
        assert_eq!(asked(&early, to(TargetPoint::Immediate), false).unwrap().timeline, TargetTimeline::Id(Timeline(1)));
    }

    #[test]
    fn histories_that_are_missing_or_contradict_each_other_are_not_guessed() {
        let none = archive(&[("1 2", 1), ("1 3", 2), ("3 4", 5)], &[]);
        refused(&none, &["the archive has WAL of timeline 3, but not 00000003.history", "--target-tli"]);
        let own = asked(&none, on(TargetTimeline::Id(Timeline(1))), false).unwrap();
        assert!(own.warnings[0].contains("00000003.history"), "{:?}", own.warnings);
        // PostgreSQL would stop at timeline 1.
        let three = "1\t0/4800000\tx\n2\t0/5800000\tx\n";
        let hole = archive(&[("1 2", 1), ("1 3", 2), ("3 5", 9)], &[(3, three, 8)]);
        refused(&hole, &["the archive has timeline 3, but not 00000002.history"]);
        let liar = "1\t0/4000000\tx\n2\t0/5800000\tx\n";
        let both = archive(&[("1 2", 1), ("2 4", 5), ("3 5", 9)], &[(2, TWO, 4), (3, liar, 8)]);
        refused(&both, &["the histories of timelines 2 and 3 contradict each other", "--target-tli"]);
        let other = asked(&both, on(TargetTimeline::Id(Timeline(2))), false).unwrap();
        assert!(other.warnings[0].contains("contradict each other"), "{:?}", other.warnings);
    }

    #[test]
    fn a_hole_in_the_wal_ends_the_recovery_and_is_said() {
        let hole = archive(&[("1 2", 1), ("1 3", 2), ("1 5", 4)], &[]);
        let [warning] = &asked(&hole, RecoveryTarget::default(), false).unwrap().warnings[..] else { panic!() };
        assert!(warning.starts_with("the archive lacks 000000010000000000000004: recovery ends there"), "{warning}");
    }

    #[test]
    fn a_target_that_the_archive_may_not_reach_is_said() {
        let facts = archive(&[("1 2", 1), ("1 3", 20)], &[]);
        let said = |point| asked(&facts, to(point), false).unwrap().warnings;
        let time = |second| TargetPoint::Time(at(second).with_timezone(&FixedOffset::east_opt(7200).unwrap()));
        assert_eq!(said(time(19)), Vec::<String>::new());
        let [late] = &said(time(21))[..] else { panic!() };
        assert!(late.contains("later than the last archived segment") && late.contains("without a target"), "{late}");
        for point in [TargetPoint::Xid(800), TargetPoint::Name("before the release".into())] {
            assert!(said(point)[0].contains("recovery ended before configured recovery target"));
        }
    }
}
