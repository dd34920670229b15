//! Every call that a backup makes to a cloud, broken in every way: throttled once and for long, failed once, hung, robbed of its
//! reply, taken into account when it was given up, refused for ever; over lists that lag behind. Each time the backup is published, or after
//! `recover` (and `gc`, for what comes late) nothing of it is left: no snapshot and no volume
//! exists that the catalog does not know, and what went wrong is told in one line.
//!
//! Which calls these are is what the log of a good backup says, not what this test believes: those of the cloud, and the
//! writes to its object store. Azurite, which stands for Blob Storage, takes no faults; the writes to the catalog are broken
//! at the other two. The metadata server of Google is left out: the library repeats what fails there for most of a minute, and
//! nothing else would be seen. Each test prints its table.
#![allow(clippy::print_stdout, reason = "the tables are shown to whoever runs the tests with --no-capture")]

use std::collections::BTreeSet;
use std::time::Duration;

use barman_snap_tests::cloud::{Cloud, CloudSite, DATA_DISK, Fault, INSTANCE, TS_DISK, parsed};
use barman_snap_tests::command::Ran;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::wait::{pass, timed};
use barman_snap_tests::{need, own_dev};
use serde_json::{Value, json};

/// The client gives up after so many seconds, of the cloud as of the store, …
const PATIENCE: &str = "2";
/// … and a call that hangs does so for longer.
const HANG: f64 = 3.0;

/// A late call takes effect after so many seconds: when the backup has given it up, or is about to.
const LATE: f64 = 3.5;

/// A way to break a call.
type Break = (&'static str, fn(&str) -> Fault);

const WAYS: [Break; 7] = [
    ("throttled", |action| Fault::throttle(action).seconds(1.0)),
    ("failed", Fault::fail),
    ("hung", |action| Fault::hang(action, HANG)),
    ("reply lost", Fault::lost_reply),
    ("late", |action| Fault::late(action, LATE)),
    ("limited", |action| Fault::throttle(action).seconds(1.0).times(6)),
    ("denied", |action| Fault::denied(action).always()),
];

/// How the backups of a test are taken.
struct Mode {
    cloud: Cloud,
    /// What the cloud has to know of the disks.
    disks: Value,
    options: &'static [&'static str],
    /// The call by which snapshots are made in this mode.
    makes: &'static str,
    /// Which part of the calls, of how many: every call takes a while, and tests run side by side.
    part: (usize, usize),
}

/// The backups of one server that has its own place in the catalog, so that the journals of the others cost nothing.
struct Server<'a> {
    site: &'a CloudSite,
    name: String,
}

impl Server<'_> {
    fn run(&self, command: &str, rest: &[&str]) -> Ran {
        let start = ["-q", "--read-timeout", PATIENCE, command, self.site.api.catalog(), &self.name];
        let cloud = self.site.options();
        let limits = ["--call-timeout", PATIENCE];
        let words = start.iter().chain(rest).map(|&word| word.to_owned());
        self.site.snap.run(words.chain(cloud).chain(limits.map(str::to_owned)))
    }

    fn backup(&self, mode: &Mode) -> Ran {
        let instance = ["--immediate-checkpoint", "--snapshot-instance", INSTANCE];
        let disks = ["--snapshot-disk", DATA_DISK, "--snapshot-disk", TS_DISK];
        self.run("backup", &[&instance[..], &disks, mode.options].concat())
    }

    /// The ids of all backups, which are complete.
    fn backups(&self) -> Vec<String> {
        let ran = self.site.snap.run(["-q", "list", self.site.api.catalog(), &self.name, "--format", "json"]);
        let list = parsed(&ran.expect_success());
        let id = |backup: &Value| {
            assert_eq!(backup["status"], "DONE", "{backup:#}");
            backup["backup_id"].as_str().expect("it is text").to_owned()
        };
        list["backups_list"].as_array().expect("it is a list").iter().map(id).collect()
    }
}

