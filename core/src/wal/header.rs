//! What the first page of a WAL segment tells of it. Pure.
//!
//! The layout is that of `XLogLongPageHeaderData` (PostgreSQL, `access/xlog_internal.h`), unchanged since 8.3, in the byte order
//! of the server. Checking it catches what costs most when it is found during a restore: the WAL of another cluster, a
//! recycled segment under its new name, half a file.

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Lsn, Segment, SegmentSize, Timeline};

/// Bytes of the long header.
const LENGTH: usize = 40;
/// `XLP_LONG_HEADER`
const LONG: u16 = 0x0002;

/// True for the first two bytes of a page (`XLOG_PAGE_MAGIC`) in the right order, of any version.
pub(super) const fn is_magic(number: u16) -> bool {
    matches!(number, 0xD000..=0xD1FF)
}

/// The long header of the first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The timeline on which the page was written. After a switch of timelines it may be lower than that of the name.
    pub timeline: Timeline,
    /// The position of the page.
    pub position: Lsn,
    /// The system identifier of the cluster.
    pub system_id: u64,
    /// The size of all segments of the cluster.
    pub segment_size: SegmentSize,
}

impl SegmentHeader {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if these are not the first bytes of a segment.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Some(page) = bytes.get(..LENGTH) else {
            return Err(Error::corrupt(format!("not a WAL segment: only {} bytes", bytes.len())));
        };
        let two = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        let magic = two(0);
        let little = is_magic(magic);
        let swapped = is_magic(magic.swap_bytes());
        let number = |at: usize, len: usize| {
            let bytes = page[at..at + len].iter();
            let fold = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
            if little { bytes.rev().fold(0, fold) } else { bytes.fold(0, fold) }
        };
        if !little && !swapped {
            return Err(Error::corrupt(format!("not a WAL segment: it begins with {magic:#06x}")));
        }
        if number(2, 2) as u16 & LONG == 0 {
            return Err(Error::corrupt("not the beginning of a WAL segment: its first page has no long header"));
        }
        Ok(Self {
            timeline: Timeline(number(4, 4) as u32),
            position: Lsn(number(8, 8)),
            system_id: number(24, 8),
            segment_size: SegmentSize::new(number(32, 4))?,
        })
    }

    /// Checks that `bytes` are the whole segment `segment`, and of the cluster `system_id` where that is known.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt); [`Conflict`](ErrorKind::Conflict) if it belongs to another cluster.
    pub fn check_segment(bytes: &[u8], segment: Segment, system_id: Option<&str>) -> Result<Self> {
        let header = Self::check_page(bytes, segment, system_id)?;
        let size = header.segment_size.bytes();
        if bytes.len() as u64 == size {
            Ok(header)
        } else {
            let have = bytes.len();
            Err(Error::corrupt(format!("WAL segment {segment} is not whole: {have} of {size} bytes")))
        }
    }

    /// Checks all that the first page tells, but not the length.
    ///
    /// # Errors
    /// As [`check_segment`](Self::check_segment).
    pub fn check_page(bytes: &[u8], segment: Segment, system_id: Option<&str>) -> Result<Self> {
        let header = Self::parse(bytes).map_err(|error| Error::corrupt(format!("{segment}: {}", error.message())))?;
        if let Some(known) = system_id
            && known != header.system_id.to_string()
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("WAL segment {segment} is of the cluster {}, not of {known}", header.system_id),
            )
            .with_hint("two clusters must not archive under the same server name"));
        }
        let start = segment.start(header.segment_size);
        if header.position != start || !segment.fits(header.segment_size) || header.timeline > segment.timeline {
            return Err(Error::corrupt(format!(
                "this is not WAL segment {segment}: its first page is {} of timeline {}",
                header.position, header.timeline
            ))
            .with_hint("the file may have been recycled, or copied under a wrong name"));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of a segment as a little-endian PostgreSQL 15 writes them.
    fn page() -> Vec<u8> {
        let mut page = Vec::new();
        page.extend(0xD110_u16.to_le_bytes());
        page.extend(0x0002_u16.to_le_bytes());
        page.extend(2_u32.to_le_bytes());
        page.extend(0x0900_0000_u64.to_le_bytes());
        page.extend([0; 8]);
        page.extend(7_406_321_547_896_325_411_u64.to_le_bytes());
        page.extend((16_u32 << 20).to_le_bytes());
        page.extend(8192_u32.to_le_bytes());
        page
    }

    fn segment(name: &str) -> Segment {
        name.parse().unwrap()
    }

    #[test]
    fn a_header_is_read_in_both_byte_orders() {
        let header = SegmentHeader::parse(&page()).unwrap();
        assert_eq!(header.position, Lsn(0x0900_0000));
        assert_eq!(header.system_id, 7_406_321_547_896_325_411);
        assert_eq!(header.segment_size, SegmentSize::DEFAULT);
        let mut big = page();
        for (at, len) in [(0, 2), (2, 2), (4, 4), (8, 8), (24, 8), (32, 4), (36, 4)] {
            big[at..at + len].reverse();
        }
        assert_eq!(SegmentHeader::parse(&big).unwrap(), header);
    }

    #[test]
    fn the_page_must_be_that_of_the_name() {
        let known = Some("7406321547896325411");
        let check = |name: &str, known| SegmentHeader::check_page(&page(), segment(name), known);
        check("000000020000000000000009", known).unwrap();
        check("000000030000000000000009", None).unwrap();
        assert_eq!(check("00000002000000000000000A", None).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(check("000000010000000000000009", None).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(check("000000020000000000000009", Some("1")).unwrap_err().kind(), ErrorKind::Conflict);
        let short = SegmentHeader::check_segment(&page(), segment("000000020000000000000009"), None).unwrap_err();
        assert!(short.message().contains("40 of 16777216 bytes"), "{short}");
    }

    #[test]
    fn what_is_no_wal_is_corrupt() {
        for bytes in [vec![], vec![0; 100], b"START WAL LOCATION: 0/9000028 (file 000000010000000000".to_vec()] {
            assert_eq!(SegmentHeader::parse(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        let mut short_header = page();
        short_header[2] = 0;
        assert!(SegmentHeader::parse(&short_header).is_err());
    }
}
