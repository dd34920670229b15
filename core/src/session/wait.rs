//! Waiting: pauses that grow, an end to patience, and a sign of life for others while it lasts.

use std::time::Duration;

use futures::future::{Either, select};

use super::driver::Tools;
use super::state::SessionState;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result, Retry};

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
        self.pause_at_least(state, Duration::ZERO).await
    }

    /// As [`pause`](Self::pause), for at least `asked`.
    pub(super) async fn pause_at_least(&mut self, state: &SessionState, asked: Duration) -> Result<()> {
        if let Some(patience) = self.patience.filter(|patience| self.elapsed() >= *patience) {
            return Err(gave_up(patience));
        }
        self.sleep(state, asked).await;
        Ok(())
    }

    /// Pauses for at least `asked`; or says at once that this would end after `limit`. For whoever was told when to come again:
    /// to wait for what cannot succeed in time helps nobody.
    pub(super) async fn pause_within(&mut self, state: &SessionState, asked: Duration, limit: Duration) -> Result<()> {
        if !self.has_time(asked, limit) {
            return Err(gave_up(self.elapsed()));
        }
        self.sleep(state, asked).await;
        Ok(())
    }

    /// Whether [`pause_within`](Self::pause_within) would pause, rather than say at once that there is no time.
    pub(super) fn has_time(&self, asked: Duration, limit: Duration) -> bool {
        self.elapsed() + self.pause.max(asked) <= limit
    }

    async fn sleep(&mut self, state: &SessionState, at_least: Duration) {
        let now = self.tools.clock.monotonic();
        if now.saturating_sub(self.leased) >= LEASE {
            self.leased = now;
            renew(self.tools, state).await;
        }
        self.tools.clock.sleep(self.pause.max(at_least)).await;
        self.pause = (self.pause + self.pause / 2).min(self.longest);
    }
}

fn gave_up(after: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, format!("gave up after {} s", after.as_secs()))
}

/// The longest pause between two tries of a read, whatever the provider asks for.
pub(super) const LONGEST_READ_PAUSE: Duration = Duration::from_secs(30);

/// A read, asked again for at most `patience` while the provider says that it may be answered later: that it was throttled,
/// or did not get through, says nothing about what was asked.
///
/// # Errors
/// The last one, when patience has ended; at once one that would be the same again.
pub(super) async fn patiently<T, F>(
    clock: &dyn Clock,
    patience: Duration,
    what: &str,
    read: impl Fn() -> F + Send,
) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let begun = clock.monotonic();
    let mut pause = Duration::from_millis(500);
    loop {
        let error = match read().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let asked = match error.retry() {
            Retry::Safe => Duration::ZERO,
            Retry::After(asked) => asked.min(LONGEST_READ_PAUSE),
            Retry::Never | Retry::Unknown => return Err(error),
        };
        let left = (begun + patience).saturating_sub(clock.monotonic());
        if left.is_zero() {
            return Err(error);
        }
        let wait = pause.max(asked).min(left);
        tracing::warn!(error = error.chain(), wait_s = wait.as_secs(), what, "asking the provider again");
        clock.sleep(wait).await;
        pause = (pause * 2).min(LONGEST_READ_PAUSE);
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
pub(super) async fn renew(tools: &Tools, state: &SessionState) {
    if let Err(error) = tools.journal.renew_lease(&state.plan.backup_id, tools.clock.now()).await {
        tracing::warn!(error = error.chain(), "the lease of the session could not be renewed");
    }
}
