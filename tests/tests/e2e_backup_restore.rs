//! The main job on real servers: back up under write load, restore, and prove that nothing is missing.
//!
//! Every PostgreSQL of the machine on every kind of file system, with two tablespaces and the WAL on volumes of their
//! own, all as the unprivileged user of the server. What varies otherwise (a standby, no archiver, in place, a list of
//! disks) is tested once, on the newest PostgreSQL.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use barman_snap_tests::fs::Kind;
use barman_snap_tests::load::{Load, fill};
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::site::{Site, checked_pages, wait_until_promoted, wait_until_quiet};
use barman_snap_tests::wait::{pass, wait_for};
use barman_snap_tests::{checks, need, user};

/// The method that each kind of file system is expected to be snapshotted with.
fn method(kind: Kind) -> &'static str {
    match kind {
        Kind::Btrfs => "btrfs",
        Kind::XfsReflink => "reflink",
        Kind::Ext4 => "copy",
        Kind::Zfs => "zfs",
    }
}

/// Everything that must be true of a restored cluster beside its rows. It is stopped afterwards.
#[track_caller]
fn sound(cluster: &Cluster) {
    assert_eq!(checks::pgbench_balanced(cluster), Ok(()));
    assert_eq!(checks::amcheck_ok(cluster), Ok(()));
    let pages = checked_pages(cluster).expect("no page is bad");
    assert!(pages > 1000, "only {pages} pages were looked at");
}

/// Stops the load and says what time it is, on the server's clock, with nothing committed close to it.
fn quiet_moment(cluster: &Cluster, load: Load) -> String {
    load.stop();
    wait_until_quiet(cluster);
    pass(Duration::from_millis(50));
    let time = cluster.sql("SELECT clock_timestamp()");
    pass(Duration::from_millis(50));
    time
}

/// Two backups under load; then the newer one is restored to its end, and the older one to a moment between two ticks.
fn nothing_is_missing(version: u32, kind: Kind) {
    let installation = need!(Installation::of(version));
    let site = need!(Site::plan(&installation, kind).start());
    let cluster = &site.cluster;
    fill(cluster, 1);
    let load = Load::start(cluster, 4);
    pass(Duration::from_millis(300));

    let older = site.backup(&["--name", "older"]);
    let moment = quiet_moment(cluster, load);
    let at_moment = checks::sums(cluster);
    let load = Load::start(cluster, 4);
    pass(Duration::from_millis(1100));
    let newer = site.backup(&[]);
    load.stop();
    wait_until_quiet(cluster);
    let at_end = checks::sums(cluster);
    cluster.archive_wal();
    assert!(at_end["public.ticks"].0 > at_moment["public.ticks"].0, "no ticks between the two points in time");

    listed_and_shown(&site, kind, [&older, &newer]);

    let restored = site.restore(&newer, "end", &[]);
    wait_until_promoted(&restored);
    assert_eq!(checks::sums(&restored), at_end);
    let tablespaces =
        restored.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 10000 ORDER BY spcname");
    let beside = |name: &str| restored.data().with_extension(format!("ts-{name}")).display().to_string();
    assert_eq!(tablespaces, format!("{}\n{}", beside("cold"), beside("hot")));
    sound(&restored);

    // The original has gone on meanwhile and does not mind.
    cluster.sql("INSERT INTO ticks DEFAULT VALUES");
    let restored = site.restore("older", "moment", &["--target-time", &moment]);
    wait_until_promoted(&restored);
    assert_eq!(checks::sums(&restored), at_moment, "not the rows of {moment}");
    assert_eq!(restored.sql(&format!("SELECT count(*) FROM ticks WHERE at > '{moment}'")), "0");
    sound(&restored);
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
}

