//! A clock that is set by hand.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, FixedOffset, Utc};

use crate::clock::Clock;

/// Time passes only when somebody sleeps or sets it. Sleeping costs next to nothing.
#[derive(Debug)]
pub struct ManualClock {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    now: DateTime<Utc>,
    zone: FixedOffset,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock that stands at `now`, in UTC.
    pub fn at(now: DateTime<Utc>) -> Self {
        let zone = chrono::Offset::fix(&Utc);
        Self { inner: Mutex::new(Inner { now, zone, monotonic: Duration::ZERO }) }
    }

    /// Sets the wall clock, forward or back; the monotonic time does not move.
    pub fn set(&self, now: DateTime<Utc>) {
        self.lock().now = now;
    }

    /// Changes the zone of the host, as the end of summer time does.
    pub fn set_zone(&self, zone: FixedOffset) {
        self.lock().zone = zone;
    }

    /// Lets time pass.
    pub fn advance(&self, duration: Duration) {
        let mut inner = self.lock();
        inner.monotonic += duration;
        inner.now += duration;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.lock().now
    }

    fn local(&self) -> DateTime<FixedOffset> {
        let inner = self.lock();
        inner.now.with_timezone(&inner.zone)
    }

    fn monotonic(&self) -> Duration {
        self.lock().monotonic
    }

    /// As much time passes as was asked for; really only a moment, in which threads of a provider can get on.
    #[allow(clippy::disallowed_methods, reason = "a clock may sleep")]
    async fn sleep(&self, duration: Duration) {
        self.advance(duration);
        tokio::time::sleep(duration.min(Duration::from_millis(5))).await;
    }
}
