//! Errors of the SDK, and of operations that ended badly, as errors of the engine.
//!
//! Compute Engine tells the cause in up to three ways: the HTTP status, a `reason` (`rateLimitExceeded`) in `errors[]` of the
//! body, and for what goes wrong later a `code` (`QUOTA_EXCEEDED`) in the operation. All three come down to [`Facts`], and one
//! function decides.
//!
//! Sources: <https://cloud.google.com/compute/docs/api/how-tos/api-requests-responses#handling_api_errors>,
//! <https://cloud.google.com/compute/api-quota>, <https://cloud.google.com/compute/docs/disks/create-snapshots>.

use std::time::Duration;

use google_cloud_compute_v1::model::Operation;
use google_cloud_gax::error::Error as SdkError;
use google_cloud_gax::error::rpc::StatusDetails;

use crate::error::{Error, ErrorKind, Result, Retry};

/// How long to wait after "too many requests", if the reply does not say: the budget refills every second.
const THROTTLED: Duration = Duration::from_secs(5);

/// How long to wait before the next snapshot of a disk that had six within an hour.
const DISK_BUSY: Duration = Duration::from_secs(600);

/// How long to wait for a resource that is not ready.
const NOT_READY: Duration = Duration::from_secs(5);

/// `resourceInUseByAnotherResource`, as [`plain`] writes it.
const IN_USE: &str = "resourceinusebyanotherresource";

/// The context of an error that names its reason.
const REASON: &str = "google_reason";

/// Whether the call changes anything. Then it matters if a lost reply hides an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// It only looks.
    Read,
    /// It creates, changes or deletes.
    Write,
}

/// What is known about a failure.
#[derive(Clone, Debug, Default)]
struct Facts {
    status: u16,
    /// Reasons and codes, in lower case and without separators: `ratelimitexceeded`.
    reasons: Vec<String>,
    message: String,
    retry_after: Option<Duration>,
}

impl Facts {
    fn says(&self, reasons: &[&str]) -> bool {
        self.reasons.iter().any(|reason| reasons.contains(&reason.as_str()))
    }
}

/// The error of a call. `what` says what was tried, as in "cannot {what}".
pub(super) fn failed(what: &str, call: Call) -> impl Fn(SdkError) -> Error {
    let what = what.to_owned();
    move |error| from_sdk(&what, call, error)
}

fn from_sdk(what: &str, call: Call, error: SdkError) -> Error {
    let lost = if call == Call::Write { Retry::Unknown } else { Retry::Safe };
    let unreachable = |retry| Error::new(ErrorKind::Unavailable, format!("cannot {what}")).with_retry(retry);
    if let Some(status) = error.http_status_code() {
        let facts = facts(status, &error);
        let judged = judge(what, call, &facts);
        // The error of the SDK would say the same message again.
        return if facts.message.is_empty() { judged.with_source(error) } else { judged };
    }
    if error.is_connect() {
        return unreachable(Retry::Safe)
            .with_hint("is the endpoint right, and reachable from here?")
            .with_source(error);
    }
    if error.is_authentication() {
        let transient = error.is_transient_and_before_rpc();
        let refused = Error::new(ErrorKind::PermissionDenied, format!("cannot {what}: no access token"));
        let refused = if transient { refused.with_retry(Retry::Safe) } else { refused };
        return refused.with_hint(CREDENTIALS).with_source(error);
    }
    if error.is_binding() || error.is_serialization() {
        return Error::invalid(format!("cannot {what}")).with_source(error);
    }
    // Time-outs, connections that broke, replies that cannot be read.
    unreachable(lost).with_source(error)
}

/// For calls that make a snapshot: what uses its source comes to an end. For others, a deletion say, it may be there for good.
pub(super) fn busy(error: Error) -> Error {
    match error.context().iter().any(|(key, value)| *key == REASON && value == IN_USE) {
        true => Error::new(ErrorKind::Unavailable, error.message()).with_retry(Retry::After(NOT_READY)),
        false => error,
    }
}

