//! The records of a WAL segment, in the order in which PostgreSQL replays them. Pure.
//!
//! What it is: the walk from one record to the next, over the pages of one segment (`XLogRecord` in `access/xlogrecord.h`,
//! `XLogPageHeaderData` in `access/xlog_internal.h`; the same in PostgreSQL 13 to 18), in the byte order of the server. What
//! it is not: a decoder, and no judge. Where a record lies, how long it is and whose it is, that is all.
//!
//! # The invariant
//! No record that PostgreSQL could replay from this segment is left out. So the walk is never stricter than PostgreSQL is:
//! checksums, links to the record before and numbers of resource managers are not looked at, and where PostgreSQL would
//! stop, the walk goes on at the next page that belongs here (a server that starts to read behind that place would).
//! Pages of another position, left by a segment that was recycled, do not belong here.

use std::ops::Range;

use super::header::{SegmentHeader, is_magic};
use crate::error::{Error, Result};

/// Bytes of `XLogRecord`, with which each record begins.
pub const HEADER: usize = 24;
/// Records begin at multiples of this (`MAXIMUM_ALIGNOF`).
const ALIGNMENT: usize = 8;
/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
const CONTINUED: u16 = 0x0001;
/// `XLP_LONG_HEADER`
const LONG: u16 = 0x0002;
const SHORT_PAGE_HEADER: usize = 24;
const LONG_PAGE_HEADER: usize = 40;
/// The sizes of pages with which PostgreSQL can be built (`--with-wal-blocksize`).
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1024..=65536;

/// A record that begins in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins in the segment.
    pub at: usize,
    /// How long it is, without the page headers in between.
    pub length: u32,
    /// True if it ends in this segment.
    pub complete: bool,
    /// To which resource manager it belongs, and the flags of it; `None` if its header goes on in the next segment.
    pub kind: Option<Kind>,
}

/// What a record is, for its resource manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `xl_rmid`
    pub manager: u8,
    /// `xl_info`
    pub info: u8,
}

/// The pages of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    bytes: &'a [u8],
    start: u64,
    size: usize,
    big_endian: bool,
}

/// How the bytes of a record end.
enum Followed {
    /// In this segment, before this place.
    Ends(usize),
    /// In the next one.
    GoesOn,
    /// Never: the page at this place should have the rest and has not. A crash cut it off (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`),
    /// or the WAL ends here.
    Lost(usize),
}

struct Page {
    /// Where its records begin.
    data: usize,
    /// How much of a record of the page before is left, if it begins with one.
    rest: Option<u32>,
}

