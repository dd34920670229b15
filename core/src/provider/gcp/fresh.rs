//! What this process has asked Google Cloud for lately. Only a cache: a process that has none asks the cloud.
//!
//! A list may not show yet what an operation that has ended well has made: an instant snapshot that is not in the list of a
//! young group is not taken for gone. And a call that is repeated with the id of one whose operation has failed is answered with that failure
//! again, for an hour; so after a failure the next call gets an id of its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a thing that was made may not show.
const SHOWS_WITHIN: Duration = Duration::from_secs(60);

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub(super) struct Fresh {
    made: Mutex<BTreeMap<String, Duration>>,
    failed: Mutex<BTreeMap<String, u32>>,
}

impl Fresh {
    /// A call that makes this was accepted.
    pub(super) fn add(&self, link: &str, now: Duration) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, at| now.saturating_sub(*at) < SHOWS_WITHIN);
        made.insert(link.to_owned(), now);
    }

    /// Whether it may be too young to show.
    pub(super) fn is_young(&self, link: &str, now: Duration) -> bool {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(link).is_some_and(|at| now.saturating_sub(*at) < SHOWS_WITHIN)
    }

    /// It is deleted, or will never be.
    pub(super) fn forget(&self, link: &str) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(link);
    }

    /// What the request id of a thing is made of: its name, and how often its operation has failed here.
    pub(super) fn attempt(&self, thing: &str) -> String {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).get(thing) {
            None => thing.to_owned(),
            Some(times) => format!("{thing}#{times}"),
        }
    }

    /// The operation that was to make it has failed.
    pub(super) fn has_failed(&self, thing: &str) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner).entry(thing.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_young_for_a_while() {
        let (fresh, second) = (Fresh::default(), Duration::from_secs(1));
        fresh.add("a", second);
        assert!(fresh.is_young("a", second * 60) && !fresh.is_young("a", second * 61) && !fresh.is_young("b", second));
        fresh.forget("a");
        assert!(!fresh.is_young("a", second));
    }

    #[test]
    fn after_a_failure_comes_another_attempt() {
        let fresh = Fresh::default();
        assert_eq!(fresh.attempt("a"), "a");
        fresh.has_failed("a");
        fresh.has_failed("a");
        assert_eq!((fresh.attempt("a").as_str(), fresh.attempt("b").as_str()), ("a#2", "b"));
    }
}