#[track_caller]
fn listed_and_shown(site: &Site, kind: Kind, ids: [&String; 2]) {
    assert_eq!(site.listed(), ids.map(String::clone));
    let text = site.ok("list", &[]).stdout;
    assert!(ids.iter().all(|id| text.contains(id.as_str())) && text.contains("older"), "{text}");
    for id in ids {
        let shown = site.show(id);
        assert_eq!(shown["status"], "DONE");
        assert_eq!(shown["pgdata"], site.cluster.data().display().to_string());
        let record = &shown["copy_stats"]["barman_snap"];
        let snapshots = record["snapshots"].as_array().expect("the record lists the snapshots");
        let mut volumes: Vec<_> = snapshots.iter().map(|one| one["ticket"]["root"].as_str().expect("a path")).collect();
        volumes.sort_unstable();
        // On btrfs the subvolumes; elsewhere, where nothing else marks a volume, the directories that hold the cluster.
        let on_fs = |path: &str| site.fs().path().join(path).display().to_string();
        let expected = match kind {
            Kind::Btrfs => ["cold", "hot", "main", "wal"].map(on_fs),
            _ => ["cold/ts", "hot/ts", "main/data", "wal/pg_wal"].map(on_fs),
        };
        assert_eq!(volumes, expected);
        for one in snapshots {
            assert_eq!(one["ticket"]["method"], method(kind), "{one}");
            assert!(Path::new(one["ticket"]["snapshot"].as_str().expect("a path")).is_dir(), "{one}");
        }
        assert_eq!(record["wal_external"], false);
        let text = site.ok("show", &[id]).stdout;
        assert!(text.contains(method(kind)) && text.contains("Status                 : DONE"), "{text}");
    }
}

#[test]
fn nothing_is_missing_on_postgresql_15_and_btrfs() {
    nothing_is_missing(15, Kind::Btrfs);
}

#[test]
fn nothing_is_missing_on_postgresql_15_and_xfs() {
    nothing_is_missing(15, Kind::XfsReflink);
}

#[test]
fn nothing_is_missing_on_postgresql_15_and_ext4() {
    nothing_is_missing(15, Kind::Ext4);
}

#[test]
fn nothing_is_missing_on_postgresql_17_and_btrfs() {
    nothing_is_missing(17, Kind::Btrfs);
}

#[test]
fn nothing_is_missing_on_postgresql_17_and_xfs() {
    nothing_is_missing(17, Kind::XfsReflink);
}

#[test]
fn nothing_is_missing_on_postgresql_17_and_ext4() {
    nothing_is_missing(17, Kind::Ext4);
}

#[test]
fn nothing_is_missing_on_postgresql_18_and_btrfs() {
    nothing_is_missing(18, Kind::Btrfs);
}

#[test]
fn nothing_is_missing_on_postgresql_18_and_xfs() {
    nothing_is_missing(18, Kind::XfsReflink);
}

#[test]
fn nothing_is_missing_on_postgresql_18_and_ext4() {
    nothing_is_missing(18, Kind::Ext4);
}

#[test]
fn in_place_the_cluster_goes_back_and_the_old_one_is_kept_aside() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::XfsReflink).start());
    let cluster = &site.cluster;
    fill(cluster, 1);
    let id = site.backup(&[]);
    cluster.archive_wal();
    let target = cluster.sql("SELECT pg_current_wal_insert_lsn()");
    let expected = checks::sums(cluster);
    cluster.sql("DROP TABLE pgbench_accounts; DELETE FROM in_hot");
    cluster.archive_wal();
    cluster.stop(Stop::Fast);

    let data = cluster.data().display().to_string();
    let answer = site.json("restore", &[&id, &data, "--in-place", "--target-lsn", &target]);
    cluster.start();
    wait_until_promoted(cluster);
    assert_eq!(checks::sums(cluster), expected);
    assert_eq!(checks::pgbench_balanced(cluster), Ok(()));

    let aside = answer["set_aside"].as_array().expect("what was there is named");
    assert!(!aside.is_empty(), "{answer}");
    for one in aside {
        assert!(Path::new(one["to"].as_str().expect("a path")).is_dir(), "{one}");
    }
    // Life goes on: the restored cluster archives on its new timeline, and can be backed up again.
    cluster.archive_wal();
    let again = site.backup(&[]);
    assert_eq!(site.show(&again)["timeline"], 2);
}

