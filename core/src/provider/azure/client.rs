//! The clients of the Resource Manager: credentials, end point, time-outs, and which calls are repeated.
//!
//! * Every attempt of a call ends within the time-out (30 s unless set); a connection has to stand after 5 s.
//! * Reads are repeated here, a few times and within the patience of one call, and wait as `Retry-After` says. The policy of the
//!   SDK is off, because it drops that header and so would leave the engine without it.
//! * Writes are never repeated here. [`Clients::write`] says by its error whether the effect can have happened.
//! * Credentials are those of the stock tools: `azure-cli`, `managed-identity` (an App Service's by `IDENTITY_ENDPOINT`, else
//!   that of the virtual machine), or what the environment offers (service principal, workload identity, managed identity,
//!   CLI), <https://learn.microsoft.com/azure/developer/rust/sdk/authentication/credential-chains>.
//!
//! Tokens go over TLS only: an end point with `http` has to be on this host.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::auth::{AccessToken, TokenCredential};
use azure_core::headers::{AUTHORIZATION, CONTENT_TYPE, Headers};
use azure_core::{HttpClient, Method, Request, Response, RetryOptions, TransportOptions, Url};
use azure_identity::{
    AppServiceManagedIdentityCredential, AzureCliCredential, DefaultAzureCredential, TokenCredentialOptions,
    VirtualMachineManagedIdentityCredential,
};
use azure_mgmt_compute::package_2024_07_01 as compute;
use futures::future::BoxFuture;
use serde_json::Value;

use super::errors::{self, Call, Refusal};
use crate::catalog::store::AzureCredential;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::options::{AzureOptions, call_timeout};

const PUBLIC: &str = "https://management.azure.com";
const CONNECT: Duration = Duration::from_secs(5);
/// The most attempts of a read.
const ATTEMPTS: u32 = 5;

/// What speaks to Azure. Cheap to clone.
#[derive(Clone)]
pub(super) struct Clients {
    compute: compute::Client,
    credential: Arc<Credential>,
    http: Arc<dyn HttpClient>,
    endpoint: Url,
    scope: String,
    patience: Duration,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Clients {
    /// Clients with these options. Asks nobody; a credential that does not work shows at the first call.
    pub(super) fn new(options: &AzureOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        let endpoint = endpoint(options.endpoint.as_deref().unwrap_or(PUBLIC))?;
        let plain = plain_http()?;
        let credential = Arc::new(Credential(credential(options.credential, &plain)?));
        let http: Arc<dyn HttpClient> = Arc::new(Transport(plain));
        // An emulator takes the tokens of the public cloud.
        let audience = if endpoint.scheme() == "http" { PUBLIC } else { endpoint.as_str().trim_end_matches('/') };
        let scope = format!("{audience}/.default");
        let compute = compute::Client::builder(Arc::clone(&credential) as Arc<dyn TokenCredential>)
            .endpoint(endpoint.clone())
            .scopes(&[scope.as_str()])
            .retry(RetryOptions::none())
            .transport(TransportOptions::new(Arc::clone(&http)))
            .build()
            .map_err(|error| Error::invalid("the client of Azure cannot be made").with_source(error))?;
        let patience = call_timeout(options.call_timeout_s);
        Ok(Self { compute, credential, http, endpoint, scope, patience, clock })
    }

    /// The clock that waits are taken from.
    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// A call that changes nothing, repeated while that makes sense.
    pub(super) async fn read<T>(
        &self,
        call: Call<'_>,
        ask: impl Fn(&compute::Client) -> BoxFuture<'static, azure_core::Result<T>> + Send + Sync,
    ) -> Result<T> {
        let begun = self.clock.monotonic();
        let mut attempt = 1;
        loop {
            // An attempt that gets no answer leaves time for a second one.
            let left = self.patience.saturating_sub(self.clock.monotonic().saturating_sub(begun));
            let answer = tokio::time::timeout(left.min(self.patience * 2 / 3), ask(&self.compute)).await;
            let error = match answer {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    let refused = errors::refusal(&error).is_some_and(|refusal| refusal.status == 401);
                    if attempt == 1 && (refused || *error.kind() == azure_core::error::ErrorKind::Credential) {
                        // A token may have been withdrawn before its time, and who gives them may fail once.
                        let _ = self.credential.clear_cache().await;
                        attempt += 1;
                        continue;
                    }
                    errors::read(call, error, false)
                }
                Err(_) => errors::late(call, self.patience, false),
            };
            let step = Duration::from_millis(200) * 2_u32.pow(attempt);
            let wait = match error.retry() {
                Retry::After(asked) => asked.max(step),
                Retry::Safe => step,
                Retry::Never | Retry::Unknown => return Err(error),
            };
            let spent = self.clock.monotonic().saturating_sub(begun);
            if attempt >= ATTEMPTS || spent + wait > self.patience {
                return Err(error);
            }
            tracing::debug!(subject = call.subject, %error, "asking Azure again");
            self.clock.sleep(wait).await;
            attempt += 1;
        }
    }

