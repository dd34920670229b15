//! Snapshots of Amazon EBS disks.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::provider::SnapshotProvider;
use crate::provider::options::ProviderOptions;

/// The provider with these options.
///
/// # Errors
/// If the options do not fit together.
pub async fn open(_options: &ProviderOptions) -> Result<Arc<dyn SnapshotProvider>> {
    Err(Error::new(ErrorKind::Unsupported, "not there yet"))
}
