//! Which providers there are, by name.
//!
//! A new provider costs its folder, its options, and a line here. Nothing else in the engine knows a provider by its name.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::SnapshotProvider;
use super::local::{LocalOptions, LocalProvider};
use super::options::ProviderOptions;
use crate::error::{Error, ErrorKind, Result};

/// Opens providers by the names that metadata and options use.
#[async_trait]
pub trait ProviderSource: Send + Sync + fmt::Debug {
    /// The provider of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none; [`ErrorKind::InvalidInput`] if its options do not fit together.
    async fn open(&self, name: &str) -> Result<Arc<dyn SnapshotProvider>>;
}

/// The providers of this build, with their options.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    /// Options of the local provider.
    pub local: LocalOptions,
    /// Options of the clouds.
    pub clouds: ProviderOptions,
}

impl Providers {
    /// The names of all providers of this build.
    pub const NAMES: &'static [&'static str] = &[
        "local",
        #[cfg(feature = "aws")]
        "aws",
        #[cfg(feature = "gcp")]
        "gcp",
        #[cfg(feature = "azure")]
        "azure",
    ];
}

#[async_trait]
impl ProviderSource for Providers {
    async fn open(&self, name: &str) -> Result<Arc<dyn SnapshotProvider>> {
        match name {
            "local" => Ok(Arc::new(LocalProvider::new(self.local.clone()))),
            #[cfg(feature = "aws")]
            "aws" => super::aws::open(&self.clouds).await,
            #[cfg(feature = "gcp")]
            "gcp" => super::gcp::open(&self.clouds).await,
            #[cfg(feature = "azure")]
            "azure" => super::azure::open(&self.clouds).await,
            other => Err(Error::new(ErrorKind::Unsupported, format!("this build has no provider {other:?}"))
                .with_hint(format!("it has {}", Self::NAMES.join(", ")))),
        }
    }
}