    /// As [`read`](Self::read); `None` for what does not exist.
    pub(super) async fn look<T>(
        &self,
        call: Call<'_>,
        ask: impl Fn(&compute::Client) -> BoxFuture<'static, azure_core::Result<T>> + Send + Sync,
    ) -> Result<Option<T>> {
        match self.read(call, ask).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A call that changes something; sent once.
    pub(super) async fn write<T>(
        &self,
        call: Call<'_>,
        send: impl FnOnce(&compute::Client) -> BoxFuture<'static, azure_core::Result<T>> + Send,
    ) -> Result<T> {
        // Without this, a slow sign-in would make the outcome of the call unknown.
        self.token(call).await?;
        match tokio::time::timeout(self.patience, send(&self.compute)).await {
            Ok(answer) => answer.map_err(|error| errors::read(call, error, true)),
            Err(_) => Err(errors::late(call, self.patience, true)),
        }
    }

    /// A call that the generated client does not have: GET of a path below the end point, or of an address that the service
    /// gave itself.
    pub(super) async fn get(&self, call: Call<'_>, address: &str) -> Result<Value> {
        let url = self.endpoint.join(address).map_err(|error| {
            Error::new(ErrorKind::Provider, format!("not an address of Azure: {address}")).with_source(error)
        })?;
        // The token must not go elsewhere.
        if url.origin() != self.endpoint.origin() {
            return Err(Error::new(ErrorKind::Provider, format!("not an address of {}: {url}", self.endpoint)));
        }
        self.read(call, |_| {
            let (this, url) = (self.clone(), url.clone());
            Box::pin(async move {
                let token = this.credential.get_token(&[&this.scope]).await?;
                let mut request = Request::new(url, Method::Get);
                request.insert_header(AUTHORIZATION, format!("Bearer {}", token.token.secret()));
                request.set_body(azure_core::EMPTY_BODY);
                let body = this.http.execute_request(&request).await?.into_body().collect().await?;
                Ok(if body.is_empty() { Value::Null } else { azure_core::from_json(body)? })
            })
        })
        .await
    }

    /// A call that changes something and that the generated client does not have: PUT of a path below the end point; sent once.
    pub(super) async fn put(&self, call: Call<'_>, address: &str, body: &Value) -> Result<Headers> {
        let bad = |error| Error::internal(format!("not an address of Azure: {address}")).with_source(error);
        let url = self.endpoint.join(address).map_err(bad)?;
        self.token(call).await?;
        let send = async {
            let token = self.credential.get_token(&[&self.scope]).await?;
            let mut request = Request::new(url, Method::Put);
            request.insert_header(AUTHORIZATION, format!("Bearer {}", token.token.secret()));
            request.insert_header(CONTENT_TYPE, "application/json");
            request.set_body(body.to_string());
            Ok(self.http.execute_request(&request).await?.headers().clone())
        };
        match tokio::time::timeout(self.patience, send).await {
            Ok(answer) => answer.map_err(|error| errors::read(call, error, true)),
            Err(_) => Err(errors::late(call, self.patience, true)),
        }
    }

    async fn token(&self, call: Call<'_>) -> Result<()> {
        let scopes = [self.scope.as_str()];
        match tokio::time::timeout(self.patience, self.credential.get_token(&scopes)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(errors::read(call, error, false)),
            Err(_) => Err(errors::late(call, self.patience, false)),
        }
    }
}

/// Whether an error says that a resource, or the group it was in, does not exist.
pub(super) fn gone(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// The end point; `http` only on this host.
fn endpoint(text: &str) -> Result<Url> {
    let bad = |why: &str| Error::invalid(format!("--azure-endpoint {text}: {why}"));
    let url = Url::parse(text).map_err(|error| bad("not a URL").with_source(error))?;
    let local = match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => return Err(bad("it names no host")),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if local => Ok(url),
        "http" => Err(bad("http would show the token to the network").with_hint("use https, or a loopback address")),
        _ => Err(bad("it has to begin with https://")),
    }
}

/// What HTTP needs of this host: its certificates, and its proxy.
///
/// The client knows the public authorities; what `SSL_CERT_FILE` and `SSL_CERT_DIR` name, or else the host trusts, comes on top.
/// Plain HTTP goes to this host and to its metadata service only, so never to a proxy.
fn plain_http() -> Result<Arc<dyn HttpClient>> {
    let mut client = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .pool_idle_timeout(Duration::from_secs(30))
        .no_proxy();
    if let Some((name, url)) = proxy(|name| std::env::var(name).ok()) {
        let proxy = reqwest::Proxy::https(&url)
            .map_err(|error| Error::invalid(format!("{name} is no address of a proxy")).with_source(error))?;
        client = client.proxy(proxy.no_proxy(reqwest::NoProxy::from_env()));
    }
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificates of this host cannot be read");
    }
    // A store may hold old certificates that cannot be read; they can vouch for nobody.
    for certificate in found.certs.iter().filter_map(|one| reqwest::Certificate::from_der(one).ok()) {
        client = client.add_root_certificate(certificate);
    }
    let client =
        client.build().map_err(|error| Error::internal("the HTTP client cannot be made").with_source(error))?;
    Ok(Arc::new(client))
}

