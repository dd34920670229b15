//! Tablespaces that a backup leaves out: nothing of them is needed or kept, the rest is proven and restored, WAL that touches what
//! was in them is replayed, and what is left of it can be cleaned up as the plan says.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use barman_snap_tests::command::run;
use barman_snap_tests::fs::Kind;
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::site::{Site, wait_until_promoted};
use barman_snap_tests::user;

/// Memory, mounted as a file system of this kind; gone when this is dropped.
struct Memory {
    place: PathBuf,
    // Removed after it is unmounted.
    scratch: Option<Scratch>,
}

impl Memory {
    fn new(kind: &str) -> Self {
        let scratch = Scratch::new();
        let mut made = Self::at(scratch.path(), kind);
        made.scratch = Some(scratch);
        made
    }

    fn at(place: &Path, kind: &str) -> Self {
        run(Command::new("mount").args(["-t", kind, "none"]).arg(place));
        user::give(place);
        Self { place: place.to_owned(), scratch: None }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.place.join(name);
        user::make_dir(&path);
        path
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        self.scratch.take();
    }
}

/// A name that has to be quoted wherever it goes.
const ODD: &str = "it's \"ü\" and more";

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(name: &str) -> String {
    format!("'{}'", name.replace('\'', "''"))
}

fn create(cluster: &Cluster, name: &str, place: &Path) -> String {
    cluster.sql(&format!("CREATE TABLESPACE {} LOCATION '{}'", identifier(name), place.display()));
    cluster.sql(&format!("SELECT oid FROM pg_tablespace WHERE spcname = {}", literal(name)))
}

/// Relations of every kind in a tablespace.
fn fill(cluster: &Cluster, prefix: &str, tablespace: &str) {
    let ts = identifier(tablespace);
    cluster.sql(&format!(
        "CREATE TABLE {prefix}_rows TABLESPACE {ts} AS SELECT i, repeat('x', 200) AS t FROM generate_series(1, 5000) i;
         CREATE INDEX {prefix}_btree ON {prefix}_rows (i) TABLESPACE {ts};
         CREATE INDEX {prefix}_hash ON {prefix}_rows USING hash (i) TABLESPACE {ts};
         CREATE INDEX {prefix}_gin ON {prefix}_rows USING gin (to_tsvector('simple', t)) TABLESPACE {ts};
         CREATE INDEX {prefix}_brin ON {prefix}_rows USING brin (i) TABLESPACE {ts};
         CREATE TABLE {prefix}_gone TABLESPACE {ts} AS SELECT i FROM generate_series(1, 100) i;
         CREATE TABLE \"{prefix} odd.\"\"n\"\" *ame\" (i int, t text) TABLESPACE {ts};
         CREATE UNLOGGED TABLE {prefix}_unlogged (i int PRIMARY KEY USING INDEX TABLESPACE {ts}) TABLESPACE {ts};
         CREATE MATERIALIZED VIEW {prefix}_view TABLESPACE {ts} AS SELECT count(*) AS n FROM kept_rows;
         CREATE TABLE {prefix}_indexed AS SELECT i FROM generate_series(1, 1000) i;
         CREATE INDEX {prefix}_elsewhere ON {prefix}_indexed (i) TABLESPACE {ts};
         CREATE TABLE {prefix}_toast (t text) TABLESPACE {ts};
         ALTER TABLE {prefix}_toast ALTER t SET STORAGE EXTERNAL;
         INSERT INTO {prefix}_toast SELECT repeat('y', 9000) FROM generate_series(1, 20)"
    ));
}

/// Touches pages of all of them, in ways that need their earlier content.
fn touch(cluster: &Cluster, prefix: &str, tablespace: &str) {
    let ts = identifier(tablespace);
    for statement in [
        format!("DELETE FROM {prefix}_rows WHERE i % 7 = 0 AND i > 2500"),
        // Makes pages all visible: without checksums there are no images of them in the WAL.
        format!("VACUUM (INDEX_CLEANUP on) {prefix}_rows"),
        format!("UPDATE {prefix}_rows SET i = i + 1 WHERE i % 1000 = 1"),
        format!("INSERT INTO {prefix}_rows SELECT i, 'late' FROM generate_series(5001, 5500) i"),
        format!("VACUUM {prefix}_rows"),
        format!("DROP TABLE {prefix}_gone"),
        format!("INSERT INTO {prefix}_indexed VALUES (1001)"),
        format!("INSERT INTO {prefix}_toast VALUES (repeat('z', 9000))"),
        format!("DELETE FROM {prefix}_toast WHERE t LIKE 'y%'"),
        format!("VACUUM {prefix}_toast"),
        format!("REFRESH MATERIALIZED VIEW {prefix}_view"),
        format!("CREATE TABLE {prefix}_new TABLESPACE {ts} AS SELECT i FROM generate_series(1, 77) i"),
    ] {
        cluster.sql(&statement);
    }
}

