//! A backup, from the first thought to the last byte.
//!
//! # The story
//! A [`SessionPlan`] holds everything that can be decided beforehand. Storing it claims the backup id and opens the
//! journal. Then PostgreSQL enters backup mode, the catalog learns of the backup, all volumes are cut at once, PostgreSQL
//! leaves backup mode as soon as the slowest is cut, and what `pg_backup_stop` returned is written down. The rest — label,
//! WAL, waiting until the snapshots can be restored from, the final `backup.info` — needs no database, and can be done by
//! another process. The [table of steps](step::TABLE) says it on one screen.
//!
//! # The one rule of recovery
//! **The dividing line is the durable record that holds what `pg_backup_stop` returned. Before it: undo. After it: go
//! forward.** PostgreSQL ends a backup whose connection dies, so nothing on that side ever needs undoing.
//!
//! # The invariant
//! Once a session is over, either its backup is published and restorable, or nothing of it is left but its journal.
//! Until then the journal says enough for any process to bring it there.
//!
//! # What it is not
//! It knows no cloud, no file system and no SQL; those are behind the [provider](crate::provider) and
//! [PostgreSQL](crate::postgres) contracts.

pub(crate) mod begin;
mod config_files;
pub(crate) mod driver;
mod effects;
pub(crate) mod exclude;
pub mod fault;
pub mod gc;
pub mod journal;
mod metadata;
pub mod owner;
pub mod phase;
pub mod plan;
pub mod progress;
pub mod recover;
pub(crate) mod rescue;
pub(crate) mod sight;
mod snapshots;
pub mod state;
pub mod step;
mod wait;
mod wal;

use std::time::Duration;

use serde::Serialize;

pub use begin::BackupRequest;
pub use driver::Patience;
pub use phase::{Event, Phase};
pub use plan::{SessionPlan, WalPolicy};
pub use progress::{CancelToken, Listener, Progress};
pub use recover::{Action, RecoveryPlan, Wishes};
pub use rescue::Rescue;
pub use state::SessionState;
pub use step::Step;

use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::model::Lsn;
use driver::{Driver, Tools};

/// What a published backup comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackupSummary {
    /// The backup.
    pub backup_id: BackupId,
    /// Its first needed WAL position.
    pub begin_lsn: Lsn,
    /// Its last needed WAL position.
    pub end_lsn: Lsn,
    /// The snapshots.
    pub snapshots: Vec<String>,
    /// How long PostgreSQL was in backup mode.
    #[serde(serialize_with = "as_ms", rename = "backup_mode_ms")]
    pub backup_mode: Duration,
    /// From the first create call to the cut of the slowest snapshot.
    #[serde(serialize_with = "as_ms", rename = "cut_ms")]
    pub cut: Duration,
    /// Bytes that had to be copied, where the provider tells.
    pub bytes_copied: Option<u64>,
    /// WAL segments the engine stored itself.
    pub wal_supplied: Vec<String>,
    /// A file that the server says it has archived, and that was not in the catalog when the backup looked: `archive_command`
    /// stores elsewhere, or nothing. The backup is complete, but there is no recovery to a later time.
    pub archived_elsewhere: Option<String>,
}

fn as_ms<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A backup that is being taken. Made by [`Engine::backup`](crate::Engine::backup); nothing has been done yet but that its
/// id is claimed.
///
/// Dropping it is like the death of its process: PostgreSQL ends the backup, and
/// [`Engine::recover`](crate::Engine::recover) cleans up. To leave nothing behind, cancel it and run it to its end.
#[derive(Debug)]
pub struct BackupSession {
    driver: Driver,
}

impl BackupSession {
    pub(crate) fn new(driver: Driver) -> Self {
        Self { driver }
    }

    pub(crate) async fn begin(
        tools: Tools,
        plan: SessionPlan,
        any_id: bool,
        control: Box<dyn crate::postgres::BackupControl>,
    ) -> Result<Self> {
        let volumes = plan.volumes.len();
        let state = begin::claim(&tools, plan, any_id).await?;
        tools.listener.tell(&Progress::Planned { backup_id: state.plan.backup_id.clone(), volumes });
        Ok(Self::new(Driver::new(tools, state, Some(control), CancelToken::new())))
    }

    /// Tells a session on a standby where its primary is. The primary is asked to end the last WAL segment of the backup,
    /// which on a quiet system could otherwise take as long as `archive_timeout`, or for ever.
    pub fn set_primary(&mut self, primary: Box<dyn crate::postgres::BackupControl>) {
        self.driver.primary = Some(primary);
    }

    /// The backup id.
    pub fn backup_id(&self) -> &BackupId {
        &self.driver.state.plan.backup_id
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.driver.state.phase
    }

    /// All that is known of it.
    pub fn state(&self) -> &SessionState {
        &self.driver.state
    }

    /// Cancels it, from wherever.
    pub fn cancel_token(&self) -> CancelToken {
        self.driver.cancel.clone()
    }

    /// Does the next step, and says which it was; `None` when the session is over.
    ///
    /// # Errors
    /// The error of the step. If the session is undoing then, go on calling: the next steps undo it.
    pub async fn next_step(&mut self) -> Result<Option<Step>> {
        self.driver.next_step().await
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The error of the step that failed first. Its context `phase` says how the session ended: `undone` (nothing is left),
    /// `finishing` (`recover` completes it), `stuck` (somebody has to look).
    pub async fn run(&mut self) -> Result<BackupSummary> {
        let result = self.driver.run().await;
        let phase = self.driver.state.phase;
        result.map_err(|error| error.with_context("ended", phase.as_str()))?;
        self.summary()
    }

    /// What it has come to.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if it is not published.
    pub fn summary(&self) -> Result<BackupSummary> {
        let state = &self.driver.state;
        let (Phase::Published, Some(started), Some(stopped)) = (state.phase, &state.started, &state.stopped) else {
            return Err(Error::new(ErrorKind::Precondition, format!("backup {} is {}", self.backup_id(), state.phase)));
        };
        Ok(BackupSummary {
            backup_id: self.backup_id().clone(),
            begin_lsn: started.lsn,
            end_lsn: stopped.lsn,
            snapshots: state.tickets.iter().map(|ticket| ticket.name.clone()).collect(),
            backup_mode: Duration::from_millis(state.backup_mode_ms),
            cut: Duration::from_millis(state.cut_ms),
            bytes_copied: state.bytes_copied,
            wal_supplied: state.wal_complete.clone().unwrap_or_default(),
            archived_elsewhere: state.archived_elsewhere.clone(),
        })
    }
}
