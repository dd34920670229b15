//! Stock Barman 3.19.1 on the three clouds, unchanged, both ways on one catalog and on one set of disks: what we back up it
//! lists, shows, keeps, restores and deletes; what it backs up we list, show, keep, verify, restore and delete; and what a
//! killed backup of ours leaves disturbs nobody and is gone in the end.
//!
//! One body for all clouds. Where they differ, it is by a defect of the stock tool that is named here:
//!
//! * `barman-cloud-backup-delete` cannot delete a backup by snapshots of Google Cloud: it wants the option `--gcp-zone`,
//!   which it does not have. It then deletes nothing at all ([`NO_ZONE`]).
//!
//! `barman-cloud-restore` makes no disks, so the test makes them by the API of the cloud, as whoever restores has to.

use std::process::Stdio;
use std::time::Duration;

use barman_snap_tests::cloud::{Cloud, CloudSite, DATA_DISK, INSTANCE, Peer, TS_DISK, parsed};
use barman_snap_tests::load::fill;
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::site::{SERVER, checked_pages, wait_until_promoted};
use barman_snap_tests::skip::Missing;
use barman_snap_tests::wait::wait_for;
use barman_snap_tests::{checks, need, own_dev};
use serde_json::{Value, json};

/// The machine and its disks, as both programs are told them.
const DISKS: [&str; 6] = ["--snapshot-instance", INSTANCE, "--snapshot-disk", DATA_DISK, "--snapshot-disk", TS_DISK];

/// What the stock tool says when it should delete a snapshot of Google Cloud.
const NO_ZONE: &str = "'Namespace' object has no attribute 'gcp_zone'";

/// Both programs on one machine.
struct Shared {
    // Before the set of clouds that it belongs to.
    peer: Peer,
    site: CloudSite,
}

impl Shared {
    fn start(cloud: Cloud) -> Result<Self, Missing> {
        let site = CloudSite::plan(cloud, &Installation::of(17)?).for_stock().start()?;
        let peer = Peer::of(&site)?;
        fill(&site.cluster, 1);
        site.api.settings(&json!({"cut_ms": 100, "ready_ms": 400}));
        Ok(Self { peer, site })
    }

    fn is_gcp(&self) -> bool {
        self.site.api.cloud() == Cloud::Gcp
    }

    /// The ids that the stock tool lists, and then those that we list.
    fn listed(&self) -> [Vec<String>; 2] {
        let of = |list: &Value| {
            let all = list["backups_list"].as_array().expect("a list");
            all.iter().map(|one| one["backup_id"].as_str().expect("it is text").to_owned()).collect()
        };
        [of(&self.peer.json("backup-list", &[])), of(&self.site.json("list", &[]))]
    }

    /// Some rows after a backup, archived; and then the sums of all.
    fn more_rows(&self) -> checks::Sums {
        self.site.cluster.sql("INSERT INTO ticks (at) SELECT now() FROM generate_series(1, 1000)");
        let sums = checks::sums(&self.site.cluster);
        self.site.cluster.archive_wal();
        sums
    }

    /// A keep that one sets is seen, honoured and released by the other.
    fn keeps(&self, id: &str) {
        let ours = || self.site.json("keep", &[id, "--status"])["keep"].clone();
        let stock = || self.peer.ok("backup-keep", &["--status"], &[id]).text().to_owned();
        self.peer.ok("backup-keep", &["--target", "full"], &[id]);
        assert_eq!(ours(), json!("full"));
        let refused = self.site.run_in_cloud("delete", &["--backup-id", id]);
        assert!(refused.code() == 1 && refused.stderr.contains("is kept"), "{}", refused.stderr);
        self.site.ok("keep", &[id, "--release"]);
        assert_eq!(stock(), "Keep: nokeep");
        self.site.ok("keep", &[id, "--target", "standalone"]);
        assert_eq!(stock(), "Keep: standalone");
        assert_eq!(self.peer.attempt("backup-delete", &["--backup-id", id], &[]).code(), 1, "it is kept");
        self.peer.ok("backup-keep", &["--release"], &[id]);
        assert_eq!(ours(), json!("nokeep"));
    }

