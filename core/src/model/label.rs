//! `backup_label` and `tablespace_map`, as `pg_backup_stop` returns them.
//!
//! PostgreSQL cannot recover from a backup without exactly these bytes, so the text that was read is kept and is what a
//! restore writes; the fields beside it are for our own decisions and for people. The one change that is ever made is to
//! the paths of a tablespace map, when tablespaces are put elsewhere.

use std::collections::BTreeMap;

use super::wal::{Lsn, Segment, Timeline};
use crate::error::{Error, Result};

/// More than PostgreSQL itself would write.
const MAX_BYTES: usize = 1 << 20;

/// What a `backup_label` says. Lines that are not known are left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    text: String,
    /// `START WAL LOCATION`: where recovery begins to read.
    pub start: Lsn,
    /// The segment that this line names.
    pub segment: Segment,
    /// `CHECKPOINT LOCATION`.
    pub checkpoint: Lsn,
    /// `BACKUP METHOD`: `streamed` for every backup of these days.
    pub method: Option<String>,
    /// `BACKUP FROM`.
    pub source: Option<BackupSource>,
    /// `START TIME`, in the words of the server: a zone may be named by letters that are ambiguous.
    pub start_time: Option<String>,
    /// `LABEL`.
    pub label: Option<String>,
    /// `START TIMELINE`, from PostgreSQL 11 on.
    pub timeline: Option<Timeline>,
    /// `INCREMENTAL FROM LSN`: the backup cannot be started without those before it (PostgreSQL 17).
    pub incremental_from: Option<Lsn>,
    /// `INCREMENTAL FROM TLI`.
    pub incremental_from_timeline: Option<Timeline>,
}

/// The kind of server that a backup was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackupSource {
    /// `primary`
    Primary,
    /// `standby`
    Standby,
}

impl BackupLabel {
    /// Reads a label.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if PostgreSQL would refuse it: the first two lines must be there, and a
    /// timeline that contradicts the name of the segment must not.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: String| Error::corrupt(format!("backup_label: {what}"));
        if text.len() > MAX_BYTES {
            return Err(bad(format!("{} bytes are too many", text.len())));
        }
        let lines: BTreeMap<&str, &str> = text.lines().rev().filter_map(|line| line.split_once(": ")).collect();
        let value = |key: &str| lines.get(key).map(|value| value.trim_end());
        let (start, segment) = value("START WAL LOCATION")
            .and_then(start_location)
            .ok_or_else(|| bad("no START WAL LOCATION that can be read".to_owned()))?;
        let checkpoint = value("CHECKPOINT LOCATION")
            .and_then(|lsn| lsn.parse().ok())
            .ok_or_else(|| bad("no CHECKPOINT LOCATION that can be read".to_owned()))?;
        let timeline = value("START TIMELINE").map(timeline_number).transpose()?;
        if let Some(other) = timeline.filter(|timeline| *timeline != segment.timeline) {
            return Err(bad(format!("START TIMELINE is {other}, but the segment is {segment}")));
        }
        Ok(Self {
            text: text.to_owned(),
            start,
            segment,
            checkpoint,
            method: value("BACKUP METHOD").map(str::to_owned),
            source: match value("BACKUP FROM") {
                Some("primary") => Some(BackupSource::Primary),
                Some("standby") => Some(BackupSource::Standby),
                _ => None,
            },
            start_time: value("START TIME").map(str::to_owned),
            label: value("LABEL").map(str::to_owned),
            timeline,
            incremental_from: value("INCREMENTAL FROM LSN").map(str::parse).transpose()?,
            incremental_from_timeline: value("INCREMENTAL FROM TLI").map(timeline_number).transpose()?,
        })
    }

    /// The label as it was read, byte for byte.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// `0/9000028 (file 000000010000000000000009)`
fn start_location(value: &str) -> Option<(Lsn, Segment)> {
    let (lsn, file) = value.split_once(" (file ")?;
    Some((lsn.parse().ok()?, file.strip_suffix(')')?.parse().ok()?))
}

