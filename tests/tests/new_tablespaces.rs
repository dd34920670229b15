//! Tablespaces that were created after a backup, or while it was taken: a server that replays their WAL has them in its own data
//! directory, and never gets at what the original has at the same place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use barman_snap::wal::contain::{contain, spanning};
use barman_snap_tests::command::Ran;
use barman_snap_tests::fs::Kind;
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::site::{Site, wait_until_promoted};
use barman_snap_tests::user;
use barman_snap_tests::wait::wait_for;

/// Every file below a directory, and its content.
fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).expect("the directory can be read").flatten() {
        match entry.path() {
            path if path.is_dir() => {
                found.insert(path.clone(), Vec::new());
                found.append(&mut tree(&path));
            }
            path => _ = found.insert(path.clone(), fs::read(&path).expect("the file can be read")),
        }
    }
    found
}

/// A place for a tablespace.
fn place(site: &Site, name: &str) -> PathBuf {
    let place = site.fs().path().join("places").join(name);
    user::make_dir(&place);
    place
}

/// A tablespace with a table of the same name, frozen, so that nothing changes its files any more.
fn create(cluster: &Cluster, name: &str, place: &Path, rows: u32) -> String {
    cluster.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display()));
    fill(cluster, name, rows);
    cluster.sql(&format!("SELECT oid FROM pg_tablespace WHERE spcname = '{name}'"))
}

fn fill(cluster: &Cluster, name: &str, rows: u32) {
    cluster.sql(&format!("CREATE TABLE in_{name} TABLESPACE {name} AS SELECT generate_series(1, {rows}) AS g"));
    cluster.sql(&format!("CREATE INDEX ON in_{name} (g) TABLESPACE {name}"));
    cluster.sql(&format!("VACUUM (FREEZE) in_{name}"));
}

fn rows(cluster: &Cluster, name: &str) -> String {
    // By way of the index as well, which lies there too.
    cluster.sql(&format!("SET enable_seqscan = off; SELECT count(*) FROM in_{name} WHERE g > 0"))
}

/// Where a restored server has a tablespace: a directory in its data directory, which is no link.
#[track_caller]
fn is_inside(cluster: &Cluster, oid: &str) {
    let place = cluster.data().join("pg_tblspc").join(oid);
    assert!(fs::symlink_metadata(&place).expect("it is there").is_dir(), "{} leads away", place.display());
}

fn is_proven(site: &Site, rest: &[&str]) {
    let bin = site.cluster.installation().bin().display().to_string();
    let proof = site.json("verify", &[&["--pg-bin-dir", &bin], rest].concat());
    assert_eq!(proof["passed"], true, "{proof:#}");
}