/// The world, quick and without faults.
fn calm(site: &CloudSite) {
    site.api.reset();
    site.api.settings(&json!({"cut_ms": 20, "ready_ms": 100, "lag_ms": 300, "more": {"poll_s": 0}}));
}

/// Whether a way to break a call is worth its time. Reads that are late are reads that were lost; and a store is as patient as its
/// library.
fn is_worth_it(action: &str, way: &str) -> bool {
    let of_store = ["s3:", "storage."].iter().any(|prefix| action.starts_with(prefix));
    let makes = ["create", "Create", "write"].iter().any(|verb| action.contains(verb));
    match way {
        "late" => makes && !of_store,
        "limited" => !makes && !of_store,
        _ => true,
    }
}

/// Whether the log of a good backup shows a call of the cloud, or a write to its store.
fn is_to_be_broken(action: &str) -> bool {
    if action == "metadata" {
        return false;
    }
    let of_store = ["s3:", "storage."].iter().any(|prefix| action.starts_with(prefix));
    !of_store || ["s3:Put", "s3:Delete", "objects.create", "objects.delete"].iter().any(|write| action.contains(write))
}

/// One line, which says something.
#[track_caller]
fn is_one_clear_line(what: &str, ran: &Ran) {
    assert!(
        [1, 2].contains(&ran.code()),
        "{what} is neither a mistake of the user's nor a defect of ours: {}",
        ran.stderr
    );
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines.len() == 1 && lines[0].len() > 30, "{what}: one line says what was wrong: {}", ran.stderr);
}

/// Breaks every call of a backup in every way.
fn published_or_clean(mode: &Mode) {
    let installation = need!(Installation::newest());
    // The engine stores the WAL itself: what is broken is the backup, not the archiver.
    let plan = CloudSite::plan(mode.cloud, &installation).size_gib(1).disks(mode.disks.clone());
    let site = need!(plan.without_archiving().segment_mib(1).start());
    calm(&site);
    let good = Server { site: &site, name: "good".to_owned() };
    let id = good.backup(mode).expect_success().text().to_owned();
    let actions: BTreeSet<String> = site.api.calls().into_iter().map(|call| call.action).collect();
    assert!(actions.contains(mode.makes), "{actions:?}");
    let (part, parts) = mode.part;
    let actions = actions.into_iter().filter(|action| is_to_be_broken(action));
    let actions: Vec<String> = actions.enumerate().filter(|(at, _)| at % parts == part).map(|(_, one)| one).collect();
    good.run("delete", &["--backup-id", &id]).expect_success();
    let disks = site.disks();

    let mut table = format!("{:<42}{}", "", WAYS.map(|(way, _)| format!("{way:<16}")).concat());
    let (mut published, mut clean) = (0, 0);
    for action in &actions {
        table += &format!("\n{action:<42}");
        for (way, broken) in WAYS {
            if !is_worth_it(action, way) {
                table += &format!("{:<16}", "-");
                continue;
            }
            calm(&site);
            let what = format!("{action} {way}");
            let server = Server { site: &site, name: what.replace(|c: char| !c.is_ascii_alphanumeric(), "-") };
            site.api.faults(&[broken(action)]);
            let (ran, took) = timed(|| server.backup(mode));
            site.api.faults(&[]);
            if !ran.success() {
                is_one_clear_line(&what, &ran);
                server.run("recover", &[]).expect_success();
            }
            if way == "late" {
                // What comes now, nobody waits for; it belongs to a backup, or `gc` finds it.
                pass(Duration::from_secs_f64(LATE).saturating_sub(took));
                pass(Duration::from_millis(500));
                server.run("gc", &["--apply"]).expect_success();
            }
            // A backup that did not come to its end is behind the dividing line or before it: `recover` completes or undoes it.
            let ids = server.backups();
            let complete = ids.len();
            assert!(complete == 1 || (complete == 0 && !ran.success()), "{what}: {ids:?} {}", ran.stderr);
            let end = match (ran.success(), complete) {
                (true, _) => "published",
                (false, 0) => "clean",
                (false, _) => "completed",
            };
            table += &format!("{:<16}", format!("{end} {:.1} s", took.as_secs_f64()));
            *(if complete == 1 { &mut published } else { &mut clean }) += 1;
            agree(&site, &what, &ids);
            assert_eq!(site.disks(), disks, "{what}: no volume");
            for id in ids {
                server.run("delete", &["--backup-id", &id]).expect_success();
            }
            agree(&site, &what, &[]);
        }
    }
    println!("{table}\n{published} published, {clean} clean, 0 orphans, {} calls", actions.len());
}