#[test]
fn in_place_the_wal_stays_on_its_own_disk_and_the_old_wal_is_kept() {
    let installation = need!(Installation::of(17));
    let site = need!(Site::plan(&installation, Kind::XfsReflink).start());
    let cluster = &site.cluster;
    cluster.sql("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n");
    let id = site.backup(&[]);
    cluster.archive_wal();
    cluster.stop(Stop::Fast);
    // To a directory of its own, wherever the site had it.
    let wal = cluster.data().with_file_name("wal-elsewhere");
    let link = cluster.data().join("pg_wal");
    let old = fs::canonicalize(&link).expect("there is WAL");
    let moved = std::process::Command::new("cp").arg("-a").arg(&old).arg(&wal).status().expect("cp runs");
    assert!(moved.success());
    if fs::symlink_metadata(&link).expect("it is there").is_symlink() {
        fs::remove_file(&link).expect("a link");
    } else {
        fs::rename(&link, cluster.data().with_file_name("wal-of-before")).expect("it can be moved");
    }
    std::os::unix::fs::symlink(&wal, &link).expect("a link can be made");
    let segments = fs::read_dir(&wal).expect("it is there").count();

    let answer = site.json("restore", &[&id, &cluster.data().display().to_string(), "--in-place"]);
    assert_eq!(fs::read_link(&link).expect("a link"), wal, "{answer}");
    let aside = |from: &Path| {
        let all = answer["set_aside"].as_array().expect("what was there is named").iter();
        let mut of = all.filter(|one| one["from"] == *from.to_string_lossy());
        std::path::PathBuf::from(of.next().expect("it is named")["to"].as_str().expect("a path"))
    };
    assert_eq!(fs::read_dir(aside(&wal)).expect("it is there").count(), segments, "the old WAL");
    assert_eq!(fs::read_link(aside(cluster.data()).join("pg_wal")).expect("a link"), aside(&wal), "the old link");
    cluster.start();
    wait_until_promoted(cluster);
    assert_eq!(cluster.sql("SELECT count(*) FROM kept"), "1000");
    assert!(fs::read_dir(&wal).expect("it is there").count() > 1, "the WAL of the new server");
}

#[test]
fn recovery_stops_where_the_archive_cannot_be_read_and_goes_on_when_it_can() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::XfsReflink).start());
    let cluster = &site.cluster;
    fill(cluster, 1);
    let id = site.backup(&[]);
    cluster.sql("CREATE TABLE later AS SELECT generate_series(1, 1000) AS g");
    cluster.archive_wal();
    let expected = checks::sums(cluster);
    cluster.stop(Stop::Fast);
    site.ok("restore", &[&id, &cluster.data().display().to_string(), "--in-place"]);

    // Of the segments after the backup; a server that took it for missing would be promoted without the table.
    let is_segment = |key: &String| key.rsplit('/').next().is_some_and(|name| name.len() == 24);
    let segments: Vec<String> = site.objects("wals").into_iter().filter(is_segment).collect();
    let end = site.show(&id)["end_wal"].as_str().expect("text").to_owned();
    let next = segments.iter().find(|key| key.rsplit('/').next().is_some_and(|name| *name > *end));
    let object = site.object(next.expect("WAL after the backup"));
    let mode = |mode| fs::set_permissions(&object, Permissions::from_mode(mode)).expect("the object is there");
    let catalog = Path::new(&site.url);
    let away = catalog.with_extension("away");
    let moved = |from: &Path, to: &Path| fs::rename(from, to).expect("the catalog can be moved");
    let stops = |what: &str| {
        // It may have come far enough to be a hot standby for a moment.
        cluster.try_start();
        let stopped = || (!cluster.data().join("postmaster.pid").exists()).then_some(());
        wait_for("the server to stop", Duration::from_secs(30), stopped);
        let log = cluster.log();
        assert!(log.contains("could not restore file"), "{what}: {log}");
        assert!(!log.contains("archive recovery complete"), "{what}: {log}");
    };
    mode(0o000);
    stops("an object that cannot be read");
    mode(0o600);
    moved(catalog, &away);
    stops("a directory that is gone");
    user::make_dir(catalog);
    stops("a mount point on which nothing is mounted");
    fs::remove_dir(catalog).expect("nobody has written into it");
    moved(&away, catalog);
    cluster.start();
    wait_until_promoted(cluster);
    assert_eq!(cluster.sql("SELECT count(*) FROM later"), "1000");
    assert_eq!(checks::sums(cluster), expected);
}

