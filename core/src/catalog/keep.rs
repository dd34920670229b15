//! Keeping a backup beyond the retention policy: Barman's `annotations/keep`.
//!
//! The invariant: what one URL of a catalog says is what every URL of it says. Where Barman would look in two places (see
//! [`layout`](super::layout)), both are written alike once both exist, and both are released.

use std::fmt;
use std::str::FromStr;

use super::Catalog;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::model::BackupStatus;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The backup and all WAL from its begin on: it can be restored to any later time.
    Full,
    /// The backup and the WAL from its begin to its end: it can be restored to its own end.
    Standalone,
}

impl Keep {
    /// The word in the annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Standalone => "standalone",
        }
    }

    /// Reads an annotation. An unknown word counts as full, which keeps the most.
    fn read(bytes: &[u8]) -> Self {
        match bytes.trim_ascii() {
            b"standalone" => Self::Standalone,
            _ => Self::Full,
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Keep {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "full" => Ok(Self::Full),
            "standalone" => Ok(Self::Standalone),
            _ => Err(Error::invalid(format!("not a way to keep a backup: {text:?}")).with_hint("full or standalone")),
        }
    }
}

impl Catalog {
    /// Whether a backup is kept. A backup that does not exist is not kept.
    pub async fn keep(&self, id: &BackupId) -> Result<Option<Keep>> {
        for key in self.layout().keeps(id) {
            if let Some((bytes, _)) = self.space().get(&key).await? {
                return Ok(Some(Keep::read(&bytes)));
            }
        }
        Ok(None)
    }

    /// Keeps a backup.
    ///
    /// # Errors
    /// [`Precondition`](crate::ErrorKind::Precondition) if it is not complete.
    pub async fn set_keep(&self, id: &BackupId, keep: Keep) -> Result<()> {
        let status = self.read(id).await?.status;
        if status != BackupStatus::Done {
            return Err(Error::precondition(format!("backup {id} is {status}, only a DONE one can be kept")));
        }
        for (at, key) in self.layout().keeps(id).iter().enumerate() {
            if at == 0 || self.space().head(key).await?.is_some() {
                self.space().put(key, keep.as_str()).await?;
            }
        }
        Ok(())
    }

    /// No longer keeps a backup. Not kept is success.
    pub async fn release_keep(&self, id: &BackupId) -> Result<()> {
        self.space().delete_many(&self.layout().keeps(id)).await
    }
}
