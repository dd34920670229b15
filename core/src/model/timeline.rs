//! Timeline history files: where a timeline comes from, and so which WAL files a restore across timelines needs.
//!
//! A history file has one line per ancestor: its number, the position at which it was left, and why. Up to that position
//! the WAL is the ancestor's, from there on that of the next line or, behind the last line, of the timeline itself.
//! PostgreSQL copies the segment in which it switches into the new timeline, so the file of the new timeline holds the
//! bytes before the switch too (PostgreSQL manual, "Timelines"; `timeline.c`).

use super::wal::{Lsn, Segment, SegmentSize, Timeline};
use crate::error::{Error, Result};

/// The history of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: Timeline,
    ancestors: Vec<Ancestor>,
}

/// A line of a history file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// The first position that is no longer its.
    pub switch: Lsn,
    /// Why, for people.
    pub reason: String,
}

impl TimelineHistory {
    /// The longest file that is read: 1 MiB, thousands of switches.
    pub const MAX_BYTES: usize = 1 << 20;

    /// The history of a timeline without a file, as timeline 1 is.
    pub const fn root(timeline: Timeline) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the history file of `timeline`. Blank lines and lines that begin with `#` are comments.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for what PostgreSQL would refuse: other lines, and timelines that do not
    /// ascend towards `timeline`; also for positions that go backwards.
    pub fn read(timeline: Timeline, bytes: &[u8]) -> Result<Self> {
        // The reason of a switch can be the name of a restore point, in the encoding of whoever made it. Only people read it.
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(Self::MAX_BYTES + 1)]);
        Self::lines(timeline, &text, bytes.len())
    }

    /// The same of a text.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self> {
        Self::lines(timeline, text, text.len())
    }

    fn lines(timeline: Timeline, text: &str, length: usize) -> Result<Self> {
        let bad = |what: String| Error::corrupt(format!("history file of timeline {timeline}: {what}"));
        if length > Self::MAX_BYTES {
            return Err(bad(format!("{length} bytes are too many")));
        }
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = ancestor(line).ok_or_else(|| bad(format!("line {} is not understood: {line:?}", at + 1)))?;
            if let Some(last) = ancestors.last().filter(|last| entry.timeline <= last.timeline) {
                return Err(bad(format!("timeline {} stands after {}", entry.timeline, last.timeline)));
            }
            if let Some(last) = ancestors.last().filter(|last| entry.switch < last.switch) {
                return Err(bad(format!("position {} stands after {}", entry.switch, last.switch)));
            }
            ancestors.push(entry);
        }
        if let Some(last) = ancestors.last().filter(|last| last.timeline >= timeline) {
            return Err(bad(format!("timeline {} cannot be its ancestor", last.timeline)));
        }
        Ok(Self { timeline, ancestors })
    }

    /// The timeline whose history this is.
    pub const fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// The lines, oldest first.
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// The timeline to which the byte at `lsn` belongs.
    pub fn timeline_of(&self, lsn: Lsn) -> Timeline {
        let left = self.ancestors.iter().find(|ancestor| lsn < ancestor.switch);
        left.map_or(self.timeline, |ancestor| ancestor.timeline)
    }

    /// True if a backup of `timeline` that stopped at `stop` can be brought onto this timeline: its last byte lies on
    /// the way here.
    pub fn reaches(&self, timeline: Timeline, stop: Lsn) -> bool {
        timeline == self.timeline
            || self.ancestors.iter().any(|ancestor| ancestor.timeline == timeline && stop <= ancestor.switch)
    }

    /// The segments that are needed for all WAL from `begin` up to `stop` on the way to this timeline, in order. In the
    /// segment of a switch it is the file of the timeline to which the last needed byte belongs; that has all before it.
    pub fn needed(&self, begin: Lsn, stop: Lsn, size: SegmentSize) -> impl Iterator<Item = Segment> {
        Segment::needed(begin, stop, self.timeline, size).map(move |segment| {
            let start = segment.start(size).0;
            // Without the last byte of the address space: saturating is enough there.
            let end = start.saturating_add(size.bytes()).min(stop.0).max(start + 1);
            Segment { timeline: self.timeline_of(Lsn(end - 1)), ..segment }
        })
    }

    /// The files in which PostgreSQL would look for a segment on the way to this timeline, in its order: the newest
    /// timeline that had begun by then first. Only the first that exists is read.
    pub fn candidates(&self, segment: Segment, size: SegmentSize) -> Vec<Segment> {
        let place = |timeline| Segment { timeline, ..segment };
        let begins = std::iter::once(Lsn(0)).chain(self.ancestors.iter().map(|ancestor| ancestor.switch));
        let timelines = self.ancestors.iter().map(|ancestor| ancestor.timeline).chain([self.timeline]);
        let mut found: Vec<Segment> = begins
            .zip(timelines)
            .filter(|(begin, timeline)| Segment::of(*begin, *timeline, size) <= place(*timeline))
            .map(|(_, timeline)| place(timeline))
            .collect();
        found.reverse();
        found
    }
}

/// `1<tab>0/3000158<tab>no recovery target specified`
fn ancestor(line: &str) -> Option<Ancestor> {
    let (timeline, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (switch, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let timeline = Timeline::new(timeline.parse().ok()?).ok()?;
    Some(Ancestor { timeline, switch: switch.parse().ok()?, reason: reason.trim().to_owned() })
}