fn stays_inside(version: u32) {
    let installation = need!(Installation::of(version));
    let site = need!(Site::plan(&installation, Kind::XfsReflink).on_one_volume().segment_mib(1).start());
    let original = &site.cluster;
    let id = site.backup(&[]);
    let before = original.sql("SELECT pg_current_wal_insert_lsn()");
    let (kept, gone) = (place(&site, "kept"), place(&site, "gone"));
    let oid = create(original, "kept", &kept, 1000);
    let dropped = create(original, "gone", &gone, 10);
    original.sql("ALTER TABLESPACE kept RENAME TO renamed");
    let after = original.sql("SELECT pg_current_wal_insert_lsn()");
    original.sql("DROP TABLE in_gone");
    original.sql("DROP TABLESPACE gone");
    original.archive_wal();

    // The original at rest: not a byte of its tablespace may change.
    original.stop(Stop::Fast);
    let files = tree(&kept);
    assert!(files.len() > 3, "the tablespace has files");
    is_proven(&site, &["--all-wal", "--sql", "SELECT 1 / (count(*) - 999)::int FROM in_kept"]);
    assert!(tree(&kept) == files, "verify has changed the tablespace of the original");

    // The original at work, a clone beside it, which writes.
    original.start();
    let clone = site.restore(&id, "clone", &[]);
    wait_until_promoted(&clone);
    assert_eq!(rows(&clone, "kept"), "1000");
    is_inside(&clone, &oid);
    assert!(!clone.data().join("pg_tblspc").join(&dropped).exists());
    assert_eq!(clone.sql(&format!("SELECT pg_tablespace_location({oid})")), format!("pg_tblspc/{oid}"));
    assert!(clone.log().contains(&format!("made in the data directory, as pg_tblspc/{oid}")), "{}", clone.log());
    clone.sql("INSERT INTO in_kept SELECT generate_series(1001, 1500); CHECKPOINT");
    original.restart();
    assert_eq!(rows(original, "kept"), "1000");
    original.stop(Stop::Fast);
    assert!(tree(&kept) == files, "a clone has changed the tablespace of the original");
    // A crash of the clone: what it replays now is what it was given.
    clone.kill();
    clone.start();
    assert_eq!(rows(&clone, "kept"), "1500");
    assert!(tree(&kept) == files);
    moves_to_a_disk_of_its_own(&site, &clone, &oid);

    // Another host: nothing of the original is there.
    fs::rename(&kept, kept.with_extension("away")).expect("it can be renamed");
    is_proven(&site, &["--all-wal"]);
    let earlier = site.restore(&id, "earlier", &["--target-lsn", &before]);
    wait_until_promoted(&earlier);
    assert_eq!(earlier.sql("SELECT count(*) FROM pg_tablespace"), "2");
    assert!(tree(&earlier.data().join("pg_tblspc")).is_empty());
    let later = site.restore(&id, "later", &["--target-lsn", &after, "--target-action", "pause"]);
    wait_until_paused(&later);
    // A recovery that is continued finds the directories at its beginning.
    later.restart();
    wait_until_paused(&later);
    later.sql("SELECT pg_wal_replay_resume()");
    wait_until_promoted(&later);
    assert_eq!((rows(&later, "kept"), rows(&later, "gone")), ("1000".to_owned(), "10".to_owned()));
    [&oid, &dropped].into_iter().for_each(|oid| is_inside(&later, oid));
    assert!(!kept.exists());
}

fn wait_until_paused(cluster: &Cluster) {
    wait_for("the recovery to pause", Duration::from_secs(60), || {
        let ran = cluster.try_sql("SELECT pg_get_wal_replay_pause_state()");
        (ran.success() && ran.text() == "paused").then_some(())
    });
}

/// As docs/operations.md tells it.
fn moves_to_a_disk_of_its_own(site: &Site, clone: &Cluster, oid: &str) {
    let disk = place(site, "disk");
    let inside = clone.data().join("pg_tblspc").join(oid);
    clone.stop(Stop::Fast);
    for entry in fs::read_dir(&inside).expect("it is a directory").flatten() {
        fs::rename(entry.path(), disk.join(entry.file_name())).expect("it can be moved");
    }
    fs::remove_dir(&inside).expect("it is empty");
    std::os::unix::fs::symlink(&disk, &inside).expect("a link can be made");
    clone.start();
    assert_eq!(rows(clone, "kept"), "1500");
    assert_eq!(clone.sql(&format!("SELECT pg_tablespace_location({oid})")), disk.display().to_string());
    clone.stop(Stop::Fast);
}

#[test]
fn a_new_tablespace_stays_inside_on_postgresql_15() {
    stays_inside(15);
}

#[test]
fn a_new_tablespace_stays_inside_on_postgresql_17() {
    stays_inside(17);
}

#[test]
fn a_new_tablespace_stays_inside_on_postgresql_18() {
    stays_inside(18);
}

/// A backup that has started looks at the tablespaces, and then asks now and then whether its connection lives.
const STARTED: (&str, &str) = ("idle", "pg_tablespace_location|^SELECT 1$");

