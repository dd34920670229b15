//! The journal: what a session has meant to do and has done, durably, one object per entry.
//!
//! Entries are append-only and created if absent, at `<server>/sessions/<backup id>/<sequence>.json`. Two drivers that
//! both believe they own a session try to create the same next entry; one wins, the other learns that it is
//! [fenced](crate::ErrorKind::Fenced). This needs nothing of the store but create-if-absent, which S3, GCS, Azure and local
//! files all have.
//!
//! It is not a log for people and not a queue: nothing reads it but a driver, [`recover`](super::recover) and `gc`.
//!
//! The format is described in `docs/format/journal.md`; fields are only ever added.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::owner::Owner;
use super::phase::Event;
use super::plan::SessionPlan;
use crate::catalog::layout::Layout;
use crate::catalog::{ObjectSpace, PutNew};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::{BackupId, IdSource};
use crate::postgres::{StartedBackup, StoppedBackup};
use crate::provider::{AfterCut, Ticket};

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The lowest version of this format that has all of the entry. A reader refuses a higher one than it knows.
    pub version: u32,
    /// Its number, from 0 without gaps.
    pub sequence: u32,
    /// Who wrote it: 0 for the process that planned the session, one more for each that adopted it.
    pub epoch: u32,
    /// When it was written, by the clock of the writer. For people.
    pub at: DateTime<Utc>,
    /// Distinguishes this writer's attempt from another's with the same content.
    pub nonce: String,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
}

impl Entry {
    /// The highest version that is written and read. 2 has what is done to snapshots after the cut, 3 the object with the
    /// configuration files, or a tablespace that is left out.
    pub const VERSION: u32 = 3;
}

/// What happened, with its data. Each but [`Record::Planned`] is an [`Event`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each variant is described at the event of the same name")]
pub enum Record {
    /// The first entry: the plan. Creating it claims the backup id.
    Planned {
        plan: Box<SessionPlan>,
    },
    StartIntended,
    StartReturned {
        started: StartedBackup,
    },
    Announced,
    CutIntended {
        wave: usize,
    },
    TicketsReceived {
        wave: usize,
        tickets: Vec<Ticket>,
    },
    CutReached {
        wave: usize,
        /// Milliseconds from the first create call of the wave.
        cut_ms: u64,
        /// Bytes that had to be copied, where the provider tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes_copied: Option<u64>,
    },
    StopReturned {
        stopped: StoppedBackup,
        /// Milliseconds in backup mode.
        backup_mode_ms: u64,
    },
    FinishIntended,
    LabelStored,
    WalComplete {
        /// What the server says it has archived and this catalog does not have, if that was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        archived_elsewhere: Option<String>,
        /// Segments that the engine had to store itself, because the archiver had not.
        supplied: Vec<String>,
    },
    SnapshotsReady,
    Promoted {
        /// One for each that was received, in the same order; they stand for the snapshots from now on.
        tickets: Vec<Ticket>,
    },
    Secured {
        /// As those of `Promoted`.
        tickets: Vec<Ticket>,
    },
    Published,
    UndoIntended {
        reason: String,
    },
    SnapshotsDeleted {
        deleted: Vec<String>,
    },
    CatalogCleared,
    Undone,
    Stuck {
        reason: String,
    },
    Adopted {
        owner: Owner,
    },
}

impl Record {
    /// The version of an entry with this record. A plan of which an older program would leave out a step must not be
    /// followed by it.
    pub fn version(&self) -> u32 {
        match self {
            // It would publish without naming them, and leave them behind when it undoes.
            Self::Planned { plan } if plan.saved_config.is_some() || !plan.excluded_tablespaces.is_empty() => 3,
            Self::Planned { plan } if plan.after_cut != AfterCut::default() => 2,
            Self::Promoted { .. } | Self::Secured { .. } => 2,
            _ => 1,
        }
    }

    /// The event, or `None` for the plan.
    pub fn event(&self) -> Option<Event> {
        Some(match self {
            Self::Planned { .. } => return None,
            Self::StartIntended => Event::StartIntended,
            Self::StartReturned { .. } => Event::StartReturned,
            Self::Announced => Event::Announced,
            Self::CutIntended { .. } => Event::CutIntended,
            Self::TicketsReceived { .. } => Event::TicketsReceived,
            Self::CutReached { .. } => Event::CutReached,
            Self::StopReturned { .. } => Event::StopReturned,
            Self::FinishIntended => Event::FinishIntended,
            Self::LabelStored => Event::LabelStored,
            Self::WalComplete { .. } => Event::WalComplete,
            Self::SnapshotsReady => Event::SnapshotsReady,
            Self::Promoted { .. } => Event::Promoted,
            Self::Secured { .. } => Event::Secured,
            Self::Published => Event::Published,
            Self::UndoIntended { .. } => Event::UndoIntended,
            Self::SnapshotsDeleted { .. } => Event::SnapshotsDeleted,
            Self::CatalogCleared => Event::CatalogCleared,
            Self::Undone => Event::Undone,
            Self::Stuck { .. } => Event::Stuck,
            Self::Adopted { .. } => Event::Adopted,
        })
    }
}

/// How often an append is tried again when its outcome is unknown or nothing happened.
const ATTEMPTS: u32 = 4;

/// Reads and appends the journals of one server.
#[derive(Clone, Debug)]
pub struct Journal {
    space: ObjectSpace,
    layout: Layout,
}

impl Journal {
    /// The journals under the prefix of a server.
    pub fn new(space: ObjectSpace, layout: Layout) -> Self {
        Self { space, layout }
    }