#[test]
fn a_failover_is_followed_and_a_clone_never_takes_the_place_of_its_original() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::XfsReflink).on_one_volume().start());
    let add = |cluster: &Cluster, who: &str| cluster.sql(&format!("INSERT INTO who VALUES ('{who}')"));
    let all = |cluster: &Cluster| cluster.sql("SELECT string_agg(name, ' ' ORDER BY name) FROM who");
    site.cluster.sql("CREATE TABLE who (name text)");
    let id = site.backup(&[]);
    let standby = site.cluster.standby(site.fs().volume("standby").join("data"));
    add(&site.cluster, "1-old-primary");
    standby.catch_up_with(&site.cluster);
    site.cluster.stop(Stop::Immediate);
    assert_eq!(standby.sql("SELECT pg_promote()"), "t");
    add(&standby, "2-new-primary");
    standby.archive_wal();

    // A clone of the backup, with the archive_command of the original, which nobody has turned off.
    let place = site.fs().path().join("restored/clone");
    user::make_dir(&site.fs().path().join("restored"));
    site.ok("restore", &[&id, &place.display().to_string()]);
    let mut clone = site.adopt(&place);
    clone.option("archive_mode", "on");
    clone.start();
    wait_until_promoted(&clone);
    assert_eq!(all(&clone), "1-old-primary 2-new-primary");
    add(&clone, "3-clone");
    clone.archive_wal();
    clone.stop(Stop::Fast);
    add(&standby, "4-new-primary");
    standby.archive_wal();

    let to = site.fs().path().join("restored/none").display().to_string();
    let refused = site.run("restore", &[&id, &to]);
    assert_eq!(refused.code(), 1, "{}", refused.stderr);
    for words in ["timeline 3 branches off from timeline 2 at ", "of WAL would not be replayed", "--target-tli 2 or 3"]
    {
        assert!(refused.stderr.contains(words), "{words:?} is not in {}", refused.stderr);
    }
    for (number, rows) in
        [("2", "1-old-primary 2-new-primary 4-new-primary"), ("3", "1-old-primary 2-new-primary 3-clone")]
    {
        let restored = site.restore(&id, number, &["--target-tli", number, "--no-archiving"]);
        wait_until_promoted(&restored);
        assert_eq!(all(&restored), rows, "timeline {number}");
    }
}

#[test]
fn a_standby_can_be_the_source_while_its_primary_works() {
    let installation = need!(Installation::newest());
    for kind in [Kind::Btrfs, Kind::XfsReflink] {
        // A standby cannot end a segment: the backup is complete when its primary's load has filled the last one.
        let site = need!(Site::plan(&installation, kind).segment_mib(1).start());
        let primary = &site.cluster;
        fill(primary, 1);
        let standby = primary.standby(site.fs().volume("standby").join("data"));
        let load = Load::start(primary, 4);
        pass(Duration::from_millis(500));
        let standby_host = standby.socket_dir().display().to_string();
        let id = site.backup(&["-h", &standby_host]);
        pass(Duration::from_millis(300));
        load.stop();
        wait_until_quiet(primary);
        let expected = checks::sums(primary);
        primary.archive_wal();
        assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");

        let shown = site.show(&id);
        assert_eq!(shown["copy_stats"]["barman_snap"]["from_standby"], true);
        let restored = site.restore(&id, "from-standby", &[]);
        wait_until_promoted(&restored);
        assert_eq!(checks::sums(&restored), expected);
        sound(&restored);
    }
}

