//! Odd but legal clusters, as they are in no tutorial: whatever they are, `verify` passes if and only if `restore` gives a
//! server that starts with the right rows, and neither touches the original nor anything beside it.
//!
//! Each test makes one cluster, backs it up, verifies, restores a clone, starts that the way a person does, compares, and
//! looks whether anything outside of the new place was touched. Which version of PostgreSQL a case runs on is spread so
//! that each meets many.

use std::path::Path;
use std::time::Duration;

use barman_snap_tests::fs::Kind;
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::rehearsal::Rehearsal;
use barman_snap_tests::site::{Plan, Site};
use barman_snap_tests::wait::wait_for;
use barman_snap_tests::{need, user};

/// The smallest site on this version.
macro_rules! plan {
    ($version:expr) => {
        plan_on(&need!(Installation::of($version)))
    };
}

fn plan_on(installation: &Installation) -> Plan {
    // The original shall write nothing by itself meanwhile.
    let plan = Site::plan(installation, Kind::XfsReflink).setting("autovacuum_naptime", "1d");
    plan.on_one_volume().size_mib(1024)
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
    site.cluster.restart();
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

/// Writes a file for the server.
fn put(path: &Path, text: &str) {
    user::make_dir(path.parent().expect("it is in a directory"));
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    user::give(path);
}

/// Adds lines to the configuration of a cluster that is not started yet.
fn configure(site: &Site, lines: &str) {
    let path = site.cluster.data().join("postgresql.conf");
    let text = std::fs::read_to_string(&path).expect("it is there");
    put(&path, &format!("{text}{lines}"));
}

#[test]
fn the_configuration_lies_elsewhere_and_includes_more() {
    for version in [15, 18] {
        let mut site = need!(plan!(version).prepare());
        let (data, etc) = (site.cluster.data().to_owned(), site.place().join("etc/main"));
        user::make_dir(&etc);
        for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
            put(&etc.join(name), &std::fs::read_to_string(data.join(name)).expect("it is there"));
            std::fs::remove_file(data.join(name)).expect("it is there");
        }
        let conf = std::fs::read_to_string(etc.join("postgresql.conf")).expect("it is there");
        let (data, here) = (data.display(), etc.display());
        put(
            &etc.join("postgresql.conf"),
            &format!(
                "{conf}\ndata_directory = '{data}'\nhba_file = '{here}/pg_hba.conf'\nident_file = '{here}/pg_ident.conf'\n\
                 external_pid_file = '{here}/main.pid'\ninclude_dir 'conf.d'\ninclude_if_exists 'nowhere.conf'\n\
                 include = '{here}/more/extra.conf'\n"
            ),
        );
        put(&etc.join("conf.d/10-first.conf"), "work_mem = '6MB'\n");
        put(&etc.join("conf.d/20-second.conf"), "work_mem = '7MB'\n");
        put(&etc.join("conf.d/ignored.txt"), "this is no configuration\n");
        put(&etc.join("more/extra.conf"), "maintenance_work_mem = '9MB'\ninclude 'deep.conf'\n");
        put(&etc.join("more/deep.conf"), "temp_buffers = '3MB'\n");
        site.cluster.option("config_file", &etc.join("postgresql.conf").display().to_string());
        site.cluster.start();
        let rehearsal = Rehearsal::of(&site).restore_with(&["--with-config"]);
        let questions = ["SHOW work_mem", "SHOW maintenance_work_mem", "SHOW temp_buffers"];
        questions.into_iter().fold(rehearsal, Rehearsal::asking).run().all_is_well();
        site.cluster.stop(Stop::Fast);
    }
}

#[test]
fn the_configuration_inside_leads_back_to_the_original() {
    let site = need!(plan!(17).prepare());
    let (data, beside) = (site.cluster.data().display().to_string(), site.place().join("beside"));
    for name in ["sockets", "log", "stats"] {
        user::make_dir(&beside.join(name));
    }
    put(&beside.join("server.key"), "no key");
    put(&beside.join("krb5.keytab"), "no key");
    let here = beside.display();
    configure(
        &site,
        &format!(
            "data_directory = '{data}'\nhba_file = '{data}/pg_hba.conf'\nident_file = '{data}/pg_ident.conf'\n\
             external_pid_file = '{here}/main.pid'\nunix_socket_directories = '{here}/sockets'\n\
             logging_collector = on\nlog_directory = '{here}/log'\nlog_filename = 'one.log'\n\
             log_truncate_on_rotation = on\nkrb_server_keyfile = '{here}/krb5.keytab'\nssl_key_file = '{here}/server.key'\n\
             include_if_exists '{data}/more.conf'\n"
        ),
    );
    put(&site.cluster.data().join("more.conf"), "work_mem = '7MB'\n");
    site.cluster.start();
    Rehearsal::of(&site).asking("SHOW work_mem").run().all_is_well();
}

