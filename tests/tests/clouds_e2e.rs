//! The main job in each cloud, through the command line and with real bytes: a server under load is backed up by snapshots of
//! its two disks, its WAL goes to the object store of the cloud, all its disks are lost, and on new volumes it has every
//! commit.
//!
//! One body for all clouds. What is called of a cloud is compared with the permissions that `docs/permissions` asks for.
#![allow(clippy::print_stdout, reason = "what check says is shown to whoever runs the test with --no-capture")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use barman_snap_tests::cloud::{Call, Cloud, CloudSite, DATA_DISK, INSTANCE, TABLESPACE, TS_DISK, Thing, parsed};
use barman_snap_tests::load::{Load, fill};
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::site::{SERVER, checked_pages, wait_until_promoted, wait_until_quiet};
use barman_snap_tests::wait::pass;
use barman_snap_tests::{checkout, checks, need, own_dev, user};
use serde_json::{Value, json};

/// Both disks by their names, as the stock tool wants them.
const NAMED: [&str; 4] = ["--snapshot-disk", DATA_DISK, "--snapshot-disk", TS_DISK];

/// The machine that takes the place of the one that was lost.
const OTHER: &str = "pg2";

#[track_caller]
fn sound(cluster: &Cluster) {
    assert_eq!(checks::pgbench_balanced(cluster), Ok(()));
    assert_eq!(checks::amcheck_ok(cluster), Ok(()));
    let pages = checked_pages(cluster).expect("no page is bad");
    assert!(pages > 1000, "only {pages} pages were looked at");
}

/// A backup under load, and more commits after it. Gives its id and the sums of all rows at the end.
#[track_caller]
fn backup_under_load(site: &CloudSite, options: &[&str]) -> (String, checks::Sums) {
    let load = Load::start(&site.cluster, 4);
    pass(Duration::from_millis(700));
    let id = site.backup(options);
    let at_backup: u64 = site.cluster.sql("SELECT count(*) FROM ticks").parse().expect("a number");
    pass(Duration::from_millis(700));
    load.stop();
    wait_until_quiet(&site.cluster);
    let at_end = checks::sums(&site.cluster);
    assert!(at_end["public.ticks"].0 > at_backup, "nothing was committed after the backup");
    site.cluster.archive_wal();
    (id, at_end)
}

/// The machine and its disks are lost. On another one there are new volumes, mounted below `place`, and a server that has all
/// rows.
#[track_caller]
fn comes_back(site: &mut CloudSite, id: &str, place: &Path, at_end: &checks::Sums) {
    site.lose_everything();
    assert!(!site.cluster.data().exists());
    let other = site.api.create_instance(OTHER, &json!({}));
    site.api.settings(&json!({"more": {"here": OTHER}}));
    let [data, ts] = CloudSite::places(place);
    let (target, tablespace) = (data.display().to_string(), format!("{TABLESPACE}:{}", ts.display()));
    let options = ["--snapshot-recovery-instance", OTHER, "--tablespace", &tablespace, "--format", "json"];
    let restored = parsed(&site.mounting("restore", &[&[id, &target], options.as_slice()].concat()));
    assert_eq!(restored["volumes"].as_array().map(Vec::len), Some(2), "{restored}");
    // AWS says the id.
    let is_on_other = |disk: &Thing| disk.more["instance"] == OTHER || disk.more["instance"] == other;
    let (made, rest): (Vec<_>, Vec<_>) = site.api.world().disks.into_iter().partition(is_on_other);
    assert!(made.len() >= 2, "both volumes are attached to {OTHER}: {rest:?}");
    let cluster = site.adopt(&data);
    cluster.start();
    wait_until_promoted(&cluster);
    assert_eq!(checks::sums(&cluster), *at_end);
    let tablespaces = cluster.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 10000");
    assert_eq!(tablespaces, ts.display().to_string());
    sound(&cluster);
}

