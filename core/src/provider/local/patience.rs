//! How long a blocking thread waits for something that ends by itself, as a rule.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(50);
/// How many looks there are: a minute.
const LOOKS: u32 = 1200;

/// Pauses that are left, and whether anybody still wants the result.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    left: Cell<u32>,
    stop: &'a AtomicBool,
}

impl<'a> Patience<'a> {
    /// A minute of it, unless `stop` is set.
    pub(super) fn new(stop: &'a AtomicBool) -> Self {
        Self { left: Cell::new(LOOKS), stop }
    }

    /// Pauses for a moment; false when patience has ended.
    pub(super) fn pause(&self) -> bool {
        let left = self.left.get();
        if left == 0 || self.stop.load(Ordering::Relaxed) {
            return false;
        }
        self.left.set(left - 1);
        std::thread::park_timeout(PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_after_a_while_and_at_once_when_nobody_waits() {
        let stop = AtomicBool::new(false);
        let patience = Patience { left: Cell::new(2), stop: &stop };
        assert_eq!([patience.pause(), patience.pause(), patience.pause()], [true, true, false]);
        let patience = Patience::new(&stop);
        stop.store(true, Ordering::Relaxed);
        assert!(!patience.pause());
    }
}
