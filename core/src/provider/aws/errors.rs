//! From errors of the SDK to ours.
//!
//! The one question that matters after a failed call is whether it may have happened. A call that only looks, or that does
//! the same when repeated, may always be sent again. A call that makes something ([`Call::once`]) may not, unless EC2 has
//! said no, or the connection never stood: any other end of it is [`Retry::Unknown`], and the engine looks first.
//!
//! Codes: <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>; throttling:
//! <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};

use crate::error::{Error, ErrorKind, Result, Retry};

/// A call of the API: enough to say what failed, and what that means.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    /// The service: `EC2`, `STS`.
    pub(super) service: &'static str,
    /// The action of the API, as policies name it after `ec2:`.
    pub(super) action: &'static str,
    /// What it was for, after «cannot».
    pub(super) doing: String,
    /// Where.
    pub(super) region: &'a str,
    /// It makes something anew each time it is sent.
    pub(super) once: bool,
}

/// What the code of an error says.
struct Meaning {
    kind: ErrorKind,
    retry: Retry,
    hint: Option<String>,
}

impl Call<'_> {
    /// The error of the engine for an error of the SDK.
    pub(super) fn failed<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let Some(code) = error.as_service_error().and_then(ProvideErrorMetadata::code) else {
            return self.no_answer(error);
        };
        let message = error.as_service_error().and_then(ProvideErrorMetadata::message);
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        self.refused(code, message.unwrap_or_default(), status)
    }

    /// The error for an answer of EC2 that is an error.
    pub(super) fn refused(&self, code: &str, message: &str, status: u16) -> Error {
        let Meaning { kind, retry, hint } = self.meaning(code, status);
        let message = tidy(message);
        let text = match message.is_empty() {
            true => format!("cannot {}: {code}", self.doing),
            false => format!("cannot {}: {message} ({code})", self.doing),
        };
        let error = Error::new(kind, text).with_retry(retry).with_context("aws_error", code);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    fn meaning(&self, code: &str, status: u16) -> Meaning {
        let code = code.strip_prefix("Client.").or_else(|| code.strip_prefix("Server.")).unwrap_or(code);
        let never =
            |kind, hint: &str| Meaning { kind, retry: Retry::Never, hint: (!hint.is_empty()).then(|| hint.to_owned()) };
        let after = |seconds, hint: &str| Meaning {
            retry: Retry::After(Duration::from_secs(seconds)),
            ..never(ErrorKind::Exhausted, hint)
        };
        match code {
            "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => never(
                ErrorKind::PermissionDenied,
                &format!(
                    "the policy of these credentials has to allow {}:{}; see docs/permissions/aws.md",
                    self.service.to_lowercase(),
                    self.action
                ),
            ),
            "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => never(
                ErrorKind::PermissionDenied,
                "the temporary credentials have expired, or the clock of this machine is wrong; log in again",
            ),
            "AuthFailure"
            | "InvalidClientTokenId"
            | "SignatureDoesNotMatch"
            | "UnrecognizedClientException"
            | "MissingAuthenticationToken" => never(
                ErrorKind::PermissionDenied,
                &format!(
                    "AWS does not accept the credentials in {}: is the key right, and the region enabled?",
                    self.region
                ),
            ),
            "OptInRequired" | "Blocked" | "PendingVerification" => never(ErrorKind::PermissionDenied, ""),
            "RequestLimitExceeded" | "Throttling" | "ThrottlingException" | "EC2ThrottledException" | "SlowDown" => {
                after(5, "too many requests in this account and region")
            }
            "SnapshotCreationPerVolumeRateExceeded" => after(15, "AWS wants 15 s between two snapshots of a volume"),
            "ConcurrentSnapshotLimitExceeded" => never(
                ErrorKind::Exhausted,
                "a volume may have 5 pending snapshots (st1 and sc1: 1); wait until one is complete, or delete one",
            ),
            "SnapshotLimitExceeded" => never(
                ErrorKind::Exhausted,
                "the quota of EBS snapshots in this region is used up; delete some, or ask for more in Service Quotas",
            ),
            "ResourceLimitExceeded"
            | "VolumeLimitExceeded"
            | "AttachmentLimitExceeded"
            | "MaxIOPSLimitExceeded"
            | "TagLimitExceeded" => never(ErrorKind::Exhausted, "a quota of the account; see Service Quotas"),
            "InsufficientVolumeCapacity" => {
                never(ErrorKind::Exhausted, "AWS has no room in this zone now; try again later")
            }
            "SnapshotLocked" | "InvalidSnapshot.Locked" => {
                never(ErrorKind::Precondition, "it is locked; see aws ec2 describe-locked-snapshots")
            }
            "InvalidSnapshot.InUse" => never(ErrorKind::Precondition, "an image (AMI) uses it"),
            "VolumeInUse"
            | "IncorrectState"
            | "IncorrectInstanceState"
            | "IncorrectModificationState"
            | "OperationNotPermitted"
            | "DependencyViolation" => never(ErrorKind::Precondition, ""),
            "UnsupportedOperation" | "Unsupported" | "InvalidAction" => never(ErrorKind::Unsupported, ""),
            "IdempotentParameterMismatch" => never(ErrorKind::Conflict, ""),
            "InvalidInstanceID.NotFound" => {
                never(ErrorKind::NotFound, &format!("is {} its region? see --aws-region", self.region))
            }
            _ if code.ends_with(".NotFound") || code.ends_with("NotFoundException") => never(ErrorKind::NotFound, ""),
            _ if code.starts_with("Invalid") || code.starts_with("Missing") || code.contains("Malformed") => {
                never(ErrorKind::InvalidInput, "")
            }
            _ if code.contains("LimitExceeded") || code.contains("RateExceeded") => never(ErrorKind::Exhausted, ""),
            "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" => self.uncertain(),
            _ if status >= 500 => self.uncertain(),
            _ => never(ErrorKind::Provider, ""),
        }
    }

    /// EC2 has failed in the middle of something.
    fn uncertain(&self) -> Meaning {
        let retry = if self.once { Retry::Unknown } else { Retry::Safe };
        Meaning { kind: ErrorKind::Unavailable, retry, hint: None }
    }

    /// The error for a call to which EC2 has not answered, or in a way that cannot be read.
    fn no_answer<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: StdError + Send + Sync + 'static,
    {
        let doing = &self.doing;
        if has_cause::<CredentialsError>(&error) {
            let what = format!("cannot {doing}: there are no AWS credentials that can be used");
            return Error::new(ErrorKind::PermissionDenied, what)
                .with_hint(
                    "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role",
                )
                .with_source(error);
        }
        let retry = match (&error, self.once) {
            // It never left this machine.
            (SdkError::ConstructionFailure(_), _) => {
                return Error::internal(format!("cannot {doing}: the request cannot be built")).with_source(error);
            }
            (_, false) => Retry::Safe,
            (SdkError::DispatchFailure(failure), true) => {
                // The SDK tells this in no other way. Should it stop telling, the outcome is unknown, which is safe.
                let told = failure.as_connector_error().map(|error| format!("{error:?}")).unwrap_or_default();
                if told.contains("NeverConnected") { Retry::Safe } else { Retry::Unknown }
            }
            (_, true) => Retry::Unknown,
        };
        let why = match (&error, retry) {
            (SdkError::TimeoutError(_), _) => "did not answer in time",
            (SdkError::ResponseError(_) | SdkError::ServiceError(_), _) => "sent an answer that cannot be understood",
            (SdkError::DispatchFailure(failure), _) if failure.is_timeout() => "did not answer in time",
            (_, Retry::Unknown) => "did not answer",
            _ => "cannot be reached",
        };
        Error::new(ErrorKind::Unavailable, format!("cannot {doing}: {} in {} {why}", self.service, self.region))
            .with_retry(retry)
            .with_source(error)
    }

    /// Whether a dry run says yes: `DryRunOperation` is an error in form only
    /// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html>).
    pub(super) fn dry<T, E>(&self, result: Result<T, SdkError<E, HttpResponse>>) -> Result<()>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match result {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some("DryRunOperation") => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }
}

