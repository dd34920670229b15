//! Two kinds of certificates that libpq accepts and webpki does not: those without a subjectAltName, and those that sign
//! themselves. The manual of PostgreSQL shows how to make both ("Creating Certificates"), so they are common.
//!
//! Not here: chains and signatures, which rustls checks. The invariant: the common name counts only when the certificate
//! has no alternative name at all, and a certificate that is trusted by itself still has to be valid today.

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Fails unless `now` lies within the time for which the certificate was made.
pub(super) fn check_validity(cert: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let cert = Certificate::from_der(cert).map_err(|_| CertificateError::BadEncoding)?;
    let validity = &cert.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        Err(CertificateError::NotValidYet)
    } else if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        Err(CertificateError::Expired)
    } else {
        Ok(())
    }
}

/// True if the certificate has no alternative names and its common name is that of the host.
pub(super) fn common_name_is(cert: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    let Ok(cert) = Certificate::from_der(cert) else { return false };
    let named = match cert.tbs_certificate.get::<SubjectAltName>() {
        Ok(Some((_, names))) => {
            names.0.iter().any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_)))
        }
        Ok(None) => false,
        // What cannot be read may say another name.
        Err(_) => true,
    };
    let mut attributes = cert.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let common = attributes
        .find(|attribute| attribute.oid == COMMON_NAME)
        .and_then(|attribute| std::str::from_utf8(attribute.value.value()).ok());
    match (named, common) {
        (false, Some(pattern)) => matches(pattern, &host.to_str()),
        _ => false,
    }
}

/// Compares names without case; `*.` in front stands for exactly one label (libpq, `sslmode=verify-full`).
fn matches(pattern: &str, host: &str) -> bool {
    if pattern.contains('\0') {
        return false;
    }
    match pattern.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && !domain.is_empty() && rest.eq_ignore_ascii_case(domain)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(matches("db.example.org", "DB.example.org"));
        assert!(matches("*.example.org", "db.example.org"));
        for (pattern, host) in [
            ("*.example.org", "example.org"),
            ("*.example.org", "a.db.example.org"),
            ("*", "db"),
            ("*.", "db."),
            ("d*.example.org", "db.example.org"),
            ("db.example.org\0.evil", "db.example.org"),
        ] {
            assert!(!matches(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let garbage = CertificateDer::from(b"garbage".to_vec());
        assert!(check_validity(&garbage, UnixTime::since_unix_epoch(std::time::Duration::ZERO)).is_err());
        assert!(!common_name_is(&garbage, &ServerName::try_from("localhost").unwrap()));
    }
}
