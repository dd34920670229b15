//! What a session tells the program that runs it, and how that program cancels it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::phase::Phase;
use super::step::Step;
use crate::id::BackupId;

/// Something that has just happened.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// A backup id was claimed; from here on `recover` knows of the session.
    Planned {
        /// The backup.
        backup_id: BackupId,
        /// How many volumes will be cut.
        volumes: usize,
    },
    /// A step begins.
    StepBegun {
        /// The step.
        #[serde(serialize_with = "step_name")]
        step: Step,
    },
    /// A step is done.
    StepDone {
        /// The step.
        #[serde(serialize_with = "step_name")]
        step: Step,
        /// The phase now.
        phase: Phase,
        /// How long it took.
        #[serde(serialize_with = "milliseconds", rename = "elapsed_ms")]
        elapsed: Duration,
    },
    /// While waiting: how many snapshots have come as far as is waited for, and the progress of the slowest, in percent.
    Waiting {
        /// The step that waits.
        #[serde(serialize_with = "step_name")]
        step: Step,
        /// Snapshots (or WAL segments) that are there.
        done: usize,
        /// Of how many.
        of: usize,
        /// Progress of the slowest, where the provider tells.
        percent: Option<u8>,
    },
    /// The session will be undone.
    Undoing {
        /// Why.
        reason: String,
    },
}

fn step_name<S: serde::Serializer>(step: &Step, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(step.as_str())
}

fn milliseconds<S: serde::Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Called with every [`Progress`], on the thread that drives the session. It must not block.
#[derive(Clone)]
pub struct Listener(Arc<dyn Fn(&Progress) + Send + Sync>);

impl Listener {
    /// A listener.
    pub fn new(listen: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listen))
    }

    pub(crate) fn tell(&self, progress: &Progress) {
        tracing::debug!(?progress, "session");
        (self.0)(progress);
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// Cancels a session, from any thread, as often as one likes.
///
/// Before the dividing line the session is undone; behind it the driver stops and leaves the rest to `recover`.
#[derive(Clone, Debug)]
pub struct CancelToken(Arc<watch::Sender<bool>>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Cancels.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when it is cancelled; never, if it is not.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives as long as `self`; an error cannot happen, and would mean that nobody can cancel any more.
        if receiver.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Default for CancelToken {
    fn default() -> Self {
        Self::new()
    }
}
