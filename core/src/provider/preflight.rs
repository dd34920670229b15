//! What a look before a backup finds, line by line.
//!
//! A backup that cannot work fails with one error, the first. `check` shows all that is wrong in one run; therefore a
//! provider that asks a cloud several things ([`SnapshotProvider::preflight`]) answers with a line for each instead:
//! instance exists, disks exist, disks attached, disks mounted. Nothing here changes anything anywhere.
//!
//! [`SnapshotProvider::preflight`]: super::SnapshotProvider::preflight

use serde::Serialize;

use super::{Instance, Volume};
use crate::error::{Error, ErrorKind, Result};

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// Whether it is all right.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do, if it is not.
    pub hint: Option<String>,
}

/// The lines of a report, in the order in which things were looked at.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Findings {
    /// The lines.
    pub lines: Vec<Finding>,
}

impl Findings {
    /// Whether every line is.
    pub fn is_ok(&self) -> bool {
        self.lines.iter().all(|line| line.ok)
    }

    /// Adds a line about something that is as it should be.
    pub fn good(&mut self, name: &str, detail: impl Into<String>) {
        self.lines.push(Finding { name: name.into(), ok: true, detail: detail.into(), hint: None });
    }

    /// Adds a line about something that is not, and what to do.
    pub fn bad(&mut self, name: &str, detail: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.lines.push(Finding { name: name.into(), ok: false, detail: detail.into(), hint });
    }

    /// Adds a line about a result: `detail` tells what was found, or the error and its hint speak for themselves. `None`
    /// after an error.
    pub fn take<T>(&mut self, name: &str, result: Result<T>, detail: impl FnOnce(&T) -> String) -> Option<T> {
        match result {
            Ok(value) => {
                self.good(name, detail(&value));
                Some(value)
            }
            Err(error) => {
                self.error(name, &error);
                None
            }
        }
    }

    /// Adds a line about an error. Where it does not say what to do, its kind does.
    pub fn error(&mut self, name: &str, error: &Error) {
        let detail = match error.any_hint() {
            // The hint has a place of its own in a line.
            Some(hint) => error.chain().replace(&format!(" ({hint})"), ""),
            None => error.chain(),
        };
        self.bad(name, detail, Some(error.any_hint().unwrap_or(advice(error.kind()))));
    }

    /// Adds the lines of another report.
    pub fn extend(&mut self, other: Self) {
        self.lines.extend(other.lines);
    }
}

/// What to do about an error that does not say so itself.
fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidInput => "change the option or the name",
        ErrorKind::NotFound => "see whether the name is right, and whether it is the right account, region or host",
        ErrorKind::PermissionDenied => "see whose credentials are used, and give them what is missing",
        ErrorKind::Unavailable => "see whether it is running and can be reached from this host, then try again",
        ErrorKind::Exhausted => "make room, or have the limit raised",
        ErrorKind::Conflict | ErrorKind::Fenced => "see who else is at work on it",
        ErrorKind::Unsupported => "leave out what asks for it, or use another provider",
        ErrorKind::Postgres => "the log of the server says more",
        ErrorKind::Corrupt | ErrorKind::Storage => "look at what is stored there before anything is changed",
        ErrorKind::Internal => "this is a defect; please report it with the output of -vv",
        ErrorKind::Precondition | ErrorKind::Provider | ErrorKind::Cancelled => "set it right, then check again",
    }
}

/// What [`SnapshotProvider::preflight`](super::SnapshotProvider::preflight) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preflight {
    /// The lines.
    pub findings: Findings,
    /// The instance, if there is one.
    pub instance: Option<Instance>,
    /// The volumes, exactly as `volumes` would return them, if nothing was wrong with any. With them the check goes on:
    /// coverage, names, permissions.
    pub volumes: Option<Vec<Volume>>,
}

/// Volumes for people: `vol-1 (ebs), vol-2 (ebs)`.
pub fn describe(volumes: &[Volume]) -> String {
    volumes.iter().map(|volume| format!("{} ({})", volume.id, volume.method)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_of_an_error_is_said_once_and_the_rest_of_the_chain_is_kept() {
        let source = Error::not_found("deep").with_hint("inner");
        let error = Error::precondition("no disk").with_hint("attach it").with_source(source);
        let mut findings = Findings::default();
        assert!(findings.take::<()>("disks", Err(error), |()| String::new()).is_none());
        assert_eq!(findings.lines[0].detail, "no disk: deep");
        assert_eq!(findings.lines[0].hint.as_deref(), Some("attach it"));
        assert!(!findings.is_ok());
        findings.error("disks", &Error::internal("x").with_source(Error::not_found("y").with_hint("inner")));
        assert_eq!((findings.lines[1].detail.as_str(), findings.lines[1].hint.as_deref()), ("x: y", Some("inner")));
        findings.error("server", &Error::new(ErrorKind::Unavailable, "connection refused"));
        assert!(findings.lines[2].hint.as_deref().is_some_and(|hint| hint.contains("running")));
    }
}