/// The snapshots that there are, of whatever kind, are those of these backups: one of each disk.
#[track_caller]
fn agree(site: &CloudSite, what: &str, ids: &[String]) {
    let names = |id: &String| [DATA_DISK, TS_DISK].map(|disk| format!("{disk}-{}", id.to_lowercase()));
    let mut expected: Vec<String> = ids.iter().flat_map(names).collect();
    expected.sort();
    assert_eq!(site.snapshots(), expected, "{what}: orphans, or snapshots that are missing");
}

/// One test for each part of the calls of a mode.
macro_rules! broken {
    ($($name:ident: $cloud:ident, $disks:tt, $options:expr, $makes:literal, $part:literal of $parts:literal;)*) => {
        $(#[test]
        fn $name() {
            own_dev!();
            published_or_clean(&Mode {
                cloud: Cloud::$cloud,
                disks: json!($disks),
                options: $options,
                makes: $makes,
                part: ($part, $parts),
            });
        })*
    };
}

const SINGLE: &[&str] = &["--consistency", "independent"];
const GROUP: &[&str] = &["--consistency", "group"];

broken! {
    a_backup_is_published_or_leaves_nothing_aws_single_1: Aws, {}, SINGLE, "CreateSnapshot", 0 of 1;
    a_backup_is_published_or_leaves_nothing_aws_group_1: Aws, {}, GROUP, "CreateSnapshots", 0 of 2;
    a_backup_is_published_or_leaves_nothing_aws_group_2: Aws, {}, GROUP, "CreateSnapshots", 1 of 2;
    a_backup_is_published_or_leaves_nothing_gcp_single_1: Gcp, {}, SINGLE, "compute.snapshots.create", 0 of 3;
    a_backup_is_published_or_leaves_nothing_gcp_single_2: Gcp, {}, SINGLE, "compute.snapshots.create", 1 of 3;
    a_backup_is_published_or_leaves_nothing_gcp_single_3: Gcp, {}, SINGLE, "compute.snapshots.create", 2 of 3;
    a_backup_is_published_or_leaves_nothing_gcp_group_1: Gcp, {"consistency_group": "pg"}, GROUP, "compute.instantSnapshotGroups.create", 0 of 4;
    a_backup_is_published_or_leaves_nothing_gcp_group_2: Gcp, {"consistency_group": "pg"}, GROUP, "compute.instantSnapshotGroups.create", 1 of 4;
    a_backup_is_published_or_leaves_nothing_gcp_group_3: Gcp, {"consistency_group": "pg"}, GROUP, "compute.instantSnapshotGroups.create", 2 of 4;
    a_backup_is_published_or_leaves_nothing_gcp_group_4: Gcp, {"consistency_group": "pg"}, GROUP, "compute.instantSnapshotGroups.create", 3 of 4;
    a_backup_is_published_or_leaves_nothing_azure_single_1: Azure, {}, SINGLE, "Microsoft.Compute/snapshots/write", 0 of 2;
    a_backup_is_published_or_leaves_nothing_azure_single_2: Azure, {}, SINGLE, "Microsoft.Compute/snapshots/write", 1 of 2;
}