/// Whether there were too many requests, and the same one may succeed soon.
pub(super) fn is_throttled(error: &SdkError) -> bool {
    let facts = error.http_status_code().map(|status| facts(status, error));
    facts.is_some_and(|facts| match facts.says(&["operationrateexceeded", "resourceoperationrateexceeded"]) {
        true => false,
        false => facts.status == 429 || facts.says(&["ratelimitexceeded", "userratelimitexceeded"]),
    })
}

fn facts(status: u16, error: &SdkError) -> Facts {
    let mut facts = Facts { status, ..Facts::default() };
    if let Some(rpc) = error.status() {
        facts.message.clone_from(&rpc.message);
        for detail in &rpc.details {
            match detail {
                StatusDetails::ErrorInfo(info) => facts.reasons.push(plain(&info.reason)),
                StatusDetails::QuotaFailure(_) => facts.reasons.push("quotaexceeded".to_owned()),
                _ => {}
            }
        }
    }
    let header = error.http_headers().and_then(|headers| headers.get("retry-after"));
    facts.retry_after = header.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    facts
}

/// The error that an operation ended with, if it did.
///
/// # Errors
/// What the operation says. It is certain: an operation that failed made nothing.
pub(super) fn of_operation(what: &str, operation: &Operation) -> Result<()> {
    let first = operation.error.as_ref().and_then(|error| error.errors.first());
    if first.is_none() && operation.http_error_status_code.is_none() {
        return Ok(());
    }
    let status = operation.http_error_status_code.and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    let message = first.and_then(|error| error.message.clone()).or_else(|| operation.http_error_message.clone());
    let facts = Facts {
        status,
        reasons: first.and_then(|error| error.code.as_deref()).map(plain).into_iter().collect(),
        message: message.unwrap_or_default(),
        retry_after: None,
    };
    Err(judge(what, Call::Read, &facts))
}

