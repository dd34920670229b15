//! Time as a parameter.
//!
//! The engine never asks the operating system for the time and never sleeps by itself: it asks a [`Clock`]. Tests pass a
//! manual one. `clippy.toml` forbids the direct calls everywhere else.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, FixedOffset, Local, Utc};

/// Where the engine gets the time from.
///
/// # Contract
/// `now` may jump (the wall clock is set, summer time ends), therefore durations are measured with `monotonic`.
/// `sleep` returns after at least the time asked for and may be dropped at any moment without effect.
#[async_trait]
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock.
    fn now(&self) -> DateTime<Utc>;

    /// The same instant in the local zone of this host, in which backup ids are written.
    fn local(&self) -> DateTime<FixedOffset>;

    /// Time since an arbitrary origin that never goes backwards.
    fn monotonic(&self) -> Duration;

    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// The clock of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// The clock of this host; its monotonic time starts now.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that may ask the operating system")]
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
#[allow(clippy::disallowed_methods, reason = "this is the one place that may ask the operating system")]
impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn local(&self) -> DateTime<FixedOffset> {
        Local::now().fixed_offset()
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
