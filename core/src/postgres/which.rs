//! The statements that ask a server which one it is, and how their answers are read.
//!
//! A name, a port, even the system identifier can lead to another server than the one whose files are at hand: a standby and
//! its primary have the same. So the server is asked for a sign as well: it exports a snapshot, which is a file in its data
//! directory that anybody may ask for, on a standby too, and that it removes at the end of the transaction. The invariant: as
//! in [`statements`](super::statements), nothing here depends on settings of the session.

use std::path::PathBuf;

use super::control::{ServerIdentity, Sign};
use super::statements::{ISO, Rows, moment, number, one, strange, text};
use crate::error::Result;

/// Asks which server answers.
pub(super) fn identity() -> String {
    format!(
        "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())::pg_catalog.text, \
         pg_catalog.to_char(pg_catalog.pg_postmaster_start_time(), {ISO}), pg_catalog.current_setting('port'), \
         pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid()"
    )
}

/// Reads the answer to [`identity`].
pub(super) fn read_identity(rows: &Rows, reached: &str) -> Result<ServerIdentity> {
    let row = one(rows, 5)?;
    Ok(ServerIdentity {
        reached: reached.to_owned(),
        system_id: text(row, 0)?.to_owned(),
        started: moment(text(row, 1)?)?,
        port: number(text(row, 2)?)?,
        in_recovery: text(row, 3)? == "t",
        backend: number(text(row, 4)?)?,
    })
}

/// Has the server make the file. The kind of transaction is said because a standby has no serializable ones, whatever the
/// default of the role is.
pub(super) const SIGN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; \
     SELECT pg_catalog.pg_export_snapshot(), pg_catalog.pg_backend_pid()";

/// Has the server remove it.
pub(super) const NO_SIGN: &str = "ROLLBACK";

/// Reads the answer to [`SIGN`].
pub(super) fn read_sign(rows: &Rows) -> Result<Sign> {
    let row = one(rows, 2)?;
    let (name, backend) = (text(row, 0)?, number::<i64>(text(row, 1)?)?);
    // The name comes from outside and becomes a path.
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return Err(strange(format!("not the name of a snapshot: {name:?}")));
    }
    Ok(Sign { file: PathBuf::from("pg_snapshots").join(name), line: format!("pid:{backend}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[&str]) -> Rows {
        vec![values.iter().map(|value| Some((*value).to_owned())).collect()]
    }

    #[test]
    fn a_server_is_known_to_the_microsecond() {
        let told = rows(&["74", "2026-05-29T10:11:12.123456+05:30", "5433", "t", "4711"]);
        let identity = read_identity(&told, "host db1 port 5433").unwrap();
        assert_eq!(identity.started.to_rfc3339(), "2026-05-29T10:11:12.123456+05:30");
        assert_eq!((identity.port, identity.in_recovery, identity.backend), (5433, true, 4711));
    }

    #[test]
    fn a_sign_is_a_file_of_the_data_directory_and_never_one_elsewhere() {
        let sign = read_sign(&rows(&["00000003-0000001B-1", "4711"])).unwrap();
        assert_eq!((sign.file.to_str(), sign.line.as_str()), (Some("pg_snapshots/00000003-0000001B-1"), "pid:4711"));
        for name in ["", "../postgresql.conf", "/etc/passwd", "a/b", "x"] {
            assert!(read_sign(&rows(&[name, "4711"])).is_err(), "{name:?}");
        }
    }
}
