//! The proof that a backup can be restored: what was done, what was seen, and when.
//!
//! Stored as one JSON object per verification (docs/format/proof.md): fields are only added. A failed verification is
//! recorded as well; a proof without `passed: true` proves that the backup needs attention.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::Chosen;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::model::{Lsn, Timeline};

/// The version of the stored object.
pub const PROOF_VERSION: u32 = 1;

/// How many rows of the user's SQL are kept.
pub const ROWS_KEPT: usize = 100;

/// The record of one verification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// The version of this record, now 1.
    pub version: u32,
    /// The server.
    pub server: String,
    /// The backup.
    pub backup_id: BackupId,
    /// True if no check failed.
    pub passed: bool,
    /// When the verification began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The version of this program.
    pub engine: String,
    /// What `postgres --version` says of the programs that were used.
    pub postgres: String,
    /// How far the server was told to recover, in words.
    pub target: String,
    /// Where recovery ended.
    pub reached: Option<Reached>,
    /// Bytes that were copied for the restore, where the provider tells.
    pub bytes_copied: Option<u64>,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
    /// What the user's SQL returned.
    pub sql: Vec<SqlResult>,
    /// The last lines of the server's log, if a check failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// How the backup was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
    /// Whether the kernel kept the server from writing outside of its own place. Absent if none was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contained: Option<bool>,
}

/// Where recovery ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The last position that was replayed.
    pub lsn: Lsn,
    /// The timeline that the restored server has opened for itself.
    pub timeline: Timeline,
    /// Its system identifier.
    pub system_id: String,
    /// The time of the last transaction that was replayed; none if the WAL of the backup has none.
    pub last_transaction: Option<String>,
    /// How many databases accept connections.
    pub databases: u64,
    /// The size of all databases.
    pub bytes: u64,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was made, and what it looked for was right.
    Passed,
    /// It was made, and something was wrong.
    Failed,
    /// It was not made; the detail says why.
    Skipped,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `restore`, `configuration`, `recovery`, `identity`, `amcheck`, `tablespaces` (only skipped: what was left out), `sql`, `shutdown`, `checksums`.
    pub name: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen, or why it failed or was skipped.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A statement of the user, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlCheck {
    /// The database.
    pub database: String,
    /// The statement.
    pub sql: String,
    /// The first value of the first row must be this. Without it the statement only has to return without error.
    #[serde(default)]
    pub expect: Option<String>,
}

/// What a statement of the user returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlResult {
    /// The statement.
    #[serde(flatten)]
    pub check: SqlCheck,
    /// How many rows it returned.
    pub row_count: u64,
    /// The first [`ROWS_KEPT`] of them, as text.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Proof {
    /// The name of the object: `20260529T101500Z`, the time at which the verification began, or so many seconds `later`.
    pub fn stamp(&self, later: i64) -> String {
        (self.started_at + chrono::TimeDelta::seconds(later)).format("%Y%m%dT%H%M%SZ").to_string()
    }

    /// The object as it is stored: JSON with a newline at its end.
    pub fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal("cannot write a proof").with_source(error))?;
        Ok(json + "\n")
    }

    /// Reads a stored proof.
    ///
    /// # Errors
    /// `corrupt` for what is none, `unsupported` for one of a newer version.
    pub fn parse(text: &str) -> Result<Self> {
        let proof: Self = serde_json::from_str(text)
            .map_err(|error| Error::corrupt("not a proof of a restore").with_source(error))?;
        if proof.version > PROOF_VERSION {
            return Err(Error::new(
                crate::error::ErrorKind::Unsupported,
                format!("a proof of version {}, this program reads {PROOF_VERSION}", proof.version),
            ));
        }
        Ok(proof)
    }

    /// For people: the [`summary`](Self::summary), and for each check that failed or was not made a line that says why.
    pub fn report(&self) -> String {
        let mut text = self.summary();
        for check in self.checks.iter().filter(|check| check.outcome != Outcome::Passed) {
            let word = if check.outcome == Outcome::Failed { "failed" } else { "not made" };
            text.push_str(&format!("\n  {} {word}: {}", check.name, check.detail));
        }
        text
    }

    /// `, not made: amcheck`, or nothing: which checks were left out.
    pub fn left_out(&self) -> String {
        let left: Vec<_> = self.checks.iter().filter(|one| one.outcome == Outcome::Skipped).collect();
        match left.as_slice() {
            [] => String::new(),
            left => format!(", not made: {}", left.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")),
        }
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let failed: Vec<_> = self
            .checks
            .iter()
            .filter(|check| check.outcome == Outcome::Failed)
            .map(|check| check.name.as_str())
            .collect();
        let passed = self.checks.iter().filter(|check| check.outcome == Outcome::Passed).count();
        let at = self.finished_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        match failed.as_slice() {
            [] => format!("backup {} was restored and {passed} checks passed{}, {at}", self.backup_id, self.left_out()),
            failed => format!("backup {} failed: {}, {at}", self.backup_id, failed.join(", ")),
        }
    }
}