/// Cleans up as the plan tells the user.
fn clean_up(clone: &Cluster, tablespace: &str) {
    let lost = clone.sql(&format!(
        "SELECT c.oid::regclass, c.relkind FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace \
         WHERE c.relkind IN ('r', 'm', 'i') AND t.spcname = {} ORDER BY c.relkind DESC",
        literal(tablespace)
    ));
    assert!(lost.lines().count() > 5, "{lost}");
    for line in lost.lines().filter(|line| !line.starts_with("pg_toast.")) {
        let (name, kind) = line.rsplit_once('|').expect("two columns");
        match kind {
            "r" => clone.sql(&format!("TRUNCATE {name}")),
            "m" => clone.sql(&format!("REFRESH MATERIALIZED VIEW {name}")),
            _ => clone.sql(&format!("REINDEX INDEX {name}")),
        };
    }
}

fn left_out_on(version: u32, kind: Kind, checksums: bool) {
    let installation = need!(Installation::of(version));
    let memory = Memory::new("tmpfs");
    let plan = Site::plan(&installation, kind).on_one_volume().setting("autovacuum", "off").segment_mib(1);
    let plan = if checksums { plan } else { plan.without_checksums() };
    let mut site = need!(plan.start());
    let (ram, odd, kept) = (memory.dir("ts"), site.fs().path().join("main/odd"), site.fs().path().join("main/kept"));
    [&odd, &kept].into_iter().for_each(|place| user::make_dir(place));
    let original = &site.cluster;
    let oids = [create(original, "ram", &ram), create(original, ODD, &odd)];
    create(original, "kept", &kept);
    original.sql("CREATE TABLE kept_rows TABLESPACE kept AS SELECT i FROM generate_series(1, 1000) i");
    for (prefix, tablespace) in [("a", "ram"), ("b", ODD)] {
        fill(original, prefix, tablespace);
    }
    original.sql("CREATE DATABASE other");
    original.sql_in("other", "CREATE TABLE there (i int) TABLESPACE ram");

    // Refused without it, before backup mode, with the option in the hint.
    for command in ["backup", "check"] {
        let ran = site.run(command, &[]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!ran.success() && said.contains("--exclude-tablespace ram"), "{command}: {said}");
    }
    let options = ["--exclude-tablespace", "ram", "--exclude-tablespace", ODD];
    let checked = site.ok("check", &options).stdout;
    assert!(checked.contains("left out: OK") && checked.contains("other, postgres"), "{checked}");
    let dry = site.ok("backup", &[&["--dry-run"], options.as_slice()].concat()).stdout;
    assert!(dry.contains("t.spcname = 'it''s \"ü\" and more'"), "{dry}");
    let id = site.backup(&options);
    let record = &site.show(&id)["copy_stats"]["barman_snap"]["excluded_tablespaces"];
    assert_eq!(record[0]["databases"], serde_json::json!(["other", "postgres"]), "{record}");
    // On btrfs, all that is not in memory lies in one subvolume.
    assert_eq!(record[1]["volume"].is_string(), kind == Kind::Btrfs, "{record}");

    original.sql("INSERT INTO kept_rows VALUES (1001)");
    // Copied directory by directory, of which one is not there when it is replayed.
    original.sql("CREATE DATABASE copied TEMPLATE other STRATEGY file_copy");
    for (prefix, tablespace) in [("a", "ram"), ("b", ODD)] {
        touch(original, prefix, tablespace);
    }
    original.archive_wal();

    let bin = installation.bin().display().to_string();
    for depth in [&[][..], &["--all-wal"]] {
        let proof = site.json("verify", &[&["--pg-bin-dir", &bin], depth].concat());
        assert_eq!(proof["passed"], true, "{proof:#}");
        let checks = proof["checks"].as_array().expect("a list");
        let told = checks.iter().find(|check| check["name"] == "tablespaces").expect("it is told");
        assert!(told["outcome"] == "skipped" && told["detail"].to_string().contains("ram"), "{told}");
    }

    let restored = site.fs().path().join("restored");
    let places = ["ram", ODD, "kept"].map(|name| (name.to_owned(), restored.join(format!("ts {}", name.len()))));
    site.cluster.remember_tablespaces(Vec::new());
    let mapping: Vec<String> = places.iter().map(|(name, place)| format!("{name}:{}", place.display())).collect();
    let options: Vec<&str> = mapping.iter().flat_map(|one| ["--tablespace", one]).collect();
    let clone = site.restore(&id, "clone", &options);
    wait_until_promoted(&clone);
    // Else this test would not show what it is for: without the setting, this recovery ends with a PANIC.
    assert!(checksums || clone.log().contains("WAL contains references to invalid pages"), "{}", clone.log());
    assert_eq!(clone.sql("SELECT count(*), max(i) FROM kept_rows"), "1001|1001");
    assert_eq!(clone.sql("SELECT count(*) FROM a_new"), "77", "made after the backup: complete");
    for (oid, (_, place)) in oids.iter().zip(&places) {
        let meta = std::fs::metadata(place).expect("it is there");
        let data = std::fs::metadata(clone.data()).expect("it is there");
        assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (data.uid(), 0o700));
        assert_eq!(std::fs::read_link(clone.data().join("pg_tblspc").join(oid)).ok().as_ref(), Some(place));
    }
    clean_up(&clone, "ram");
    clean_up(&clone, ODD);
    for prefix in ["a", "b"] {
        assert_eq!(clone.sql(&format!("SELECT count(*) FROM {prefix}_rows")), "0");
        clone.sql(&format!("INSERT INTO {prefix}_rows SELECT i, 'x' FROM generate_series(1, 10) i"));
        let found = format!("SET enable_seqscan = off; SELECT count(*) FROM {prefix}_indexed WHERE i > 0");
        assert_eq!(clone.sql(&found), "1001", "its index lay in what was left out");
        clone.sql(&format!(
            "SELECT * FROM {prefix}_view; SELECT * FROM {prefix}_unlogged; SELECT * FROM {prefix}_toast"
        ));
        clone.sql(&format!(
            "DROP MATERIALIZED VIEW {prefix}_view; DROP TABLE {prefix}_rows, {prefix}_indexed, {prefix}_new,
            {prefix}_unlogged, {prefix}_toast, \"{prefix} odd.\"\"n\"\" *ame\""
        ));
    }
    clone.sql(&format!("DROP TABLESPACE {}", identifier(ODD)));
    for database in ["other", "copied"] {
        clone.sql_in(database, "DROP TABLE there");
    }
    clone.sql("DROP TABLESPACE ram");
    // Only this recovery was lenient.
    let auto = std::fs::read_to_string(clone.data().join("postgresql.auto.conf")).expect("it is there");
    assert!(auto.contains("ignore_invalid_pages = 'off'"), "{auto}");
    clone.restart();
    assert_eq!(clone.sql("SHOW ignore_invalid_pages"), "off");
    clone.stop(Stop::Fast);
    assert_eq!(site.cluster.sql("SELECT count(*) FROM a_rows"), site.cluster.sql("SELECT count(*) FROM b_rows"));
}

