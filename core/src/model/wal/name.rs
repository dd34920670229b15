//! The names of files in `pg_wal` and in a WAL archive.
//!
//! Hex digits are read in either case and written in upper case, as PostgreSQL writes them. An object of an archive may
//! have one compression suffix behind its name.

use std::fmt;
use std::str::FromStr;

use super::{Segment, Timeline};
use crate::error::{Error, Result};

/// The name of a WAL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    /// `000000010000000000000009`
    Segment(Segment),
    /// `000000010000000000000009.partial`: the last segment of a timeline that was left.
    Partial(Segment),
    /// `000000010000000000000009.00000028.backup`: when and where a backup was taken.
    Backup {
        /// The segment in which the backup began.
        segment: Segment,
        /// Where in it.
        offset: u32,
    },
    /// `00000002.history`: where a timeline comes from.
    History(Timeline),
}

impl WalName {
    /// The segment that the name has in it.
    pub const fn segment(self) -> Option<Segment> {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Backup { segment, .. } => Some(segment),
            Self::History(_) => None,
        }
    }

    /// The timeline.
    pub const fn timeline(self) -> Timeline {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Backup { segment, .. } => segment.timeline,
            Self::History(timeline) => timeline,
        }
    }

    /// The directory of Barman's archive in which it lies; none for history files, which lie at the top.
    pub fn directory(self) -> Option<String> {
        self.segment().map(Segment::directory)
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => segment.fmt(f),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::Backup { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.0),
        }
    }
}

impl FromStr for WalName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("not the name of a WAL file: {text:?}"))
                .with_hint("it looks like 000000010000000000000009")
        };
        let (base, rest) = text.split_once('.').map_or((text, None), |(base, rest)| (base, Some(rest)));
        match rest {
            None => segment(base).map(Self::Segment),
            Some("partial") => segment(base).map(Self::Partial),
            Some("history") => timeline(base).map(Self::History),
            Some(rest) => rest
                .strip_suffix(".backup")
                .and_then(|offset| Some(Self::Backup { segment: segment(base)?, offset: hex(offset)? })),
        }
        .ok_or_else(bad)
    }
}

/// Exactly eight hex digits.
fn hex(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn timeline(text: &str) -> Option<Timeline> {
    hex(text).filter(|number| *number > 0).map(Timeline)
}

fn segment(text: &str) -> Option<Segment> {
    let part = |at: usize| text.get(at..at + 8);
    let segment = Segment { timeline: timeline(part(0)?)?, log: hex(part(8)?)?, seg: hex(part(16)?)? };
    (text.len() == 24).then_some(segment)
}

/// How an object of the archive is compressed, by its suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Compression {
    Gzip,
    Bzip2,
    Xz,
    Snappy,
    Zstd,
    Lz4,
}

impl Compression {
    /// Every compression.
    pub const ALL: [Self; 6] = [Self::Gzip, Self::Bzip2, Self::Xz, Self::Snappy, Self::Zstd, Self::Lz4];

    /// The suffix, with its dot.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Bzip2 => ".bz2",
            Self::Xz => ".xz",
            Self::Snappy => ".snappy",
            Self::Zstd => ".zst",
            Self::Lz4 => ".lz4",
        }
    }

    /// The name of a file and its compression, by the one suffix that is recognised.
    pub fn split(name: &str) -> (&str, Option<Self>) {
        let found = Self::ALL.into_iter().find_map(|kind| Some((name.strip_suffix(kind.suffix())?, Some(kind))));
        found.unwrap_or((name, None))
    }
}

/// An object of a WAL archive: a WAL file, maybe compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalObject {
    /// The WAL file.
    pub name: WalName,
    /// How it is compressed.
    pub compression: Option<Compression>,
}

impl fmt::Display for WalObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.compression.map_or("", Compression::suffix))
    }
}

impl FromStr for WalObject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, compression) = Compression::split(text);
        Ok(Self { name: name.parse()?, compression })
    }
}