fn timeline_number(text: &str) -> Result<Timeline> {
    text.parse()
        .ok()
        .and_then(|number| Timeline::new(number).ok())
        .ok_or_else(|| Error::corrupt(format!("backup_label: not a timeline: {text:?}")))
}

/// A `tablespace_map`: the links in `pg_tblspc` that recovery makes, one `oid path` per line.
///
/// A backslash stands before a line break or a backslash that belongs to the path.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TablespaceMap {
    text: String,
    entries: Vec<(u32, String)>,
}

impl TablespaceMap {
    /// Reads a map; an empty text is a map without tablespaces.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for what PostgreSQL refuses, and for an oid that comes twice.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: String| Error::corrupt(format!("tablespace_map: {what}"));
        if text.len() > MAX_BYTES {
            return Err(bad(format!("{} bytes are too many", text.len())));
        }
        let mut entries: Vec<(u32, String)> = Vec::new();
        let (mut line, mut escaped) = (String::new(), false);
        for c in text.chars() {
            match c {
                '\n' | '\r' if !escaped => {
                    // An empty line is the second half of a Windows line end.
                    if !line.is_empty() {
                        let entry = entry(&line).ok_or_else(|| bad(format!("not an oid and a path: {line:?}")))?;
                        if entries.iter().any(|(oid, _)| *oid == entry.0) {
                            return Err(bad(format!("oid {} comes twice", entry.0)));
                        }
                        entries.push(entry);
                        line.clear();
                    }
                }
                '\\' if !escaped => escaped = true,
                '\0' => return Err(bad("a zero byte".to_owned())),
                c => {
                    line.push(c);
                    escaped = false;
                }
            }
        }
        if !line.is_empty() || escaped {
            return Err(bad(format!("the last line does not end: {line:?}")));
        }
        Ok(Self { text: text.to_owned(), entries })
    }

    /// The oids and paths, in the order of the file.
    pub fn entries(&self) -> &[(u32, String)] {
        &self.entries
    }

    /// The map as a file: byte for byte what was read, or, after [`relocate`](Self::relocate) has changed a path, as
    /// PostgreSQL would have written it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The map with other paths for some oids.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an oid that the map does not have, and for a path that is not
    /// absolute.
    pub fn relocate(&self, paths: &BTreeMap<u32, String>) -> Result<Self> {
        if let Some(oid) = paths.keys().find(|oid| !self.entries.iter().any(|(known, _)| known == *oid)) {
            return Err(Error::invalid(format!("the backup has no tablespace with oid {oid}")));
        }
        if let Some((oid, path)) = paths.iter().find(|(_, path)| !path.starts_with('/') || path.contains('\0')) {
            return Err(Error::invalid(format!("tablespace {oid} needs an absolute path, not {path:?}")));
        }
        let mut map = self.clone();
        for (oid, path) in &mut map.entries {
            if let Some(new) = paths.get(oid) {
                path.clone_from(new);
            }
        }
        if map.entries != self.entries {
            map.text = write_map(&map.entries);
        }
        Ok(map)
    }

    /// The map without some oids.
    #[must_use]
    pub fn without(mut self, unwanted: impl Fn(u32) -> bool) -> Self {
        let before = self.entries.len();
        self.entries.retain(|(oid, _)| !unwanted(*oid));
        if self.entries.len() != before {
            self.text = write_map(&self.entries);
        }
        self
    }
}

fn entry(line: &str) -> Option<(u32, String)> {
    let (oid, path) = line.split_once(' ')?;
    let digits = oid.bytes().all(|byte| byte.is_ascii_digit()) && !path.is_empty();
    digits.then(|| Some((oid.parse().ok()?, path.to_owned()))).flatten()
}

fn write_map(entries: &[(u32, String)]) -> String {
    let mut text = String::new();
    for (oid, path) in entries {
        text.push_str(&format!("{oid} "));
        for c in path.chars() {
            if matches!(c, '\n' | '\r' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('\n');
    }
    text
}
