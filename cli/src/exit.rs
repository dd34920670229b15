//! Exit codes, and the one line of an error.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | success |
//! | 1 | the operation failed or was refused; `wal-restore`: the file is not in the archive, and nothing else |
//! | 2 | something could not be reached |
//! | 3 | wrong options or names |
//! | 4 | damaged data, or a defect; `wal-restore`: also whatever else went wrong |
//! | 5 | done, but WAL does not arrive in this catalog (`backup`), or but for what cannot be deleted now (`delete --retention-policy`), cannot be seen from here (`recover`) or not be asked (`gc`) |
//!
//! They are those of the `barman-cloud-*` tools where those have one; callers such as `restore_command` wrappers rely on
//! `wal-restore` giving 1 for a missing file and 2 for a network that is down.

use std::io::Write;
use std::process::ExitCode;

use barman_snap::{Error, ErrorKind, redact};

use crate::args::Format;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    Failure,
    /// Done as far as it is allowed: something was left out, and named.
    LeftOut,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failure => Self::FAILURE,
            Exit::LeftOut => Self::from(5),
        }
    }
}

/// The code of an error. `fetching` is `wal-restore`, whose 1 tells PostgreSQL that the WAL ends here.
fn code(kind: ErrorKind, fetching: bool) -> u8 {
    match kind {
        ErrorKind::InvalidInput => 3,
        ErrorKind::Unavailable => 2,
        ErrorKind::Corrupt | ErrorKind::Internal => 4,
        ErrorKind::NotFound => 1,
        _ if fetching => 4,
        _ => 1,
    }
}

/// Prints an error: one line on stderr, or one JSON object on stdout. `fetching` is `wal-restore`.
pub(crate) fn report(error: &Error, format: Format, fetching: bool) -> ExitCode {
    if format == Format::Json {
        let context: serde_json::Map<String, serde_json::Value> =
            error.context().iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())).collect();
        let object = serde_json::json!({ "error": {
            "kind": error.kind().as_str(),
            "message": error.chain(),
            "operation": error.operation(),
            "sqlstate": error.sqlstate(),
            "context": context,
        }});
        // A closed pipe is the reader's wish; there is nobody left to tell.
        let _ = writeln!(std::io::stdout(), "{object}");
    }
    let _ = writeln!(std::io::stderr(), "error: {}", error.chain());
    ExitCode::from(code(error.kind(), fetching))
}

/// Prints what clap has to say; its own code for a usage error would be 2.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // It repeats what it does not understand, and that may be a connection string.
    let plain = error.render().to_string();
    match redact::text(&plain) {
        std::borrow::Cow::Borrowed(_) => drop(error.print()),
        std::borrow::Cow::Owned(shown) => drop(write!(std::io::stderr(), "{shown}")),
    }
    if error.use_stderr() { ExitCode::from(3) } else { ExitCode::SUCCESS }
}
