//! What the Resource Manager says when it refuses, as errors of the engine.
//!
//! The body of a refusal is `{"error": {"code", "message", "details"}}`
//! (<https://learn.microsoft.com/azure/azure-resource-manager/management/common-error-codes>). The generated client keeps
//! code and message but loses `Retry-After`, so [`Refusal`] is read from the response before the client sees it.
//!
//! The invariant: only what the service refused before it began counts as "nothing happened". A reply that did not come, or
//! came with a status of 500 and above, leaves a write [`Retry::Unknown`].

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use azure_core::headers::{HeaderName, Headers};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Retry};

/// How long to wait at first where the service throttles and does not say; whoever asks again and again waits longer each time.
const THROTTLED: Duration = Duration::from_secs(5);

/// What was asked: the permission it needs and the thing it is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// The action that a role has to allow: `Microsoft.Compute/snapshots/write`.
    pub(super) action: &'static str,
    /// For messages: `snapshot pg-data-20260529t101112 in resource group rg1`.
    pub(super) subject: &'a str,
}

/// A response that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The HTTP status; 0 if it stands in the status of an operation.
    pub(super) status: u16,
    /// `AuthorizationFailed`, `ResourceNotFound`, …; empty if the body has none.
    pub(super) code: String,
    /// The words of the service.
    pub(super) message: String,
    /// What `Retry-After` says.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads a response.
    pub(super) fn of_response(status: u16, headers: &Headers, body: &[u8]) -> Self {
        let seconds = |name: &'static str| {
            headers.get_optional_str(&HeaderName::from_static(name)).and_then(|text| text.trim().parse::<u64>().ok())
        };
        let retry_after = seconds("retry-after-ms")
            .or_else(|| seconds("x-ms-retry-after-ms"))
            .map(Duration::from_millis)
            .or_else(|| seconds("retry-after").map(Duration::from_secs));
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        Self { status, retry_after, ..Self::of_error(body.get("error").unwrap_or(&body)) }
    }

    /// Reads the object with `code` and `message`, which also stands in the status of a failed operation.
    pub(super) fn of_error(error: &Value) -> Self {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        // A link to a page that says nothing more.
        let own = text(error, "message");
        let mut message = own.split(" For more details please go to ").next().unwrap_or_default().to_owned();
        for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
            let more = text(detail, "message");
            if !more.is_empty() && !message.contains(&more) {
                message = format!("{message}: {more}");
            }
        }
        Self { status: 0, code: text(error, "code"), message, retry_after: None }
    }

    fn is_throttling(&self) -> bool {
        // `SubscriptionRequestsThrottled`, `TooManyRequests`; some come as 409 or 503.
        self.status == 429 || self.code.ends_with("Throttled") || self.code == "TooManyRequests"
    }

    fn is_quota(&self) -> bool {
        self.code.contains("Quota") || (self.code == "OperationNotAllowed" && self.message.contains("uota"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.message.trim_end_matches('.')) {
            ("", "") => write!(f, "HTTP status {}", self.status),
            ("", message) => f.write_str(message),
            (code, "") => f.write_str(code),
            (code, message) => write!(f, "{code}: {message}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The error of a call. `writes` says whether it would change something.
pub(super) fn read(call: Call<'_>, error: azure_core::Error, writes: bool) -> Error {
    let lost = if writes { Retry::Unknown } else { Retry::Safe };
    if let Some(refusal) = refusal(&error) {
        return refused(call, refusal, lost);
    }
    let subject = call.subject;
    if matches!(error.kind(), azure_core::error::ErrorKind::Credential) {
        return Error::new(ErrorKind::PermissionDenied, format!("cannot get a token of Azure for {subject}"))
            .with_hint(
                "give --azure-credential, run `az login`, or give this machine a managed identity; \
                 nothing was asked of Azure",
            )
            .with_source(error);
    }
    if never_sent(&error) {
        return Error::new(ErrorKind::Unavailable, format!("cannot reach Azure for {subject}"))
            .with_retry(Retry::Safe)
            .with_source(error);
    }
    let kind = match error.kind() {
        azure_core::error::ErrorKind::Io => ErrorKind::Unavailable,
        _ => ErrorKind::Provider,
    };
    Error::new(kind, format!("the answer of Azure about {subject} cannot be read")).with_retry(lost).with_source(error)
}

/// The error of a call that took too long.
pub(super) fn late(call: Call<'_>, patience: Duration, writes: bool) -> Error {
    let message = format!("Azure did not answer within {} s about {}", patience.as_secs(), call.subject);
    Error::new(ErrorKind::Unavailable, message).with_retry(if writes { Retry::Unknown } else { Retry::Safe })
}

/// What the service refused, if it did.
pub(super) fn refusal(error: &azure_core::Error) -> Option<&Refusal> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(refusal) = source.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        next = source.source();
    }
    None
}

/// True if no connection was made, so that nothing can have happened.
fn never_sent(error: &azure_core::Error) -> bool {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(error) = source.downcast_ref::<reqwest::Error>() {
            return error.is_connect() || error.is_builder();
        }
        next = source.source();
    }
    false
}

/// The error of a refusal.
pub(super) fn refused(call: Call<'_>, refusal: &Refusal, lost: Retry) -> Error {
    let subject = call.subject;
    let error =
        |kind: ErrorKind, what: &str| Error::new(kind, format!("{what} {subject}")).with_source(refusal.clone());
    if refusal.is_throttling() {
        return error(ErrorKind::Exhausted, "Azure throttles requests about")
            .with_retry(Retry::After(refusal.retry_after.unwrap_or(THROTTLED)))
            .with_hint("too many calls to this subscription; other programs may use it, too");
    }
    match (refusal.status, refusal.code.as_str()) {
        (401, _) => error(ErrorKind::PermissionDenied, "Azure does not accept the credentials for")
            .with_hint("they may have expired: renew them (`az login`), and look at --azure-credential"),
        (_, "ScopeLocked") => error(ErrorKind::Precondition, "a resource lock forbids to change")
            .with_hint("remove the lock (`az lock list`, `az lock delete`) and try again"),
        (_, "RequestDisallowedByPolicy") => error(ErrorKind::Precondition, "a policy of the subscription forbids")
            .with_hint("see the policy assignment that the message names"),
        (403, _) => error(ErrorKind::PermissionDenied, "Azure does not permit")
            .with_hint(format!("the role needs {}; see docs/permissions/azure.md", action(call, refusal))),
        // Nothing is known of what is in it.
        (404, "SubscriptionNotFound") => error(ErrorKind::Precondition, "no such subscription: cannot ask about")
            .with_hint("see --azure-subscription-id, and whether the credentials are of its tenant"),
        (404, "ResourceGroupNotFound") => error(ErrorKind::NotFound, "no such resource group: cannot ask about")
            .with_hint("see --azure-resource-group"),
        (404, _) => error(ErrorKind::NotFound, "Azure has no"),
        (_, "AnotherOperationInProgress" | "OperationPreempted" | "RetryableError") => {
            error(ErrorKind::Unavailable, "another operation goes on with").with_retry(again(refusal))
        }
        _ if refusal.is_quota() => error(ErrorKind::Exhausted, "a quota of the subscription forbids")
            .with_hint("ask for more (`az vm list-usage`, the page Quotas of the portal), or delete old snapshots"),
        // The service has begun, or something between has given up.
        (408 | 500.., _) => error(ErrorKind::Unavailable, "Azure failed with").with_retry(lost),
        // With this header it says that waiting helps: rates and pending snapshots of a disk are limited.
        _ if refusal.retry_after.is_some() => {
            error(ErrorKind::Exhausted, "Azure cannot take yet").with_retry(again(refusal))
        }
        (409 | 412, _) => error(ErrorKind::Conflict, "the state of Azure conflicts with"),
        (400, _) => error(ErrorKind::InvalidInput, "Azure does not understand"),
        _ => error(ErrorKind::Provider, "Azure refuses"),
    }
}

fn again(refusal: &Refusal) -> Retry {
    refusal.retry_after.map_or(Retry::Safe, Retry::After)
}

/// The action that is missing: the one the message names, as a call may need another one on the way (a linked resource).
fn action<'a>(call: Call<'a>, refusal: &'a Refusal) -> &'a str {
    let named = refusal.message.split('\'').find(|part| part.starts_with("Microsoft.") && part.contains('/'));
    named.unwrap_or(call.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'static> = Call { action: "Microsoft.Compute/snapshots/write", subject: "snapshot s1" };

    fn refusal(status: u16, body: &str, retry_after: Option<&'static str>) -> Refusal {
        let mut headers = Headers::new();
        if let Some(value) = retry_after {
            headers.insert("retry-after", value);
        }
        Refusal::of_response(status, &headers, body.as_bytes())
    }

    fn body(code: &str, message: &str) -> String {
        format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#)
    }

    fn answer(status: u16, code: &str, message: &str, retry_after: Option<&'static str>) -> Error {
        refused(CALL, &refusal(status, &body(code, message), retry_after), Retry::Unknown)
    }

    #[test]
    fn every_known_refusal_has_its_kind_and_says_whether_to_try_again() {
        use ErrorKind::{Conflict, Exhausted, InvalidInput, NotFound, PermissionDenied, Precondition, Unavailable};
        let after = |seconds| Retry::After(Duration::from_secs(seconds));
        for (status, code, message, wait, kind, retry) in [
            (429, "SubscriptionRequestsThrottled", "try again after 303 s", Some("303"), Exhausted, after(303)),
            (429, "", "", None, Exhausted, after(5)),
            (401, "ExpiredAuthenticationToken", "expired", None, PermissionDenied, Retry::Never),
            (403, "AuthorizationFailed", "no", None, PermissionDenied, Retry::Never),
            (403, "RequestDisallowedByPolicy", "policy", None, Precondition, Retry::Never),
            (404, "ResourceNotFound", "not found", None, NotFound, Retry::Never),
            (404, "SubscriptionNotFound", "no", None, Precondition, Retry::Never),
            (404, "ResourceGroupNotFound", "no", None, NotFound, Retry::Never),
            (409, "ScopeLocked", "locked", None, Precondition, Retry::Never),
            (409, "OperationNotAllowed", "exceeding approved Quota", None, Exhausted, Retry::Never),
            (409, "OperationNotAllowed", "wrong state", None, Conflict, Retry::Never),
            (409, "AnotherOperationInProgress", "busy", None, Unavailable, Retry::Safe),
            (409, "OperationNotAllowed", "too many pending snapshots", Some("60"), Exhausted, after(60)),
            (400, "InvalidParameter", "bad", None, InvalidInput, Retry::Never),
            (500, "InternalServerError", "oops", None, Unavailable, Retry::Unknown),
            (503, "ServerBusy", "oops", Some("5"), Unavailable, Retry::Unknown),
        ] {
            let error = answer(status, code, message, wait);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{status} {code}: {error}");
            assert!(error.message().contains("snapshot s1"), "{error}");
        }
    }

    #[test]
    fn a_missing_permission_is_named() {
        let message = "The client 'x' does not have authorization to perform action 'Microsoft.Compute/disks/beginGetAccess/action' over scope 'y'";
        let hint = answer(403, "LinkedAuthorizationFailed", message, None).hint().unwrap_or_default().to_owned();
        assert!(hint.contains("Microsoft.Compute/disks/beginGetAccess/action"), "{hint}");
        let hint = answer(403, "AuthorizationFailed", "no", None).hint().unwrap_or_default().to_owned();
        assert!(hint.contains("Microsoft.Compute/snapshots/write"), "{hint}");
    }

    #[test]
    fn a_refusal_is_one_line_whatever_its_body() {
        for (text, expected) in [
            (body("A", "b."), "A: b"),
            (r#"{"code":"A","message":"b"}"#.to_owned(), "A: b"),
            (r#"{"error":{"code":"A","message":"b","details":[{"code":"C","message":"d"}]}}"#.to_owned(), "A: b: d"),
            ("<html>".to_owned(), "HTTP status 502"),
            (String::new(), "HTTP status 502"),
        ] {
            assert_eq!(refusal(502, &text, None).to_string(), expected);
        }
    }
}
