//! The clients of the official SDK, made when they are first needed.
//!
//! * Credentials are the application default ones: `GOOGLE_APPLICATION_CREDENTIALS`, the file of `gcloud auth
//!   application-default login`, the metadata server (`GCE_METADATA_HOST` is honoured). One token serves all clients.
//! * The endpoint is the option, or what gcloud takes it from: `CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE`, which is with
//!   the version of the API at its end.
//! * Every attempt ends within the time-out (30 s unless set), connecting included. Reads are repeated by the SDK as it does by default, and also when there were too
//!   many requests ([`Reads`]); calls that create something are sent once ([`once`]), because a second one could make a
//!   second thing.

use std::time::Duration;

use google_cloud_auth::credentials::{Builder as DefaultCredentials, Credentials, anonymous};
use google_cloud_compute_v1::client;
use google_cloud_gax::client_builder::ClientBuilder;
use google_cloud_gax::error::Error as SdkError;
use google_cloud_gax::options::RequestOptionsBuilder;
use google_cloud_gax::retry_policy::{Aip194Strict, NeverRetry, RetryPolicy, RetryPolicyExt};
use google_cloud_gax::retry_result::RetryResult;
use google_cloud_gax::retry_state::RetryState;
use tokio::sync::OnceCell;

use super::errors;
use crate::error::{Error, Result};
use crate::provider::options::{GcpOptions, call_timeout};

/// How often a read is repeated, as the SDK does by default; and for how many times the time of one call.
const ATTEMPTS: u32 = 10;
const CALLS: u32 = 2;

/// What the SDK repeats by itself, reads that got no answer in time, and reads that came too fast: Compute Engine says so with 403 as often as with 429, which
/// the SDK does not know.
#[derive(Clone, Debug)]
struct Reads;

impl RetryPolicy for Reads {
    fn on_error(&self, state: &RetryState, error: SdkError) -> RetryResult {
        match state.idempotent && (error.is_timeout() || errors::is_throttled(&error)) {
            true => RetryResult::Continue(error),
            false => Aip194Strict.on_error(state, error),
        }
    }
}

/// Which credentials and endpoint.
#[derive(Debug)]
struct Access {
    endpoint: Option<String>,
    anonymous: bool,
    patience: Duration,
    credentials: OnceCell<Credentials>,
}

impl Access {
    async fn configure<F>(&self, builder: ClientBuilder<F, Credentials>) -> Result<ClientBuilder<F, Credentials>> {
        let credentials = self.credentials.get_or_try_init(|| async { self.load() }).await?;
        let reads = Reads.with_attempt_limit(ATTEMPTS).with_time_limit(self.patience * CALLS);
        let builder =
            builder.with_credentials(credentials.clone()).with_attempt_timeout(self.patience).with_retry_policy(reads);
        Ok(match &self.endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint.clone()),
            None => builder,
        })
    }

    fn load(&self) -> Result<Credentials> {
        match self.anonymous {
            true => Ok(anonymous::Builder::new().build()),
            false => DefaultCredentials::default().build().map_err(errors::no_credentials),
        }
    }
}

/// The one list of clients.
macro_rules! clients {
    ($($name:ident: $client:ident,)*) => {
        /// All clients with the same credentials and endpoint.
        #[derive(Debug)]
        pub(super) struct Clients {
            access: Access,
            $($name: OnceCell<client::$client>,)*
        }

        impl Clients {
            /// Clients with these options. Nothing is looked up yet.
            ///
            /// # Errors
            /// If the endpoint is no URL.
            pub(super) fn new(options: &GcpOptions) -> Result<Self> {
                let endpoint = options.endpoint.clone().or_else(of_gcloud);
                if let Some(endpoint) = &endpoint {
                    check_endpoint(endpoint)?;
                }
                let access = Access {
                    endpoint,
                    anonymous: options.anonymous,
                    patience: call_timeout(options.call_timeout_s),
                    credentials: OnceCell::new(),
                };
                Ok(Self { access, $($name: OnceCell::new(),)* })
            }

            $(
                pub(super) async fn $name(&self) -> Result<&client::$client> {
                    let make = async || {
                        let builder = self.access.configure(client::$client::builder()).await?;
                        builder.build().await.map_err(errors::no_client)
                    };
                    self.$name.get_or_try_init(make).await
                }
            )*
        }
    };
}

clients! {
    disks: Disks,
    global_operations: GlobalOperations,
    instances: Instances,
    instant_groups: InstantSnapshotGroups,
    instant_snapshots: InstantSnapshots,
    projects: Projects,
    region_disks: RegionDisks,
    region_instant_groups: RegionInstantSnapshotGroups,
    region_instant_snapshots: RegionInstantSnapshots,
    region_operations: RegionOperations,
    resource_policies: ResourcePolicies,
    snapshots: Snapshots,
    zone_operations: ZoneOperations,
}

/// The endpoint that gcloud is told.
fn of_gcloud() -> Option<String> {
    let endpoint = std::env::var("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE").ok()?;
    Some(root(&endpoint).to_owned()).filter(|endpoint| !endpoint.is_empty())
}

/// An endpoint without the path of the API.
fn root(endpoint: &str) -> &str {
    let endpoint = endpoint.trim_end_matches('/');
    endpoint.strip_suffix("/compute/v1").unwrap_or(endpoint)
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    match url::Url::parse(endpoint) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
        _ => Err(Error::invalid(format!("the endpoint of Google Cloud is no URL: {endpoint:?}"))
            .with_hint("it looks like https://compute.googleapis.com")),
    }
}

/// The request, sent once and never repeated by the SDK.
pub(super) fn once<B: RequestOptionsBuilder>(builder: B) -> B {
    builder.with_retry_policy(NeverRetry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_of_gcloud_has_the_path_of_the_api() {
        for endpoint in ["http://127.0.0.1:5/compute/v1/", "http://127.0.0.1:5/compute/v1", "http://127.0.0.1:5"] {
            assert_eq!(root(endpoint), "http://127.0.0.1:5");
        }
    }

    #[test]
    fn an_endpoint_is_a_url() {
        assert!(check_endpoint("http://127.0.0.1:8080").is_ok());
        for bad in ["", "localhost", "compute.googleapis.com", "ftp://x", "http://"] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
    }
}
