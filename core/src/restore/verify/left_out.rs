//! What a verification does about tablespaces that the backup has left out: it checks everything else, and says so.
//!
//! The invariant: nothing of such a tablespace makes a check fail, and nothing else escapes one. What cannot be told apart with
//! reasonable effort is named as not looked at.

use std::fmt::Write as _;

use crate::error::Result;
use crate::model::ExcludedTablespace;
use crate::restore::server::PrivateServer;

/// The most relations of one database that are named to `pg_amcheck`: it compares each with every relation.
const MOST: usize = 1000;

/// The options of `pg_amcheck` that keep it away from them, and the databases that are left out as a whole.
pub(super) async fn amcheck_options(
    server: &PrivateServer,
    excluded: &[ExcludedTablespace],
) -> Result<(Vec<String>, Vec<String>)> {
    let (mut options, mut whole) = (Vec::new(), Vec::new());
    if excluded.is_empty() {
        return Ok((options, whole));
    }
    let oids: Vec<String> = excluded.iter().map(|one| one.oid.to_string()).collect();
    let relations = format!(
        "SELECT c.relkind, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.reltablespace IN ({}) AND c.relkind IN ('r', 'm', 'i') AND n.nspname <> 'pg_toast' LIMIT {}",
        oids.join(", "),
        MOST + 1
    );
    let databases =
        "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 AND datname <> 'template0'";
    for database in
        server.query_anywhere(databases).await?.into_iter().filter_map(|row| row.into_iter().next().flatten())
    {
        let rows = server.query_as_check(&database, &relations).await?;
        if rows.len() > MOST {
            options.push(format!("--exclude-database={}", quoted(&database)));
            whole.push(database);
            continue;
        }
        for row in rows {
            let [Some(kind), Some(schema), Some(name)] = row.as_slice() else { continue };
            let what = if kind == "i" { "index" } else { "table" };
            let pattern = [&database, schema, name].map(|part| quoted(part)).join(".");
            options.push(format!("--exclude-{what}={pattern}"));
        }
    }
    Ok((options, whole))
}

/// A pattern that matches this name and no other.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the proof says of them.
pub(super) fn in_words(excluded: &[ExcludedTablespace], whole: &[String]) -> String {
    let names: Vec<String> = excluded.iter().map(ExcludedTablespace::described).collect();
    let mut said = format!("left out of the backup, restored empty, and not checked: {}", names.join("; "));
    if !whole.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(
            said,
            "; pg_amcheck has not looked at {}, which had more than {MOST} tables and indexes there",
            whole.join(", ")
        );
    }
    said
}
