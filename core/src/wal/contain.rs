//! Keeping what WAL creates inside the data directory into which it is replayed. Pure.
//!
//! `CREATE TABLESPACE` is the one thing in WAL that names a path: replayed as it is, it makes the server write to the place
//! that the original has there. On the host of the original that is the *live* directory of the original; anywhere else it
//! is missing, and recovery stops. So a restored server is handed WAL in which that path is empty, which PostgreSQL takes for a
//! tablespace *in place*: a directory `pg_tblspc/<oid>` inside the data directory (`tblspc_redo`,
//! `create_tablespace_directories`; 15 and later, 14.5, 13.8). To replay it needs no setting; to become consistent with it there, the
//! server needs `allow_in_place_tablespaces`, which a restore sets.
//!
//! # The invariants
//! * Nothing but the path and the checksum of such a record is changed, and no record moves.
//! * Only what is certainly such a record is changed: PostgreSQL does not replay one with a wrong checksum.
//! * What is such a record and cannot be changed is an error. It is never handed out as it is.

use std::fmt;
use std::str::FromStr;

use crc::{CRC_32_ISCSI, Crc};
use serde::{Deserialize, Serialize};

use super::records::{HEADER, Kind, Pages};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Lsn;

/// Where tablespaces go that the WAL creates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewTablespaces {
    /// Where the original has them, as PostgreSQL does it: for a standby on a host of its own.
    #[default]
    Original,
    /// Into the data directory, as `pg_tblspc/<oid>`.
    Inside,
}

impl NewTablespaces {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Original, Self::Inside];

    /// As an option has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Inside => "inside",
        }
    }
}

impl fmt::Display for NewTablespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NewTablespaces {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
            Error::invalid(format!("not a place for new tablespaces: {text:?}")).with_hint("inside or original")
        })
    }
}

/// A `CREATE TABLESPACE` in the WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTablespace {
    /// Its oid.
    pub oid: u32,
    /// Where the original has it; not empty.
    pub location: String,
    /// The position of its record.
    pub position: Lsn,
}

/// CRC-32C, as PostgreSQL has it.
static CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// `RM_TBLSPC_ID`
const TABLESPACE: u8 = 5;
/// The bits of `xl_info` that are the resource manager's; 0 of them is `XLOG_TBLSPC_CREATE`.
const OPERATION: u8 = 0xF0;
/// No record of a tablespace is longer: a path has less than 1024 bytes (`MAXPGPATH`), and there is nothing else of any length.
const LONGEST: u32 = 1 << 16;
/// The same, to tell quickly what cannot be one.
const LONGEST_STOCK: usize = 1100;

const fn is_create(kind: Kind) -> bool {
    kind.manager == TABLESPACE && kind.info & OPERATION == 0
}

/// Where in its record a path lies, and whose it is.
struct Create {
    oid: u32,
    path: std::ops::Range<usize>,
}

/// Makes the path empty in every `CREATE TABLESPACE` that lies in the segment, and tells which they were. What is begun in this
/// segment and ends in the next is left alone: [`spanning`] is for that.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) if these are not the bytes of a segment, [`Unsupported`](ErrorKind::Unsupported) for a
/// record that looks like no version of PostgreSQL writes it.
pub fn contain(segment: &mut [u8]) -> Result<Vec<NewTablespace>> {
    let pages = Pages::new(segment)?;
    let (mut found, mut changes) = (Vec::new(), Vec::new());
    for record in pages.records() {
        if !record.complete || record.length > LONGEST || !record.kind.is_some_and(is_create) {
            continue;
        }
        let mut bytes = pages.copy(&record);
        let position = Lsn(pages.position(record.at));
        let Some(create) = read(&pages, &bytes, position)? else { continue };
        let location = text(&bytes, &create);
        if location.is_empty() {
            continue;
        }
        bytes.get_mut(create.path).unwrap_or_default().fill(0);
        let checksum = pages.bytes_of(checksum(&bytes));
        bytes.get_mut(CHECKSUM).unwrap_or_default().copy_from_slice(&checksum);
        changes.push((pages.places(&record), bytes));
        found.push(NewTablespace { oid: create.oid, location, position });
    }
    for (places, bytes) in changes {
        let mut rest = bytes.as_slice();
        for place in places {
            let (here, behind) = rest.split_at_checked(place.len()).unwrap_or((rest, &[]));
            segment.get_mut(place).unwrap_or_default().copy_from_slice(here);
            rest = behind;
        }
    }
    Ok(found)
}

/// True if the segment may begin with the end of a `CREATE TABLESPACE`, whose beginning is in the segment before. That one has
/// to be asked then ([`spanning`]), which costs; so as much as can be is told from the end alone.
///
/// # Errors
/// As [`contain`].
pub fn may_begin_inside(segment: &[u8]) -> Result<bool> {
    let pages = Pages::new(segment)?;
    Ok(pages.rest_of_the_record_before().is_some_and(|rest| may_be_the_end(&pages, &rest)))
}