#[test]
fn one_in_memory_and_one_on_the_disk_of_the_rest_come_back_empty_on_postgresql_15() {
    left_out_on(15, Kind::XfsReflink, false);
}

#[test]
fn one_in_memory_and_one_on_the_disk_of_the_rest_come_back_empty_on_postgresql_18() {
    left_out_on(18, Kind::Btrfs, true);
}

#[test]
fn what_cannot_be_left_out_is_refused_by_check_and_backup() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).start());
    let original = &site.cluster;
    original.sql("CREATE DATABASE homely TABLESPACE hot");
    for (name, why) in [
        ("hto", "does not exist on the server (those that have a place of their own: \"hot\", \"cold\")"),
        ("pg_default", "holds the catalogs"),
        ("pg_global", "all databases share"),
        ("hot", "is the default of database \"homely\""),
    ] {
        for command in ["backup", "check"] {
            let ran = site.run(command, &["--exclude-tablespace", name]);
            let said = format!("{}{}", ran.stdout, ran.stderr);
            let why = if command == "check" { why.split(" (").next().unwrap_or(why) } else { why };
            assert!(!ran.success() && said.contains(why), "{command} {name}: {said}");
        }
    }
    assert!(site.snapshots().is_empty() && site.listed().is_empty());
    // The way out that the message names.
    original.sql("ALTER DATABASE homely SET TABLESPACE pg_default");
    site.ok("check", &["--exclude-tablespace", "hot"]);
}

