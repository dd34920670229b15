//! Tablespaces that were created after a backup, or while it was taken: a server that replays their WAL has them in its own data
//! directory, and never gets at what the original has at the same place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use barman_snap_tests::fs::Kind;
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::site::{Site, wait_until_promoted};
use barman_snap_tests::user;

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
    let later = site.restore(&id, "later", &["--target-lsn", &after]);
    wait_until_promoted(&later);
    assert_eq!((rows(&later, "kept"), rows(&later, "gone")), ("1000".to_owned(), "10".to_owned()));
    [&oid, &dropped].into_iter().for_each(|oid| is_inside(&later, oid));
    assert!(!kept.exists());
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
