//! Each cloud behind a proxy and with a certificate of an authority of one's own, as companies have them: the API answers, if
//! the environment says so as it does to every other program; and nobody is trusted whom the environment does not name.
//!
//! The environment of a process cannot be changed safely, so the test that the runner sees runs the other one of this file.
#![allow(clippy::unwrap_used, reason = "a panic is a failure")]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use barman_snap::clock::SystemClock;
use barman_snap::provider::SnapshotProvider;
use barman_snap::provider::aws::AwsProvider;
use barman_snap::provider::azure::AzureProvider;
use barman_snap::provider::gcp::Gcp;
use barman_snap::provider::options::{AwsOptions, AzureOptions, GcpOptions, ProviderOptions};
use barman_snap_tests::cloud::{Cloud, CloudSet};
use barman_snap_tests::proxy::Proxy;
use barman_snap_tests::{need, own_dev};
use serde_json::json;

const CLOUD: &str = "BARMAN_SNAP_TEST_CLOUD";

/// What points elsewhere, or is the machine's own.
const NOT_HERE: [&str; 9] = [
    "AWS_ENDPOINT_URL",
    "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "AWS_CA_BUNDLE",
    "HTTP_PROXY",
    "http_proxy",
    "https_proxy",
];

#[test]
fn the_api_of_each_cloud_is_reached_by_a_proxy_and_known_by_an_authority_of_ones_own() {
    own_dev!();
    for (cloud, host, trusts) in [
        (Cloud::Aws, "ec2.us-east-1.amazonaws.com", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].as_slice()),
        (Cloud::Gcp, "compute.googleapis.com", &["SSL_CERT_FILE"]),
        (Cloud::Azure, "management.azure.com", &["SSL_CERT_FILE"]),
    ] {
        let set = need!(CloudSet::start_over_tls(&[cloud]));
        let (api, ca) = (set.of(cloud), set.ca().expect("openssl is installed"));
        api.create_instance("pg1", &json!({}));
        let address = api.tls_url().unwrap().trim_start_matches("https://");
        let proxy = Proxy::start(BTreeMap::from([(format!("{host}:443"), address.to_owned())]));
        let run = |trust: Option<&str>| {
            let mut inner = Command::new(std::env::current_exe().unwrap());
            inner.args(["--exact", "inside", "--include-ignored", "--nocapture"]).envs(api.env().iter().cloned());
            for name in NOT_HERE {
                inner.env_remove(name);
            }
            inner.env(CLOUD, cloud.name()).env("HOME", "/nonexistent");
            inner.env("HTTPS_PROXY", proxy.url()).env("NO_PROXY", "127.0.0.1,localhost");
            if let Some(name) = trust {
                inner.env(name, ca);
            }
            let done = inner.output().unwrap();
            let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
            (done.status.success() && said.contains("1 passed"), said)
        };
        for trust in trusts {
            let (ok, said) = run(Some(trust));
            assert!(ok, "{cloud} with {trust}: {said}");
        }
        assert!(
            proxy.asked().iter().all(|asked| asked.starts_with(&format!("CONNECT {host}:443"))),
            "{:?}",
            proxy.asked()
        );
        let (ok, said) = run(None);
        assert!(!ok, "{cloud} trusts anybody: {said}");
    }
}

#[test]
#[ignore = "is run by the other test, with the environment of the fake"]
fn inside() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cloud = std::env::var(CLOUD).unwrap();
        let limit = Some(3);
        let provider: Arc<dyn SnapshotProvider> = match cloud.as_str() {
            "aws" => {
                let aws = AwsOptions { call_timeout_s: limit, ..AwsOptions::default() };
                Arc::new(AwsProvider::new(&ProviderOptions { aws, ..ProviderOptions::default() }).await.unwrap())
            }
            "gcp" => {
                let gcp = GcpOptions {
                    project: Some("proj-1".into()),
                    zone: Some("europe-west1-b".into()),
                    call_timeout_s: limit,
                    ..GcpOptions::default()
                };
                Arc::new(Gcp::new(&ProviderOptions { gcp, ..ProviderOptions::default() }).unwrap())
            }
            _ => {
                let azure = AzureOptions {
                    subscription_id: Some("00000000-1111-2222-3333-444444444444".into()),
                    resource_group: Some("rg1".into()),
                    call_timeout_s: limit,
                    ..AzureOptions::default()
                };
                Arc::new(AzureProvider::new(&azure, None, Arc::new(SystemClock::new())).unwrap())
            }
        };
        let found = provider.instance(Some("pg1")).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(found.name, "pg1");
    });
}
