//! How many pieces of work all copies of a provider do at once.
//!
//! Each volume is copied by threads of its own, and each piece of work has a few files open. What is open must not grow with
//! the number of volumes, so a thread does nothing without a permit. Permits are held for a piece of work, never while waiting
//! for another one, so that they always come back.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Files that one piece of work has open at once: two directories, one on the way to them, a file and its copy.
const FILES_EACH: u64 = 5;
/// How often a thread that waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// The permits; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Permits {
    shared: Arc<(Mutex<usize>, Condvar)>,
    all: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(super) fn new(number: usize) -> Self {
        let all = number.max(1);
        Self { shared: Arc::new((Mutex::new(all), Condvar::new())), all }
    }

    /// As many as are wanted, if this process may have enough files open for them.
    pub(super) fn for_this_process(wanted: usize) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::new(fitting(wanted, limit))
    }

    /// How many there are.
    pub(super) fn number(&self) -> usize {
        self.all
    }

    /// Waits for a permit; `None` when the work is not wanted any more.
    pub(super) fn take(&self, unwanted: impl Fn() -> bool) -> Option<Permit<'_>> {
        let (free, returned) = &*self.shared;
        let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if unwanted() {
                return None;
            }
            (free, _) = returned.wait_timeout(free, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Some(Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let (free, returned) = &*self.0.shared;
        *free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        returned.notify_one();
    }
}

/// Half of the files that may be open is for others: connections, records of snapshots, the program around us.
fn fitting(wanted: usize, limit: Option<u64>) -> usize {
    let most = limit.map_or(u64::MAX, |limit| limit / 2 / FILES_EACH);
    wanted.min(usize::try_from(most).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_makes_fewer_and_never_none() {
        assert_eq!(fitting(8, None), 8);
        assert_eq!(fitting(8, Some(1024)), 8);
        assert_eq!(fitting(8, Some(64)), 6);
        assert_eq!(fitting(8, Some(3)), 1);
        assert_eq!(fitting(0, None), 1);
    }

    #[test]
    fn a_permit_comes_back_and_waiting_ends_when_nobody_wants_it() {
        let permits = Permits::new(1);
        let first = permits.take(|| false).unwrap();
        assert!(permits.clone().take(|| true).is_none());
        drop(first);
        assert!(permits.take(|| true).is_some());
    }
}
