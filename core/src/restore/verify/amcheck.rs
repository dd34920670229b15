//! `pg_amcheck` over all databases of the throw-away server, with nothing of the backup running for it.
//!
//! It calls functions by their names, as a superuser, so these have to be PostgreSQL's own. The databases are somebody's: an extension
//! of that name may have been put together by hand, or have functions of somebody else beside its own that fit the call better. Then
//! another one is made, in a schema of its own whose name nobody could know. And where objects are made, event triggers run; those
//! are disabled before.
//!
//! What runs even so are the functions of an operator class that a database has defined for its indexes: an index cannot be read
//! without them. `docs/security.md` says so.

use super::left_out;
use super::run::{Run, Verdict, brief};
use crate::error::{Error, Result};
use crate::restore::server::PrivateServer;

/// The first version that has the program.
pub(super) const SINCE: u32 = 14;

/// `whole` becomes the databases that are not looked at because of what the backup has left out.
pub(super) async fn check(run: &Run<'_>, server: &PrivateServer, whole: &mut Vec<String>) -> Result<Verdict> {
    if !run.input.options.amcheck {
        return Ok(Verdict::NotMade("switched off".to_owned()));
    }
    if run.plan.major < SINCE {
        return Ok(Verdict::NotMade(format!("PostgreSQL {} has no pg_amcheck", run.plan.major)));
    }
    let mut arguments = ["--all", "--jobs=2", "--maintenance-db"].map(str::to_owned).to_vec();
    arguments.push(server.database().to_owned());
    let unfinished = prepare(run, server).await?;
    let pattern = |name: &String| format!("--exclude-database=\"{}\"", name.replace('"', "\"\""));
    arguments.extend(unfinished.iter().map(pattern));
    let (options, not_looked_at) = left_out::amcheck_options(server, &run.input.record.excluded_tablespaces).await?;
    arguments.extend(options);
    *whole = not_looked_at;
    let (good, output) = server.client("pg_amcheck", &arguments).await?;
    Ok(match (good, unfinished.as_slice()) {
        (false, _) => Verdict::Bad(brief(&output)),
        (true, []) => Verdict::Good("no corruption found in tables and indexes".to_owned()),
        (true, some) => Verdict::Good(format!(
            "no corruption found in tables and indexes; not looked at, because dropping it was interrupted: {}",
            some.join(", ")
        )),
    })
}

/// Whether the extension is there to be made.
///
/// # Errors
/// `precondition` if not: that says nothing about the backup.
pub(super) async fn possible(run: &Run<'_>, server: &PrivateServer) -> Result<()> {
    if !run.input.options.amcheck || run.plan.major < SINCE {
        return Ok(());
    }
    let available = "SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'";
    // Where nothing can be asked, that is for the check to say.
    if server.query_as_check(server.database(), available).await.is_ok_and(|rows| rows.is_empty()) {
        return Err(Error::precondition("the extension amcheck is not installed on this host").with_hint(
            "install the contrib package of that version of PostgreSQL, or leave the check out with --without amcheck",
        ));
    }
    Ok(())
}

/// Lets connections into all databases of the throw-away server but `template0`, so that nothing is left out, and makes each ready.
/// Returns those whose `DROP DATABASE` was interrupted, which nobody can connect to.
async fn prepare(run: &Run<'_>, server: &PrivateServer) -> Result<Vec<String>> {
    let closed = "SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS true', datname) FROM pg_database \
                  WHERE NOT datallowconn AND datname <> 'template0' AND datconnlimit <> -2";
    for statement in texts(server.query_anywhere(closed).await?) {
        server.query_anywhere(&statement).await?;
    }
    let schema = format!("barman_snap_{}", run.input.token);
    let open = "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2";
    for database in texts(server.query_anywhere(open).await?) {
        run.tools.go_on()?;
        // The message of a database that cannot be opened does not name it.
        let of = |error: Error| {
            Error::new(error.kind(), format!("database {database:?}: {}", error.message())).with_source(error)
        };
        disable_triggers(run.plan.major, server, &database).await.map_err(of)?;
        make_genuine(server, &database, &schema).await.map_err(of)?;
    }
    Ok(texts(server.query_anywhere("SELECT datname FROM pg_database WHERE datconnlimit = -2").await?))
}

/// Those that are always enabled, and those for replicas, as which our sessions pass. PostgreSQL 17 and later have all of them off
/// by a setting.
async fn disable_triggers(major: u32, server: &PrivateServer, database: &str) -> Result<()> {
    if major >= 17 {
        return Ok(());
    }
    let firing =
        "SELECT format('ALTER EVENT TRIGGER %I DISABLE', evtname) FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')";
    for statement in texts(server.query_as_check(database, firing).await?) {
        server.query_as_check(database, &statement).await?;
    }
    Ok(())
}

/// Makes the extension, unless the database has it and all functions that its name leads to are of the library of the programs.
async fn make_genuine(server: &PrivateServer, database: &str, schema: &str) -> Result<()> {
    if server.query_as_check(database, GENUINE).await? == [[Some("t".to_owned())]] {
        return Ok(());
    }
    for statement in [
        "DROP EXTENSION IF EXISTS amcheck CASCADE".to_owned(),
        format!("CREATE SCHEMA {schema}"),
        format!("CREATE EXTENSION amcheck SCHEMA {schema}"),
    ] {
        server.query_as_check(database, &statement).await?;
    }
    Ok(())
}

/// Whether `amcheck` is there with `verify_heapam`, and no function in its schema that could be called in the place of one of its own
/// is somebody else's. Its very old versions lack that function.
const GENUINE: &str = "SELECT count(*) FILTER (WHERE p.proname = 'verify_heapam') > 0 AND bool_and( \
         l.lanname = 'c' AND p.probin = '$libdir/amcheck' AND p.prosrc = p.proname::text \
         AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' \
                     AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid)) \
     FROM pg_extension e JOIN pg_proc p ON p.pronamespace = e.extnamespace JOIN pg_language l ON l.oid = p.prolang \
     WHERE e.extname = 'amcheck' AND p.proname IN ('verify_heapam', 'bt_index_check', 'bt_index_parent_check', 'gin_index_check')";

fn texts(rows: Vec<Vec<Option<String>>>) -> Vec<String> {
    rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}
