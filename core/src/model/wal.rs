//! WAL positions, timelines, segments and the names of WAL files.
//!
//! A position is a byte address; a segment is the file that holds it. Two rules name the segment of a position that lies
//! exactly between two: [`Segment::of`] takes the later one (so `backup.info` has it: the next segment with offset 0),
//! [`Segment::before`] the earlier one (what has to be archived when all WAL *up to* that position is needed).
//!
//! The size of a segment is a parameter everywhere: nothing here assumes 16 MiB.

mod name;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

pub use name::{Compression, WalName, WalObject};

/// A position in the WAL, written `X/X` (PostgreSQL: `pg_lsn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

/// A timeline, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Timeline(pub u32);

/// The size of a WAL segment: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// PostgreSQL's default, 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// A size in bytes.
    pub fn new(bytes: u64) -> Result<Self> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(Error::corrupt(format!("not a WAL segment size: {bytes}"))
                .with_hint("a power of two from 1 MiB to 1 GiB"))
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// How many segments make 4 GiB, which is one number in the middle of a segment's name.
    pub const fn per_log(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl Timeline {
    /// A timeline.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for 0, which PostgreSQL does not use.
    pub fn new(number: u32) -> Result<Self> {
        if number == 0 { Err(Error::invalid("not a timeline: 0")) } else { Ok(Self(number)) }
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = Error;

    fn try_from(bytes: u64) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let half = |part: &str| {
            let hex = (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| Error::invalid(format!("not a WAL position: {text:?}")).with_hint("it looks like 0/9000028"))
    }
}

impl TryFrom<String> for Lsn {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

/// A WAL segment: one file of the WAL of one timeline. Sorted as PostgreSQL's names sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The timeline whose WAL it is.
    pub timeline: Timeline,
    /// The upper half of its positions.
    pub log: u32,
    /// Its number within that.
    pub seg: u32,
}

impl Segment {
    /// The segment in which the byte at `lsn` lies. At a boundary that is the segment which begins there.
    pub const fn of(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        let number = lsn.0 / size.bytes();
        Self { timeline, log: (number / size.per_log()) as u32, seg: (number % size.per_log()) as u32 }
    }

    /// The segment in which the byte before `lsn` lies: the last one that is needed to have all WAL up to `lsn`.
    pub const fn before(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        Self::of(Lsn(lsn.0.saturating_sub(1)), timeline, size)
    }

    /// How far `lsn` lies within its segment.
    pub const fn offset(lsn: Lsn, size: SegmentSize) -> u64 {
        lsn.0 % size.bytes()
    }

    /// Whether a server with this segment size has such a segment. A name alone does not tell.
    pub const fn fits(self, size: SegmentSize) -> bool {
        (self.seg as u64) < size.per_log()
    }

    /// The position at which it begins.
    pub const fn start(self, size: SegmentSize) -> Lsn {
        Lsn(((self.log as u64) << 32).wrapping_add(self.seg as u64 * size.bytes()))
    }

    /// The next segment of the timeline; none after the very last.
    #[must_use]
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        let start = self.start(size).0.checked_add(size.bytes())?;
        Some(Self::of(Lsn(start), self.timeline, size))
    }

    /// The previous segment of the timeline; none before the first.
    #[must_use]
    pub fn previous(self, size: SegmentSize) -> Option<Self> {
        let start = self.start(size).0.checked_sub(size.bytes())?;
        Some(Self::of(Lsn(start), self.timeline, size))
    }

    /// All segments from this to `last`, both included; none if `last` comes before or is of another timeline.
    pub fn through(self, last: Self, size: SegmentSize) -> impl Iterator<Item = Self> + use<> {
        let first = (self.timeline == last.timeline && self <= last).then_some(self);
        std::iter::successors(first, move |at| at.next(size).filter(|next| *next <= last))
    }

    /// The segments that are needed to have all WAL from `begin` up to `stop`, on one timeline: those of a backup that
    /// began and stopped there. At least the one that `begin` lies in.
    pub fn needed(begin: Lsn, stop: Lsn, timeline: Timeline, size: SegmentSize) -> impl Iterator<Item = Self> + use<> {
        let first = Self::of(begin, timeline, size);
        let last = Self::before(stop, timeline, size).max(first);
        first.through(last, size)
    }

    /// The directory of Barman's archive in which it lies: timeline and log, 16 hex digits.
    pub fn directory(self) -> String {
        format!("{:08X}{:08X}", self.timeline.0, self.log)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.seg)
    }
}

impl FromStr for Segment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse()? {
            WalName::Segment(segment) => Ok(segment),
            _ => Err(Error::invalid(format!("not the name of a WAL segment: {text:?}"))),
        }
    }
}