/// Runs a backup, and `work` once its connection is in this state, with a statement like that.
fn during_a_backup(site: &Site, options: &[&str], (state, statement): (&str, &str), work: impl FnOnce()) -> Ran {
    let mut command = site.snap.command(site.args("backup", options));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let there = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query ~ '{statement}' AND state = '{state}' AND pid <> pg_backend_pid()"
    );
    wait_for("the backup to start", Duration::from_secs(60), || (site.cluster.sql(&there) == "1").then_some(()));
    work();
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { line: "backup".into(), status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_tablespace_that_was_created_during_the_backup_is_restored_from_its_wal() {
    let installation = need!(Installation::newest());
    // With copies of files, a backup takes long enough.
    let site = need!(Site::plan(&installation, Kind::Ext4).on_one_volume().start());
    let original = &site.cluster;
    original.sql("CREATE TABLE large AS SELECT g, repeat('x', 500) AS t FROM generate_series(1, 200000) AS g");
    let (id, oid, name) = (0..10)
        .find_map(|attempt| {
            let name = format!("during{attempt}");
            let (mut oid, mut at) = (String::new(), String::new());
            let created = || {
                oid = create(original, &name, &place(&site, &name), 1000);
                at = original.sql("SELECT pg_current_wal_insert_lsn()");
            };
            // Where the work came before the start had been looked at, the backup is refused.
            let ran = during_a_backup(&site, &["--immediate-checkpoint"], STARTED, created);
            let id = ran.text().to_owned();
            let within =
                ran.success() && original.sql(&format!("SELECT '{}' > '{at}'::pg_lsn", end_of(&site, &id))) == "t";
            within.then_some((id, oid, name))
        })
        .expect("one of ten tablespaces was created between start and stop");
    original.archive_wal();
    original.stop(Stop::Fast);
    let files = tree(&place(&site, &name));
    is_proven(&site, &[&id, "--sql", &format!("SELECT 1 / (count(*) - 999)::int FROM in_{name}")]);
    let restored = site.restore(&id, "restored", &["--target-immediate"]);
    wait_until_promoted(&restored);
    assert_eq!(rows(&restored, &name), "1000");
    is_inside(&restored, &oid);
    restored.sql(&format!("INSERT INTO in_{name} SELECT generate_series(1001, 1500); CHECKPOINT"));
    assert!(tree(&place(&site, &name)) == files, "the restored server has changed the tablespace of the original");

    // What is inside belongs to the data directory: it is backed up with it.
    let (server, socket) = ("restored", restored.socket_dir().display().to_string());
    let backup = ["backup", &site.url, server, "-h", &socket, "--immediate-checkpoint"];
    site.snap.run(backup).expect_success();
    let target = site.fs().path().join("restored/again").display().to_string();
    site.snap.run(["restore", &site.url, server, "last", &target]).expect_success();
    let again = site.adopt(Path::new(&target));
    again.start();
    wait_until_promoted(&again);
    assert_eq!(rows(&again, &name), "1500");
    is_inside(&again, &oid);
}

/// Where a backup ends, as `show` has it.
fn end_of(site: &Site, id: &str) -> String {
    site.show(id)["end_xlog"].as_str().expect("it is text").to_owned()
}

#[test]
fn a_backup_is_refused_if_a_tablespace_is_created_while_it_starts() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::XfsReflink).on_one_volume().start());
    let original = &site.cluster;
    original.sql("CREATE TABLE large AS SELECT g, repeat('x', 500) AS t FROM generate_series(1, 20000) AS g");
    let ran = during_a_backup(&site, &[], ("active", "pg_backup_start"), || {
        create(original, "late", &place(&site, "late"), 10);
        original.sql("CHECKPOINT");
    });
    assert_eq!(ran.code(), 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("tablespace \"late\"") && ran.stderr.contains("start the backup again"),
        "{}",
        ran.stderr
    );
    assert_eq!(site.snapshots(), Vec::<String>::new());
    site.backup(&[]);
    is_proven(&site, &[]);
}

#[test]
fn a_new_tablespace_between_two_segments_stops_the_recovery_before_it_is_made() {
    let installation = need!(Installation::newest());
    let plan = Site::plan(&installation, Kind::XfsReflink).on_one_volume().segment_mib(1);
    let site = need!(plan.setting("max_wal_size", "1GB").start());
    let original = &site.cluster;
    let id = site.backup(&[]);
    let place = over_the_border(&site);
    original.stop(Stop::Fast);
    let files = tree(&place);
    let target = site.fs().path().join("restored/clone");
    user::make_dir(&site.fs().path().join("restored"));
    site.ok("restore", &[&id, &target.display().to_string()]);
    let clone = site.adopt(&target);
    clone.try_start();
    wait_for("the recovery to stop", Duration::from_secs(60), || {
        (!target.join("postmaster.pid").exists()).then_some(())
    });
    let log = clone.log();
    assert!(log.contains(&place.display().to_string()) && log.contains("cannot be kept inside"), "{log}");
    assert!(!log.contains("archive recovery complete"), "{log}");
    assert!(tree(&place) == files, "the tablespace of the original was changed");
}