    /// Both show a backup alike, and in it the snapshots that there are.
    fn shows(&self, id: &str) {
        let theirs = self.peer.json("backup-show", &[id])[SERVER].take();
        let ours = self.site.json("show", &[id])[SERVER].take();
        for (field, value) in theirs.as_object().expect("an object") {
            assert_eq!(ours.get(field), Some(value), "{field}");
        }
        assert_eq!(theirs["status"], "DONE");
        let info = &theirs["snapshots_info"];
        assert_eq!(info["provider"], self.site.api.cloud().name());
        let snapshots = info["snapshots"].as_array().expect("a list");
        let mut names: Vec<_> = snapshots.iter().filter_map(|one| one["provider"]["snapshot_name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, named_after(id));
        let mut points: Vec<_> = snapshots.iter().filter_map(|one| one["mount"]["mount_point"].as_str()).collect();
        points.sort_unstable();
        let place = self.site.place();
        assert_eq!(points, [DATA_DISK, TS_DISK].map(|disk| place.join(disk).display().to_string()));
        let text = self.peer.ok("backup-show", &[], &[id]).stdout;
        assert!(text.contains("Snapshot information") && text.contains(names[0]), "{text}");
    }
}

/// The names of the snapshots of a backup, by the rule of the stock tool.
fn named_after(id: &str) -> [String; 2] {
    [DATA_DISK, TS_DISK].map(|disk| format!("{disk}-{}", id.to_lowercase()))
}

#[track_caller]
fn sound(cluster: &Cluster, at_end: &checks::Sums) {
    wait_until_promoted(cluster);
    assert_eq!(checks::sums(cluster), *at_end);
    assert!(checked_pages(cluster).expect("no page is bad") > 1000);
}

/// The stock tool makes no disks: whoever restores does, mounts them where they were, and lets it check them. It then writes
/// the label.
fn stock_restores(shared: &mut Shared, id: &str, at_end: &checks::Sums) {
    let Shared { site, peer } = shared;
    site.lose_everything();
    let target = site.cluster.data().display().to_string();
    let instance = ["--snapshot-recovery-instance", INSTANCE];
    let refused = peer.attempt("restore", &instance, &[id, &target]);
    assert_eq!(refused.code(), 4, "no disk is of a snapshot of the backup: {}", refused.stderr);
    for (disk, snapshot) in [DATA_DISK, TS_DISK].iter().zip(named_after(id)) {
        let made = site.api.disk_of(&site.api.snapshot(&snapshot), &format!("{disk}-new"));
        site.mount(&made, disk);
    }
    peer.ok("restore", &instance, &[id, &target]);
    let label = std::fs::read_to_string(site.cluster.data().join("backup_label")).expect("it was written");
    assert!(label.contains("START WAL LOCATION"), "{label}");
    let mut cluster = site.adopt(site.cluster.data());
    cluster.option("restore_command", &peer.restore_command());
    std::fs::write(site.cluster.data().join("recovery.signal"), "").expect("it can be written");
    cluster.start();
    sound(&cluster, at_end);
}

/// The stock tool deletes the backup with its snapshots; on Google Cloud it cannot.
fn deletes(shared: &Shared, id: &str) {
    let Shared { site, peer } = shared;
    if shared.is_gcp() {
        let failed = peer.attempt("backup-delete", &["--backup-id", id], &[]);
        assert_eq!(failed.code(), 4, "the defect has been mended? {}", failed.stderr);
        assert!(failed.stderr.contains(NO_ZONE), "{}", failed.stderr);
        assert_eq!(site.snapshots(), named_after(id), "all or nothing");
        site.ok_in_cloud("delete", &["--backup-id", id]);
    } else {
        peer.ok("backup-delete", &["--backup-id", id], &[]);
    }
    assert_eq!(site.snapshots(), Vec::<String>::new());
    assert_eq!(shared.listed(), [vec![], vec![]] as [Vec<String>; 2]);
}

// What we write, in the hands of the stock tool.

fn ours_is_theirs(cloud: Cloud) {
    let mut shared = need!(Shared::start(cloud));
    let id = shared.site.backup(&[&DISKS[2..], &["--name", "weekly"]].concat());
    let at_end = shared.more_rows();
    assert_eq!(shared.listed(), [vec![id.clone()], vec![id.clone()]]);
    shared.shows(&id);
    shared.keeps(&id);
    stock_restores(&mut shared, &id, &at_end);
    deletes(&shared, &id);
    // Of a backup that somebody else has deleted the journal is left.
    shared.site.ok_in_cloud("gc", &["--apply"]);
    assert_eq!(shared.site.ok_in_cloud("gc", &[]).text(), "nothing to remove");
}

#[test]
fn stock_lists_shows_keeps_restores_and_deletes_what_we_write_on_aws() {
    own_dev!();
    ours_is_theirs(Cloud::Aws);
}

#[test]
fn stock_lists_shows_keeps_and_restores_what_we_write_on_gcp() {
    own_dev!();
    ours_is_theirs(Cloud::Gcp);
}

#[test]
fn stock_lists_shows_keeps_restores_and_deletes_what_we_write_on_azure() {
    own_dev!();
    ours_is_theirs(Cloud::Azure);
}

// What the stock tool writes, in our hands.

fn theirs_is_ours(cloud: Cloud) {
    let mut shared = need!(Shared::start(cloud));
    // On AWS it looks every 15 seconds whether snapshots are complete, but for the first time at once.
    shared.site.api.settings(&json!({"ready_ms": 0}));
    // Its own WAL, too.
    let command = shared.peer.archive_command();
    shared.site.cluster.sql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
    shared.site.cluster.sql("SELECT pg_reload_conf()");
    shared.peer.ok("backup", &[&DISKS, ["--immediate-checkpoint", "--name", "theirs"].as_slice()].concat(), &[]);
    let at_end = shared.more_rows();
    let [theirs, ours] = shared.listed();
    assert_eq!(theirs, ours);
    let [id] = <[String; 1]>::try_from(ours).expect("one backup");
    let text = shared.site.ok("list", &[]).stdout;
    assert!(text.contains(&id) && text.contains("DONE") && text.contains("theirs"), "{text}");
    shared.shows(&id);
    shared.keeps(&id);
    // Its snapshots bear no mark of ours: they are nobody's garbage.
    assert_eq!(shared.site.ok_in_cloud("gc", &["--apply"]).text(), "nothing to remove");
    assert_eq!(shared.site.snapshots(), named_after(&id));
    we_verify(&shared.site, &id);
    we_restore(&mut shared.site, &id, &at_end);
    shared.site.ok_in_cloud("delete", &["--backup-id", &id]);
    assert_eq!(shared.site.snapshots(), Vec::<String>::new());
    assert_eq!(shared.listed(), [vec![], vec![]] as [Vec<String>; 2]);
    assert_eq!(shared.site.ok_in_cloud("gc", &[]).text(), "nothing to remove");
}

fn we_verify(site: &CloudSite, id: &str) {
    let disks = site.disks();
    let bin = site.cluster.installation().bin().display().to_string();
    let sql = "SELECT count(*) > 0 FROM in_ts";
    let options = ["--snapshot-recovery-instance", INSTANCE, "--pg-bin-dir", &bin, "--sql", sql, "--format", "json"];
    let proof = parsed(&site.mounting("verify", &[&[id], options.as_slice()].concat()));
    assert_eq!(proof["passed"], true, "{proof:#}");
    assert_eq!(site.disks(), disks, "the volumes of the verification are gone");
}

fn we_restore(site: &mut CloudSite, id: &str, at_end: &checks::Sums) {
    site.lose_everything();
    let target = site.cluster.data().display().to_string();
    site.mounting("restore", &[id, &target, "--snapshot-recovery-instance", INSTANCE]);
    let cluster = site.adopt(site.cluster.data());
    cluster.start();
    sound(&cluster, at_end);
}

#[test]
fn we_list_show_keep_verify_restore_and_delete_what_stock_writes_on_aws() {
    own_dev!();
    theirs_is_ours(Cloud::Aws);
}

#[test]
fn we_list_show_keep_verify_restore_and_delete_what_stock_writes_on_gcp() {
    own_dev!();
    theirs_is_ours(Cloud::Gcp);
}

#[test]
fn we_list_show_keep_verify_restore_and_delete_what_stock_writes_on_azure() {
    own_dev!();
    theirs_is_ours(Cloud::Azure);
}

// What is left of a backup of ours that was killed.

/// A backup whose process was killed when its session was in this phase and both snapshots had been asked for.
#[track_caller]
fn killed_while(shared: &Shared, phase: &str) -> String {
    let site = &shared.site;
    let mut command = site.snap.command(site.cloud_args("backup", &[&["--immediate-checkpoint"], &DISKS[..]].concat()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("barman-snap can be run");
    let id = wait_for(&format!("a session that is {phase}"), Duration::from_secs(30), || {
        let sessions = parsed(&site.ok_in_cloud("recover", &["--dry-run", "--format", "json"]));
        let session = sessions.as_array().expect("a list").iter().find(|one| one["phase"] == phase)?;
        (site.snapshots().len() == 2).then(|| session["backup_id"].as_str().expect("it is text").to_owned())
    });
    child.kill().expect("it is ours");
    assert!(!child.wait().expect("it is ours").success(), "it had ended before it was killed");
    id
}

/// The stock tool says that the backup has begun and is not complete, and of snapshots only those that there are. Gives what
/// it shows.
#[track_caller]
fn stock_is_not_misled(shared: &Shared, id: &str) -> Value {
    let text = shared.peer.ok("backup-list", &[], &[]).stdout;
    let line = text.lines().find(|line| line.contains(id)).expect("it is listed");
    assert!(line.contains("STARTED") && !line.contains("DONE"), "{text}");
    let shown = shared.peer.json("backup-show", &[id])[SERVER].take();
    assert_eq!(shown["status"], "STARTED");
    let there = shared.site.snapshots();
    for snapshot in shown["snapshots_info"]["snapshots"].as_array().into_iter().flatten() {
        let name = snapshot["provider"]["snapshot_name"].as_str().expect("it is text");
        assert!(there.iter().any(|one| one == name), "{name} is not one of {there:?}");
    }
    assert_eq!(shared.peer.attempt("backup-keep", &["--target", "full"], &[id]).code(), 1, "it is not complete");
    shown
}

/// The stock tool deletes what it sees of the backup: `backup.info`, and the snapshots that stand in it.
#[track_caller]
fn stock_deletes_what_it_sees(shared: &Shared, id: &str, shown: &Value) {
    let ran = shared.peer.attempt("backup-delete", &["--backup-id", id], &[]);
    let sees_snapshots = !shown["snapshots_info"].is_null();
    if shared.is_gcp() && sees_snapshots {
        assert!(ran.code() == 4 && ran.stderr.contains(NO_ZONE), "{}", ran.stderr);
        assert_eq!(shared.site.snapshots(), named_after(id));
    } else {
        ran.expect_success();
        assert_eq!(shared.listed(), [vec![], vec![]] as [Vec<String>; 2]);
        // Made by one call on AWS, they have no names until it is answered.
        assert_eq!(shared.site.snapshots().len(), if sees_snapshots { 0 } else { 2 });
    }
}

/// Nothing is left, in nobody's eyes.
#[track_caller]
fn nothing_is_left(shared: &Shared) {
    assert_eq!(shared.site.snapshots(), Vec::<String>::new());
    assert_eq!(shared.listed(), [vec![], vec![]] as [Vec<String>; 2]);
    shared.site.ok_in_cloud("gc", &["--apply"]);
    assert_eq!(shared.site.ok_in_cloud("gc", &[]).text(), "nothing to remove");
}

/// Killed before the dividing line: deleted by the stock tool or not, `recover` leaves nothing.
fn a_beginning_is_harmless(cloud: Cloud) {
    let shared = need!(Shared::start(cloud));
    shared.site.api.settings(&json!({"cut_ms": 5000, "ready_ms": 100}));
    for stock_deletes in [false, true] {
        let id = killed_while(&shared, "snapshotting");
        let shown = stock_is_not_misled(&shared, &id);
        assert_eq!(shown["end_time"], Value::Null);
        if stock_deletes {
            stock_deletes_what_it_sees(&shared, &id, &shown);
        }
        let recovered = shared.site.ok_in_cloud("recover", &[]).stdout;
        assert!(recovered.contains(&id) && recovered.contains("-> undone"), "{recovered}");
        nothing_is_left(&shared);
    }
}

/// Killed behind the dividing line: `recover` completes the backup, unless the stock tool has deleted it; then nothing is
/// left.
fn an_end_is_harmless(cloud: Cloud) {
    let shared = need!(Shared::start(cloud));
    shared.site.api.settings(&json!({"cut_ms": 100, "ready_ms": 6000}));
    let id = killed_while(&shared, "finishing");
    let shown = stock_is_not_misled(&shared, &id);
    shared.site.ok_in_cloud("recover", &["--backup-id", &id]);
    shared.shows(&id);
    let end = &shared.site.json("show", &[&id])[SERVER]["end_time"];
    assert!(shown["end_time"].is_null() || shown["end_time"] == *end, "{shown:#} {end}");
    deletes(&shared, &id);

    let id = killed_while(&shared, "finishing");
    let shown = shared.peer.json("backup-show", &[&id])[SERVER].take();
    stock_deletes_what_it_sees(&shared, &id, &shown);
    let recovered = shared.site.ok_in_cloud("recover", &[]).stdout;
    if shared.is_gcp() {
        assert!(recovered.contains("-> published"), "nothing of it was deleted: {recovered}");
        shared.site.ok_in_cloud("delete", &["--backup-id", &id]);
    } else {
        assert!(recovered.contains("-> undone"), "{recovered}");
    }
    nothing_is_left(&shared);
}

#[test]
fn a_backup_of_ours_that_was_killed_at_its_beginning_is_harmless_on_aws() {
    own_dev!();
    a_beginning_is_harmless(Cloud::Aws);
}

#[test]
fn a_backup_of_ours_that_was_killed_at_its_beginning_is_harmless_on_gcp() {
    own_dev!();
    a_beginning_is_harmless(Cloud::Gcp);
}

#[test]
fn a_backup_of_ours_that_was_killed_at_its_beginning_is_harmless_on_azure() {
    own_dev!();
    a_beginning_is_harmless(Cloud::Azure);
}

#[test]
fn a_backup_of_ours_that_was_killed_at_its_end_is_harmless_on_aws() {
    own_dev!();
    an_end_is_harmless(Cloud::Aws);
}

#[test]
fn a_backup_of_ours_that_was_killed_at_its_end_is_harmless_on_gcp() {
    own_dev!();
    an_end_is_harmless(Cloud::Gcp);
}

#[test]
fn a_backup_of_ours_that_was_killed_at_its_end_is_harmless_on_azure() {
    own_dev!();
    an_end_is_harmless(Cloud::Azure);
}
