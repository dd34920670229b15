//! Names that fit the rules of a cloud, made of names that may not.
//!
//! Pure, and stable: the same volume and backup give the same name for ever, whoever asks. A name that fits is left as it is,
//! because stock tools look for it; one that does not is changed, and a hash of the original keeps it apart from others.

use crate::id::BackupId;

/// What a cloud allows in the name of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct NameRules {
    /// The most characters (all of them are ASCII).
    pub longest: usize,
    /// Which characters may be in it.
    pub allowed: fn(char) -> bool,
    /// Which may come first.
    pub first: fn(char) -> bool,
    /// Which may come last.
    pub last: fn(char) -> bool,
}

impl NameRules {
    /// Whether a name fits.
    pub fn fits(&self, name: &str) -> bool {
        name.len() <= self.longest
            && name.chars().all(self.allowed)
            && name.chars().next().is_some_and(self.first)
            && name.chars().next_back().is_some_and(self.last)
    }

    /// `<volume>-<backup id lower case>` as the stock tools name a snapshot, if that fits; else the beginning of the volume's
    /// name with what is not allowed replaced, and eight hex digits of a hash of the whole.
    pub fn snapshot_name(&self, volume: &str, backup_id: &BackupId) -> String {
        let stock = format!("{volume}-{}", backup_id.lower());
        if self.fits(&stock) {
            return stock;
        }
        let tail = format!("-{:08x}-{}", hash(volume), backup_id.lower());
        let room = self.longest.saturating_sub(tail.len());
        let mut head = String::with_capacity(room);
        for c in volume.chars().flat_map(char::to_lowercase) {
            let c = if (self.allowed)(c) && c.is_ascii() { c } else { '-' };
            if head.len() < room && (!head.is_empty() || (self.first)(c)) {
                head.push(c);
            }
        }
        if head.is_empty() {
            // `s` for snapshot: a letter, which every cloud takes as the first one.
            head.push('s');
        }
        head + &tail
    }
}

/// A text of the user for a message: in quotes, and only its beginning if it is long.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}… ({} characters)", &text[..end], text.chars().count()),
        None => format!("{text:?}"),
    }
}

/// FNV-1a, folded to 32 bits: small, and the same in every version of every library.
pub(crate) fn hash(text: &str) -> u32 {
    let wide = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (wide >> 32) as u32 ^ (wide & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: NameRules = NameRules {
        longest: 63,
        allowed: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
        first: |c| c.is_ascii_lowercase(),
        last: |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
    };

    #[test]
    fn a_long_text_is_quoted_in_part() {
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(quoted(&"ü".repeat(40)), format!("{:?}", "ü".repeat(40)));
        assert_eq!(quoted(&"ü".repeat(41)), format!("{:?}… (41 characters)", "ü".repeat(40)));
    }

    fn name(volume: &str) -> String {
        STRICT.snapshot_name(volume, &"20260529T101112".parse().unwrap())
    }

    #[test]
    fn a_name_that_fits_is_the_stock_one() {
        assert_eq!(name("pg-data"), "pg-data-20260529t101112");
    }

    #[test]
    fn a_name_that_does_not_fit_is_changed_and_stays_unique() {
        let volumes = ["PG_data", "pg_data", "pg.data", "1data", "ä", "", &"x".repeat(63), &"x".repeat(64)];
        let names: std::collections::BTreeSet<_> = volumes.iter().map(|volume| name(volume)).collect();
        assert_eq!(names.len(), volumes.len(), "{names:?}");
        assert!(names.iter().all(|name| STRICT.fits(name)), "{names:?}");
        assert!(names.iter().all(|name| name.ends_with("-20260529t101112")), "{names:?}");
    }
}