fn plain(reason: &str) -> String {
    reason.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

const CREDENTIALS: &str = "set GOOGLE_APPLICATION_CREDENTIALS, run gcloud auth application-default login, or give the \
                           machine a service account";

/// The one decision: reason first, because Google answers several of them with the same status.
fn judge(what: &str, call: Call, facts: &Facts) -> Error {
    let say = |kind| {
        let colon = if facts.message.is_empty() { "" } else { ": " };
        Error::new(kind, format!("cannot {what}{colon}{}", facts.message.trim_end_matches('.')))
    };
    if facts.says(&["operationrateexceeded", "resourceoperationrateexceeded"]) {
        return say(ErrorKind::Exhausted)
            .with_retry(Retry::After(facts.retry_after.unwrap_or(DISK_BUSY)))
            .with_hint("a disk can be snapshotted six times an hour");
    }
    if facts.says(&["ratelimitexceeded", "userratelimitexceeded", "concurrentoperationsquotaexceeded"]) {
        return throttled(say(ErrorKind::Exhausted), facts);
    }
    if facts.says(&["quotaexceeded", "limitexceeded"]) {
        let hint = match quoted(&facts.message) {
            Some(quota) => format!("delete what is not needed, or ask for more of the quota {quota}"),
            None => "delete what is not needed, or ask for a higher quota".to_owned(),
        };
        return say(ErrorKind::Exhausted).with_hint(hint);
    }
    if facts.says(&["accessnotconfigured", "servicedisabled"]) {
        return say(ErrorKind::Precondition).with_hint("enable compute.googleapis.com for the project");
    }
    if facts.says(&["resourcenotready"]) {
        return say(ErrorKind::Unavailable).with_retry(Retry::After(NOT_READY));
    }
    if facts.says(&[IN_USE]) {
        return say(ErrorKind::Conflict).with_context(REASON, IN_USE);
    }
    if facts.says(&["alreadyexists", "resourcealreadyexists"]) {
        return say(ErrorKind::Conflict);
    }
    if facts.says(&["resourcenotfound"]) {
        return say(ErrorKind::NotFound);
    }
    match facts.status {
        401 => say(ErrorKind::PermissionDenied)
            .with_hint("the credentials have expired or were revoked: renew them, or check the clock of this host"),
        403 => {
            let hint = match quoted(&facts.message).filter(|text| text.starts_with("compute.")) {
                Some(permission) => format!("grant {permission}, see docs/permissions/gcp.md"),
                None => "see docs/permissions/gcp.md for the permissions that are needed".to_owned(),
            };
            say(ErrorKind::PermissionDenied).with_hint(hint)
        }
        // Nothing is known of what is in it.
        404 if quoted(&facts.message).is_some_and(is_project) => {
            say(ErrorKind::Precondition).with_hint("is --gcp-project right, and may these credentials see it?")
        }
        404 => say(ErrorKind::NotFound).with_hint("are --gcp-project and --gcp-zone right?"),
        409 => say(ErrorKind::Conflict),
        412 => say(ErrorKind::Conflict),
        429 => throttled(say(ErrorKind::Exhausted), facts),
        400..=499 => say(ErrorKind::InvalidInput),
        // The load balancer in front may have lost a reply: after 5xx nobody knows.
        500..=599 if call == Call::Write => say(ErrorKind::Unavailable).with_retry(Retry::Unknown),
        500..=599 => say(ErrorKind::Unavailable).with_retry(Retry::Safe),
        _ => say(ErrorKind::Provider),
    }
}

fn throttled(error: Error, facts: &Facts) -> Error {
    error
        .with_retry(Retry::After(facts.retry_after.unwrap_or(THROTTLED)))
        .with_hint("the project has used up its requests for the moment")
}

/// The first text in single quotes: the quota or the permission that a message names.
fn quoted(message: &str) -> Option<&str> {
    message.split('\'').nth(1).filter(|text| !text.is_empty())
}

/// Whether this names a project, and nothing in it.
fn is_project(resource: &str) -> bool {
    resource.strip_prefix("projects/").is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
}

/// No credentials were found.
pub(super) fn no_credentials(error: google_cloud_auth::build_errors::Error) -> Error {
    Error::new(ErrorKind::PermissionDenied, "no credentials for Google Cloud").with_hint(CREDENTIALS).with_source(error)
}

/// A client could not be made.
pub(super) fn no_client(error: google_cloud_gax::client_builder::Error) -> Error {
    Error::invalid("cannot talk to Google Cloud").with_source(error)
}

#[cfg(test)]
mod tests {
    use google_cloud_compute_v1::model::operation;
    use google_cloud_gax::error::rpc::Status;

    use super::*;

    /// The error as the SDK makes it of such a reply.
    fn reply(status: u16, body: &str, headers: &[(&'static str, &'static str)]) -> SdkError {
        let status_in_body = Status::try_from(&bytes::Bytes::copy_from_slice(body.as_bytes()));
        let mut map = http::HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, http::HeaderValue::from_static(value));
        }
        match status_in_body {
            Ok(parsed) => SdkError::service_with_http_metadata(parsed, Some(status), Some(map)),
            Err(_) => SdkError::http(status, map, bytes::Bytes::copy_from_slice(body.as_bytes())),
        }
    }

    fn body(status: u16, reason: &str, message: &str) -> String {
        format!(
            r#"{{"error":{{"code":{status},"message":"{message}","errors":[{{"message":"{message}","domain":"usageLimits","reason":"{reason}"}}]}}}}"#
        )
    }

    fn judged(status: u16, reason: &str, message: &str, call: Call) -> Error {
        from_sdk("create a snapshot", call, reply(status, &body(status, reason, message), &[]))
    }

    #[test]
    fn throttling_says_when_to_come_back() {
        for (status, reason) in [(403, "rateLimitExceeded"), (429, "rateLimitExceeded"), (403, "userRateLimitExceeded")]
        {
            let error = judged(status, reason, "Rate Limit Exceeded", Call::Write);
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Exhausted, Retry::After(THROTTLED)));
        }
        let told = reply(429, "busy", &[("retry-after", "17")]);
        assert_eq!(from_sdk("x", Call::Write, told).retry(), Retry::After(Duration::from_secs(17)));
        let often =
            judged(429, "operationRateExceeded", "Too frequent operations from the source resource.", Call::Write);
        assert_eq!(often.retry(), Retry::After(DISK_BUSY));
        assert!(often.hint().unwrap().contains("six times an hour"), "{often}");
    }

    #[test]
    fn a_read_that_was_throttled_is_known() {
        let throttled = |status, reason| is_throttled(&reply(status, &body(status, reason, "x"), &[]));
        assert!(throttled(403, "rateLimitExceeded") && throttled(429, "rateLimitExceeded"));
        assert!(!throttled(403, "forbidden") && !throttled(403, "quotaExceeded"));
        assert!(!throttled(429, "operationRateExceeded"), "that takes too long to wait for");
    }

    #[test]
    fn what_is_refused_for_good_names_the_permission_or_the_quota() {
        let message = "Required 'compute.snapshots.create' permission for 'projects/p/global/snapshots/s'";
        let error = judged(403, "forbidden", message, Call::Write);
        assert_eq!((error.kind(), error.retry()), (ErrorKind::PermissionDenied, Retry::Never));
        assert!(error.hint().unwrap().contains("compute.snapshots.create"), "{error}");
        let error = judged(403, "quotaExceeded", "Quota 'SNAPSHOTS' exceeded.  Limit: 1000.0 globally.", Call::Write);
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Exhausted, Retry::Never));
        assert!(error.hint().unwrap().contains("SNAPSHOTS"), "{error}");
        assert_eq!(judged(401, "authError", "Invalid Credentials", Call::Read).kind(), ErrorKind::PermissionDenied);
        assert_eq!(judged(403, "accessNotConfigured", "not used before", Call::Read).kind(), ErrorKind::Precondition);
        assert_eq!(judged(404, "notFound", "not found", Call::Read).kind(), ErrorKind::NotFound);
        let project = "The resource 'projects/ghost' was not found";
        assert_eq!(judged(404, "notFound", project, Call::Read).kind(), ErrorKind::Precondition);
        let snapshot = "The resource 'projects/p/global/snapshots/s' was not found";
        assert_eq!(judged(404, "notFound", snapshot, Call::Read).kind(), ErrorKind::NotFound);
        assert_eq!(judged(409, "alreadyExists", "exists", Call::Write).kind(), ErrorKind::Conflict);
        assert_eq!(judged(400, "invalid", "bad", Call::Write).kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_disk_that_is_in_use_can_be_snapshotted_a_little_later() {
        let used = judged(400, "resourceInUseByAnotherResource", "The resource is in use", Call::Write);
        assert_eq!((used.kind(), used.retry()), (ErrorKind::Conflict, Retry::Never));
        let busy = busy(used);
        assert_eq!((busy.kind(), busy.retry()), (ErrorKind::Unavailable, Retry::After(NOT_READY)));
        let taken = super::busy(judged(409, "alreadyExists", "exists", Call::Write));
        assert_eq!(taken.kind(), ErrorKind::Conflict, "a name that is taken stays so");
    }

    #[test]
    fn after_a_server_error_a_write_is_unknown_and_a_read_is_not() {
        for status in [500, 502, 503, 504] {
            assert_eq!(judged(status, "backendError", "oops", Call::Write).retry(), Retry::Unknown);
            assert_eq!(judged(status, "backendError", "oops", Call::Read).retry(), Retry::Safe);
        }
        for lost in [SdkError::timeout("30 s"), SdkError::io("reset"), SdkError::deser("cut off")] {
            assert_eq!(from_sdk("x", Call::Write, lost).retry(), Retry::Unknown);
        }
        assert_eq!(from_sdk("x", Call::Read, SdkError::timeout("30 s")).retry(), Retry::Safe);
        assert_eq!(from_sdk("x", Call::Write, SdkError::connect("refused")).retry(), Retry::Safe);
    }

    #[test]
    fn an_operation_tells_its_error() {
        assert!(of_operation("x", &Operation::new()).is_ok());
        let quota = operation::Error::new().set_errors([operation::error::Errors::new()
            .set_code("QUOTA_EXCEEDED")
            .set_message("Quota 'SNAPSHOTS' exceeded.  Limit: 1.0 globally.")]);
        let ended =
            Operation::new().set_error(quota).set_http_error_status_code(403).set_http_error_message("FORBIDDEN");
        let error = of_operation("create snapshot s", &ended).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Exhausted, Retry::Never));
        assert!(error.message().contains("create snapshot s: Quota 'SNAPSHOTS' exceeded"), "{error}");
        let bare = Operation::new().set_http_error_status_code(404).set_http_error_message("NOT FOUND");
        assert_eq!(of_operation("x", &bare).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