/// `verify` on volumes that are thrown away.
#[track_caller]
fn is_proven(site: &CloudSite, id: &str, instance: &str) {
    let (disks, snapshots) = (site.disks(), site.snapshots());
    let bin = site.cluster.installation().bin().display().to_string();
    let sql = "SELECT count(*) > 0 FROM in_ts";
    let options = ["--snapshot-recovery-instance", instance, "--pg-bin-dir", &bin, "--sql", sql, "--format", "json"];
    let proof = parsed(&site.mounting("verify", &[&[id], options.as_slice()].concat()));
    assert_eq!(proof["passed"], true, "{proof:#}");
    assert_eq!((site.disks(), site.snapshots()), (disks, snapshots), "nothing is left of the verification");
    assert_eq!(site.json("show", &[id])[SERVER]["proofs"][0]["passed"], true);
}

/// `list` and `show` know it. Its snapshots are called as the stock tool calls them, by what the disks were called here.
#[track_caller]
fn is_listed(site: &CloudSite, id: &str, disks: [&str; 2]) {
    let list = site.json("list", &[]);
    assert_eq!(list["backups_list"][0]["backup_id"], id, "{list}");
    let shown = site.json("show", &[id])[SERVER].take();
    assert_eq!(shown["status"], "DONE");
    assert_eq!(shown["pgdata"], site.cluster.data().display().to_string());
    let info = &shown["snapshots_info"];
    assert_eq!(info["snapshots"].as_array().map(Vec::len), Some(2), "as stock tools read it: {info}");
    let mut names = disks.map(|disk| format!("{disk}-{}", id.to_lowercase()));
    names.sort();
    assert_eq!(site.snapshots(), names, "stock names");
}

/// `delete` leaves neither snapshots nor garbage.
#[track_caller]
fn is_deleted(site: &CloudSite, id: &str) {
    site.ok_in_cloud("delete", &["--backup-id", id]);
    assert_eq!(site.snapshots(), Vec::<String>::new());
    assert_eq!(site.json("list", &[])["backups_list"], json!([]));
    assert_eq!(site.ok_in_cloud("gc", &[]).text(), "nothing to remove");
}

/// Backup, restore after a disaster, verification, deletion; and all of it with the documented permissions.
fn nothing_is_missing(cloud: Cloud) {
    let installation = need!(Installation::of(17));
    let mut site = need!(CloudSite::plan(cloud, &installation).start());
    fill(&site.cluster, 1);
    site.api.settings(&json!({"cut_ms": 200, "ready_ms": 800}));
    check_is_content(&site);
    let (id, at_end) = backup_under_load(&site, &NAMED);
    is_listed(&site, &id, [DATA_DISK, TS_DISK]);
    is_proven(&site, &id, INSTANCE);
    let place = site.place().to_owned();
    comes_back(&mut site, &id, &place, &at_end);
    is_deleted(&site, &id);
    the_permissions_are_those_of_the_documentation(&site);
}

#[test]
fn nothing_is_missing_on_aws() {
    own_dev!();
    nothing_is_missing(Cloud::Aws);
}

#[test]
fn nothing_is_missing_on_gcp() {
    own_dev!();
    nothing_is_missing(Cloud::Gcp);
}

#[test]
fn nothing_is_missing_on_azure() {
    own_dev!();
    nothing_is_missing(Cloud::Azure);
}

/// The disks are found by what lies on them, and the backup is restored to other places than the original's.
fn disks_are_found(cloud: Cloud, disks: Value, options: &[&str]) -> Option<CloudSite> {
    let site = Installation::of(17).and_then(|one| CloudSite::plan(cloud, &one).disks(disks).start());
    let mut site = match site {
        Ok(site) => site,
        Err(missing) => {
            missing.report();
            return None;
        }
    };
    fill(&site.cluster, 1);
    site.api.reset();
    let (id, at_end) = backup_under_load(&site, options);
    let found: Vec<_> = [DATA_DISK, TS_DISK].iter().map(|disk| known_as(&site, disk)).collect();
    is_listed(&site, &id, [&found[0], &found[1]]);
    let place = site.place().join("elsewhere");
    comes_back(&mut site, &id, &place, &at_end);
    Some(site)
}

/// What a disk is called that nobody has named. A volume of AWS has an id; its name is only a tag, which may be missing.
fn known_as(site: &CloudSite, disk: &str) -> String {
    let is_this = |one: &Thing| one.name == disk;
    match site.api.cloud() {
        Cloud::Aws => site.api.world().disks.into_iter().find(is_this).expect("there is one").id,
        Cloud::Gcp | Cloud::Azure => disk.to_owned(),
    }
}

