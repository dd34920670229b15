//! Errors, and the policy that all of the engine follows.
//!
//! * An [`Error`] says **what** went wrong ([`ErrorKind`]), **whether trying again can help** ([`Retry`]), **which
//!   operation** it stopped, and the values that mattered. Callers decide on `kind` and `retry`, never on text.
//! * A new kind is added only where a caller would act differently.
//! * [`Retry::Unknown`] means that we cannot tell whether the effect happened (a time-out, a lost reply). Look before
//!   doing it again.
//! * `Display` gives one line: message, then hint. It never repeats the source; [`Error::chain`] prints source by source,
//!   and is used at the edges (command line, C, Python) only.
//! * Messages are lower case, without full stop, and name the value that mattered.
//! * PostgreSQL errors keep their SQLSTATE ([`Error::sqlstate`]).
//! * No error shows a secret that can be recognised as one: all texts pass through [`redact`], those of sources in [`Error::chain`].

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::redact;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A boxed cause.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, as coarse as a caller needs to act.
///
/// The same kinds are the C status codes, the Python exception classes and the base of the exit codes.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request itself is wrong: an option, a name, a URL. Change the request.
    InvalidInput,
    /// The machine or the server is not in a state in which the request could work: archiving off, disk not mounted,
    /// directory not empty. Change the surroundings.
    Precondition,
    /// The thing asked for does not exist.
    NotFound,
    /// A thing of that name exists already and differs, or somebody else was faster.
    Conflict,
    /// Another driver has taken over this session; this one must not touch it any more.
    Fenced,
    /// Credentials or privileges do not allow it.
    PermissionDenied,
    /// Could not be reached, or did not answer in time.
    Unavailable,
    /// A limit or quota is in the way (no space, too many snapshots, too many requests).
    Exhausted,
    /// Stored bytes are not what they should be.
    Corrupt,
    /// PostgreSQL refused a statement, or its connection was lost.
    Postgres,
    /// The snapshot provider refused, or a snapshot failed.
    Provider,
    /// The object store or the local file system failed.
    Storage,
    /// The user or the embedding program cancelled.
    Cancelled,
    /// The provider or the platform cannot do this at all.
    Unsupported,
    /// A defect of this program.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of their C status codes (which start at 1).
    pub const ALL: [Self; 15] = [
        Self::InvalidInput,
        Self::Precondition,
        Self::NotFound,
        Self::Conflict,
        Self::Fenced,
        Self::PermissionDenied,
        Self::Unavailable,
        Self::Exhausted,
        Self::Corrupt,
        Self::Postgres,
        Self::Provider,
        Self::Storage,
        Self::Cancelled,
        Self::Unsupported,
        Self::Internal,
    ];

    /// The name used in JSON, in C and in Python: `invalid_input`, `not_found`, …
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::Precondition => "precondition",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Fenced => "fenced",
            Self::PermissionDenied => "permission_denied",
            Self::Unavailable => "unavailable",
            Self::Exhausted => "exhausted",
            Self::Corrupt => "corrupt",
            Self::Postgres => "postgres",
            Self::Provider => "provider",
            Self::Storage => "storage",
            Self::Cancelled => "cancelled",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether doing the same again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Retry {
    /// The same request will fail in the same way.
    #[default]
    Never,
    /// Nothing happened; the same request may succeed.
    Safe,
    /// Nothing happened; the same request may succeed after this time (throttling, `Retry-After`).
    After(Duration),
    /// It cannot be told whether the effect happened. Look before doing it again.
    Unknown,
}