    /// The mark of this server in this catalog, made at the first use.
    pub async fn mark(&self, ids: &dyn IdSource) -> Result<String> {
        if let Some(mark) = self.known_mark().await? {
            return Ok(mark);
        }
        let identity = format!("{:016x}", ids.bits() as u64);
        match self.space.put_new(&self.layout.catalog_identity(), identity.clone()).await? {
            PutNew::Created => self.mark_of(identity.as_bytes()),
            PutNew::Exists(found) => self.mark_of(&found),
        }
    }

    /// The mark, if there is one yet. Without one nothing can carry it.
    pub async fn known_mark(&self) -> Result<Option<String>> {
        let found = self.space.get(&self.layout.catalog_identity()).await?;
        found.map(|(bytes, _)| self.mark_of(&bytes)).transpose()
    }

    fn mark_of(&self, identity: &[u8]) -> Result<String> {
        let text = std::str::from_utf8(identity).unwrap_or_default().trim();
        if text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(format!("{}.{text}", self.layout.server()));
        }
        let key = self.layout.catalog_identity();
        Err(Error::corrupt(format!("{key} is not the identity of a catalog"))
            .with_hint("it holds 16 hex digits; restore it"))
    }

    /// Appends `entry`.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if somebody else's entry has this number. Anything else means that it is unknown whether the
    /// entry is stored; the caller must stop and leave the session to `recover`.
    pub async fn append(&self, id: &BackupId, entry: &Entry) -> Result<()> {
        let key = self.layout.session_entry(id, u64::from(entry.sequence));
        let bytes = serde_json::to_vec_pretty(entry)
            .map_err(|source| Error::internal("cannot write a journal entry").with_source(source))?;
        let mut attempt = 1;
        loop {
            // Repeating is harmless: an entry that is there already is either ours to the byte, or another's.
            match self.space.put_new(&key, bytes.clone()).await {
                Ok(PutNew::Created) => return Ok(()),
                Ok(PutNew::Exists(found)) if found == bytes.as_slice() => return Ok(()),
                Ok(PutNew::Exists(_)) => {
                    return Err(Error::new(
                        ErrorKind::Fenced,
                        format!("another process has taken over the session of backup {id}"),
                    )
                    .with_context("backup_id", id.to_string()));
                }
                Err(error) if attempt < ATTEMPTS && error.retry() != Retry::Never => attempt += 1,
                Err(error) => return Err(error.with_operation("journal")),
            }
        }
    }

    /// The entries of a session, in order, as far as they have no gap.
    pub async fn read(&self, id: &BackupId) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for sequence in 0.. {
            let key = self.layout.session_entry(id, u64::from(sequence));
            let Some((bytes, _)) = self.space.get(&key).await? else { break };
            let entry: Entry = serde_json::from_slice(&bytes)
                .map_err(|source| Error::corrupt(format!("journal entry {key} cannot be read")).with_source(source))?;
            if entry.version > Entry::VERSION {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("journal entry {key} has version {}, this program knows {}", entry.version, Entry::VERSION),
                )
                .with_hint("use the newer program that wrote it"));
            }
            if entry.sequence != sequence {
                return Err(Error::corrupt(format!("journal entry {key} says it is number {}", entry.sequence)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The ids of all sessions whose journal exists, oldest first.
    pub async fn sessions(&self) -> Result<Vec<BackupId>> {
        let listing = self.space.list_dir(&self.layout.sessions()).await?;
        let mut ids: Vec<BackupId> = listing.dirs.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Removes the journal of a session, its last entry first, so that what is left after an interruption is a journal
    /// without a gap.
    pub async fn remove(&self, id: &BackupId) -> Result<()> {
        let entries = self.read(id).await.map(|entries| entries.len()).unwrap_or(0);
        for sequence in (0..u32::try_from(entries).unwrap_or(u32::MAX)).rev() {
            self.space.delete(&self.layout.session_entry(id, u64::from(sequence))).await?;
        }
        self.space.delete_prefix(&self.layout.session(id)).await?;
        Ok(())
    }

    /// Leaves a sign of life while a driver only waits.
    pub async fn renew_lease(&self, id: &BackupId, now: DateTime<Utc>) -> Result<()> {
        self.space.put(&self.layout.session_alive(id), now.to_rfc3339()).await
    }

    /// What time it is by the clock of the store. Writes an object and deletes it again.
    pub async fn store_time(&self, ids: &dyn IdSource) -> Result<Option<DateTime<Utc>>> {
        let key = self.layout.probe(&format!("{:032x}", ids.bits()));
        self.space.put(&key, "what time is it?").await?;
        let seen = self.space.list_dir(&self.layout.sessions()).await;
        self.space.delete(&key).await?;
        Ok(seen?.objects.into_iter().find(|object| object.key == key).map(|object| object.last_modified))
    }

    /// For how long the store has not seen anything of a session, in seconds. Both times are those of the store, as clocks of
    /// hosts differ; where nothing may be written now, this host's has to do.
    pub async fn silence(&self, id: &BackupId, ids: &dyn IdSource, otherwise: DateTime<Utc>) -> Result<Option<u64>> {
        let Some(last) = self.last_sign_of_life(id).await? else { return Ok(None) };
        let now = self.store_time(ids).await.ok().flatten().unwrap_or(otherwise);
        Ok(Some(u64::try_from(now.signed_duration_since(last).num_seconds()).unwrap_or(0)))
    }

    /// When the store last saw anything of a session, by the clock of the store.
    pub async fn last_sign_of_life(&self, id: &BackupId) -> Result<Option<DateTime<Utc>>> {
        let objects = self.space.list(&self.layout.session(id)).await?;
        Ok(objects.into_iter().map(|object| object.last_modified).max())
    }
}