/// How often this was called.
fn count(site: &CloudSite, action: &str) -> usize {
    site.api.calls().iter().filter(|call| call.action == action && !call.dry_run).count()
}

#[test]
fn a_group_of_disks_of_aws_is_one_call() {
    own_dev!();
    let Some(site) = disks_are_found(Cloud::Aws, json!({}), &["--consistency", "group"]) else { return };
    assert_eq!((count(&site, "CreateSnapshots"), count(&site, "CreateSnapshot")), (1, 0));
}

#[test]
fn a_consistency_group_of_gcp_is_cut_at_once_and_promoted() {
    own_dev!();
    let disks = json!({"consistency_group": "pg"});
    let Some(site) = disks_are_found(Cloud::Gcp, disks, &["--consistency", "group"]) else { return };
    assert_eq!(count(&site, "compute.instantSnapshotGroups.create"), 1);
    assert_eq!(count(&site, "compute.snapshots.create"), 2);
    let left: Vec<_> = site.api.world().snapshots.into_iter().filter(|one| one.more["kind"] != "snapshots").collect();
    assert!(left.is_empty(), "the instant snapshots are gone: {left:?}");
}

#[test]
fn the_disks_of_a_machine_of_azure_are_found() {
    own_dev!();
    disks_are_found(Cloud::Azure, json!({}), &[]);
}

/// The lines of `check`: name, and whether it is all right.
fn check_lines(site: &CloudSite, rest: &[&str]) -> Vec<Value> {
    let ran = site.run_in_cloud("check", &[rest, &["--format", "json"]].concat());
    println!("{}", site.run_in_cloud("check", rest).stdout);
    let report = parsed(&ran);
    let lines = report["lines"].as_array().expect("it has lines").clone();
    assert_eq!(ran.success(), lines.iter().all(|line| line["ok"] == true), "{lines:#?}");
    for line in &lines {
        assert_ne!(line["detail"], "", "{line}");
        let hint = line["hint"].as_str().unwrap_or_default();
        assert!(line["ok"] == true || !hint.is_empty(), "what is to be done? {line}");
    }
    lines
}

fn is_ok(lines: &[Value], name: &str) -> Option<bool> {
    let named = |line: &&Value| line["name"].as_str().is_some_and(|found| found.contains(name));
    let mut found = lines.iter().filter(named).peekable();
    found.peek()?;
    Some(found.all(|line| line["ok"] == true))
}

#[track_caller]
fn check_is_content(site: &CloudSite) {
    // The archiver has something to show.
    site.cluster.archive_wal();
    let lines = check_lines(site, &[&["--snapshot-instance", INSTANCE], NAMED.as_slice()].concat());
    for name in
        ["catalog writable", "archiving", "instance", "disks attached", "disks mounted", "coverage", "permission"]
    {
        assert_eq!(is_ok(&lines, name), Some(true), "{name}: {lines:#?}");
    }
}

/// Each thing that is wrong fails its own line, which says what to do.
fn check_says_what_is_wrong(cloud: Cloud) {
    let installation = need!(Installation::of(17));
    let site = need!(CloudSite::plan(cloud, &installation).start());
    let instance = ["--snapshot-instance", INSTANCE];
    let failed = |rest: &[&str], name: &str| {
        let lines = check_lines(&site, rest);
        assert_eq!(is_ok(&lines, name), Some(false), "{name}: {lines:#?}");
    };
    failed(&["--snapshot-instance", "nobody"], "instance");
    failed(&[&instance, ["--snapshot-disk", "nothing"].as_slice()].concat(), "disks attached");
    site.api.create_disk("loose", 1, &json!({}));
    failed(&[&instance, NAMED.as_slice(), &["--snapshot-disk", "loose"]].concat(), "disks attached");
    site.api.attach(INSTANCE, "loose");
    failed(&[&instance, NAMED.as_slice(), &["--snapshot-disk", "loose"]].concat(), "disks mounted");
    failed(&[&instance, ["--snapshot-disk", DATA_DISK].as_slice()].concat(), "coverage");
    match cloud {
        Cloud::Aws => {
            let denied = [barman_snap_tests::cloud::Fault::denied("CreateSnapshot").always()];
            site.api.faults(&denied);
        }
        Cloud::Gcp => site.api.settings(&json!({"more": {"denied_permissions": ["compute.disks.createSnapshot"]}})),
        Cloud::Azure => site.api.settings(&json!({"more": {"not_actions": ["Microsoft.Compute/snapshots/write"]}})),
    }
    let independent = ["--consistency", "independent"];
    failed(&[&instance, NAMED.as_slice(), &independent].concat(), "permission");
}