#[test]
fn without_an_archiver_a_backup_is_restorable_alone() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::Btrfs).without_archiving().start());
    fill(&site.cluster, 1);
    let load = Load::start(&site.cluster, 2);
    pass(Duration::from_millis(300));
    let summary = site.json("backup", &["--immediate-checkpoint"]);
    load.stop();
    let id = summary["backup_id"].as_str().expect("the id is text");
    let supplied: Vec<_> = summary["wal_supplied"].as_array().expect("a list").iter().collect();
    assert!(!supplied.is_empty(), "nobody else could have stored the WAL: {summary}");
    let stored = site.objects("wals");
    assert!(
        supplied.iter().all(|name| stored.iter().any(|key| key.ends_with(name.as_str().expect("text")))),
        "{stored:?}"
    );

    let restored = site.restore(id, "alone", &["--target-immediate"]);
    wait_until_promoted(&restored);
    assert_eq!(checks::pgbench_balanced(&restored), Ok(()));
    assert!(restored.sql("SELECT count(*) FROM ticks").parse::<u64>().expect("a number") > 0);
    sound(&restored);
    let proof = site.json("verify", &[id, "--pg-bin-dir", &installation.bin().display().to_string()]);
    assert_eq!(proof["passed"], true, "{proof:#}");
}

#[test]
fn that_another_tool_keeps_the_wal_is_recorded_and_none_is_stored() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::Btrfs).without_archiving().start());
    let id = site.backup(&["--wal-external"]);
    assert_eq!(site.show(&id)["copy_stats"]["barman_snap"]["wal_external"], true);
    assert!(site.ok("show", &[&id]).stdout.contains("kept by another tool"));
    assert_eq!(site.objects("wals"), Vec::<String>::new());
}

#[test]
fn the_disks_that_are_named_are_the_ones_that_are_taken() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::Btrfs).start());
    fill(&site.cluster, 1);
    let disk = |name: &str| site.fs().path().join(name).display().to_string();
    let disks = ["main", "wal", "hot", "cold"].map(disk);
    let options: Vec<&str> = disks.iter().flat_map(|disk| ["--snapshot-disk", disk.as_str()]).collect();
    let id = site.backup(&options);
    let shown = site.show(&id);
    let record = shown["copy_stats"]["barman_snap"].clone();
    let mut volumes: Vec<_> =
        record["snapshots"].as_array().expect("a list").iter().map(|one| one["ticket"]["volume"].clone()).collect();
    volumes.sort_by_key(ToString::to_string);
    let mut expected = disks.to_vec();
    expected.sort();
    assert_eq!(volumes, expected);
    let restored = site.restore(&id, "named", &[]);
    wait_until_promoted(&restored);
    assert_eq!(checks::sums(&restored), checks::sums(&site.cluster));
}

#[test]
fn verify_proves_a_backup_and_the_proof_is_shown() {
    for installation in Installation::all() {
        let site = need!(Site::plan(installation, Kind::XfsReflink).start());
        fill(&site.cluster, 1);
        let id = site.backup(&[]);
        let rows = site.cluster.sql("SELECT count(*) FROM pgbench_accounts");
        let bin = installation.bin().display().to_string();
        let proof = site.json("verify", &["--pg-bin-dir", &bin, "--sql", "SELECT count(*) FROM pgbench_accounts"]);
        assert_eq!(proof["passed"], true, "{proof:#}");
        assert_eq!((&proof["chosen"]["asked"], &proof["chosen"]["backup_id"]), (&"last".into(), &id.clone().into()));
        assert!(proof["sql"].to_string().contains(&rows), "{proof:#}");
        let shown = site.show(&id);
        assert_eq!(shown["proofs"][0]["passed"], true);
        // The original has not been touched, and nothing is left of the throw-away one.
        assert_eq!(site.cluster.sql("SELECT pg_is_in_recovery()"), "f");
        let left: Vec<_> = fs::read_dir(site.fs().path())
            .expect("the file system can be listed")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.contains("verify"))
            .collect();
        assert_eq!(left, Vec::<String>::new());
    }
}
