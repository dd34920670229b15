//! The beginning of `global/pg_control`: which cluster a data directory is of, and what its server was doing.
//!
//! Not here: reading the file, and what is made of it. Only what stands at the same place in PostgreSQL 13 to 18 is read, in
//! the byte order of the machine. The invariant: nothing is believed unless the checksum (CRC-32C) is right, so that a
//! file which is caught while it is written is told from one that says something.

use serde::{Deserialize, Serialize};

use super::wal::{Lsn, Timeline};
use crate::error::{Error, Result};

/// What the server was doing when it wrote the file last (`DBState` of PostgreSQL, by its numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// It was ended in order, as a primary.
    ShutDown,
    /// It was ended in order, as a standby.
    ShutDownInRecovery,
    /// It is or was a standby, or recovers from an archive.
    InArchiveRecovery,
    /// It is or was a primary.
    InProduction,
    /// On the way from one of these to another.
    Between,
}

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlFile {
    /// The system identifier.
    pub system_id: String,
    /// The version of the format: 1300 for PostgreSQL 13 to 16, 1700, 1800.
    pub version: u32,
    /// What the server was doing.
    pub state: ClusterState,
    /// The position of the newest checkpoint.
    pub checkpoint: Lsn,
    /// Its timeline.
    pub timeline: Timeline,
}

/// Where the checksum may stand: behind all that it covers, whose length depends on the version (288 in PostgreSQL 13 to
/// 17, 292 in 18). It is looked for, so that a version that adds a field can be read as well.
const CHECKSUM_AT: std::ops::RangeInclusive<usize> = 256..=384;

impl ControlFile {
    /// The version of the catalogs, which PostgreSQL has in the names of directories (`PG_17_202406281`).
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn catalog_version(bytes: &[u8]) -> Result<u32> {
        Self::parse(bytes)?;
        number::<4>(bytes, 12).map(u32::from_ne_bytes)
    }

    /// Reads the content of the file.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the checksum is not right.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let checked = CHECKSUM_AT.step_by(4).any(|at| {
            let sum = bytes.get(at..at + 4).and_then(|sum| sum.try_into().ok()).map(u32::from_ne_bytes);
            sum.is_some_and(|sum| sum == crc32c(&bytes[..at]))
        });
        if !checked {
            return Err(Error::corrupt(format!(
                "not a control file of PostgreSQL: no checksum in {} bytes is right",
                bytes.len()
            )));
        }
        let u32_at = |at: usize| number::<4>(bytes, at).map(u32::from_ne_bytes);
        let u64_at = |at: usize| number::<8>(bytes, at).map(u64::from_ne_bytes);
        Ok(Self {
            system_id: u64_at(0)?.to_string(),
            version: u32_at(8)?,
            state: match u32_at(16)? {
                1 => ClusterState::ShutDown,
                2 => ClusterState::ShutDownInRecovery,
                5 => ClusterState::InArchiveRecovery,
                6 => ClusterState::InProduction,
                _ => ClusterState::Between,
            },
            checkpoint: Lsn(u64_at(32)?),
            timeline: Timeline(u32_at(48)?),
        })
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    found.ok_or_else(|| Error::corrupt(format!("a control file of PostgreSQL of {} bytes only", bytes.len())))
}

/// CRC-32C (Castagnoli), bit by bit: a few hundred bytes once in a backup.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82F6_3B78 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A file with the checksum where a version has it.
    fn file(checksum_at: usize, state: u32) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[..8].copy_from_slice(&7_406_321_547_896_325_411_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&1300_u32.to_ne_bytes());
        bytes[16..20].copy_from_slice(&state.to_ne_bytes());
        bytes[32..40].copy_from_slice(&0x900_0060_u64.to_ne_bytes());
        bytes[48..52].copy_from_slice(&3_u32.to_ne_bytes());
        let sum = crc32c(&bytes[..checksum_at]);
        bytes[checksum_at..checksum_at + 4].copy_from_slice(&sum.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        // The check value of the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn what_every_version_has_at_the_same_place_is_read() {
        for checksum_at in [288, 292] {
            let read = ControlFile::parse(&file(checksum_at, 5)).unwrap();
            assert_eq!(read.system_id, "7406321547896325411");
            assert_eq!((read.version, read.state), (1300, ClusterState::InArchiveRecovery));
            assert_eq!((read.checkpoint, read.timeline), (Lsn(0x900_0060), Timeline(3)));
        }
        assert_eq!(ControlFile::parse(&file(288, 6)).unwrap().state, ClusterState::InProduction);
        assert_eq!(ControlFile::parse(&file(288, 99)).unwrap().state, ClusterState::Between);
    }

    #[test]
    fn a_file_that_was_caught_half_written_says_nothing() {
        let mut torn = file(288, 6);
        torn[33] ^= 1;
        assert_eq!(ControlFile::parse(&torn).unwrap_err().kind(), ErrorKind::Corrupt);
        for bytes in [&b""[..], b"control", &[0; 300]] {
            assert_eq!(ControlFile::parse(bytes).unwrap_err().kind(), ErrorKind::Corrupt, "{bytes:?}");
        }
    }
}