impl<'a> Pages<'a> {
    /// The pages of a segment, of which the first has to be there.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if these are not the first bytes of a segment.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let header = SegmentHeader::parse(bytes)?;
        let mut pages = Self { bytes, start: header.position.0, size: 0, big_endian: false };
        // The header has been understood in one of the two orders.
        pages.big_endian = !is_magic(pages.u16(0));
        let size = pages.u32(SHORT_PAGE_HEADER + 12);
        if !(PAGE_SIZES.contains(&size) && size.is_power_of_two()) {
            return Err(Error::corrupt(format!("not a WAL segment: its pages would have {size} bytes")));
        }
        pages.size = size as usize;
        Ok(pages)
    }

    /// The records that begin in the segment.
    pub fn records(self) -> Records<'a> {
        Records { pages: self, next: self.first_from(0) }
    }

    /// Where the bytes of a record lie: those that are in this segment.
    pub fn places(&self, record: &Record) -> Vec<Range<usize>> {
        let mut places = Vec::new();
        self.follow(record.at, record.length, &mut |place| places.push(place));
        places
    }

    /// The bytes of a record: those that are in this segment.
    pub fn copy(&self, record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.follow(record.at, record.length, &mut |place| bytes.extend_from_slice(self.slice(place)));
        bytes
    }

    /// The bytes at the start of the segment that belong to a record of the segment before, if they end here.
    pub fn rest_of_the_record_before(&self) -> Option<Vec<u8>> {
        let page = self.page(0)?;
        let mut rest = Vec::new();
        match self.follow(page.data, page.rest?, &mut |place| rest.extend_from_slice(self.slice(place))) {
            Followed::Ends(_) => Some(rest),
            Followed::GoesOn | Followed::Lost(_) => None,
        }
    }

    /// The position of a place of the segment.
    pub const fn position(&self, at: usize) -> u64 {
        self.start.wrapping_add(at as u64)
    }

    fn slice(&self, place: Range<usize>) -> &'a [u8] {
        self.bytes.get(place).unwrap_or_default()
    }

    /// Two bytes as a number; 0 where there are none.
    fn u16(&self, at: usize) -> u16 {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    /// Four bytes as a number; 0 where there are none.
    fn u32(&self, at: usize) -> u32 {
        self.number(self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default())
    }

    /// A number of four bytes as this server writes it.
    pub(super) const fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// The bytes of a number as this server writes it.
    pub(super) const fn bytes_of(&self, number: u32) -> [u8; 4] {
        if self.big_endian { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    /// The page at `at`, if it belongs there.
    fn page(&self, at: usize) -> Option<Page> {
        let header = self.bytes.get(at..at.checked_add(SHORT_PAGE_HEADER)?)?;
        let address = header.get(8..16)?.first_chunk::<8>().copied()?;
        let address = if self.big_endian { u64::from_be_bytes(address) } else { u64::from_le_bytes(address) };
        let flags = self.u16(at + 2);
        let length = if flags & LONG == 0 { SHORT_PAGE_HEADER } else { LONG_PAGE_HEADER };
        let rest = (flags & CONTINUED != 0).then(|| self.u32(at + 16));
        (address == self.position(at)).then_some(Page { data: at + length, rest })
    }

    const fn page_after(&self, at: usize) -> usize {
        (at / self.size + 1) * self.size
    }

    /// Tells where the bytes of a record lie, of which `left` follow from `from` on.
    fn follow(&self, mut from: usize, left: u32, tell: &mut impl FnMut(Range<usize>)) -> Followed {
        let mut left = left as usize;
        loop {
            let end = self.page_after(from).min(self.bytes.len());
            let here = left.min(end.saturating_sub(from));
            tell(from..from + here);
            left -= here;
            if left == 0 {
                return Followed::Ends(from + here);
            }
            if end >= self.bytes.len() {
                return Followed::GoesOn;
            }
            match self.page(end) {
                Some(page) if page.rest.is_some_and(|rest| rest as usize == left) => from = page.data,
                _ => return Followed::Lost(end),
            }
        }
    }

    /// Where the first record lies that begins in the page at `at` or in one behind it.
    fn first_from(&self, mut at: usize) -> Option<usize> {
        while at < self.bytes.len() {
            let lost = match self.page(at) {
                None => self.page_after(at),
                Some(Page { data, rest: None | Some(0) }) => return Some(data),
                Some(Page { data, rest: Some(rest) }) => match self.follow(data, rest, &mut |_| {}) {
                    Followed::Ends(end) => return self.settle(end),
                    Followed::GoesOn => return None,
                    Followed::Lost(page) => page,
                },
            };
            at = lost;
        }
        None
    }

    /// Where the record begins that follows one which ends at `end`.
    fn settle(&self, end: usize) -> Option<usize> {
        let at = end.next_multiple_of(ALIGNMENT);
        match at % self.size {
            0 => self.first_from(at),
            _ => (at < self.bytes.len()).then_some(at),
        }
    }

    /// The kind of a record, whose header may lie on two pages.
    fn kind(&self, at: usize, length: u32) -> Option<Kind> {
        let mut header = [0; HEADER];
        let mut filled = 0;
        if self.page_after(at) - at >= HEADER {
            header.copy_from_slice(self.bytes.get(at..at.checked_add(HEADER)?)?);
            filled = HEADER;
        } else {
            self.follow(at, length, &mut |place| {
                for (to, from) in header.iter_mut().skip(filled).zip(self.slice(place)) {
                    (*to, filled) = (*from, filled + 1);
                }
            });
        }
        (filled == HEADER).then_some(Kind { manager: header[17], info: header[16] })
    }
}

/// The records of a segment. See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Records<'a> {
    pages: Pages<'a>,
    next: Option<usize>,
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while let Some(at) = self.next {
            let length = self.pages.u32(at);
            if (length as usize) < HEADER {
                // Zeros, most likely: the end of the WAL, or of what was written before the switch to the next segment.
                self.next = self.pages.first_from(self.pages.page_after(at));
                continue;
            }
            let (complete, next) = match self.pages.follow(at, length, &mut |_| {}) {
                Followed::Ends(end) => (true, self.pages.settle(end)),
                Followed::GoesOn => (false, None),
                Followed::Lost(page) => {
                    self.next = self.pages.first_from(page);
                    continue;
                }
            };
            self.next = next;
            return Some(Record { at, length, complete, kind: self.pages.kind(at, length) });
        }
        None
    }
}
