//! The snapshots of a resource group, for several that ask at once.
//!
//! Azure cannot be asked for the resources with a tag in a way that sees what was made a moment ago, so `find`, `list` and
//! every `create` read all of a group. With many disks that would be as many listings at the same time. Therefore who asks
//! while one is under way waits for the next one and shares it.
//!
//! The invariant: nobody gets a listing that began before he asked. So all that was done before is in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::arm::Scope;
use crate::error::Result;

/// Shared listings of some kind of thing, one kind for each [`Scope`].
#[derive(Debug)]
pub(super) struct Listings<T> {
    groups: Mutex<BTreeMap<Scope, Arc<Group<T>>>>,
}

#[derive(Debug)]
struct Group<T> {
    /// How many listings were begun.
    begun: AtomicU64,
    /// The number of the last one that came to its end, and what it found. Locked while one is under way.
    last: AsyncMutex<(u64, Arc<Vec<T>>)>,
}

impl<T> Default for Listings<T> {
    fn default() -> Self {
        Self { groups: Mutex::new(BTreeMap::new()) }
    }
}

impl<T> Listings<T> {
    /// What `fetch` finds, or another one's that began after this call did.
    pub(super) async fn get<F>(&self, scope: &Scope, fetch: F) -> Result<Arc<Vec<T>>>
    where
        F: Future<Output = Result<Vec<T>>>,
    {
        let group = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Group { begun: AtomicU64::new(0), last: AsyncMutex::new((0, Arc::default())) });
            Arc::clone(groups.entry(scope.clone()).or_insert_with(new))
        };
        let asked_after = group.begun.load(Ordering::SeqCst);
        let mut last = group.last.lock().await;
        if last.0 > asked_after {
            return Ok(Arc::clone(&last.1));
        }
        let number = group.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let found = Arc::new(fetch.await?);
        *last = (number, Arc::clone(&found));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::future::join_all;

    use super::*;
    use crate::error::Error;

    fn scope() -> Scope {
        Scope { subscription: "s".into(), group: "g".into() }
    }

    #[tokio::test]
    async fn many_that_ask_at_once_share_and_nobody_gets_an_old_listing() {
        let (listings, fetched) = (Listings::default(), AtomicUsize::new(0));
        let fetch = || async {
            tokio::task::yield_now().await;
            Ok(vec![fetched.fetch_add(1, Ordering::SeqCst) + 1])
        };
        join_all((0..32).map(|_| async { listings.get(&scope(), fetch()).await.unwrap() })).await;
        let shared = fetched.load(Ordering::SeqCst);
        assert!(shared <= 2, "{shared} listings for 32 at once");
        let later = listings.get(&scope(), fetch()).await.unwrap();
        assert_eq!(*later, [shared + 1], "who asks later gets a new one");
    }

    #[tokio::test]
    async fn a_failure_is_not_shared() {
        let listings = Listings::<u8>::default();
        assert!(listings.get(&scope(), async { Err(Error::internal("x")) }).await.is_err());
        assert_eq!(*listings.get(&scope(), async { Ok(vec![1]) }).await.unwrap(), [1]);
    }
}
