//! `postmaster.pid`: what a running server has written into its data directory about itself.
//!
//! Pure; reading the file is for others. The lines are those of PostgreSQL 13 to 18 (`miscadmin.h`, `LOCK_FILE_LINE_*`): process,
//! data directory, start time, port, socket directory, listen address, key of the shared memory, status. A server that
//! starts writes them one after the other, so whatever comes after the first three may be missing.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostmasterFile {
    /// The process, by its number in the process table of the server. Negative for a single-user server.
    pub pid: i64,
    /// The data directory, as the server was told it.
    pub data_directory: String,
    /// When the process was started: seconds since 1970.
    pub started: i64,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The first directory of its sockets; without, it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_directory: Option<String>,
    /// The first address that it listens on; without, it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_address: Option<String>,
    /// `starting`, `stopping`, `ready`, `standby`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

impl PostmasterFile {
    /// Reads the content of the file.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(str::trim);
        let bad = || Error::corrupt(format!("not a postmaster.pid: {text:?}"));
        let pid = lines.next().and_then(|line| line.parse().ok()).ok_or_else(bad)?;
        let data_directory = lines.next().filter(|line| !line.is_empty()).ok_or_else(bad)?.to_owned();
        let started = lines.next().and_then(|line| line.parse().ok()).ok_or_else(bad)?;
        let port = lines.next().and_then(|line| line.parse().ok());
        let mut text = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
        let (socket_directory, listen_address) = (text(), text());
        let _shared_memory = text();
        Ok(Self { pid, data_directory, started, port, socket_directory, listen_address, status: text() })
    }

    /// The options that lead to this server from its own host; `None` where it says no way.
    pub fn way(&self) -> Option<String> {
        let port = self.port?;
        let host = match (&self.socket_directory, self.listen_address.as_deref()) {
            (Some(directory), _) => directory.as_str(),
            (None, Some("*" | "0.0.0.0" | "::")) => "localhost",
            (None, Some(address)) => address,
            (None, None) => return None,
        };
        Some(format!("-h {host} -p {port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const FULL: &str = "4711\n/srv/pg\n1780049472\n5433\n/run/postgresql\nlocalhost\n  1234567    65538\nstandby \n";

    #[test]
    fn every_line_is_read() {
        let file = PostmasterFile::parse(FULL).unwrap();
        assert_eq!((file.pid, file.data_directory.as_str(), file.started), (4711, "/srv/pg", 1_780_049_472));
        assert_eq!((file.port, file.status.as_deref()), (Some(5433), Some("standby")));
        assert_eq!(file.way().as_deref(), Some("-h /run/postgresql -p 5433"));
    }

    #[test]
    fn a_server_that_starts_has_written_only_some_lines() {
        let file = PostmasterFile::parse("4711\n/srv/pg\n1780049472\n5433\n").unwrap();
        assert_eq!((file.port, &file.socket_directory, &file.status, file.way()), (Some(5433), &None, &None, None));
    }

    #[test]
    fn a_server_without_sockets_is_reached_by_its_address() {
        let way = |socket: &str, address: &str| {
            PostmasterFile::parse(&format!("1\n/srv/pg\n1\n5432\n{socket}\n{address}\n\nready   \n")).unwrap().way()
        };
        assert_eq!(way("", "10.0.0.7").as_deref(), Some("-h 10.0.0.7 -p 5432"));
        assert_eq!(way("", "*").as_deref(), Some("-h localhost -p 5432"));
        assert_eq!(way("", ""), None);
    }

    #[test]
    fn what_is_no_such_file_is_said_to_be_none() {
        for text in ["", "x", "1\n", "1\n/srv/pg", "1\n\n1", "1\n/srv/pg\nx\n"] {
            assert_eq!(PostmasterFile::parse(text).unwrap_err().kind(), ErrorKind::Corrupt, "{text:?}");
        }
    }
}
