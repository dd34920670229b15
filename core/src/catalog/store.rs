//! From a URL and options to an open object store.
//!
//! What it is: the grammar of catalog URLs, the options, and one builder per kind of store. What it is not: anything that
//! runs after the store is open; that is [`ObjectSpace`].
//!
//! The invariants:
//! * The URL alone says which kind of store it is; a plain path is a directory.
//! * Credentials come from where the tools of each cloud look for them (environment, profiles, the machine's role), never from
//!   the URL, and never appear in a message.
//! * An endpoint that cannot be reached is an error within about 15 seconds, and the message names it.

mod aws;
mod azure;
mod gcs;
mod profile;
mod url;

use std::collections::BTreeMap;
use std::time::Duration;

use object_store::{BackoffConfig, ClientOptions, RetryConfig};

pub use self::url::CatalogUrl;
use super::space::ObjectSpace;
use crate::error::{Error, Result};

/// How S3 names a bucket in a request (`--addressing-style`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressingStyle {
    /// In the host name at AWS, in the path at other endpoints.
    #[default]
    Auto,
    /// In the host name: `https://bucket.endpoint/key`.
    Virtual,
    /// In the path: `https://endpoint/bucket/key`.
    Path,
}

/// Which identity to use at Azure (`--azure-credential`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AzureCredential {
    /// That of `az login`.
    AzureCli,
    /// That of this virtual machine.
    ManagedIdentity,
    /// Whatever the environment offers, but no storage key or SAS token.
    Default,
}

/// Server-side encryption at S3 (`--encryption`, `--sse-kms-key-id`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum S3Encryption {
    /// `AES256`: keys of S3 itself.
    Aes256,
    /// `aws:kms`: a key of the key management service; the bucket's default one when none is named.
    Kms {
        /// The id or ARN of the key.
        key_id: Option<String>,
    },
}

/// How to open a store. Every option is meant for some kinds of store and ignored by the others, as in the tools of Barman.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Another endpoint than the cloud's own: an S3-compatible store, an emulator.
    pub endpoint_url: Option<String>,
    /// The profile in the shared AWS files.
    pub aws_profile: Option<String>,
    /// The region of an S3 bucket. If nothing says it, S3 is asked.
    pub region: Option<String>,
    /// How long to wait for an answer; 60 seconds if not given.
    pub read_timeout: Option<Duration>,
    /// How S3 names a bucket in a request.
    pub addressing_style: AddressingStyle,
    /// Server-side encryption at S3.
    pub s3_encryption: Option<S3Encryption>,
    /// Which identity to use at Azure.
    pub azure_credential: Option<AzureCredential>,
}

/// Variables of the environment, taken once, so that tests can pass their own.
type Vars = BTreeMap<String, String>;

/// Opens the store of a URL. Only the region of an S3 bucket may have to be asked for; otherwise nothing is sent yet.
pub async fn open(url: &CatalogUrl, options: &StoreOptions) -> Result<ObjectSpace> {
    // Variables that are no text cannot be meant for us.
    let vars: Vars = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match url {
        CatalogUrl::Local { directory } => {
            let directory = std::path::absolute(directory).map_err(|error| Error::io("find", directory, error))?;
            Ok(ObjectSpace::local(directory))
        }
        CatalogUrl::S3 { bucket, .. } => aws::open(bucket, options, &vars).await,
        CatalogUrl::Gcs { bucket, .. } => gcs::open(bucket, options, &vars),
        CatalogUrl::Azure { account, container, endpoint, .. } => {
            azure::open(account, container, endpoint.as_deref(), options, &vars)
        }
    }
}

/// Attempts that go on for about ten seconds, so that a dead endpoint is reported within fifteen.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 6,
        retry_timeout: Duration::from_secs(10),
    }
}

fn client(options: &StoreOptions, endpoint: Option<&str>) -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(3))
        // A time for the whole request would cut off large objects on slow lines; the time for each answer does not.
        .with_timeout_disabled()
        .with_read_timeout(options.read_timeout.unwrap_or(Duration::from_secs(60)))
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
}

/// An endpoint must be a URL of its own.
fn check_endpoint(endpoint: &str) -> Result<()> {
    match ::url::Url::parse(endpoint) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
        _ => Err(Error::invalid(format!("not an endpoint: {endpoint:?}"))
            .with_hint("an endpoint looks like https://s3.example.com or http://127.0.0.1:9000")),
    }
}

fn cannot_open(name: &str, error: object_store::Error) -> Error {
    Error::invalid(format!("cannot open {name}")).with_source(error)
}
