//! What a whole cluster says that it holds, in a form that two of them can be compared by.
//!
//! All databases that take connections, whatever their names, encodings and settings are. Not the rows of unlogged
//! tables, which no restored cluster has, and not how far a sequence is, which recovery may put ahead.

use std::collections::BTreeMap;

use crate::pg::Cluster;

/// Lines of text, each below the name of what it is about.
pub type Contents = BTreeMap<String, String>;

/// The same for the whole cluster: who and what there is.
const GLOBAL: &str = "
SELECT 'database ' || datname, datallowconn, pg_encoding_to_char(encoding), datcollate, dattablespace FROM pg_database;
SELECT 'role ' || rolname, rolsuper, rolcanlogin, rolconfig FROM pg_roles;
SELECT 'tablespace ' || spcname, oid FROM pg_tablespace;
SELECT 'setting of ' || setdatabase || ' ' || setrole, setconfig FROM pg_db_role_setting;
SELECT 'prepared transaction ' || gid, owner, database FROM pg_prepared_xacts;
SELECT 'subscription ' || subname, subdbid, subslotname FROM pg_subscription;
";

/// The same for one database: a digest of the rows of each table and materialized view, of all large objects, and what
/// else there is by its name. The first 60 bits of the digest of each row are summed: a row more, less or changed gives
/// another sum, and their order is of no account.
const OF_A_DATABASE: &str = r"
SELECT format('SELECT %L, count(*), coalesce(sum((''x'' || left(md5(t::text), 15))::bit(60)::bigint::numeric), 0) FROM %I.%I t',
    'table ' || nspname || '.' || relname, nspname, relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
WHERE relpersistence = 'p' AND relispopulated AND (relkind IN ('r', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema')
    OR relname = 'pg_largeobject') \gexec
SELECT 'unlogged ' || relname FROM pg_catalog.pg_class WHERE relpersistence = 'u';
SELECT 'index ' || indexrelid::regclass, indisvalid FROM pg_catalog.pg_index WHERE indexrelid >= 16384;
SELECT 'extension ' || extname, extversion FROM pg_catalog.pg_extension WHERE extname <> 'amcheck';
SELECT 'publication ' || pubname, puballtables FROM pg_catalog.pg_publication;
SELECT 'event trigger ' || evtname, evtenabled FROM pg_catalog.pg_event_trigger;
";

/// Asks a running cluster.
#[track_caller]
pub fn contents(cluster: &Cluster) -> Contents {
    let connected = cluster.database();
    let mut contents = Contents::new();
    gather(&mut contents, "", &cluster.calm_sql_in(connected, GLOBAL));
    let databases = cluster.calm_sql_in(connected, "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1");
    for database in databases.lines() {
        gather(&mut contents, &format!("{database}: "), &cluster.calm_sql_in(database, OF_A_DATABASE));
    }
    contents
}

fn gather(contents: &mut Contents, place: &str, answer: &str) {
    for line in answer.lines() {
        // The name may hold what separates the columns; both clusters are taken apart in the same way.
        let (name, rest) = line.split_once('|').unwrap_or((line, ""));
        contents.insert(format!("{place}{name}"), rest.to_owned());
    }
}

/// What two clusters do not have in common, one line each; empty when they hold the same.
pub fn differences(one: &Contents, other: &Contents) -> Vec<String> {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    let unlike = names.filter(|name| one.get(*name) != other.get(*name));
    unlike.map(|name| format!("{name}: {:?} is now {:?}", one.get(name), other.get(name))).collect()
}
