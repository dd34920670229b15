//! A cluster whose superuser means ill: what is in its backup runs nothing for those who verify and restore it, and leads them, root
//! among them, to nothing that is not theirs. `docs/security.md` has what is promised.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use barman_snap_tests::command::{Ran, attempt};
use barman_snap_tests::fs::Kind;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::site::{Plan, Site};
use barman_snap_tests::{need, user};

fn plan(installation: &Installation) -> Plan {
    // The original shall write nothing by itself meanwhile.
    let plan = Site::plan(installation, Kind::XfsReflink).setting("autovacuum_naptime", "1d");
    plan.on_one_volume().size_mib(1024)
}

/// Verifies as root where the tests are root.
fn verify(site: &Site, rest: &[&str]) -> Ran {
    let bin = site.cluster.installation().bin().display().to_string();
    let args = site.args("verify", &[&["--pg-bin-dir", &bin, "--timeout", "30"], rest].concat());
    attempt(&mut site.snap.command_that_mounts(args))
}

fn calm(site: &Site, script: &str) -> String {
    site.cluster.calm_sql_in(site.cluster.database(), script)
}

/// All that is in the proofs of the catalog.
fn proofs(site: &Site) -> String {
    site.objects("proofs").iter().map(|key| fs::read_to_string(site.object(key)).expect("it is text")).collect()
}

/// What runs in a verification only: the original stays usable.
const ONLY_THERE: &str =
    "IF current_setting('data_directory') LIKE '%barman-snap-verify-%' THEN RAISE 'code of the backup ran'; END IF;";

#[test]
fn no_trigger_of_a_backup_runs_and_no_setting_of_a_role_or_database_brings_it_back() {
    for version in [15, 18] {
        let site = need!(plan(&need!(Installation::of(version))).start());
        let mut script = format!(
            "CREATE FUNCTION fire() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN {ONLY_THERE} END $$;\n\
             CREATE EVENT TRIGGER a ON ddl_command_end EXECUTE FUNCTION fire(); ALTER EVENT TRIGGER a ENABLE ALWAYS;\n\
             CREATE EVENT TRIGGER r ON ddl_command_start EXECUTE FUNCTION fire(); ALTER EVENT TRIGGER r ENABLE REPLICA;\n\
             CREATE EVENT TRIGGER d ON sql_drop EXECUTE FUNCTION fire();\n\
             ALTER ROLE postgres SET session_replication_role = replica;\n\
             ALTER ROLE postgres SET jit = on; ALTER ROLE postgres SET zero_damaged_pages = on;\n"
        );
        if version >= 17 {
            script += "CREATE EVENT TRIGGER l ON login EXECUTE FUNCTION fire(); ALTER EVENT TRIGGER l ENABLE ALWAYS;\n\
                       ALTER ROLE postgres SET event_triggers = on;\n\
                       ALTER DATABASE postgres SET event_triggers = on;\n";
        }
        calm(&site, &script);
        site.backup(&[]);
        let ran = verify(&site, &["--sql", "SHOW zero_damaged_pages"]);
        assert!(ran.success(), "PostgreSQL {version}: {}{}", ran.stdout, ran.stderr);
        assert!(proofs(&site).contains("\"off\""), "{}", proofs(&site));
    }
}

#[test]
fn a_function_that_takes_the_place_of_one_of_amcheck_is_not_called() {
    let site = need!(plan(&need!(Installation::of(15))).start());
    calm(
        &site,
        "CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000);\n\
         CREATE EXTENSION amcheck SCHEMA public;\n\
         CREATE FUNCTION public.verify_heapam(relation oid, on_error_stop boolean, check_toast boolean, skip text, \
             startblock bigint DEFAULT NULL, endblock bigint DEFAULT NULL, OUT blkno bigint, OUT offnum int, OUT attnum int, \
             OUT msg text) RETURNS SETOF record LANGUAGE plpgsql AS $$ BEGIN RAISE 'code of the backup ran'; END $$;",
    );
    // That it would be: PostgreSQL's own tool takes it.
    let tool = attempt(site.cluster.command("pg_amcheck").args(["--table=t", "postgres"]));
    assert!(format!("{}{}", tool.stdout, tool.stderr).contains("code of the backup ran"), "{tool:?}");
    site.backup(&[]);
    let ran = verify(&site, &[]);
    assert!(ran.success(), "{}{}", ran.stdout, ran.stderr);
    assert!(proofs(&site).contains("no corruption found"));
}

