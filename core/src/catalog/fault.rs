//! From the errors of the object store library to ours.
//!
//! What it is: one function that decides kind, retry and hint from what the library keeps of an answer. The invariant: a
//! write that may have happened is never called [`Retry::Never`] or [`Retry::Safe`]. The library has tried several times
//! before it gives up, so that "could not connect" of the last attempt says nothing of the first one.

use std::error::Error as _;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Error, ErrorKind, Retry};

/// Whether the failed call could have changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Of one object.
    Read,
    /// Of what there is.
    List,
    Write,
}

/// Our error for an error of `store` (its name in messages) on `key`.
pub(super) fn translate(access: Access, store: &str, key: &str, error: object_store::Error) -> Error {
    use object_store::Error as Store;
    let doing = match access {
        Access::Read => "read",
        Access::List => "list",
        Access::Write => "write",
    };
    let made = |kind, message: String| Error::new(kind, message).with_context("store", store);
    let made = match &error {
        _ if bucket_is_missing(&error) => made(ErrorKind::NotFound, format!("there is no bucket for {store}"))
            .with_hint("create it first, or correct the URL"),
        // Only an object can be absent. A page of this status comes from something else that listens there.
        _ if access != Access::Read && is_not_found(&error) => {
            made(ErrorKind::Unavailable, format!("{store} answers as if there were no object store"))
                .with_hint("is the endpoint that of an object store, and is it up?")
        }
        Store::NotFound { .. } => made(ErrorKind::NotFound, format!("{key} is not in {store}")),
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => denied(doing, store, key),
        Store::AlreadyExists { .. } | Store::Precondition { .. } => {
            made(ErrorKind::Conflict, format!("{key} was changed by somebody else in {store}"))
        }
        Store::NotSupported { .. } | Store::NotImplemented { .. } => {
            made(ErrorKind::Unsupported, format!("{store} cannot {doing} {key} in the way that is needed"))
        }
        Store::InvalidPath { .. } | Store::UnknownConfigurationKey { .. } => {
            made(ErrorKind::InvalidInput, format!("cannot {doing} {key:?} in {store}"))
        }
        _ => generic(access, doing, store, key, &error),
    };
    match told(&error) {
        Some(told) => made.with_source(told),
        None => made.with_source(error),
    }
}

/// What the server has answered, of the document that the library prints in full: `ExpiredToken: The token has expired`.
fn told(error: &object_store::Error) -> Option<String> {
    let text = chain(error);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once('<').map(|(value, _)| value.lines().next().unwrap_or_default().trim().to_owned())
    };
    let (code, message) = (element("Code")?, element("Message").unwrap_or_default());
    Some(format!("{code}: {}", message.trim_end_matches('.')))
}

/// What the library only calls an error: the network, and answers of the server that it does not know.
fn generic(access: Access, doing: &str, store: &str, key: &str, error: &object_store::Error) -> Error {
    let unknown = match access {
        Access::Read | Access::List => Retry::Safe,
        Access::Write => Retry::Unknown,
    };
    let make = |kind, message: String| Error::new(kind, message).with_context("store", store);
    if let Some(http) = http_error(error) {
        return match http {
            HttpErrorKind::Connect => make(ErrorKind::Unavailable, format!("cannot reach {store}"))
                .with_retry(unknown)
                .with_hint("check the endpoint, the network and the name service"),
            HttpErrorKind::Timeout => {
                make(ErrorKind::Unavailable, format!("{store} did not answer in time")).with_retry(unknown)
            }
            HttpErrorKind::Decode => make(ErrorKind::Storage, format!("cannot understand the answer of {store}"))
                .with_retry(unknown)
                .with_hint("is the endpoint that of an object store?"),
            _ => make(ErrorKind::Unavailable, format!("the connection to {store} was lost")).with_retry(unknown),
        };
    }
    match status(error) {
        Some(429 | 503) => {
            make(ErrorKind::Exhausted, format!("{store} refuses requests because there are too many, or is overloaded"))
                .with_retry(match access {
                    Access::Read | Access::List => Retry::After(Duration::from_secs(1)),
                    Access::Write => Retry::Unknown,
                })
        }
        // Lists report these without a kind of their own.
        Some(401 | 403) => denied(doing, store, key),
        Some(300..=399) => redirected(store),
        Some(507) => make(ErrorKind::Exhausted, format!("{store} has no space left")),
        Some(500..=599) => make(ErrorKind::Unavailable, format!("{store} has an internal error")).with_retry(unknown),
        Some(400..=499) if has_expired(error) => {
            make(ErrorKind::PermissionDenied, format!("the credentials for {store} have expired"))
                .with_hint("renew them or log in again; if they are new, look at the clock of this host")
        }
        Some(400..=499) => make(ErrorKind::Storage, format!("{store} refuses to {doing} {key}")),
        _ if chain(error).contains("redirect without LOCATION") => redirected(store),
        _ if speaks_of_credentials(error) => {
            make(ErrorKind::PermissionDenied, format!("there are no usable credentials for {store}"))
                .with_hint("set the variables of the cloud, name a profile, or give this machine a role")
        }
        _ => make(ErrorKind::Storage, format!("cannot {doing} {key} in {store}")).with_retry(unknown),
    }
}

fn denied(doing: &str, store: &str, key: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, format!("not allowed to {doing} {key} in {store}"))
        .with_context("store", store)
        .with_hint("check the credentials, the policy of the bucket and the clock of this host")
}

fn redirected(store: &str) -> Error {
    Error::invalid(format!("{store} is in another region or at another endpoint"))
        .with_context("store", store)
        .with_hint("set AWS_REGION to the region of the bucket")
}

/// True if the store says that the bucket or container is not there. Only the text of the answer tells it from an absent
/// object.
pub(super) fn bucket_is_missing(error: &object_store::Error) -> bool {
    let text = chain(error);
    is_not_found(error)
        && ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"]
            .iter()
            .any(|word| text.contains(word))
}

fn is_not_found(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) || status(error) == Some(404)
}

fn http_error(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(http) = source.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        next = source.source();
    }
    None
}

/// The status of the last answer. The library keeps it in a private type, but prints it in fixed words.
fn status(error: &object_store::Error) -> Option<u16> {
    let text = chain(error);
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn speaks_of_credentials(error: &object_store::Error) -> bool {
    let text = chain(error).to_ascii_lowercase();
    text.contains("credential") || text.contains("169.254.169.254")
}

/// S3 answers with 400, as if the request were a wrong one.
fn has_expired(error: &object_store::Error) -> bool {
    let text = chain(error);
    ["ExpiredToken", "RequestExpired", "TokenRefreshRequired"].iter().any(|code| text.contains(code))
}

fn chain(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(body: &str) -> Error {
        let source = format!("Server returned non-2xx status code: 400 Bad Request: {body}");
        let error = object_store::Error::Generic { store: "S3", source: source.into() };
        translate(Access::Write, "s3://bucket", "pg1/key", error)
    }

    #[test]
    fn an_answer_in_xml_is_told_in_one_line() {
        let error = answered("<?xml version=\"1.0\"?>\n<Error><Code>Odd</Code><Message>Something.</Message></Error>");
        assert_eq!(error.chain(), "s3://bucket refuses to write pg1/key: Odd: Something");
    }

    #[test]
    fn credentials_that_have_expired_are_told_from_wrong_requests() {
        let error = answered("<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.chain().contains("ExpiredToken: The token has expired (renew them"), "{}", error.chain());
    }
}
