//! One connection to the private server, one text of SQL, all rows.

use std::path::Path;
use std::time::Duration;

use postgres::{NoTls, SimpleQueryMessage};

use super::PORT;
use crate::error::{Error, ErrorKind, Result};
use crate::restore::provision::blocking;

/// On a thread of its own, because the client blocks. `options` go with the request to connect.
pub(super) async fn query(
    sockets: &Path,
    user: &str,
    database: &str,
    options: &str,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>> {
    let mut config = postgres::Config::new();
    config.host_path(sockets).port(PORT).user(user).dbname(database).options(options);
    config.connect_timeout(Duration::from_secs(10)).application_name("barman-snap verify");
    let sql = sql.to_owned();
    blocking(move || {
        let mut client = config.connect(NoTls).map_err(|error| sql_error(&error))?;
        let messages = client.simple_query(&sql).map_err(|error| sql_error(&error))?;
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
            _ => None,
        };
        Ok(messages.iter().filter_map(row).collect())
    })
    .await
}

fn sql_error(error: &postgres::Error) -> Error {
    let message = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    let ours = Error::new(ErrorKind::Postgres, message);
    match error.code() {
        Some(code) => ours.with_sqlstate(code.code()),
        None => ours,
    }
}