#[test]
fn a_restore_in_place_empties_it_and_keeps_what_was_there() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).start());
    let original = &site.cluster;
    original.sql("CREATE TABLE t TABLESPACE cold AS SELECT generate_series(1, 1000) AS i; CREATE TABLE k (i int)");
    let id = site.backup(&["--exclude-tablespace", "cold"]);
    original.sql("INSERT INTO k VALUES (1); INSERT INTO t VALUES (1001)");
    original.archive_wal();
    original.stop(Stop::Fast);
    let data = original.data().display().to_string();
    site.ok("restore", &[&id, &data, "--in-place"]);
    let (_, cold) = original.tablespaces().iter().find(|(name, _)| name == "cold").expect("it is there").clone();
    let versions: Vec<_> = std::fs::read_dir(&cold).expect("it is there").flatten().map(|entry| entry.path()).collect();
    let [version] = versions.as_slice() else { panic!("{versions:?}") };
    assert_eq!(std::fs::read_dir(version).expect("a directory").count(), 0);
    let before = std::fs::read_dir(cold.parent().expect("it has one")).expect("it is there").flatten();
    assert!(before.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().contains(".before-restore-")));
    original.start();
    wait_until_promoted(original);
    assert_eq!(original.sql("SELECT count(*) FROM k"), "1");
    original.sql("TRUNCATE t; INSERT INTO t VALUES (1)");
    // A backup with everything again.
    let bin = original.installation().bin().display().to_string();
    let id = site.backup(&[]);
    let proof = site.json("verify", &[&id, "--pg-bin-dir", &bin]);
    assert_eq!(proof["passed"], true, "{proof:#}");
}

#[test]
fn a_tablespace_in_ramfs_is_refused_as_well() {
    let memory = Memory::new("ramfs");
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).on_one_volume().start());
    create(&site.cluster, "ram", &memory.dir("ts"));
    let ran = site.run("backup", &[]);
    assert!(ran.stderr.contains("in memory only") && ran.stderr.contains("--exclude-tablespace ram"), "{}", ran.stderr);
    let id = site.backup(&["--exclude-tablespace", "ram"]);
    assert_eq!(site.listed(), [id]);
}

#[test]
fn a_page_that_is_missing_elsewhere_is_not_passed_over_by_verify() {
    let installation = need!(Installation::of(15));
    let plan = Site::plan(&installation, Kind::XfsReflink).without_checksums().setting("autovacuum", "off");
    let site = need!(plan.start());
    let original = &site.cluster;
    original.sql("CREATE TABLE t AS SELECT i, repeat('x', 500) AS x FROM generate_series(1, 1000) i; CHECKPOINT");
    let file = original.sql("SELECT pg_relation_filepath('t')");
    let id = site.backup(&["--exclude-tablespace", "cold"]);
    original.sql("VACUUM t");
    original.archive_wal();
    let snapshot = barman_snap_tests::rehearsal::snapshot_of(&site, &id, "main");
    let path = [snapshot.join("data").join(&file), snapshot.join("content").join(&file), snapshot.join(&file)];
    let path = path.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {file} in {}", snapshot.display()));
    std::fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(8192)).expect("it can be cut");
    let bin = installation.bin().display().to_string();
    let ran = site.run("verify", &[&id, "--all-wal", "--pg-bin-dir", &bin]);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!ran.success() && said.contains(&format!("of relation {file} does not exist")), "{said}");
}

#[test]
fn one_that_is_mounted_inside_the_data_directory_is_left_out_and_made_there() {
    let site = need!(Site::plan(&need!(Installation::of(17)), Kind::XfsReflink).on_one_volume().start());
    let ram = site.cluster.data().join("ram");
    user::make_dir(&ram);
    let memory = Memory::at(&ram, "tmpfs");
    create(&site.cluster, "ram", &memory.dir("ts"));
    site.cluster.sql("CREATE TABLE t TABLESPACE ram AS SELECT generate_series(1, 1000) AS i");
    assert!(site.run("backup", &[]).stderr.contains("--exclude-tablespace ram"));
    let id = site.backup(&["--exclude-tablespace", "ram"]);
    site.cluster.sql("INSERT INTO t VALUES (1)");
    site.cluster.archive_wal();
    let bin = site.cluster.installation().bin().display().to_string();
    let proof = site.json("verify", &[&id, "--all-wal", "--pg-bin-dir", &bin]);
    assert_eq!(proof["passed"], true, "{proof:#}");
    let clone = site.restore(&id, "clone", &["--clone"]);
    wait_until_promoted(&clone);
    let place = clone.data().join("ram/ts");
    assert_eq!(
        clone.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'ram'"),
        place.display().to_string()
    );
    clone.sql("TRUNCATE t; INSERT INTO t VALUES (1); CHECKPOINT");
    clone.stop(Stop::Fast);
    assert_eq!(site.cluster.sql("SELECT count(*) FROM t"), "1001");
    site.cluster.stop(Stop::Fast);
}
