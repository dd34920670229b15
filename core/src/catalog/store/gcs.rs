//! Google Cloud Storage.
//!
//! Credentials: `GOOGLE_APPLICATION_CREDENTIALS`, the file of `gcloud auth application-default login`, the machine's service
//! account. `STORAGE_EMULATOR_HOST` is honoured as Google's own libraries do, without credentials.

use object_store::gcp::GoogleCloudStorageBuilder;

use super::{StoreOptions, Vars, cannot_open, check_endpoint, client, retries};
use crate::catalog::space::ObjectSpace;
use crate::error::Result;

pub(super) fn open(bucket: &str, options: &StoreOptions, vars: &Vars) -> Result<ObjectSpace> {
    let var = |name: &str| vars.get(name).filter(|value| !value.is_empty());
    let emulator = var("STORAGE_EMULATOR_HOST").map(|host| match host.contains("://") {
        true => host.clone(),
        false => format!("http://{host}"),
    });
    let universe = var("GOOGLE_CLOUD_UNIVERSE_DOMAIN").map(|domain| format!("https://storage.{domain}"));
    let endpoint = options.endpoint_url.clone().or(emulator.clone()).or(universe);
    let name = match &endpoint {
        Some(endpoint) => format!("gs://{bucket} ({endpoint})"),
        None => format!("gs://{bucket}"),
    };
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_retry(retries())
        .with_client_options(client(options, endpoint.as_deref()));
    if let Some(endpoint) = &endpoint {
        check_endpoint(endpoint)?;
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    if emulator.is_some() {
        builder = builder.with_skip_signature(true);
    } else if let Some(path) = var("GOOGLE_APPLICATION_CREDENTIALS") {
        builder = builder.with_application_credentials(path);
    }
    let store = builder.build().map_err(|error| cannot_open(&name, error))?;
    Ok(ObjectSpace::paged(store, &name))
}
