//! Clouds that are not kind: they limit rates for longer than a client likes, do not say for how long, list what there was a
//! moment ago, and forbid one call for all disks. The backup is taken all the same. Fakes as in `clouds_e2e`.

use barman_snap_tests::cloud::{Cloud, CloudSite, DATA_DISK, Fault, INSTANCE, TS_DISK, parsed};
use barman_snap_tests::pg::Installation;
use barman_snap_tests::{need, own_dev};
use serde_json::{Value, json};

const ON: [&str; 6] = ["--snapshot-instance", INSTANCE, "--snapshot-disk", DATA_DISK, "--snapshot-disk", TS_DISK];

macro_rules! site {
    ($cloud:expr, $disks:tt) => {{
        own_dev!();
        let installation = need!(Installation::newest());
        let plan = CloudSite::plan($cloud, &installation).size_gib(1).disks(json!($disks));
        let site = need!(plan.without_archiving().segment_mib(1).start());
        site.api.settings(&json!({"cut_ms": 20, "ready_ms": 100, "lag_ms": 300, "more": {"poll_s": 0}}));
        site
    }};
}

fn backup(site: &CloudSite, rest: &[&str]) -> String {
    let disks = ["--snapshot-disk", DATA_DISK, "--snapshot-disk", TS_DISK];
    site.backup(&[&disks, rest].concat())
}

/// The lines of `check`, by name.
fn check(site: &CloudSite) -> Value {
    let ran = site.run_in_cloud("check", &[&ON[..], &["--format", "json"]].concat());
    parsed(&ran)
}

/// One snapshot of each disk.
#[track_caller]
fn is_whole(site: &CloudSite, id: &str) {
    let names = [DATA_DISK, TS_DISK].map(|disk| format!("{disk}-{}", id.to_lowercase()));
    assert_eq!(site.snapshots(), names);
}

#[test]
fn limits_of_rate_do_not_fail_a_backup_on_azure() {
    let site = site!(Cloud::Azure, {});
    let (write, read) = ("Microsoft.Compute/snapshots/write", "Microsoft.Compute/snapshots/read");
    // Twice without a word on when to come again; and reads for longer than one call has patience.
    site.api
        .faults(&[Fault::throttle(write).on(DATA_DISK).times(2), Fault::throttle(read).times(5).skip(3).seconds(1.0)]);
    let id = backup(&site, &["--call-timeout", "2"]);
    is_whole(&site, &id);
}

#[test]
fn limits_of_rate_do_not_fail_a_backup_on_aws() {
    let site = site!(Cloud::Aws, {});
    site.api
        .faults(&[Fault::throttle("CreateSnapshot").times(1), Fault::throttle("DescribeSnapshots").times(6).skip(3)]);
    let id = backup(&site, &["--call-timeout", "2", "--consistency", "independent"]);
    is_whole(&site, &id);
}

#[test]
fn limits_of_rate_do_not_fail_a_backup_on_gcp() {
    let site = site!(Cloud::Gcp, {});
    let reads = Fault::throttle("compute.snapshots.get").times(5).skip(2).seconds(1.0);
    site.api.faults(&[Fault::throttle("compute.snapshots.create").seconds(1.0), reads]);
    let id = backup(&site, &["--call-timeout", "2"]);
    is_whole(&site, &id);
}

#[test]
fn where_aws_forbids_one_call_for_all_each_disk_is_cut_by_its_own() {
    let site = site!(Cloud::Aws, {});
    site.api.faults(&[Fault::denied("CreateSnapshots").always()]);
    let report = check(&site).to_string();
    assert!(report.contains("each volume by a call of its own"), "{report}");
    let id = backup(&site, &[]);
    is_whole(&site, &id);
    let forced = site.run_in_cloud("backup", &[&ON[..], &["--consistency", "group"]].concat());
    assert_eq!(forced.code(), 1);
    assert!(forced.stderr.contains("ec2:CreateSnapshots"), "{}", forced.stderr);
}

#[test]
fn where_google_forbids_groups_each_disk_is_cut_by_its_own() {
    let site = site!(Cloud::Gcp, {"consistency_group": "pg"});
    // It cannot be known beforehand: the role may look at groups, and make none.
    site.api.settings(&json!({"more": {"denied_permissions": ["compute.instantSnapshotGroups.create"]}}));
    let first = backup(&site, &[]);
    is_whole(&site, &first);
    site.ok_in_cloud("delete", &["--backup-id", &first]);
    // It knows nothing of groups.
    let verbs = ["create", "get", "list", "delete"].map(|verb| format!("compute.instantSnapshotGroups.{verb}"));
    site.api.settings(&json!({"more": {"denied_permissions": verbs}}));
    let second = backup(&site, &[]);
    is_whole(&site, &second);
    let recovered = site.run_in_cloud("recover", &[]);
    assert!(recovered.success(), "{}", recovered.stderr);
}

#[test]
fn check_asks_about_the_snapshots_of_older_backups() {
    let site = site!(Cloud::Aws, {});
    let line = |report: &Value| {
        let text = report.to_string();
        let at = text.find("permission to delete snapshots").unwrap_or_else(|| panic!("{text}"));
        text[at.saturating_sub(400)..(at + 600).min(text.len())].to_owned()
    };
    assert!(line(&check(&site)).contains("cannot be known before there is one"));
    backup(&site, &[]);
    assert!(line(&check(&site)).contains("a dry run was not refused"));
    site.api.faults(&[Fault::denied("DeleteSnapshot").always()]);
    assert!(line(&check(&site)).contains("ec2:DeleteSnapshot"));
}