/// True if `rest` may be what is left of such a record behind its first 8, 16, 24, 32 … bytes.
fn may_be_the_end(pages: &Pages<'_>, rest: &[u8]) -> bool {
    let Some((0, path)) = rest.split_last() else { return false };
    let header = |at: usize| {
        let kind = rest.get(at..).and_then(|bytes| bytes.first_chunk::<4>());
        kind.is_some_and(|[info, manager, pad @ ..]| {
            is_create(Kind { manager: *manager, info: *info }) && *pad == [0, 0]
        })
    };
    // Between the header and the path stand at most the origin, the transaction, the length and the oid.
    let behind_the_header = || match path.first() {
        Some(255) => path.get(1).is_some_and(|length| usize::from(*length) + 2 == rest.len()),
        Some(254) => {
            let length = path.get(1..).and_then(|bytes| bytes.first_chunk()).map(|bytes| pages.number(*bytes) as usize);
            length.and_then(|length| length.checked_add(5)) == Some(rest.len())
        }
        Some(252 | 253) => true,
        _ => false,
    };
    let in_the_path = || path.iter().skip(9).all(|byte| *byte != 0);
    rest.len() <= LONGEST_STOCK
        && path.last() != Some(&0)
        && (header(8) || header(0) || behind_the_header() || in_the_path())
}

/// The `CREATE TABLESPACE` that begins in one segment and ends in the next, if there is one.
///
/// # Errors
/// As [`contain`].
pub fn spanning(segment: &[u8], next: &[u8]) -> Result<Option<NewTablespace>> {
    let pages = Pages::new(segment)?;
    let Some(record) = pages.records().last().filter(|record| !record.complete && record.length <= LONGEST) else {
        return Ok(None);
    };
    let mut bytes = pages.copy(&record);
    bytes.extend(Pages::new(next)?.rest_of_the_record_before().unwrap_or_default());
    let kind = |bytes: &[u8]| Some(Kind { manager: *bytes.get(17)?, info: *bytes.get(16)? });
    if bytes.len() != record.length as usize || !kind(&bytes).is_some_and(is_create) {
        return Ok(None);
    }
    let position = Lsn(pages.position(record.at));
    let create = read(&pages, &bytes, position)?;
    let found = create.map(|create| NewTablespace { oid: create.oid, location: text(&bytes, &create), position });
    Ok(found.filter(|one| !one.location.is_empty()))
}

/// Where `xl_crc` stands in a record.
const CHECKSUM: std::ops::Range<usize> = 20..24;

/// The checksum that a record should have: first what it carries, then its header.
fn checksum(record: &[u8]) -> u32 {
    let mut digest = CASTAGNOLI.digest();
    digest.update(record.get(HEADER..).unwrap_or_default());
    digest.update(record.get(..CHECKSUM.start).unwrap_or_default());
    digest.finalize()
}

/// Reads a whole record of that kind; `None` if its checksum is wrong, so that PostgreSQL ends there.
fn read(pages: &Pages<'_>, record: &[u8], position: Lsn) -> Result<Option<Create>> {
    let Some(stored) = record.get(CHECKSUM).and_then(|bytes| bytes.first_chunk()) else { return Ok(None) };
    if pages.number(*stored) != checksum(record) {
        return Ok(None);
    }
    let odd = || {
        Error::new(
            ErrorKind::Unsupported,
            format!("the WAL at {position} creates a tablespace in a way that is not known"),
        )
        .with_hint(
            "it cannot be kept inside the data directory; recover to a point before it, or fetch the WAL with \
                 --new-tablespaces original on a host where that path is nobody else's",
        )
    };
    let data = main_data(pages, record).ok_or_else(odd)?;
    let path = data.start + 4..data.end;
    let oid = record.get(data).and_then(|data| data.first_chunk()).map(|bytes| pages.number(*bytes)).ok_or_else(odd)?;
    match record.get(path.clone()).and_then(|path| path.last()) {
        Some(0) => Ok(Some(Create { oid, path })),
        _ => Err(odd()),
    }
}

/// Where the main data of a record without blocks lie (`DecodeXLogRecord` in `access/transam/xlogreader.c`).
fn main_data(pages: &Pages<'_>, record: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut at = HEADER;
    let (start, length) = loop {
        let id = *record.get(at)?;
        at += 1;
        match id {
            // XLR_BLOCK_ID_DATA_SHORT and _LONG: the length of the main data, which is always last.
            255 => break (at + 1, usize::from(*record.get(at)?)),
            254 => break (at + 4, pages.number(*record.get(at..)?.first_chunk()?) as usize),
            // XLR_BLOCK_ID_ORIGIN
            253 => at += 2,
            // XLR_BLOCK_ID_TOPLEVEL_XID
            252 => at += 4,
            _ => return None,
        }
    };
    let data = start..record.len();
    (data.len() == length && length > 4).then_some(data)
}

/// The path, up to its end.
fn text(record: &[u8], create: &Create) -> String {
    let path = record.get(create.path.clone()).unwrap_or_default();
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(path).into_owned()
}
