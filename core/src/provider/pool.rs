//! The provider that an engine was given, and those that the backups it meets were made with.
//!
//! A new backup is taken with the provider that the user chose. One that exists says by itself which provider has its
//! snapshots; that one is opened when it is first needed, and kept, because opening may mean asking for credentials.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::SnapshotProvider;
use super::registry::ProviderSource;
use crate::error::{Error, Result};

/// See the [module documentation](self).
#[derive(Debug)]
pub struct ProviderPool {
    own: Arc<dyn SnapshotProvider>,
    source: Arc<dyn ProviderSource>,
    opened: Mutex<BTreeMap<String, Arc<dyn SnapshotProvider>>>,
}

impl ProviderPool {
    /// A pool that answers to the name of `own` with it, and asks `source` for all others.
    pub fn new(own: Arc<dyn SnapshotProvider>, source: Arc<dyn ProviderSource>) -> Self {
        Self { own, source, opened: Mutex::default() }
    }
}

#[async_trait]
impl ProviderSource for ProviderPool {
    async fn open(&self, name: &str) -> Result<Arc<dyn SnapshotProvider>> {
        if name == self.own.name() {
            return Ok(Arc::clone(&self.own));
        }
        // Held while it is opened: two backups of one provider need it once.
        let mut opened = self.opened.lock().await;
        if let Some(provider) = opened.get(name) {
            return Ok(Arc::clone(provider));
        }
        let provider = self.source.open(name).await.map_err(|error| {
            Error::new(error.kind(), format!("provider {name} is needed, and cannot be opened"))
                .with_retry(error.retry())
                .with_source(error)
        })?;
        opened.insert(name.to_owned(), Arc::clone(&provider));
        Ok(provider)
    }
}