/// Creates tablespaces until the record of one lies in two segments; where that one is.
fn over_the_border(site: &Site) -> PathBuf {
    let original = &site.cluster;
    let lsn = || original.sql("SELECT pg_current_wal_insert_lsn() - '0/0'").parse::<u64>().expect("a number");
    let write =
        |bytes: u64| drop(original.sql(&format!("SELECT pg_logical_emit_message(false, 'f', repeat('y', {bytes}))")));
    let border = || lsn().next_multiple_of(1 << 20);
    // How much CREATE TABLESPACE writes before its record; known from the attempt before.
    let mut before = 20_000;
    for attempt in 0..10 {
        let place = place(site, &format!("spanning{attempt}/{}", "x".repeat(150)));
        original.archive_wal();
        let begin = border() - before - 100;
        write(begin - lsn() - 12_000);
        // The size of a record around the text, and of the headers of pages.
        write((begin - lsn()).saturating_sub(100));
        let begun = lsn();
        create(original, &format!("spanning{attempt}"), &place, 10);
        original.archive_wal();
        let is_segment = |key: &&String| key.rsplit('/').next().is_some_and(|name| name.len() == 24);
        let objects = site.objects("wals");
        let mut segments: Vec<Vec<u8>> =
            objects.iter().filter(is_segment).map(|key| fs::read(site.object(key)).expect("it is there")).collect();
        let spanning = |two: &[Vec<u8>]| spanning(&two[0], &two[1]).expect("these are segments").is_some();
        if segments.windows(2).any(spanning) {
            return place;
        }
        let created = segments.iter_mut().flat_map(|segment| contain(segment).expect("it is a segment")).last();
        before = created.expect("it was created").position.0 - begun;
    }
    panic!("none of ten lies between two segments");
}

#[test]
fn wal_with_a_new_tablespace_differs_in_its_record_and_in_nothing_else() {
    for installation in Installation::all() {
        let site = need!(Site::plan(installation, Kind::XfsReflink).on_one_volume().segment_mib(1).start());
        let cluster = &site.cluster;
        cluster.archive_wal();
        cluster.archive_wal();
        let (one, two) = (place(&site, "one"), place(&site, &format!("two/{}", "x".repeat(200))));
        create(cluster, "one", &one, 10);
        create(cluster, "two", &two, 10);
        cluster.archive_wal();
        let (stored, given) = (site.place().join("stored"), site.place().join("given"));
        [&stored, &given].into_iter().for_each(|place| user::make_dir(place));
        let mut changed = 0;
        for key in site.objects("wals").iter().filter(|key| key.rsplit('/').next().is_some_and(|name| name.len() == 24))
        {
            let name = key.rsplit('/').next().expect("it has a name");
            let to = given.join(name).display().to_string();
            site.ok("wal-restore", &[name, &to, "--new-tablespaces", "inside"]);
            fs::copy(site.object(key), stored.join(name)).expect("it can be copied");
            fs::set_permissions(stored.join(name), fs::Permissions::from_mode(0o644)).expect("it is there");
            let [before, now] = [&stored, &given].map(|place| fs::read(place.join(name)).expect("it is there"));
            assert_eq!(before.len(), now.len());
            let [old, new] = [&stored, &given].map(|place| dumped(installation, &place.join(name)));
            assert_eq!(old.len(), new.len(), "pg_waldump does not read all of it");
            for (old, new) in old.iter().zip(&new).filter(|(old, new)| old != new) {
                let places = [&one, &two].map(|place| format!("\"{}\"", place.display()));
                let place = places.iter().find(|place| old.contains(*place)).expect("it creates a tablespace");
                assert_eq!(old.replace(place.as_str(), "\"\""), *new);
                changed += 1;
            }
            let differ = before.iter().zip(&now).filter(|(before, now)| before != now).count();
            assert!(differ == 0 || old != new, "{differ} bytes differ in {name}, and no record");
            site.ok("wal-restore", &[name, &to]);
            assert!(fs::read(&to).expect("it is there") == before);
        }
        assert_eq!(changed, 2);
    }
}

fn dumped(installation: &Installation, segment: &Path) -> Vec<String> {
    let output = installation.command("pg_waldump").arg(segment).output().expect("pg_waldump can be run");
    // It ends with an error where the WAL does: in the middle of a record.
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
