//! Whom to trust: rustls with the rules of libpq (libpq, "SSL Support").
//!
//! `require` and weaker modes check the certificate only where a root certificate is at hand, `verify-ca` checks who signed
//! it, `verify-full` also whom it names. The provider of the cryptography is passed explicitly: a library does not install
//! a default for the whole process. The invariant: the signature of the handshake is always checked, so that the peer
//! holds the key of the certificate that it shows, whether or not that certificate is trusted.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::certificate;
use super::conninfo::params::{FileChoice, RootCert, SslMode, TlsParams};
use crate::error::{Error, Result};

/// A connector for these parameters. Reads the certificate files.
///
/// # Errors
/// `NotFound` for a file that was named or is needed, `PermissionDenied` for a key that others can read, `InvalidInput` for
/// a file that holds no certificate or no key that can be used.
pub(super) fn connector(params: &TlsParams) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut versions = Vec::new();
    if params.tls13 {
        versions.push(&rustls::version::TLS13);
    }
    if params.tls12 {
        versions.push(&rustls::version::TLS12);
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| Error::internal("cannot set up TLS").with_source(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier(params, provider)?));
    let mut config = match client_certificate(params)? {
        Some((chain, key, path)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            Error::invalid(format!("the client certificate {path} and its key cannot be used together"))
                .with_source(error)
        })?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = params.sni;
    if params.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

/// How the certificate of the server is checked.
#[derive(Debug)]
struct Verifier {
    /// Whom to trust; `None` trusts any certificate.
    trust: Option<Trust>,
    /// Whether the certificate has to name the host.
    name: bool,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Trust {
    /// Checks chain and name.
    chain: Arc<WebPkiServerVerifier>,
    /// Certificates that are trusted by themselves, even when a server shows one of them as its own.
    own: Vec<CertificateDer<'static>>,
}

fn verifier(params: &TlsParams, provider: Arc<CryptoProvider>) -> Result<Verifier> {
    let Some((roots, own)) = roots(params)? else { return Ok(Verifier { trust: None, name: false, provider }) };
    // As libpq: where revocation lists are given, each certificate needs one, and one that is not out of date.
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .with_crls(revocations(params)?)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| {
            Error::invalid("the root certificates or revocation lists cannot be used")
                .with_source(error)
                .with_hint("revocation lists have to be of version 2, with a CRL number")
        })?;
    let name = params.mode == SslMode::VerifyFull;
    Ok(Verifier { trust: Some(Trust { chain, own }), name, provider })
}

impl Verifier {
    /// What comes of a certificate that is trusted but does not seem to name the host.
    fn misnamed(
        &self,
        cert: &CertificateDer<'_>,
        host: &ServerName<'_>,
        error: rustls::Error,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.name || certificate::common_name_is(cert, host) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(error)
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        if trust.own.iter().any(|own| own == end_entity) {
            certificate::check_validity(end_entity, now)?;
            let named = ParsedCertificate::try_from(end_entity).and_then(|cert| verify_server_name(&cert, server_name));
            return match named {
                Ok(()) => Ok(ServerCertVerified::assertion()),
                Err(error) => self.misnamed(end_entity, server_name, error),
            };
        }
        match trust.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last: whoever fails here has a certificate that is trusted.
            Err(
                error @ rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                ),
            ) => self.misnamed(end_entity, server_name, error),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The trusted certificates; nothing where none are at hand and none are needed.
fn roots(params: &TlsParams) -> Result<Option<(RootCertStore, Vec<CertificateDer<'static>>)>> {
    let (mut store, mut own) = (RootCertStore::empty(), Vec::new());
    match &params.root {
        Some(RootCert::System) => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(Error::not_found("the operating system has no trusted certificates")
                    .with_hint("install ca-certificates, or name a file with sslrootcert"));
            }
        }
        Some(RootCert::File(path)) if path.exists() => {
            own = certificates(path)?;
            for cert in &own {
                store.add(cert.clone()).map_err(|error| bad_file("root certificate", path).with_source(error))?;
            }
        }
        Some(RootCert::File(path)) if params.root_named || params.mode >= SslMode::VerifyCa => {
            return Err(Error::not_found(format!("no such root certificate file: {}", path.display()))
                .with_hint("name one with sslrootcert, or use sslrootcert=system or a weaker sslmode"));
        }
        None if params.mode >= SslMode::VerifyCa => {
            return Err(Error::not_found("no root certificate to check the server with").with_hint("set sslrootcert"));
        }
        Some(RootCert::File(_)) | None => return Ok(None),
    }
    Ok(Some((store, own)))
}

/// The revocation lists: the file, and every file of the directory.
fn revocations(params: &TlsParams) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let mut files = Vec::new();
    if let Some(FileChoice { path, named }) = &params.crl
        && (*named || path.exists())
    {
        files.push(path.clone());
    }
    if let Some(directory) = &params.crl_dir {
        let entries = std::fs::read_dir(directory).map_err(|error| Error::io("read", directory, error))?;
        for entry in entries {
            files.push(entry.map_err(|error| Error::io("read", directory, error))?.path());
        }
    }
    let mut lists = Vec::new();
    for path in files {
        let bytes = std::fs::read(&path).map_err(|error| Error::io("read the revocation list", &path, error))?;
        for list in CertificateRevocationListDer::pem_slice_iter(&bytes) {
            lists.push(list.map_err(|error| bad_file("revocation list", &path).with_source(error))?);
        }
    }
    Ok(lists)
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, String);

/// The certificate that this side shows, where there is one.
fn client_certificate(params: &TlsParams) -> Result<Option<ClientCertificate>> {
    let Some(cert) = params.cert.as_ref().filter(|cert| params.send_cert && (cert.named || cert.path.exists())) else {
        return Ok(None);
    };
    let chain = certificates(&cert.path)?;
    let shown = cert.path.display().to_string();
    let Some(key) = &params.key else {
        return Err(Error::not_found(format!("the client certificate {shown} has no key")).with_hint("set sslkey"));
    };
    Ok(Some((chain, private_key(&key.path)?, shown)))
}

/// Reads a key, if nobody else can.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let io = |error| Error::io("read the key", path, error);
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(bad_file("key", path));
    }
    // libpq's rule: root's key may be readable by a group, everybody else's by nobody.
    let forbidden = if meta.uid() == 0 { 0o137 } else { 0o077 };
    if meta.mode() & forbidden != 0 {
        return Err(Error::new(
            crate::error::ErrorKind::PermissionDenied,
            format!("others can read the key {}", path.display()),
        )
        .with_hint("chmod 0600 it"));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let encrypted = String::from_utf8_lossy(&bytes).contains("ENCRYPTED");
        let hint = if encrypted { "keys with a pass phrase are not supported" } else { "a PEM file is expected" };
        bad_file("key", path).with_source(error).with_hint(hint)
    })
}

/// Every certificate of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(path).map_err(|error| Error::io("read the certificate", path, error))?;
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_file("certificate", path).with_source(error))?;
    if certs.is_empty() { Err(bad_file("certificate", path)) } else { Ok(certs) }
}

fn bad_file(what: &str, path: &Path) -> Error {
    Error::invalid(format!("not a usable {what}: {}", path.display()))
}
