//! Waiting for something outside to happen. The only place of the tests that looks at the time and sleeps.
#![expect(clippy::disallowed_methods, reason = "servers live in real time; no clock of the engine reaches them")]

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Asks `check` until it gives a value, and panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        sleep(Duration::from_millis(20));
    }
}

/// Lets time pass, where the test is about time passing (load that shall do some work, say).
pub fn pass(time: Duration) {
    sleep(time);
}

/// Runs `work` and tells how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let value = work();
    (value, begin.elapsed())
}
