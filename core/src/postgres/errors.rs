//! What the `postgres` crate reports, in the terms of this engine.
//!
//! The crate hides the kind of its errors; what is not from the server and has no I/O error inside is told apart by its
//! text, which is fixed in the version that the lock file names and is checked by the tests against real servers.
//! The invariant: SQLSTATE and the server's own hint are kept, and no password is ever part of a message.

use std::error::Error as _;
use std::io;

use postgres::error::{DbError, Severity};

use super::conninfo::params::{Address, ConnectParams, HostParams};
use crate::error::{Error, ErrorKind, Retry};

/// What to do after a failed attempt (the rules of libpq).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// No server was reached there: try the next host.
    Host,
    /// TLS is in the way: try without it, or with it, where the mode allows that; never another host.
    OtherTls,
    /// A server has answered and said no: asking others makes no sense.
    Stop,
}

/// Why a connection that had been open is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    reason: String,
    sqlstate: Option<String>,
}

impl Loss {
    /// A loss for a reason that is no error of the crate.
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), sqlstate: None }
    }

    /// The loss that `error` tells of.
    pub(super) fn of(error: &postgres::Error) -> Self {
        let db = error.as_db_error();
        Self {
            reason: match db {
                Some(db) => db.message().to_owned(),
                None if error.is_closed() => "the server closed it".to_owned(),
                None => root_cause(error),
            },
            sqlstate: db.map(|db| db.code().code().to_owned()),
        }
    }

    /// The error for everything that is asked of the connection afterwards.
    pub(super) fn error(&self) -> Error {
        let error = Error::new(ErrorKind::Postgres, format!("the connection to PostgreSQL was lost: {}", self.reason))
            .with_hint("PostgreSQL ends a backup whose connection is lost; take the backup again");
        match &self.sqlstate {
            Some(code) => error.with_sqlstate(code),
            None => error,
        }
    }
}

/// True if the connection does not outlive this error.
pub(super) fn is_fatal(error: &postgres::Error) -> bool {
    match error.as_db_error() {
        Some(db) => matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)),
        None => error.is_closed() || io_cause(error).is_some(),
    }
}

/// The error of a statement on a connection that goes on.
pub(super) fn statement(error: postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        return Error::new(ErrorKind::Postgres, "a statement to PostgreSQL failed").with_source(error);
    };
    let kind = match db.code().code() {
        "42501" => ErrorKind::PermissionDenied,
        // object not in prerequisite state: a backup runs already, WAL level too low, wrong state of recovery
        "55000" => ErrorKind::Precondition,
        code if code.starts_with("53") => ErrorKind::Exhausted,
        _ => ErrorKind::Postgres,
    };
    server_said(Error::new(kind, format!("PostgreSQL: {}", one_line(db))), db)
}

/// The error of a failed attempt to connect, and what to do next.
pub(super) fn connect(error: postgres::Error, host: &HostParams, params: &ConnectParams) -> (Error, Next) {
    let at = format!("cannot connect to PostgreSQL at {host} as user {:?}, database {:?}", params.user, params.dbname);
    if let Some(db) = error.as_db_error() {
        return refused(db, &at, host);
    }
    let text = error.to_string();
    if let Some(io) = io_cause(&error)
        && !text.contains("TLS")
    {
        return unreachable(io, &at, host);
    }
    let cause = root_cause(&error);
    let make = |kind, hint: &str| Error::new(kind, format!("{at}: {cause}")).with_hint(hint);
    if text.contains("TLS") {
        return (make(ErrorKind::Precondition, tls_hint(&cause)), Next::OtherTls);
    }
    if error.is_closed() {
        let error =
            make(ErrorKind::Unavailable, "is it a PostgreSQL server, and is it running?").with_retry(Retry::Safe);
        return (error, Next::Host);
    }
    if cause.contains("password") {
        let hint = host.password_note.as_deref().unwrap_or("set PGPASSWORD or write the password to ~/.pgpass");
        return (make(ErrorKind::PermissionDenied, hint), Next::Stop);
    }
    if cause.contains("unsupported authentication") {
        let hint = "password, SCRAM, MD5, certificate, peer and trust are supported";
        return (make(ErrorKind::Unsupported, hint), Next::Stop);
    }
    (Error::new(ErrorKind::PermissionDenied, format!("{at}: {text}: {cause}")).with_source(error), Next::Stop)
}

/// Not the server answered, but something that lends out its sessions.
pub(super) fn pooler(host: &HostParams, why: &str) -> Error {
    Error::precondition(format!("a connection pooler answers at {host}, not PostgreSQL itself: {why}")).with_hint(
        "a backup is one session from start to stop: connect to the server directly, by its own port or socket, not through \
         PgBouncer or the like",
    )
}

