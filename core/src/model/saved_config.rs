//! The configuration files of a cluster that no snapshot has, as they are kept: one private object of a backup.
//!
//! They hold what opens other doors: `primary_conninfo` with a password, `ldapbindpasswd`. So they are kept apart from
//! everything that is listed, shown or logged, and what refers to them is a [`SavedConfigRef`]: a size and a digest. The digest
//! is salted, since who knows all of a file but the password could else find that by trying.
//!
//! Pure. About bytes: such a file has no encoding, and neither has its path. `docs/format/saved_config.md` is the specification.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::id::Token;

/// One file. `Debug` does not show its content.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedFile {
    /// Its path, as the server names it.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Its content.
    pub content: Vec<u8>,
}

impl fmt::Debug for SavedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedFile({}, {} bytes)", self.path.display(), self.content.len())
    }
}

/// The files of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedConfig {
    /// The token of the session that saved them.
    pub token: Token,
    /// 32 hex digits that are nowhere else.
    pub salt: String,
    /// The files.
    pub files: Vec<SavedFile>,
}

/// What the metadata of a backup say of its [`SavedConfig`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedConfigRef {
    /// Bytes of the object.
    pub size: u64,
    /// Its SHA-256, in hex digits.
    pub sha256: String,
}

/// The largest object that is read: far beyond what is saved.
const LARGEST: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    token: Token,
    salt: String,
    files: Vec<StoredFile>,
}

#[derive(Serialize, Deserialize)]
struct StoredFile {
    /// Where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Where it is not: in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    /// In octal digits.
    mode: String,
    /// In Base64.
    content: String,
}

impl SavedConfig {
    /// The version that is written, and the highest that is read.
    pub const VERSION: u32 = 1;

    /// The object: the same for the same files, to the byte.
    ///
    /// # Errors
    /// None that can happen.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let files = self.files.iter().map(StoredFile::from).collect();
        let stored = Stored { version: Self::VERSION, token: self.token.clone(), salt: self.salt.clone(), files };
        serde_json::to_vec_pretty(&stored)
            .map_err(|source| Error::internal("cannot write the saved configuration").with_source(source))
    }

    /// Reads an object that `reference` speaks of.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if it is another object, or none; [`Unsupported`](ErrorKind::Unsupported) for a later
    /// version. No error says anything of the content.
    pub fn decode(bytes: &[u8], reference: &SavedConfigRef, token: &Token) -> Result<Self> {
        if SavedConfigRef::to(bytes) != *reference {
            return Err(Error::corrupt("the saved configuration is not the one that the backup.info names"));
        }
        let broken = || Error::corrupt("the saved configuration cannot be understood");
        let stored: Stored = serde_json::from_slice(bytes).map_err(|_| broken())?;
        if stored.version > Self::VERSION {
            let (found, known) = (stored.version, Self::VERSION);
            let message = format!("the saved configuration has version {found}, this program knows {known}");
            return Err(Error::new(ErrorKind::Unsupported, message).with_hint("use the newer program that wrote it"));
        }
        if stored.token != *token {
            return Err(Error::corrupt("the saved configuration is that of another backup"));
        }
        let files = stored.files.into_iter().map(|file| file.read().ok_or_else(broken)).collect::<Result<_>>()?;
        Ok(Self { token: stored.token, salt: stored.salt, files })
    }

    /// Whose it is, as far as that can be told; for who wants to remove it.
    pub fn token_of(bytes: &[u8]) -> Option<Token> {
        serde_json::from_slice::<Stored>(bytes).ok().map(|stored| stored.token)
    }

    /// That of a session whose version kept the files as text in its journal. There it can be read anyway; so the salt is
    /// no secret, but the same for every driver.
    pub fn of_texts(texts: &BTreeMap<String, String>, token: &Token) -> Self {
        let file = |(path, text): (&String, &String)| SavedFile {
            path: path.into(),
            mode: 0o600,
            content: text.clone().into_bytes(),
        };
        Self { token: token.clone(), salt: "0".repeat(32), files: texts.iter().map(file).collect() }
    }
}

impl SavedConfigRef {
    /// The one to an object.
    pub fn to(bytes: &[u8]) -> Self {
        let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { size: bytes.len() as u64, sha256 }
    }