#[test]
fn an_earlier_recovery_has_left_its_settings() {
    let site = need!(
        plan!(15)
            .setting("recovery_target_time", "2020-01-01 00:00:00+00")
            .setting("recovery_target_action", "shutdown")
            .setting("restore_command", "touch %p.was-here; false")
            .setting("recovery_end_command", "false")
            .setting("archive_cleanup_command", "false")
            .setting("primary_conninfo", "host=127.0.0.1 port=1")
            .setting("primary_slot_name", "gone")
            .start()
    );
    calm(&site, "ALTER SYSTEM SET recovery_target_timeline = '1'");
    calm(&site, "ALTER SYSTEM SET recovery_min_apply_delay = '1h'");
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn changes_are_published_through_a_slot() {
    let site = need!(plan!(18).setting("wal_level", "logical").start());
    calm(&site, "CREATE TABLE published (i int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE published");
    calm(
        &site,
        "SELECT pg_create_logical_replication_slot('s', 'pgoutput'), pg_create_physical_replication_slot('t', true)",
    );
    let slots = "SELECT slot_name, active, restart_lsn, confirmed_flush_lsn FROM pg_replication_slots ORDER BY 1";
    let before = calm(&site, slots);
    Rehearsal::of(&site).run().all_is_well();
    assert_eq!(calm(&site, slots), before);
}

#[test]
fn it_subscribes_to_another_server() {
    let installation = need!(Installation::of(17));
    let publisher = Cluster::builder(&installation).setting("wal_level", "logical").start();
    publisher.sql(
        "CREATE TABLE taken (i int PRIMARY KEY); INSERT INTO taken VALUES (1); CREATE PUBLICATION p FOR TABLE taken",
    );
    let site = need!(plan!(17).start());
    calm(&site, "CREATE TABLE taken (i int PRIMARY KEY)");
    calm(&site, &format!("CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p", publisher.dsn().replace('\'', "''")));
    let ready = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel";
    wait_for("the first rows", Duration::from_secs(30), || (calm(&site, ready) == "t").then_some(()));
    let rehearsal = Rehearsal::of(&site);
    let id = rehearsal.backup();
    // Whoever goes on with the subscription now takes a row that is not meant for it. This is not archived.
    calm(&site, "ALTER SUBSCRIPTION s DISABLE");
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    wait_for("the subscriber to let go", Duration::from_secs(30), || (publisher.sql(active) == "0").then_some(()));
    publisher.sql("INSERT INTO taken VALUES (2)");
    let slot = "SELECT confirmed_flush_lsn, restart_lsn, active FROM pg_replication_slots";
    let before = publisher.sql(slot);
    rehearsal.run_with(&id).all_is_well();
    assert_eq!(publisher.sql(slot), before);
    let log = publisher.log();
    assert_eq!(
        log.matches("starting logical decoding for slot \"s\"").count(),
        1,
        "somebody else has used the slot: {log}"
    );
}

#[test]
fn it_waits_for_a_standby() {
    let site = need!(plan!(15).start());
    calm(&site, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    calm(&site, "SELECT pg_reload_conf()");
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn a_standby_is_at_the_end_of_a_segment() {
    let site = need!(plan!(17).start());
    let standby = site.cluster.standby(site.fs().volume("standby").join("data"));
    Rehearsal::of(&site).from_standby(&standby).run().all_is_well();
}

#[test]
fn a_standby_asks_its_primary_to_end_the_segment() {
    let site = need!(plan!(15).start());
    let standby = site.cluster.standby(site.fs().volume("standby").join("data"));
    calm(&site, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let primary = site.cluster.dsn();
    Rehearsal::of(&site).from_standby(&standby).backup_with(&["--primary-dbname", &primary]).run().all_is_well();
}

#[test]
fn event_triggers_refuse_every_change() {
    for version in [15, 18] {
        let site = need!(plan!(version).start());
        calm(
            &site,
            "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no changes here'; END $$;\n\
             CREATE EVENT TRIGGER no ON ddl_command_start EXECUTE FUNCTION no();",
        );
        Rehearsal::of(&site).run().all_is_well();
    }
}

#[test]
fn it_has_objects_of_every_kind() {
    let site = need!(plan!(18).start());
    let ran = site.cluster.try_calm_sql_in(
        "postgres",
        "SELECT lo_from_bytea(0, convert_to(repeat('large', 5000), 'UTF8'));
         CREATE TABLE toasted (i int, gone text, kept text);
         ALTER TABLE toasted ALTER gone SET STORAGE EXTERNAL, ALTER kept SET STORAGE EXTERNAL;
         INSERT INTO toasted SELECT i, repeat('g', 9000), repeat('k', 9000) FROM generate_series(1, 20) i;
         ALTER TABLE toasted DROP gone;
         CREATE TABLE shapes (p point, r int4range, a int[], t tsvector, h text, EXCLUDE USING gist (r WITH &&));
         INSERT INTO shapes SELECT point(i, i), int4range(i, i + 1), ARRAY[i], to_tsvector(i::text), i FROM generate_series(1, 500) i;
         CREATE INDEX ON shapes USING spgist (p); CREATE INDEX ON shapes USING gin (a); CREATE INDEX ON shapes USING gin (t);
         CREATE INDEX ON shapes USING hash (h); CREATE INDEX ON shapes USING brin (r);
         CREATE MATERIALIZED VIEW filled AS SELECT count(*) FROM shapes;
         CREATE MATERIALIZED VIEW empty AS SELECT count(*) FROM shapes WITH NO DATA;
         CREATE TABLE parted (i int, t text) PARTITION BY LIST (i);
         CREATE TABLE part1 PARTITION OF parted FOR VALUES IN (1); INSERT INTO parted VALUES (1, 'x');
         CREATE TABLE hidden (i int);
         CREATE FUNCTION here(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i FROM public.hidden WHERE i = $1';
         CREATE INDEX ON hidden (here(i)); INSERT INTO hidden VALUES (NULL);
         CREATE TABLE twice (i int); INSERT INTO twice VALUES (1), (1);\n\
         \\set ON_ERROR_STOP off\n\
         CREATE UNIQUE INDEX CONCURRENTLY invalid ON twice (i);\n",
    );
    assert!(ran.stderr.contains("could not create unique index"), "{}", ran.stderr);
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn it_has_a_thousand_tables() {
    let site = need!(plan!(17).start());
    for _ in 0..2 {
        calm(
            &site,
            "SELECT format('CREATE TABLE t%s (i int PRIMARY KEY)', n + count) FROM generate_series(1, 500) n, \
            (SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+$') \\gexec\n",
        );
    }
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn it_listens_everywhere_and_archives_always() {
    let site = need!(plan!(17).tcp().prepare());
    let port = site.cluster.port();
    configure(&site, &format!("listen_addresses = '*'\nport = {port}\narchive_mode = always\n"));
    site.cluster.start();
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn times_and_numbers_are_written_in_odd_ways() {
    let mut plan = plan!(15);
    for (name, value) in [
        ("timezone", "<+0530>-05:30"),
        ("datestyle", "German, DMY"),
        ("intervalstyle", "sql_standard"),
        ("extra_float_digits", "-10"),
        ("bytea_output", "escape"),
        ("standard_conforming_strings", "off"),
        ("backslash_quote", "off"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_deferrable", "on"),
        ("statement_timeout", "9s"),
        ("idle_session_timeout", "5s"),
        ("client_min_messages", "error"),
        ("search_path", "pg_temp"),
        ("log_min_messages", "panic"),
        ("restart_after_crash", "off"),
        ("max_wal_senders", "0"),
        ("hot_standby", "off"),
        ("row_security", "off"),
    ] {
        plan = plan.setting(name, value);
    }
    let site = need!(plan.start());
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn it_logs_into_files() {
    let site = need!(
        plan!(18)
            .setting("logging_collector", "on")
            .setting("log_destination", "csvlog,jsonlog")
            .setting("log_line_prefix", "%m FATAL: %q%u@%d ")
            .setting("log_connections", "all")
            .setting("cluster_name", "an odd one")
            .start()
    );
    Rehearsal::of(&site).run().all_is_well();
}

#[test]
fn it_reads_writes_and_shares_memory_in_unusual_ways() {
    for (version, settings) in [
        (
            15,
            [
                ("shared_memory_type", "sysv"),
                ("dynamic_shared_memory_type", "mmap"),
                ("wal_compression", "lz4"),
                ("jit", "on"),
            ]
            .as_slice(),
        ),
        (
            17,
            &[("summarize_wal", "on"), ("wal_compression", "zstd"), ("jit_above_cost", "0"), ("wal_init_zero", "off")],
        ),
        (
            18,
            &[
                ("io_method", "sync"),
                ("summarize_wal", "on"),
                ("max_files_per_process", "64"),
                ("full_page_writes", "off"),
            ],
        ),
    ] {
        let plan = settings.iter().fold(plan!(version), |plan, (name, value)| plan.setting(name, value));
        let site = need!(plan.start());
        Rehearsal::of(&site).run().all_is_well();
    }
}

#[test]
fn it_wants_huge_pages_that_are_not_here() {
    let mut site = need!(plan!(18).setting("huge_pages", "on").setting("shared_buffers", "1GB").prepare());
    // Until they are reserved, this is how anybody starts it.
    site.cluster.option("huge_pages", "off");
    site.cluster.start();
    Rehearsal::of(&site).server_option("huge_pages", "off").run().all_is_well();
}

#[test]
fn a_cluster_that_cannot_be_backed_up_is_refused() {
    let site =
        need!(plan!(18).without_archiving().setting("wal_level", "minimal").setting("max_wal_senders", "0").start());
    let ran = site.run("backup", &["--immediate-checkpoint"]);
    assert_eq!(ran.code(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("wal_level"), "{}", ran.stderr);
}
