//! Compression of WAL objects, in the formats that Barman reads and writes.
//!
//! What it is: six codecs behind two functions. The suffix of an object says which one; the first bytes must agree. The
//! invariants: what is compressed is decompressed to the same bytes; the same bytes compress to the same bytes (no time
//! stamps); no object makes us write more than the caller allows.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Compression;

/// How much effort to spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The fastest.
    Low,
    /// In between.
    #[default]
    Medium,
    /// The smallest.
    High,
    /// A level of the codec itself.
    Exact(i32),
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "low" => Ok(Self::Low),
            "medium" => Ok(Self::Medium),
            "high" => Ok(Self::High),
            _ => text.parse().map(Self::Exact).map_err(|_| {
                Error::invalid(format!("not a compression level: {text:?}")).with_hint("low, medium, high, or a number")
            }),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => f.write_str("low"),
            Self::Medium => f.write_str("medium"),
            Self::High => f.write_str("high"),
            Self::Exact(level) => write!(f, "{level}"),
        }
    }
}

impl Level {
    /// The number that a codec understands.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the codec has no such level.
    pub fn number(self, codec: Compression) -> Result<i32> {
        // Low, medium, high, and the range: those of Barman, so that its options mean the same here.
        let (low, medium, high, range) = match codec {
            Compression::Gzip => (1, 6, 9, 1..=9),
            Compression::Bzip2 => (1, 5, 9, 1..=9),
            Compression::Xz => (1, 3, 5, 1..=9),
            Compression::Zstd => (1, 4, 9, -22..=22),
            Compression::Lz4 => (0, 6, 10, 0..=16),
            Compression::Snappy => (0, 0, 0, 0..=0),
        };
        match self {
            Self::Low => Ok(low),
            Self::Medium => Ok(medium),
            Self::High => Ok(high),
            Self::Exact(level) if range.contains(&level) => Ok(level),
            Self::Exact(level) => Err(Error::invalid(format!("{codec:?} has no compression level {level}"))
                .with_hint(format!("from {} to {}", range.start(), range.end()))),
        }
    }
}

/// The bytes with which everything of that codec begins.
pub const fn magic(codec: Compression) -> &'static [u8] {
    match codec {
        Compression::Gzip => &[0x1F, 0x8B, 0x08],
        Compression::Bzip2 => b"BZh",
        Compression::Xz => &[0xFD, b'7', b'z', b'X', b'Z', 0x00],
        Compression::Zstd => &[0x28, 0xB5, 0x2F, 0xFD],
        Compression::Lz4 => &[0x04, 0x22, 0x4D, 0x18],
        Compression::Snappy => &[0xFF, 0x06, 0x00, 0x00, b's', b'N', b'a', b'P', b'p', b'Y'],
    }
}

/// The codec whose magic the bytes begin with.
pub fn detect(bytes: &[u8]) -> Option<Compression> {
    Compression::ALL.into_iter().find(|codec| bytes.starts_with(magic(*codec)))
}

/// Compresses.
///
/// LZ4 knows only its fast mode here and Snappy has no levels: both take every level that is valid for them and do the same.
pub fn compress(codec: Compression, level: Level, bytes: &[u8]) -> Result<Vec<u8>> {
    let level = level.number(codec)?;
    let out = Vec::with_capacity(bytes.len() / 2);
    let unsigned = level.unsigned_abs();
    let done = match codec {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(unsigned));
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(out, bzip2::Compression::new(unsigned));
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(out, unsigned);
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, level),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
            encoder.write_all(bytes).and_then(|()| encoder.finish().map_err(io::Error::other))
        }
        Compression::Snappy => {
            let mut encoder = snap::write::FrameEncoder::new(out);
            encoder
                .write_all(bytes)
                .and_then(|()| encoder.into_inner().map_err(snap::write::IntoInnerError::into_error))
        }
    };
    done.map_err(|error| Error::new(ErrorKind::Internal, format!("cannot compress with {codec:?}")).with_source(error))
}

/// Memory that a decoder of xz may take: `xz -9` asks for 65 MiB, a file may ask for 4 GiB.
const XZ_MEMORY: u64 = 256 << 20;

/// How much of the beginning [`decompress_as_told`] shows.
const BEGINNING: u64 = 64;

/// Decompresses what is in `bytes` (as it is, if there is no codec), at most `limit` bytes of it.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) if the bytes are not of that codec, are damaged or cut off, or are too many.
pub fn decompress(codec: Option<Compression>, bytes: &[u8], limit: u64) -> Result<Vec<u8>> {
    decompress_as_told(codec, bytes, |_| limit)
}