/// The proxy for HTTPS, and the variable that names it.
fn proxy(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    let names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    names.into_iter().find_map(|name| Some((name, variable(name).filter(|url| !url.is_empty())?)))
}

fn credential(kind: Option<AzureCredential>, http: &Arc<dyn HttpClient>) -> Result<Arc<dyn TokenCredential>> {
    let options = || TokenCredentialOptions::from(Arc::clone(http));
    let bad = |error: azure_core::Error| {
        Error::invalid("the credential of Azure cannot be used").with_hint("see --azure-credential").with_source(error)
    };
    Ok(match kind {
        Some(AzureCredential::AzureCli) => Arc::new(AzureCliCredential::new()),
        Some(AzureCredential::ManagedIdentity) if std::env::var_os("IDENTITY_ENDPOINT").is_some() => {
            Arc::new(AppServiceManagedIdentityCredential::create(options()).map_err(bad)?)
        }
        Some(AzureCredential::ManagedIdentity) => Arc::new(VirtualMachineManagedIdentityCredential::new(options())),
        Some(AzureCredential::Default) | None => Arc::new(DefaultAzureCredential::create(options()).map_err(bad)?),
    })
}

/// A credential whose failures can be told from those of the call it is for.
#[derive(Debug)]
struct Credential(Arc<dyn TokenCredential>);

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(&self, scopes: &[&str]) -> azure_core::Result<AccessToken> {
        self.0.get_token(scopes).await.map_err(|error| {
            azure_core::Error::full(azure_core::error::ErrorKind::Credential, error, "cannot get a token")
        })
    }

    async fn clear_cache(&self) -> azure_core::Result<()> {
        self.0.clear_cache().await
    }
}

/// Reads refusals before the generated client can lose their headers.
#[derive(Debug)]
struct Transport(Arc<dyn HttpClient>);

#[async_trait]
impl HttpClient for Transport {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<Response> {
        let response = self.0.execute_request(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let (_, headers, body) = response.deconstruct();
        let body = body.collect().await.unwrap_or_default();
        let refusal = Refusal::of_response(status.into(), &headers, &body);
        let kind = azure_core::error::ErrorKind::http_response(status, Some(refusal.code.clone()));
        Err(azure_core::Error::new(kind, refusal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_the_one_for_https_or_that_for_all() {
        let of = |set: &[(&str, &str)]| {
            proxy(|name| set.iter().find(|(known, _)| *known == name).map(|(_, url)| (*url).to_owned()))
        };
        assert_eq!(of(&[("all_proxy", "a"), ("https_proxy", "b")]), Some(("https_proxy", "b".into())));
        assert_eq!(of(&[("all_proxy", "a"), ("HTTPS_PROXY", "")]), Some(("all_proxy", "a".into())));
        assert_eq!(of(&[("http_proxy", "c")]), None, "plain HTTP leaves this host by no proxy");
    }

    #[test]
    fn a_token_goes_over_tls_or_stays_on_this_host() {
        for good in ["https://management.azure.com", "http://127.0.0.1:5005", "http://localhost:1", "http://[::1]:1"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["http://management.azure.com", "http://127.0.0.1.evil.example", "ftp://x", "nonsense", "http://"] {
            assert_eq!(endpoint(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
