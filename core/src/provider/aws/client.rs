//! The SDK: where credentials, region and endpoint come from, and one client for each region.
//!
//! Nothing else in this provider builds a client. What is not given as an option comes from the environment, the shared
//! configuration files and the metadata service, as the SDK looks for it
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>); endpoints from
//! `AWS_ENDPOINT_URL_EC2`, `AWS_ENDPOINT_URL_STS` and `AWS_ENDPOINT_URL`.
//!
//! Invariant: a call that makes something is sent once ([`Ec2::once`]). The SDK would repeat it after a lost reply, and EC2 has
//! no idempotency token for snapshots. Everything else is repeated as the SDK does by default.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::imds;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::{Builder, ProvideCredentials};
use aws_smithy_runtime_api::client::identity::Identity;

use super::errors::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::options::{AwsOptions, call_timeout};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a call is sent that may be repeated. The first that is refused for too many requests is often the second, too.
const ATTEMPTS: u32 = 5;
/// How long the metadata service of this machine may take; elsewhere nothing answers at its address.
const METADATA: Duration = Duration::from_secs(2);

/// A client and the region that it talks to.
#[derive(Clone, Debug)]
pub(super) struct Ec2 {
    pub(super) region: String,
    pub(super) api: Client,
    patience: Duration,
}

impl Ec2 {
    /// A call that only looks.
    pub(super) fn look(&self, action: &'static str, doing: impl Into<String>) -> Call<'_> {
        Call { action, doing: doing.into(), service: "EC2", region: &self.region, once: false }
    }

    /// A call that changes something, and to the same effect if it is repeated.
    pub(super) fn change(&self, action: &'static str, doing: impl Into<String>) -> Call<'_> {
        self.look(action, doing)
    }

    /// A call that makes something anew each time. Send it with [`once`](Self::once).
    pub(super) fn make(&self, action: &'static str, doing: impl Into<String>) -> Call<'_> {
        Call { once: true, ..self.look(action, doing) }
    }

    /// For `customize().config_override(…)`: one attempt, which has all the time of a call.
    pub(super) fn once(&self) -> Builder {
        Builder::new().retry_config(RetryConfig::disabled()).timeout_config(timeouts(self.patience, self.patience))
    }
}

/// For one attempt, and for a call with all its attempts.
fn timeouts(attempt: Duration, call: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(attempt).operation_timeout(call).build()
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    config: SdkConfig,
    metadata: Option<imds::Client>,
    patience: Duration,
    by_region: Mutex<BTreeMap<String, Ec2>>,
}

impl Clients {
    /// Reads the configuration. Asks nobody but, for the region, the metadata service of this machine if nothing else
    /// names one.
    ///
    /// # Errors
    /// If `AWS_CA_BUNDLE` cannot be used.
    pub(super) async fn load(options: &AwsOptions) -> Result<Self> {
        let disabled = std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        let metadata = imds::Client::builder()
            .connect_timeout(Duration::from_secs(1))
            .read_timeout(Duration::from_secs(1))
            .max_attempts(1)
            .build();
        let patience = call_timeout(options.call_timeout_s);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            // An attempt that gets no answer leaves time for a second one.
            .timeout_config(timeouts(patience * 2 / 3, patience));
        if let Some(client) = super::trust::client()? {
            loader = loader.http_client(client);
        }
        let mut files = aws_config::profile::region::ProfileFileRegionProvider::builder();
        if let Some(profile) = &options.profile {
            loader = loader.profile_name(profile);
            files = files.profile_name(profile);
        }
        let of_machine = ImdsRegionProvider::builder().imds_client(metadata.clone()).build();
        let region = RegionProviderChain::first_try(options.region.clone().map(Region::new))
            .or_else(aws_config::environment::EnvironmentVariableRegionProvider::new())
            .or_else(files.build())
            .or_else(of_machine);
        let config = loader.region(region).load().await;
        Ok(Self { config, metadata: (!disabled).then_some(metadata), patience, by_region: Mutex::default() })
    }

    /// The client of the region that options, environment or this machine name.
    pub(super) fn here(&self) -> Result<Ec2> {
        match self.config.region() {
            Some(region) => Ok(self.region(region.as_ref())),
            None => Err(Error::invalid("no AWS region is known")
                .with_hint("give --aws-region, set AWS_REGION, or name a region in the profile of ~/.aws/config")),
        }
    }

    /// The client of a region.
    pub(super) fn region(&self, region: &str) -> Ec2 {
        let mut clients = self.by_region.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let config = Builder::from(&self.config).region(Region::new(region.to_owned())).build();
            Ec2 { region: region.to_owned(), api: Client::from_conf(config), patience: self.patience }
        };
        clients.entry(region.to_owned()).or_insert_with(new).clone()
    }

    /// A client of the service that says who we are.
    pub(super) fn sts(&self, region: &str) -> aws_sdk_sts::Client {
        let config = aws_sdk_sts::config::Builder::from(&self.config).region(Region::new(region.to_owned())).build();
        aws_sdk_sts::Client::from_conf(config)
    }

    /// The client of the region in these attributes (of an instance, a volume or a ticket), else of the usual one.
    pub(super) fn of(&self, attributes: &BTreeMap<String, String>) -> Result<Ec2> {
        match attributes.get(super::REGION) {
            Some(region) => Ok(self.region(region)),
            None => self.here(),
        }
    }

    /// Who we are, for requests that the SDK does not sign.
    pub(super) async fn identity(&self) -> Result<Identity> {
        let missing = || Error::new(ErrorKind::PermissionDenied, "there are no AWS credentials that can be used");
        let provider = self.config.credentials_provider().ok_or_else(missing)?;
        let credentials = provider.provide_credentials().await.map_err(|error| missing().with_source(error))?;
        Ok(credentials.into())
    }

    /// Asks the metadata service (version 2, with a session token) of this machine; none if this is no EC2 instance.
    pub(super) async fn metadata(&self, path: &str) -> Option<String> {
        let client = self.metadata.as_ref()?;
        match tokio::time::timeout(METADATA, client.get(path)).await {
            Ok(Ok(value)) => Some(value.into()),
            Ok(Err(error)) => {
                tracing::debug!(path, %error, "the metadata service does not answer");
                None
            }
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn clients(region: Option<&str>) -> Clients {
        Clients::load(&AwsOptions { region: region.map(str::to_owned), ..AwsOptions::default() }).await.unwrap()
    }

    #[tokio::test]
    async fn the_region_of_a_ticket_wins_over_the_usual_one() {
        let clients = clients(Some("eu-west-1")).await;
        assert_eq!(clients.here().unwrap().region, "eu-west-1");
        let attributes = [(super::super::REGION.to_owned(), "us-east-2".to_owned())].into();
        assert_eq!(clients.of(&attributes).unwrap().region, "us-east-2");
        assert_eq!(clients.of(&BTreeMap::new()).unwrap().region, "eu-west-1");
    }

    #[tokio::test]
    async fn what_makes_something_is_sent_once() {
        let clients = Clients::load(&AwsOptions { call_timeout_s: Some(7), ..AwsOptions::default() }).await.unwrap();
        let config = clients.region("eu-west-1").once().build();
        assert_eq!(config.retry_config().map(RetryConfig::max_attempts), Some(1));
        assert_eq!(config.timeout_config().and_then(TimeoutConfig::operation_timeout), Some(Duration::from_secs(7)));
    }
}