/// The code of an answer that is an error.
pub(super) fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// True if EC2 says that there is no such thing (`InvalidSnapshot.NotFound` and its like).
pub(super) fn is_gone<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    code(error).is_some_and(|code| code.ends_with(".NotFound"))
}

fn has_cause<T: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<T>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The message of EC2 as part of a line of ours: without its full stop, and without the encoded text that only AWS can read.
fn tidy(message: &str) -> String {
    let message = message.split("Encoded authorization failure message").next().unwrap_or_default();
    message.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::error::ErrorMetadata;
    use aws_sdk_ec2::operation::create_snapshot::CreateSnapshotError;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    type Failure = SdkError<CreateSnapshotError, HttpResponse>;

    fn call(once: bool) -> Call<'static> {
        Call {
            service: "EC2",
            action: "CreateSnapshot",
            doing: "take a snapshot of vol-1".into(),
            region: "eu-west-1",
            once,
        }
    }

    fn answer(status: u16) -> HttpResponse {
        HttpResponse::new(status.try_into().unwrap(), SdkBody::empty())
    }

    fn service(code: &str, message: &str, status: u16) -> Failure {
        let meta = ErrorMetadata::builder().code(code).message(message).build();
        SdkError::service_error(CreateSnapshotError::generic(meta), answer(status))
    }

    fn of(code: &str) -> (ErrorKind, Retry) {
        let error = call(true).failed(service(code, "Because.", 400));
        (error.kind(), error.retry())
    }

    #[test]
    fn a_refusal_is_certain_and_says_what_to_do() {
        let error = call(true).failed(service(
            "UnauthorizedOperation",
            "You are not authorized to perform this operation. Encoded authorization failure message: XYZ",
            403,
        ));
        assert_eq!((error.kind(), error.retry()), (ErrorKind::PermissionDenied, Retry::Never));
        assert_eq!(
            error.to_string(),
            "cannot take a snapshot of vol-1: You are not authorized to perform this operation (UnauthorizedOperation) \
             (the policy of these credentials has to allow ec2:CreateSnapshot; see docs/permissions/aws.md)"
        );
    }

    #[test]
    fn codes_have_kinds() {
        use ErrorKind::{Conflict, Exhausted, InvalidInput, NotFound, PermissionDenied, Precondition, Provider};
        for (code, kind) in [
            ("AuthFailure", PermissionDenied),
            ("ExpiredToken", PermissionDenied),
            ("RequestExpired", PermissionDenied),
            ("Client.UnauthorizedOperation", PermissionDenied),
            ("ConcurrentSnapshotLimitExceeded", Exhausted),
            ("SnapshotLimitExceeded", Exhausted),
            ("SomethingLimitExceeded", Exhausted),
            ("SnapshotLocked", Precondition),
            ("VolumeInUse", Precondition),
            ("InvalidVolume.NotFound", NotFound),
            ("InvalidParameterValue", InvalidInput),
            ("IdempotentParameterMismatch", Conflict),
            ("Odd", Provider),
        ] {
            assert_eq!(of(code), (kind, Retry::Never), "{code}");
        }
    }

    #[test]
    fn throttling_says_how_long_to_wait() {
        assert_eq!(of("RequestLimitExceeded"), (ErrorKind::Exhausted, Retry::After(Duration::from_secs(5))));
        let rate = of("SnapshotCreationPerVolumeRateExceeded");
        assert_eq!(rate, (ErrorKind::Exhausted, Retry::After(Duration::from_secs(15))));
        // EC2 throttles with status 503; that is no reason to doubt.
        let error = call(true).failed(service("RequestLimitExceeded", "Request limit exceeded.", 503));
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(5)));
    }

    #[test]
    fn the_wrong_region_is_suspected() {
        let error =
            call(false).failed(service("InvalidInstanceID.NotFound", "The instance ID 'i-1' does not exist", 400));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("eu-west-1"), "{error}");
    }

    #[test]
    fn after_a_failure_inside_of_ec2_the_outcome_of_a_creation_is_unknown() {
        for (code, status) in [("InternalError", 500), ("Unavailable", 503), ("Anything", 502)] {
            assert_eq!(call(true).failed(service(code, "", status)).retry(), Retry::Unknown, "{code}");
            assert_eq!(call(false).failed(service(code, "", status)).retry(), Retry::Safe, "{code}");
        }
    }

    #[test]
    fn without_an_answer_only_a_connection_that_never_stood_is_certain() {
        let lost: Failure = SdkError::dispatch_failure(ConnectorError::io("reset".into()));
        let never: Failure = SdkError::dispatch_failure(ConnectorError::io("refused".into()).never_connected());
        let late: Failure = SdkError::timeout_error("30 s");
        let garbage: Failure = SdkError::response_error("not XML", answer(200));
        for (error, creating) in
            [(lost, Retry::Unknown), (never, Retry::Safe), (late, Retry::Unknown), (garbage, Retry::Unknown)]
        {
            let text = format!("{error:?}");
            let error = call(true).failed(error);
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, creating), "{text}");
        }
        let late: Failure = SdkError::timeout_error("30 s");
        assert_eq!(call(false).failed(late).retry(), Retry::Safe);
    }

    #[test]
    fn missing_credentials_are_a_matter_of_permission() {
        let none = CredentialsError::not_loaded("nothing found");
        let error: Failure = SdkError::dispatch_failure(ConnectorError::other(Box::new(none), None));
        let error = call(true).failed(error);
        assert_eq!((error.kind(), error.retry()), (ErrorKind::PermissionDenied, Retry::Never));
    }

    #[test]
    fn a_dry_run_that_would_succeed_is_a_success() {
        let would: Result<(), Failure> = Err(service("DryRunOperation", "Request would have succeeded", 412));
        assert!(call(true).dry(would).is_ok());
        let not: Result<(), Failure> = Err(service("UnauthorizedOperation", "No.", 403));
        assert_eq!(call(true).dry(not).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}
