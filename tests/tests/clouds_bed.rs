//! The fakes of the clouds as the tests use them: disks that are lost and come back from snapshots with a server on them,
//! and nothing that is left behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use barman_snap_tests::cloud::{Api, Cloud, CloudSet, CloudSite, DATA_DISK, Fault, GuestFs, INSTANCE, TS_DISK, http};
use barman_snap_tests::command::run;
use barman_snap_tests::load::{Load, fill};
use barman_snap_tests::pg::{Installation, Stop};
use barman_snap_tests::wait::{pass, wait_for};
use barman_snap_tests::{checks, need, own_dev};
use serde_json::json;

/// A call of EC2, without a client: its XML, or the code of its error.
fn ec2(api: &Api, action: &str, parameters: &[(&str, &str)]) -> Result<String, String> {
    let scope = "Credential=test/20260101/us-east-1/ec2/aws4_request";
    let authorization = format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
    ];
    let mut body = format!("Action={action}&Version=2016-11-15");
    for (name, value) in parameters {
        body.extend(["&", name, "=", value]);
    }
    let answer = http::ask(api.endpoint(), "POST", "/", &headers, &body).map_err(|error| error.to_string())?;
    let text = answer.clone().ok().map_err(|_| elements(&answer.body, "Code").concat())?;
    Ok(text)
}

/// The contents of all elements of this name.
fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned())).collect()
}

/// Snapshots of both disks of a site at one instant: disk name to snapshot id.
fn aws_snapshots(api: &Api) -> BTreeMap<String, String> {
    let world = api.world();
    let instance = &world.instances.iter().find(|thing| thing.name == INSTANCE).expect("it runs").id;
    let chosen =
        [("InstanceSpecification.InstanceId", instance.as_str()), ("InstanceSpecification.ExcludeBootVolume", "true")];
    let made = ec2(api, "CreateSnapshots", &chosen).expect("they are made");
    let volumes = elements(&made, "volumeId")
        .into_iter()
        .map(|id| world.disks.iter().find(|disk| disk.id == id).expect("it was made of one of the disks").name.clone());
    volumes.zip(elements(&made, "snapshotId")).collect()
}

/// A new disk of a snapshot; its id. Waits until the snapshot can be used.
fn aws_disk_from(api: &Api, snapshot: &str) -> String {
    let ask = [("SnapshotId", snapshot), ("AvailabilityZone", "us-east-1a")];
    let made =
        wait_for("the snapshot to be complete", Duration::from_secs(10), || match ec2(api, "CreateVolume", &ask) {
            Err(code) if code == "IncorrectState" => None,
            answer => Some(answer.expect("a volume can be made")),
        });
    elements(&made, "volumeId").swap_remove(0)
}

/// A server under load loses its machine and all its disks. On disks made of snapshots that were taken meanwhile,
/// without backup mode, it has every transaction that was committed before the snapshots were asked for, and none from
/// after their cut.
fn a_server_comes_back_from_snapshots(fs: GuestFs) {
    let installation = need!(Installation::of(17));
    let mut site = need!(CloudSite::plan(Cloud::Aws, &installation).on(fs).without_archiving().start());
    site.api.settings(&json!({"cut_ms": 50, "ready_ms": 300}));
    fill(&site.cluster, 2);
    let ticks = "SELECT count(*), (SELECT count(*) FROM in_ts) FROM ticks";
    let load = Load::start(&site.cluster, 4);
    pass(Duration::from_secs(1));

    let counts = |text: String| {
        let (ticks, rows) = text.split_once('|').expect("two columns");
        [ticks, rows].map(|count| count.parse::<u64>().expect("a number"))
    };
    let before = counts(site.cluster.sql(ticks));
    let snapshots = aws_snapshots(&site.api);
    let after = counts(site.cluster.sql(ticks));
    pass(Duration::from_millis(500));
    load.stop();
    let at_last = counts(site.cluster.sql(ticks));
    let (new_data, new_ts) =
        (aws_disk_from(&site.api, &snapshots[DATA_DISK]), aws_disk_from(&site.api, &snapshots[TS_DISK]));
    site.lose_everything();
    assert!(!site.cluster.data().exists());

    site.mount(&new_data, DATA_DISK);
    site.mount(&new_ts, TS_DISK);
    site.cluster.start();
    assert!(site.cluster.log().contains("automatic recovery in progress"), "{}", site.cluster.log());
    let found = counts(site.cluster.sql(ticks));
    for kind in 0..2 {
        assert!(before[kind] <= found[kind] && found[kind] <= after[kind], "{before:?} {found:?} {after:?}");
        assert!(found[kind] < at_last[kind], "the load had ended before the snapshots: {at_last:?}");
    }
    assert_eq!(checks::pgbench_balanced(&site.cluster), Ok(()));
    assert_eq!(checks::amcheck_ok(&site.cluster), Ok(()));
    site.cluster.stop(Stop::Fast);
    assert!(checks::checksums_ok(&installation, site.cluster.data()).expect("no page is bad") > 1000);
}