    /// Refuses an object of another size, before it is read.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt).
    pub fn check_size(&self, found: u64) -> Result<()> {
        if found != self.size || found > LARGEST {
            let message = format!("the saved configuration has {found} bytes, the backup.info says {}", self.size);
            return Err(Error::corrupt(message));
        }
        Ok(())
    }
}

impl From<&SavedFile> for StoredFile {
    fn from(file: &SavedFile) -> Self {
        let text = file.path.to_str().map(str::to_owned);
        let bytes = text.is_none().then(|| STANDARD.encode(file.path.as_os_str().as_bytes()));
        Self {
            path: text,
            path_bytes: bytes,
            mode: format!("{:04o}", file.mode & 0o7777),
            content: STANDARD.encode(&file.content),
        }
    }
}

impl StoredFile {
    fn read(self) -> Option<SavedFile> {
        let path = match (self.path, self.path_bytes) {
            (Some(text), None) => PathBuf::from(text),
            (None, Some(bytes)) => OsString::from_vec(STANDARD.decode(bytes).ok()?).into(),
            _ => return None,
        };
        let mode = u32::from_str_radix(&self.mode, 8).ok()?;
        Path::new(&path).is_absolute().then_some(())?;
        Some(SavedFile { path, mode, content: STANDARD.decode(self.content).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SavedConfig {
        let file = |path: &[u8], mode, content: &[u8]| SavedFile {
            path: OsString::from_vec(path.to_vec()).into(),
            mode,
            content: content.to_vec(),
        };
        SavedConfig {
            token: Token::from_bits(7),
            salt: "5a".repeat(16),
            files: vec![
                file(
                    b"/etc/pg/postgresql.conf",
                    0o644,
                    b"log_line_prefix = '\xe9 '\r\nprimary_conninfo = 'password=x'\n",
                ),
                file(b"/etc/pg/\xe9.conf", 0o600, b""),
            ],
        }
    }

    #[test]
    fn bytes_come_back_as_they_were_in_paths_too() {
        let bytes = config().encode().unwrap();
        let reference = SavedConfigRef::to(&bytes);
        reference.check_size(bytes.len() as u64).unwrap();
        assert_eq!(SavedConfig::decode(&bytes, &reference, &Token::from_bits(7)).unwrap(), config());
        assert_eq!(config().encode().unwrap(), bytes);
        assert_eq!(SavedConfig::token_of(&bytes), Some(Token::from_bits(7)));
    }

    #[test]
    fn another_object_is_noticed() {
        let bytes = config().encode().unwrap();
        let reference = SavedConfigRef::to(&bytes);
        let other = SavedConfig { salt: "00".repeat(16), ..config() }.encode().unwrap();
        let error = SavedConfig::decode(&other, &reference, &Token::from_bits(7)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(other.len(), bytes.len());
        assert!(reference.check_size(1).is_err());
        // One whose reference was copied along with it.
        let error = SavedConfig::decode(&bytes, &reference, &Token::from_bits(8)).unwrap_err();
        assert!(error.message().contains("another backup"), "{error}");
    }

    #[test]
    fn what_cannot_be_understood_is_refused_without_showing_it() {
        for (text, kind) in [
            ("s3cret".to_owned(), ErrorKind::Corrupt),
            (format!(r#"{{"version": 2, "token": "{:032x}", "salt": "", "files": []}}"#, 7), ErrorKind::Unsupported),
            (
                format!(
                    r#"{{"version": 1, "token": "{:032x}", "salt": "", "files": [{{"path": "s3cret", "mode": "0600", "content": ""}}]}}"#,
                    7
                ),
                ErrorKind::Corrupt,
            ),
        ] {
            let bytes = text.as_bytes();
            let error = SavedConfig::decode(bytes, &SavedConfigRef::to(bytes), &Token::from_bits(7)).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(!error.chain().contains("s3cret"), "{}", error.chain());
        }
    }

    #[test]
    fn debug_shows_no_content() {
        let shown = format!("{:?}", config());
        assert!(!shown.contains("password") && shown.contains("/etc/pg/postgresql.conf"), "{shown}");
    }
}
