//! Authorities of one's own: `AWS_CA_BUNDLE`, which every AWS tool reads and the SDK for Rust does not
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-gen-config.html>).
//!
//! Without that variable the client of the SDK stays as it is. It trusts what the host trusts, or `SSL_CERT_FILE` and
//! `SSL_CERT_DIR` name, and takes its proxy from `HTTPS_PROXY` and `NO_PROXY`; so does the one that is made here.

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::error::{Error, Result};

/// A client that trusts the bundle, too; none if there is no bundle.
///
/// # Errors
/// If it cannot be read, or holds no certificate.
pub(super) fn client() -> Result<Option<SharedHttpClient>> {
    let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) else { return Ok(None) };
    let what = "read the certificates of AWS_CA_BUNDLE from";
    let pem = std::fs::read(&path).map_err(|error| Error::io(what, &path, error))?;
    if !pem.windows(5).any(|five| five == b"BEGIN") {
        let message = format!("AWS_CA_BUNDLE holds no certificates: {}", std::path::Path::new(&path).display());
        return Err(Error::invalid(message));
    }
    let store = TrustStore::default().with_native_roots(true).with_pem_certificate(pem);
    let tls = TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|error| Error::invalid("AWS_CA_BUNDLE cannot be used").with_source(error))?;
    Ok(Some(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls.clone())
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.build()
    })))
}