#[test]
fn check_says_what_is_wrong_on_aws() {
    own_dev!();
    check_says_what_is_wrong(Cloud::Aws);
}

#[test]
fn check_says_what_is_wrong_on_gcp() {
    own_dev!();
    check_says_what_is_wrong(Cloud::Gcp);
}

#[test]
fn check_says_what_is_wrong_on_azure() {
    own_dev!();
    check_says_what_is_wrong(Cloud::Azure);
}

/// The actions that the documentation asks for.
fn documented(cloud: Cloud) -> BTreeSet<String> {
    let read =
        |name: &str| std::fs::read_to_string(checkout().join("docs/permissions").join(name)).expect("it is there");
    let json = |name: &str| serde_json::from_str::<Value>(&read(name)).expect("it is JSON");
    let texts = |value: &Value| match value {
        Value::Array(all) => all.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect(),
        one => vec![one.as_str().expect("it is text").to_owned()],
    };
    match cloud {
        Cloud::Aws => {
            let policy = json("aws-policy.json");
            let statements = policy["Statement"].as_array().expect("a list");
            let actions = statements.iter().flat_map(|statement| texts(&statement["Action"]));
            actions.map(|action| action.trim_start_matches("ec2:").to_owned()).collect()
        }
        Cloud::Gcp => {
            let role = read("gcp-role.yaml");
            let entries = role.lines().filter_map(|line| line.trim().strip_prefix("- "));
            entries.map(str::to_owned).collect()
        }
        Cloud::Azure => texts(&json("azure-role.json")["Actions"]).into_iter().collect(),
    }
}

/// Whether a call needs a permission of a role: not that of the object store, of the metadata server, of getting a token,
/// nor the question which permissions there are, which anybody may ask.
fn is_of_a_role(call: &Call) -> bool {
    let is_elsewhere = ["s3:", "sts:", "storage.", "metadata", "token"].iter().any(|one| call.action.starts_with(one));
    !is_elsewhere && !call.action.ends_with(".testIamPermissions")
}

#[track_caller]
fn the_permissions_are_those_of_the_documentation(site: &CloudSite) {
    let used: BTreeSet<String> = site.api.calls().into_iter().filter(is_of_a_role).map(|call| call.action).collect();
    let documented = documented(site.api.cloud());
    let not_documented: Vec<_> = used.difference(&documented).collect();
    assert!(not_documented.is_empty(), "used, and not in docs/permissions: {not_documented:?}");
    let not_used: BTreeSet<&str> = documented.difference(&used).map(String::as_str).collect();
    assert_eq!(not_used, not_used_here(site.api.cloud()).into_iter().collect(), "in docs/permissions");
}

