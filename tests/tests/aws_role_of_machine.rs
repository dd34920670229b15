//! On a machine of AWS nothing has to be configured: the instance, its region and the credentials come from the metadata
//! service (version 2), for the snapshots as for the catalog in S3.

use barman_snap_tests::cloud::{Cloud, CloudSite, DATA_DISK, TS_DISK, parsed};
use barman_snap_tests::command::{Ran, attempt};
use barman_snap_tests::pg::Installation;
use barman_snap_tests::site::SERVER;
use barman_snap_tests::{need, own_dev};
use serde_json::json;

/// Runs a command whose environment names neither a key nor a region.
fn run(site: &CloudSite, metadata: &str, args: &[&str]) -> Ran {
    let mut command = site.snap.command(args);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"] {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "false").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata);
    attempt(&mut command)
}

#[test]
fn a_machine_with_a_role_backs_itself_up_without_any_configuration() {
    own_dev!();
    let installation = need!(Installation::newest());
    let site = need!(CloudSite::plan(Cloud::Aws, &installation).size_gib(1).without_archiving().start());
    // Another machine is there, too, and is not taken for this one.
    site.api.create_instance("other", &json!({}));
    let metadata = site.api.metadata().expect("AWS has a metadata service").to_owned();
    let url = site.api.catalog();
    site.api.reset();

    let backup = ["backup", url, SERVER, "--snapshot-provider", "aws", "--immediate-checkpoint"];
    let id = run(&site, &metadata, &backup).expect_success().text().to_owned();
    let mut names = [DATA_DISK, TS_DISK].map(|disk| site.snapshot_name(disk, &id));
    names.sort();
    assert_eq!(site.snapshots(), names, "those of this machine's disks, which nobody named");
    let calls = site.api.calls();
    let asked = |what: &str| calls.iter().any(|call| call.action == "metadata" && call.resource.ends_with(what));
    for what in ["api/token", "instance-id", "placement/region", "iam/security-credentials/barman-snap"] {
        assert!(asked(what), "{what} was not asked for");
    }
    let list = parsed(&run(&site, &metadata, &["list", url, SERVER, "--format", "json"]).expect_success());
    assert_eq!(list["backups_list"][0]["backup_id"], id.as_str());
    // The snapshots say by themselves in which region they are.
    let delete = ["delete", url, SERVER, "--snapshot-provider", "aws", "--backup-id", &id];
    run(&site, &metadata, &delete).expect_success();
    assert_eq!(site.snapshots(), Vec::<String>::new());
}

#[test]
fn a_machine_without_metadata_and_keys_says_so() {
    own_dev!();
    let installation = need!(Installation::newest());
    let site = need!(CloudSite::plan(Cloud::Aws, &installation).size_gib(1).without_archiving().start());
    // Nothing listens there.
    let backup = ["-q", "backup", site.api.catalog(), SERVER, "--snapshot-provider", "aws"];
    let ran = run(&site, "http://127.0.0.1:9", &backup);
    assert!(!ran.success() && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    assert_eq!(site.snapshots(), Vec::<String>::new());
}
