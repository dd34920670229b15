//! Names that the engine mints: backup ids and session tokens.
//!
//! A [`BackupId`] is Barman's: the local time of the host that takes the backup, `YYYYMMDDTHHMMSS`, one second of
//! resolution, sorted as text. A [`Token`] is ours: random, carried by every snapshot that a session creates, so that
//! whatever the session has left anywhere can be found again.

use std::fmt;
use std::str::FromStr;

use chrono::{Duration, NaiveDateTime};

use crate::error::{Error, Result};

/// The id of a backup: `20260529T101112`. Ordered by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(NaiveDateTime);

impl BackupId {
    const FORMAT: &'static str = "%Y%m%dT%H%M%S";

    /// The id for a moment of local time. Parts of a second are cut off.
    pub fn at(local: NaiveDateTime) -> Self {
        Self(chrono::DurationRound::duration_trunc(local, Duration::seconds(1)).unwrap_or(local))
    }

    /// The local time that the id says, without its zone (the format does not keep it).
    pub fn local_time(&self) -> NaiveDateTime {
        self.0
    }

    /// The id one second later.
    #[must_use]
    pub fn next(&self) -> Self {
        Self(self.0 + Duration::seconds(1))
    }

    /// The id in lower case, as it stands in names of snapshots.
    pub fn lower(&self) -> String {
        self.to_string().to_lowercase()
    }

    /// True if `text` has the form of an id (fifteen characters, digits and a `T`), whether or not it is a real date.
    pub fn looks_like(text: &str) -> bool {
        text.len() == 15
            && text.bytes().enumerate().all(|(at, byte)| if at == 8 { byte == b'T' } else { byte.is_ascii_digit() })
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format(Self::FORMAT))
    }
}

impl FromStr for BackupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("not a backup id: {text:?}")).with_hint("an id looks like 20260529T101112");
        if !Self::looks_like(text) {
            return Err(bad());
        }
        NaiveDateTime::parse_from_str(text, Self::FORMAT).map(Self).map_err(|_| bad())
    }
}

impl TryFrom<String> for BackupId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.to_string()
    }
}

/// The token of a session: 128 random bits as 32 lower-case hex digits.
///
/// It fits the rules for tags, labels and names of every provider (clouds.md 3a–3c: lower case, digits, at most 63).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

impl Token {
    /// The token made of these bits.
    pub fn from_bits(bits: u128) -> Self {
        Self(format!("{bits:032x}"))
    }

    /// The 32 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(format!("not a session token: {text:?}")))
        }
    }
}

impl TryFrom<String> for Token {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

/// Where the engine gets random numbers from.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// 128 bits that nobody has had before.
    fn bits(&self) -> u128;

    /// A new session token.
    fn token(&self) -> Token {
        Token::from_bits(self.bits())
    }
}

/// The random numbers of the operating system.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemIds;

impl IdSource for SystemIds {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that may ask the operating system")]
    #[allow(
        clippy::expect_used,
        reason = "without random numbers no session may start; there is nothing to fall back to"
    )]
    fn bits(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system has no random numbers");
        u128::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_round_trips_and_sorts_by_time() {
        let id: BackupId = "20260529T101112".parse().unwrap();
        assert_eq!(id.to_string(), "20260529T101112");
        assert_eq!(id.lower(), "20260529t101112");
        assert!(id < id.next());
        assert_eq!("20261231T235959".parse::<BackupId>().unwrap().next().to_string(), "20270101T000000");
    }

    #[test]
    fn nonsense_is_not_an_id() {
        for text in
            ["", "2026", "20260529T10111", "20260529T1011123", "20261329T101112", "20260529t101112", "../../../../../x"]
        {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_lower_case_hex() {
        assert_eq!(Token::from_bits(10).as_str(), "0000000000000000000000000000000a");
        assert!("0000000000000000000000000000000A".parse::<Token>().is_err());
        assert_ne!(SystemIds.token(), SystemIds.token());
    }
}