/// What the documentation asks for, and no call of these commands is named after.
fn not_used_here(cloud: Cloud) -> Vec<&'static str> {
    let groups: &[&[&str]] = match cloud {
        Cloud::Aws => &[
            // The disks are cut by one call; see `conformance_aws` for the other.
            &["CreateSnapshot"],
            // --aws-copy-to, --aws-snapshot-lock-mode, --aws-fast-restore-zone.
            &["CopySnapshot", "LockSnapshot", "EnableFastSnapshotRestores"],
        ],
        Cloud::Gcp => &[
            // Asked for within the calls that make, label, and attach: these name a permission of their own.
            &["compute.disks.createSnapshot", "compute.snapshots.setLabels", "compute.snapshots.useReadOnly"],
            &["compute.disks.setLabels", "compute.disks.use"],
            // Consistency groups: `a_consistency_group_of_gcp_is_cut_at_once_and_promoted`.
            &["compute.instantSnapshotGroups.create", "compute.instantSnapshotGroups.get"],
            &["compute.instantSnapshotGroups.list", "compute.instantSnapshotGroups.delete"],
            &["compute.instantSnapshots.create", "compute.instantSnapshots.get", "compute.instantSnapshots.list"],
            &["compute.instantSnapshots.delete", "compute.instantSnapshots.useReadOnly"],
            &["compute.disks.createInstantSnapshot"],
            &["compute.resourcePolicies.get", "compute.resourcePolicies.useReadOnly"],
            // Regional disks.
            &["compute.regionOperations.get"],
        ],
        Cloud::Azure => &[
            // Asked for by the service when a snapshot reads a disk.
            &["Microsoft.Compute/disks/beginGetAccess/action"],
            // Looked at only when a snapshot has failed, for the reason.
            &["Microsoft.Compute/locations/DiskOperations/read"],
        ],
    };
    groups.concat()
}

/// Of two tablespaces that are left out one has a disk to itself, which is neither cut nor made again; the other comes along on the
/// disk of the data, and is emptied on the new volume.
#[test]
fn tablespaces_that_are_left_out_need_no_disk_and_come_back_empty() {
    own_dev!();
    let installation = need!(Installation::of(17));
    let site = need!(CloudSite::plan(Cloud::Gcp, &installation).start());
    let shared = site.place().join(DATA_DISK).join("shared");
    user::make_dir(&shared);
    site.cluster.sql(&format!("CREATE TABLESPACE shared LOCATION '{}'", shared.display()));
    for (table, tablespace) in [("kept", "pg_default"), ("lost", TABLESPACE), ("along", "shared")] {
        site.cluster
            .sql(&format!("CREATE TABLE {table} TABLESPACE {tablespace} AS SELECT generate_series(1, 1000) AS i"));
    }
    let out = ["--exclude-tablespace", TABLESPACE, "--exclude-tablespace", "shared"];
    site.ok_in_cloud("check", &out);
    let id = site.backup(&out);
    assert_eq!(site.snapshots().len(), 1, "{:?}", site.snapshots());
    for table in ["kept", "lost", "along"] {
        site.cluster.sql(&format!("INSERT INTO {table} VALUES (1001)"));
    }
    site.cluster.archive_wal();
    let bin = installation.bin().display().to_string();
    let options = ["--snapshot-recovery-instance", INSTANCE, "--pg-bin-dir", &bin, "--format", "json"];
    let proof = parsed(&site.mounting("verify", &[&[id.as_str()], options.as_slice()].concat()));
    assert_eq!(proof["passed"], true, "{proof:#}");

    let new = site.place().join("new");
    let [data, _] = CloudSite::places(&new);
    let places = [(TABLESPACE, new.join("far/away")), ("shared", new.join(DATA_DISK).join("shared"))];
    let mapping = places.clone().map(|(name, place)| format!("{name}:{}", place.display()));
    let options = ["--clone", "--tablespace", &mapping[0], "--tablespace", &mapping[1]];
    let target = data.display().to_string();
    let mount = ["--snapshot-recovery-instance", INSTANCE, "--format", "json"];
    let restored = parsed(&site.mounting("restore", &[&[id.as_str(), &target], &options[..], &mount].concat()));
    assert_eq!(restored["volumes"].as_array().map(Vec::len), Some(1), "{restored}");
    let cluster = site.adopt(&data);
    cluster.start();
    wait_until_promoted(&cluster);
    assert_eq!(cluster.sql("SELECT count(*) FROM kept"), "1001");
    for (table, (_, place)) in ["lost", "along"].iter().zip(&places) {
        assert!(place.is_dir());
        assert_ne!(cluster.sql(&format!("SELECT count(*) FROM {table}")), "1001", "not what came along");
        cluster.sql(&format!("TRUNCATE {table}; INSERT INTO {table} VALUES (1)"));
    }
    drop(cluster);
    assert_eq!(site.cluster.sql("SELECT count(*) FROM along"), "1001");
    is_deleted(&site, &id);
}