#[test]
fn a_server_on_ext4_comes_back_from_snapshots_of_aws() {
    own_dev!();
    a_server_comes_back_from_snapshots(GuestFs::Ext4);
}

#[test]
fn a_server_on_xfs_comes_back_from_snapshots_of_aws() {
    own_dev!();
    a_server_comes_back_from_snapshots(GuestFs::Xfs);
}

#[test]
fn disks_are_mounted_by_the_names_of_their_cloud_and_nothing_is_left() {
    own_dev!();
    let installation = need!(Installation::newest());
    let plan = CloudSite::plan(Cloud::Aws, &installation).size_gib(1).instance(json!({"instance_type": "m5.large"}));
    let site = need!(plan.start());
    // On Nitro; the other tests are on Xen.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    assert!(mounts.contains(" - ext4 /dev/nvme1n1 ") && mounts.contains(" - ext4 /dev/nvme2n1 "), "{mounts}");
    let world = site.api.world();
    let disk = world.disks.iter().find(|disk| disk.name == TS_DISK).expect("it is there");
    assert_eq!(disk.more["paths"][0], "/dev/nvme2n1");
    assert_eq!(site.cluster.sql("SELECT count(*) FROM pg_tablespace WHERE spcname = 'ts'"), "1");
    // Through the archive_command, so our own client finds the object store.
    site.cluster.archive_wal();
    assert!(site.api.calls().iter().any(|call| call.action == "s3:PutObject" && call.status == Some(200)));

    let place: PathBuf = site.place().to_owned();
    drop(site);
    assert!(!place.exists());
    assert!(!std::fs::exists("/dev/nvme1n1").expect("/dev can be read"));
    let devices = run(Command::new("losetup").args(["--noheadings", "--output", "BACK-FILE"]));
    let ours = format!("bsnap-{}-", std::process::id());
    assert!(!devices.stdout.contains(&ours), "a loop device is left: {}", devices.stdout);
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").expect("it can be read").contains(&ours));
}

#[test]
fn faults_hit_the_calls_they_are_meant_for() {
    own_dev!();
    let set = need!(CloudSet::start(&[Cloud::Aws]));
    let api = set.of(Cloud::Aws);
    api.create_instance(INSTANCE, &json!({}));
    let [data, ts] = [DATA_DISK, TS_DISK].map(|name| api.create_disk(name, 1, &json!({})));
    api.faults(&[
        Fault::throttle("CreateSnapshot").on(DATA_DISK).skip(1),
        Fault::denied("LockSnapshot").always(),
        Fault::lost_reply("CreateSnapshot").on(TS_DISK),
    ]);
    let create = |volume: &str| ec2(api, "CreateSnapshot", &[("VolumeId", volume)]);
    let first = elements(&create(&data).expect("one passes"), "snapshotId").swap_remove(0);
    assert_eq!(create(&data), Err("RequestLimitExceeded".to_owned()));
    let lock = [("SnapshotId", first.as_str()), ("LockMode", "governance"), ("LockDuration", "1"), ("DryRun", "true")];
    assert_eq!(ec2(api, "LockSnapshot", &lock), Err("UnauthorizedOperation".to_owned()));
    assert!(create(&ts).is_err_and(|error| error.contains("without an answer")));
    assert_eq!(api.world().snapshots.len(), 2);
    let calls: Vec<_> = api.calls().into_iter().map(|call| (call.action, call.status, call.dry_run)).collect();
    let expected = [
        ("CreateSnapshot", 200, false),
        ("CreateSnapshot", 503, false),
        ("LockSnapshot", 403, true),
        ("CreateSnapshot", 0, false),
    ];
    assert_eq!(calls, expected.map(|(action, status, dry)| (action.to_owned(), Some(status), dry)));
    api.reset();
    assert!(api.calls().is_empty());
}