/// As [`decompress`]; how much it may be is told from how it begins.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_as_told(
    codec: Option<Compression>,
    bytes: &[u8],
    limit: impl FnOnce(&[u8]) -> u64,
) -> Result<Vec<u8>> {
    if let Some(codec) = codec
        && !bytes.starts_with(magic(codec))
    {
        let really = detect(bytes).map_or("something else".to_owned(), |codec| format!("{codec:?}"));
        return Err(Error::corrupt(format!("the object is not {codec:?} but {really}")));
    }
    let mut reader: Box<dyn Read + '_> = match codec {
        None => Box::new(bytes),
        Some(Compression::Gzip) => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        Some(Compression::Bzip2) => Box::new(bzip2::read::MultiBzDecoder::new(bytes)),
        Some(Compression::Xz) => Box::new(xz(bytes)?),
        Some(Compression::Zstd) => Box::new(zstd::stream::Decoder::new(bytes).map_err(damaged)?),
        Some(Compression::Lz4) => Box::new(lz4_flex::frame::FrameDecoder::new(bytes)),
        Some(Compression::Snappy) => Box::new(snap::read::FrameDecoder::new(bytes)),
    };
    let mut out = Vec::new();
    reader.by_ref().take(BEGINNING).read_to_end(&mut out).map_err(damaged)?;
    let limit = limit(&out);
    let rest = limit.saturating_add(1).saturating_sub(out.len() as u64);
    reader.by_ref().take(rest).read_to_end(&mut out).map_err(damaged)?;
    if out.len() as u64 > limit {
        return Err(Error::corrupt(format!("the object decompresses to more than {limit} bytes")));
    }
    Ok(out)
}

fn xz(bytes: &[u8]) -> Result<liblzma::read::XzDecoder<&[u8]>> {
    let stream = liblzma::stream::Stream::new_auto_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
    Ok(liblzma::read::XzDecoder::new_stream(bytes, stream.map_err(|error| damaged(error.into()))?))
}

fn damaged(error: io::Error) -> Error {
    Error::corrupt("the object cannot be decompressed: it is damaged or cut off").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        (0..300_000_u32).flat_map(|at| (at / 7 % 1000).to_le_bytes()).collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_took_at_every_level() {
        let sample = sample();
        for codec in Compression::ALL {
            for level in [Level::Low, Level::Medium, Level::High] {
                let packed = compress(codec, level, &sample).unwrap();
                assert_eq!(detect(&packed), Some(codec));
                assert!(packed.len() < sample.len());
                assert!(decompress(Some(codec), &packed, sample.len() as u64).unwrap() == sample, "{codec:?} {level}");
                assert_eq!(compress(codec, level, &sample).unwrap(), packed, "{codec:?} is not reproducible");
            }
            assert_eq!(decompress(Some(codec), &compress(codec, Level::Low, b"").unwrap(), 0).unwrap_or_default(), b"");
        }
    }

    #[test]
    fn what_is_cut_off_damaged_or_of_another_codec_is_corrupt() {
        let sample = sample();
        for codec in Compression::ALL {
            let packed = compress(codec, Level::Medium, &sample).unwrap();
            let cut = &packed[..packed.len() / 2];
            let result = decompress(Some(codec), cut, u64::MAX - 1);
            assert!(result.as_ref().map_or(true, |out| *out != sample), "{codec:?} does not notice a cut");
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
            let error = decompress(Some(codec), &sample, 1 << 30).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let gzip = compress(Compression::Gzip, Level::Low, &sample).unwrap();
        let error = decompress(Some(Compression::Zstd), &gzip, 1 << 30).unwrap_err();
        assert!(error.message().contains("Gzip"), "{error}");
    }

    #[test]
    fn no_object_is_larger_than_the_caller_allows() {
        let zeros = vec![0; 10_000_000];
        for codec in Compression::ALL {
            let bomb = compress(codec, Level::High, &zeros).unwrap();
            assert_eq!(decompress(Some(codec), &bomb, 1_000_000).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert!(decompress(None, &zeros, 1_000_000).is_err());
    }

    #[test]
    fn levels_have_the_limits_of_the_codec() {
        assert_eq!("high".parse::<Level>().unwrap().number(Compression::Zstd).unwrap(), 9);
        assert_eq!("-5".parse::<Level>().unwrap().number(Compression::Zstd).unwrap(), -5);
        assert!(Level::Exact(0).number(Compression::Gzip).is_err());
        assert!("fast".parse::<Level>().is_err());
    }
}
