//! Odd but legal clusters, as they are in no tutorial: whatever they are, `verify` passes if and only if `restore` gives a
//! server that starts with the right rows, and neither touches the original nor anything beside it.
//!
//! Each test makes one cluster, backs it up, verifies, restores a clone, starts that the way a person does, compares, and
//! looks whether anything outside of the new place was touched. Which version of PostgreSQL a case runs on is spread so
//! that each meets many.

use barman_snap_tests::fs::Kind;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::rehearsal::Rehearsal;
use barman_snap_tests::site::{Plan, Site};
use barman_snap_tests::{need, user};

/// The smallest site on this version.
macro_rules! plan {
    ($version:expr) => {
        plan_on(&need!(Installation::of($version)))
    };
}

fn plan_on(installation: &Installation) -> Plan {
    Site::plan(installation, Kind::XfsReflink).on_one_volume().size_mib(1024)
}

/// Runs a script in the database that is connected to without a name.
#[track_caller]
fn calm(site: &Site, script: &str) -> String {
    site.cluster.calm_sql_in(site.cluster.database(), script)
}

#[test]
fn nothing_odd_at_all() {
    let site = need!(plan!(17).start());
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn the_superuser_is_not_called_postgres() {
    let site = need!(plan!(15).superuser("app").start());
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn only_one_role_may_log_in_and_its_name_has_quotes_and_capitals() {
    let mut site = need!(plan!(18).start());
    let name = "O'Brien \"Ä\" \\";
    calm(&site, &format!("CREATE ROLE \"{}\" SUPERUSER LOGIN; ALTER ROLE postgres NOLOGIN", name.replace('"', "\"\"")));
    site.cluster.set_user(name);
    Rehearsal::of(&site.reconnected()).run().all_is_well();
}

#[test]
fn the_settings_of_alter_system_are_not_utf8() {
    let site = need!(plan!(17).initdb_options(&["-E", "LATIN1", "--locale", "C"]).start());
    calm(
        &site,
        "SET client_encoding = 'UTF8';\nALTER SYSTEM SET log_line_prefix = 'é ';\nALTER SYSTEM SET work_mem = '5MB';",
    );
    let auto = std::fs::read(site.cluster.data().join("postgresql.auto.conf")).expect("it is there");
    assert!(auto.contains(&0xe9), "it has no Latin 1");
    Rehearsal::of(&site)
        .asking("SHOW work_mem")
        .asking("SELECT encode(convert_to(current_setting('log_line_prefix'), 'LATIN1'), 'hex')")
        .run()
        .all_is_well();
}

#[test]
fn the_encoding_is_japanese() {
    let site = need!(plan!(18).initdb_options(&["-E", "EUC_JP", "--locale", "C"]).start());
    calm(
        &site,
        "SET client_encoding = 'UTF8'; CREATE TABLE \"表\" AS SELECT '日本語' AS \"列\"; CREATE INDEX ON \"表\" (\"列\")",
    );
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn the_encoding_is_none_and_names_are_bytes() {
    let site = need!(plan!(15).initdb_options(&["-E", "SQL_ASCII", "--locale", "C"]).start());
    calm(
        &site,
        "CREATE TABLE bytes AS SELECT E'\\xe9\\xff' AS t; DO $$ BEGIN EXECUTE E'CREATE TABLE \"\\xe9\" (i int)'; END $$",
    );
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn the_segments_are_small() {
    let site = need!(plan!(17).segment_mib(1).start());
    calm(&site, "CREATE TABLE many AS SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 5000) i");
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn the_segments_are_large() {
    let site = need!(plan!(15).segment_mib(64).size_mib(2048).start());
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn there_are_no_checksums_and_the_group_may_read() {
    let site = need!(plan!(18).without_checksums().initdb_options(&["--allow-group-access"]).start());
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn the_collation_is_of_icu() {
    let site = need!(plan!(17).initdb_options(&["--locale-provider=icu", "--icu-locale=de-DE"]).start());
    calm(&site, "CREATE TABLE words (w text PRIMARY KEY); INSERT INTO words VALUES ('Ärger'), ('Arger'), ('zu')");
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn template1_takes_no_connections() {
    let site = need!(plan!(17).start());
    calm(&site, "CREATE DATABASE closed ALLOW_CONNECTIONS false");
    calm(&site, "ALTER DATABASE template1 ALLOW_CONNECTIONS false");
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn the_database_postgres_is_dropped() {
    let mut site = need!(plan!(18).start());
    calm(&site, "CREATE DATABASE only_this");
    site.cluster.set_database("only_this");
    calm(&site, "DROP DATABASE postgres");
    Rehearsal::of(&site.reconnected()).run().all_is_well();
}

#[test]
fn neither_postgres_nor_template1_can_be_connected_to() {
    let mut site = need!(plan!(15).start());
    calm(&site, "CREATE DATABASE only_this");
    site.cluster.set_database("only_this");
    calm(&site, "DROP DATABASE postgres");
    calm(&site, "ALTER DATABASE template1 ALLOW_CONNECTIONS false");
    Rehearsal::of(&site.reconnected()).run().all_is_well();
}

#[test]
fn databases_have_names_with_quotes_blanks_and_signs() {
    let site = need!(plan!(15).start());
    for name in
        ["O'Brien", "a \"\"quoted\"\" one", "größe", "dbname=postgres host=nowhere", "-d", "a\\b", "postgresql://x/y"]
    {
        calm(&site, &format!("CREATE DATABASE \"{name}\""));
    }
    site.cluster.calm_sql_in("O'Brien", "CREATE TABLE t AS SELECT 1 AS i");
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn settings_of_roles_and_databases_would_break_a_session() {
    let site = need!(plan!(17).start());
    calm(&site, "CREATE ROLE nobody; ALTER ROLE postgres SET search_path = ''; \
        ALTER ROLE postgres SET default_transaction_read_only = on; ALTER ROLE postgres SET log_statement = 'all'; \
        ALTER DATABASE template1 SET role = 'nobody'; \
        ALTER DATABASE postgres SET lock_timeout = '1ms'; ALTER ROLE postgres SET statement_timeout = '1ms'; \
        ALTER ROLE postgres SET default_transaction_isolation = 'serializable'; ALTER ROLE postgres SET row_security = off;
        ALTER ROLE ALL SET client_min_messages = 'debug1'; ALTER ROLE postgres SET standard_conforming_strings = off");
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn a_session_needs_a_library_that_is_not_there() {
    let site = need!(plan!(18).start());
    // It was there when the setting was made.
    calm(
        &site,
        "INSERT INTO pg_db_role_setting SELECT oid, 0, '{session_preload_libraries=gone_since}' FROM pg_database \
        WHERE datname = 'template1'",
    );
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn libraries_are_preloaded_and_have_settings() {
    let site = need!(
        plan!(15)
            .setting("shared_preload_libraries", "pg_stat_statements, auto_explain")
            .setting("pg_stat_statements.max", "500")
            .setting("auto_explain.log_min_duration", "0")
            .setting("compute_query_id", "on")
            .start()
    );
    calm(&site, "CREATE EXTENSION pg_stat_statements");
    Rehearsal::of(&site).asking("SHOW pg_stat_statements.max").run().all_is_well();
}

#[test]
fn a_transaction_is_prepared_and_connections_are_many() {
    let site = need!(plan!(18).setting("max_prepared_transactions", "7").setting("max_connections", "333").start());
    calm(
        &site,
        "CREATE TABLE t (i int PRIMARY KEY);\nBEGIN;\nINSERT INTO t VALUES (1);\nPREPARE TRANSACTION 'it''s open';",
    );
    Rehearsal::of(&site).asking("SHOW max_connections").run().all_is_well();
}

#[test]
fn tables_are_unlogged() {
    let site = need!(plan!(17).start());
    calm(
        &site,
        "CREATE UNLOGGED TABLE u (i int PRIMARY KEY, t text); INSERT INTO u SELECT i, md5(i::text) FROM generate_series(1, 2000) i; \
        CREATE INDEX ON u USING gin (to_tsvector('simple', t)); CREATE UNLOGGED SEQUENCE s",
    );
    Rehearsal::of(&site).run().all_is_well();
}

const IN_PLACE: &str = "SET allow_in_place_tablespaces = on;\nCREATE TABLESPACE here LOCATION '';\n\
    CREATE TABLE t TABLESPACE here AS SELECT i FROM generate_series(1, 1000) i";

#[test]
fn a_tablespace_was_made_in_place() {
    let site = need!(plan!(17).setting("allow_in_place_tablespaces", "on").start());
    calm(&site, IN_PLACE);
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn a_tablespace_was_made_in_place_and_the_server_would_not_take_it_again() {
    // PostgreSQL panics at the end of any recovery of such a cluster. A restore may help it or not.
    let site = need!(plan!(15).start());
    calm(&site, IN_PLACE);
    Rehearsal::of(&site).run().agree();
}

#[test]
fn tablespaces_have_odd_names_and_places() {
    let mut site = need!(plan!(15).start());
    let names = ["it's", "a: b", "größe", "q\"q"];
    let places = ["with blanks in it", "with \"quotes\"", "größe", "back\\slash"];
    let places: Vec<_> = places.iter().map(|place| site.fs().path().join(place)).collect();
    for (name, place) in names.iter().zip(&places) {
        user::make_dir(place);
        let name = name.replace('"', "\"\"");
        calm(&site, &format!("CREATE TABLESPACE \"{name}\" LOCATION '{}'", place.display()));
        calm(
            &site,
            &format!("CREATE TABLE \"in {name}\" TABLESPACE \"{name}\" AS SELECT generate_series(1, 100) AS i"),
        );
    }
    site.cluster.remember_tablespaces(names.iter().map(|name| (*name).to_owned()).zip(places).collect());
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn files_lie_in_it_that_are_no_relations() {
    let site = need!(plan!(18).start());
    let data = site.cluster.data();
    let database = data.join("base").join(calm(&site, "SELECT oid FROM pg_database WHERE datname = 'postgres'"));
    for place in [data, &database, &data.join("global")] {
        for name in ["core.1234", "notes.txt", "16384.bak", "größe", ".hidden"] {
            std::fs::write(place.join(name), "not a page").expect("it is written");
            user::give(&place.join(name));
        }
    }
    Rehearsal::of(&site).run().all_is_well();
}