#[test]
fn a_program_in_the_server_of_a_verification_leads_root_nowhere() {
    let site = need!(plan(&need!(Installation::of(15))).start());
    if !user::is_root() {
        return;
    }
    site.backup(&[]);
    let secret = site.place().join("secret");
    fs::write(&secret, "s3cr3t-of-root\nFATAL: s3cr3t-of-root\n").expect("it can be written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it can be made private");
    let outside = site.place().join("outside");
    fs::create_dir_all(outside.join("PG_15_1/5")).expect("it can be made");
    fs::write(outside.join("PG_15_1/5/precious"), "x").expect("it can be written");
    // It runs in the data directory, beside which everything of the verification lies.
    let program = site.place().join("program");
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\nfor name in server.log pg_hba.conf lock wal; do\n  rm -rf ../$name; mv ../$name ../moved\n  \
         ln -sf {secret} ../$name\ndone\nln -s {outside} pg_tblspc/4711\nln -s {outside}/PG_15_1/5 base/4711\n\
         ln -s {secret} pg_hba.link && mv pg_hba.link pg_hba.conf\nid -u >ran\n",
        secret = secret.display(),
        outside = outside.display()
    );
    fs::write(&program, script).expect("it can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it can be made a program");
    let run = format!("COPY (SELECT 1) TO PROGRAM '{}'", program.display());
    let ran = verify(&site, &["--sql", &run, "--sql", "SELECT pg_read_file('ran')", "--sql", "SELECT 1/0"]);
    assert!(!ran.success());
    let said = format!("{}{}{}", ran.stdout, ran.stderr, proofs(&site));
    assert!(said.contains("division by zero") && !said.contains("s3cr3t"), "{said}");
    let uid = user::server_user().expect("we are root").uid;
    assert!(said.contains(&format!("{uid}\\n")), "the program did not run: {said}");
    assert!(outside.join("PG_15_1/5/precious").exists());
    let meta = fs::metadata(&secret).expect("it is there");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 0);
}

#[test]
fn the_server_of_a_verification_can_write_nowhere_else_where_the_kernel_sees_to_that() {
    let site = need!(plan(&need!(Installation::of(17))).start());
    site.backup(&[]);
    let (place, shared) = (site.place().join("open"), PathBuf::from("/dev/shm/barman-snap-hostile"));
    user::make_dir(&place);
    let original = site.cluster.data().join("written");
    let _ = fs::remove_file(&shared);
    for target in [&original, &place.join("written"), &shared] {
        let copy = format!("COPY (SELECT 1) TO '{}'", target.display());
        let ran = verify(&site, &["--sql", &copy, "--without", "amcheck", "--without", "checksums"]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        if user::is_root() {
            // Shared memory is another one.
            assert!(target == &shared || said.contains("Read-only file system"), "{said}");
            assert!(!target.exists(), "{}", target.display());
            assert!(proofs(&site).contains("\"contained\": true"));
        }
    }
    // Root's proofs are root's.
    fs::remove_dir_all(site.object("proofs")).expect("they can be removed");
    // As the user of the server there is nobody who could see to it, and it works all the same.
    let bin = site.cluster.installation().bin().display().to_string();
    let ran = site.ok("verify", &["--pg-bin-dir", &bin, "--sql", "CREATE TABLE public.x AS SELECT 1 AS i"]);
    assert!(ran.stdout.contains("checks passed"), "{}", ran.stdout);
    assert!(proofs(&site).contains("\"contained\": false"));
}

/// The programs of an installation but some.
fn programs_without(site: &Site, missing: &[&str]) -> PathBuf {
    let bin = site.cluster.installation().bin();
    let place = site.place().join("bin");
    let _ = fs::remove_dir_all(&place);
    user::make_dir(&place);
    for entry in fs::read_dir(bin).expect("it can be read").flatten() {
        let name = entry.file_name();
        if !missing.iter().any(|missing| name == **missing) {
            symlink(entry.path(), place.join(&name)).expect("it can be made");
        }
    }
    place
}

#[test]
fn a_check_that_cannot_be_made_is_no_proof_unless_it_is_left_out_on_purpose() {
    let site = need!(plan(&need!(Installation::of(17))).start());
    let id = site.backup(&[]);
    let verify = |bin: &Path, rest: &[&str]| {
        let bin = bin.display().to_string();
        site.run("verify", &[&[id.as_str(), "--pg-bin-dir", &bin], rest].concat())
    };
    for missing in ["pg_amcheck", "pg_checksums"] {
        let bin = programs_without(&site, &[missing]);
        let ran = verify(&bin, &[]);
        assert!(!ran.success() && ran.stderr.contains(&format!("no {missing} in")), "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("--without"), "{}", ran.stderr);
        assert!(site.objects("proofs").is_empty());
    }
    let bin = programs_without(&site, &["pg_amcheck", "pg_checksums"]);
    let ran = verify(&bin, &["--without", "amcheck", "--without", "checksums"]);
    assert!(ran.success() && ran.stdout.contains("not made: amcheck, checksums"), "{}{}", ran.stdout, ran.stderr);
    let shown = site.ok("show", &[&id]).stdout;
    assert!(shown.contains("not made: amcheck, checksums"), "{shown}");
    // Of two installations the one is taken that has all, whichever comes first.
    let both = format!("{}:{}", bin.display(), site.cluster.installation().bin().display());
    let args = site.args("verify", &[&id]);
    let ran = attempt(site.snap.command(args).env("BARMAN_SNAP_PG_BIN_DIRS", both));
    assert!(ran.success() && !ran.stdout.contains("not made"), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn root_finds_a_way_into_a_server_that_it_keeps_in_and_knows_no_role_of() {
    let site = need!(plan(&need!(Installation::of(17))).superuser("app").start());
    site.backup(&[]);
    let ran = verify(&site, &["--sql", "SELECT session_user"]);
    assert!(ran.success(), "{}{}", ran.stdout, ran.stderr);
    assert!(proofs(&site).contains(&format!("\"contained\": {}", user::is_root())));
}
