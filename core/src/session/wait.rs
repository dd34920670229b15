//! Waiting: pauses that grow, an end to patience, and a sign of life for others while it lasts.

use std::time::Duration;

use futures::future::{Either, select};

use super::driver::Tools;
use super::state::SessionState;
use crate::error::{Error, ErrorKind, Result};

/// How often a driver that only waits renews its lease.
const LEASE: Duration = Duration::from_secs(60);

/// One wait.
pub(super) struct Wait<'a> {
    tools: &'a Tools,
    begun: Duration,
    patience: Option<Duration>,
    pause: Duration,
    longest: Duration,
    leased: Duration,
}

impl<'a> Wait<'a> {
    /// Pauses grow by half from `shortest` to `longest`; patience ends after `patience`, if it does.
    pub(super) fn new(tools: &'a Tools, patience: Option<Duration>, shortest: Duration, longest: Duration) -> Self {
        let begun = tools.clock.monotonic();
        Self { tools, begun, patience, pause: shortest, longest, leased: begun }
    }

    /// How long it has lasted.
    pub(super) fn elapsed(&self) -> Duration {
        self.tools.clock.monotonic().saturating_sub(self.begun)
    }

    /// Pauses, or says that patience has ended.
    pub(super) async fn pause(&mut self, state: &SessionState) -> Result<()> {
        if let Some(patience) = self.patience.filter(|patience| self.elapsed() >= *patience) {
            return Err(Error::new(ErrorKind::Unavailable, format!("gave up after {} s", patience.as_secs())));
        }
        let now = self.tools.clock.monotonic();
        if now.saturating_sub(self.leased) >= LEASE {
            self.leased = now;
            renew(self.tools, state).await;
        }
        self.tools.clock.sleep(self.pause).await;
        self.pause = (self.pause + self.pause / 2).min(self.longest);
        Ok(())
    }
}

/// Renews the lease while `work` is done by somebody else, however long that takes.
pub(super) async fn with_lease<T>(tools: &Tools, state: &SessionState, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match select(work.as_mut(), tools.clock.sleep(LEASE)).await {
            Either::Left((done, _)) => return done,
            Either::Right(((), _)) => renew(tools, state).await,
        }
    }
}

/// Only a courtesy to `recover` on other hosts; a failure shows at the next entry.
async fn renew(tools: &Tools, state: &SessionState) {
    if let Err(error) = tools.journal.renew_lease(&state.plan.backup_id, tools.clock.now()).await {
        tracing::warn!(error = error.chain(), "the lease of the session could not be renewed");
    }
}