/// The server answered and refused.
fn refused(db: &DbError, at: &str, host: &HostParams) -> (Error, Next) {
    let code = db.code().code();
    // What PgBouncer says of the options at the start of a session; PostgreSQL has no such message.
    if db.message().starts_with("unsupported startup parameter") {
        return (pooler(host, db.message()), Next::Stop);
    }
    let (kind, next, hint) = match code {
        // no entry in pg_hba.conf, or one that wants or refuses TLS
        "28000" => {
            (ErrorKind::PermissionDenied, Next::OtherTls, Some("look at pg_hba.conf and at the role".to_owned()))
        }
        code if code.starts_with("28") => {
            let hint = host.password_note.clone().or_else(|| Some(password_hint(host).to_owned()));
            (ErrorKind::PermissionDenied, Next::Stop, hint)
        }
        "42501" => (ErrorKind::PermissionDenied, Next::Stop, None),
        "3D000" => (ErrorKind::NotFound, Next::Stop, Some("name an existing database with -d or dbname".to_owned())),
        // starting up, shutting down, in recovery without hot standby
        "57P03" => (ErrorKind::Unavailable, Next::Host, None),
        code if code.starts_with("53") => (ErrorKind::Exhausted, Next::Stop, None),
        _ => (ErrorKind::Postgres, Next::Stop, None),
    };
    let mut error = server_said(Error::new(kind, format!("{at}: {}", one_line(db))), db);
    if matches!(kind, ErrorKind::Unavailable | ErrorKind::Exhausted) {
        error = error.with_retry(Retry::Safe);
    }
    match hint {
        Some(hint) => (error.with_hint(hint), next),
        None => (error, next),
    }
}

fn password_hint(host: &HostParams) -> &'static str {
    match host.password {
        Some(_) => "the password given is not the one of the role",
        None => "set PGPASSWORD or write the password to ~/.pgpass",
    }
}

/// No server was reached.
fn unreachable(io: &io::Error, at: &str, host: &HostParams) -> (Error, Next) {
    let socket = matches!(host.address, Address::Socket(_));
    let (kind, what, hint) = match io.kind() {
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::PermissionDenied, "permission denied".to_owned(), "may this OS user use the socket directory?")
        }
        io::ErrorKind::NotFound if socket => (
            ErrorKind::Unavailable,
            "no such socket".to_owned(),
            "is the server running, and is its socket in that directory?",
        ),
        io::ErrorKind::ConnectionRefused => (
            ErrorKind::Unavailable,
            "connection refused".to_owned(),
            if socket { "is the server running?" } else { "is the server running there, and does it listen on TCP?" },
        ),
        io::ErrorKind::TimedOut => (ErrorKind::Unavailable, "no answer in time".to_owned(), "see connect_timeout"),
        io::ErrorKind::UnexpectedEof => {
            (ErrorKind::Unavailable, "the connection was closed at once".to_owned(), "is it a PostgreSQL server?")
        }
        _ => (ErrorKind::Unavailable, io.to_string(), "check host name and network"),
    };
    (Error::new(kind, format!("{at}: {what}")).with_hint(hint).with_retry(Retry::Safe), Next::Host)
}

/// The attempt took too long.
pub(super) fn timed_out(host: &HostParams, params: &ConnectParams) -> (Error, Next) {
    let at = format!("cannot connect to PostgreSQL at {host} as user {:?}, database {:?}", params.user, params.dbname);
    unreachable(&io::Error::from(io::ErrorKind::TimedOut), &at, host)
}

/// One error for a list of hosts that all failed.
pub(super) fn all_failed(mut errors: Vec<Error>) -> Error {
    match errors.len() {
        0 => Error::internal("no host to connect to"),
        1 => errors.remove(0),
        count => {
            let all: Vec<_> = errors.iter().map(Error::message).collect();
            let worst = errors.iter().map(Error::kind).find(|kind| *kind != ErrorKind::Unavailable);
            let error = Error::new(
                worst.unwrap_or(ErrorKind::Unavailable),
                format!("none of {count} attempts to connect succeeded: {}", all.join("; ")),
            )
            .with_retry(if worst.is_none() { Retry::Safe } else { Retry::Never });
            match errors.iter().rev().find_map(Error::hint) {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
    }
}

fn tls_hint(cause: &str) -> &'static str {
    if cause.contains("does not support TLS") {
        "turn ssl on at the server, or use a weaker sslmode"
    } else if cause.contains("not valid for name") {
        "the certificate names another host; use that name, or sslmode=verify-ca"
    } else if cause.contains("UnknownIssuer") {
        "sslrootcert has to hold the certificate that signed the server's"
    } else {
        "see sslmode, sslrootcert, sslcert and sslkey"
    }
}

/// Message and detail of the server in one line.
fn one_line(db: &DbError) -> String {
    let text = match db.detail() {
        Some(detail) => format!("{} ({detail})", db.message()),
        None => db.message().to_owned(),
    };
    text.replace('\n', " ")
}

/// Keeps the code and the hint of the server.
fn server_said(error: Error, db: &DbError) -> Error {
    let error = error.with_sqlstate(db.code().code());
    match db.hint() {
        Some(hint) => error.with_hint(hint.replace('\n', " ")),
        None => error,
    }
}

/// The I/O error somewhere among the causes.
fn io_cause(error: &postgres::Error) -> Option<&io::Error> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(io) = source.downcast_ref() {
            return Some(io);
        }
        next = source.source();
    }
    None
}

/// The text of the innermost cause.
fn root_cause(error: &postgres::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string().replace('\n', " ")
}