/// The error of the engine. See the [module documentation](self) for the policy.
///
/// It is one pointer wide, so that a `Result` costs nothing on the way on which all is well.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(thiserror::Error)]
#[error("{message}{}", hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    operation: Option<Cow<'static, str>>,
    message: String,
    hint: Option<String>,
    context: Vec<(&'static str, String)>,
    sqlstate: Option<String>,
    #[source]
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` with a message: lower case, no full stop, with the value that mattered.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: Retry::Never,
            operation: None,
            message: redacted(message.into()),
            hint: None,
            context: Vec::new(),
            sqlstate: None,
            source: None,
        }))
    }

    /// Short for [`ErrorKind::InvalidInput`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Short for [`ErrorKind::Precondition`].
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Precondition, message)
    }

    /// Short for [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Short for [`ErrorKind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// Short for [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// An error of the operating system on `path`. Its kind and retry follow from `source`.
    pub fn io(action: &str, path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::Exhausted,
            Io::AlreadyExists => ErrorKind::Conflict,
            _ => ErrorKind::Storage,
        };
        Self::new(kind, format!("cannot {action} {}", path.as_ref().display())).with_source(source)
    }

    /// Says whether doing it again can help.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Says what the user can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(redacted(hint.into()));
        self
    }

    /// Names the operation that was stopped, in the words of the user (`backup`, `restore`, `wal-archive`, a step name).
    /// The innermost name wins.
    #[must_use]
    pub fn with_operation(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        self.0.operation.get_or_insert(operation.into());
        self
    }

    /// Adds a value for machines (`server`, `backup_id`, `volume`, `path`, …).
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.context.push((key, redacted(value.into())));
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Keeps the SQLSTATE of a PostgreSQL error.
    #[must_use]
    pub fn with_sqlstate(mut self, sqlstate: impl Into<String>) -> Self {
        self.0.sqlstate = Some(sqlstate.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether doing it again can help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The operation that was stopped, if it was named.
    pub fn operation(&self) -> Option<&str> {
        self.0.operation.as_deref()
    }

    /// The message without the hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the user can do, if that is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The values for machines, in the order in which they were added.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The SQLSTATE, if PostgreSQL gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    /// The error and its causes in one line, for the edges: `message: cause: cause (hint)`.
    pub fn chain(&self) -> String {
        let mut line = self.0.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            let text = match source.downcast_ref::<Self>() {
                Some(inner) => inner.0.message.clone(),
                None => source.to_string(),
            };
            // Several libraries repeat their source in their own text.
            if !text.is_empty() && !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            next = source.source();
        }
        let line = redacted(line.replace('\n', " "));
        match self.any_hint() {
            Some(hint) => format!("{line} ({hint})"),
            None => line,
        }
    }

    /// What the user can do, by this error or else by the first of its causes that knows.
    pub(crate) fn any_hint(&self) -> Option<&str> {
        self.hint().or_else(|| self.inner_hint())
    }

    /// The first hint among the causes.
    fn inner_hint(&self) -> Option<&str> {
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            if let Some(hint) = source.downcast_ref::<Self>().and_then(Self::hint) {
                return Some(hint);
            }
            next = source.source();
        }
        None
    }
}

/// An error ends on a screen, in a log, in a journal. What it repeats of others may hold a secret.
fn redacted(text: String) -> String {
    match redact::text(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(other) => other,
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("retry", &self.retry)
            .field("operation", &self.operation)
            .field("message", &self.message)
            .field("hint", &self.hint)
            .field("context", &self.context)
            .field("sqlstate", &self.sqlstate)
            .field("source", &self.source.as_ref().map(|source| redacted(format!("{source:?}"))))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_without_the_source() {
        let error = Error::precondition("archiving is off").with_hint("set archive_mode = on").with_source("inner");
        assert_eq!(error.to_string(), "archiving is off (set archive_mode = on)");
    }

    #[test]
    fn chain_names_every_cause_once_and_ends_with_the_hint() {
        let inner = Error::not_found("no such volume: /srv/pg").with_hint("see barman-snap check");
        let outer = Error::new(ErrorKind::Provider, "cannot take the snapshot").with_source(inner);
        assert_eq!(outer.chain(), "cannot take the snapshot: no such volume: /srv/pg (see barman-snap check)");
    }

    #[test]
    fn no_part_of_an_error_shows_a_secret() {
        let error = Error::invalid("not a URL: s3://a:s3cret@b")
            .with_hint("password=s3cret")
            .with_context("url", "s3://a:s3cret@b")
            .with_source("GET https://x/y?sig=s3cret");
        let shown = format!("{error} {error:?} {} {:?}", error.chain(), error.context());
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn the_innermost_operation_wins() {
        let error = Error::internal("x").with_operation("stop").with_operation("backup");
        assert_eq!(error.operation(), Some("stop"));
    }

    #[test]
    fn every_kind_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn io_errors_keep_their_meaning() {
        let full = Error::io("write", "/x", std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(full.kind(), ErrorKind::Exhausted);
        assert_eq!(full.to_string(), "cannot write /x");
    }
}
