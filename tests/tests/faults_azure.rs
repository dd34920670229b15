//! Every call of the Resource Manager that a backup makes is refused, failed, left without an answer, and robbed of its reply.
//! After each there is either a backup in the catalog with its snapshots, or nothing: no snapshot that belongs to nobody.

use std::collections::BTreeSet;

use barman_snap_tests::cloud::{Cloud, CloudSite, DATA_DISK, Fault, INSTANCE, TS_DISK};
use barman_snap_tests::command::Ran;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::{need, own_dev};
use serde_json::{Value, json};

const SUBSCRIPTION: &str = "00000000-1111-2222-3333-444444444444";

/// What a backup asks the Resource Manager, and before it the service that gives tokens.
const CALLS: [&str; 6] = [
    "token",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/disks/read",
    "Microsoft.Authorization/permissions/read",
    "Microsoft.Compute/snapshots/read",
    "Microsoft.Compute/snapshots/write",
];

const KINDS: [&str; 5] = ["throttle", "fail", "hang", "lost reply", "denied"];

fn fault(kind: &str, action: &str) -> Fault {
    match kind {
        "throttle" => Fault::throttle(action).seconds(1.0),
        "fail" => Fault::fail(action),
        "hang" => Fault::hang(action, 1.0),
        "lost reply" => Fault::lost_reply(action),
        _ => Fault::denied(action).always(),
    }
}

/// A command with the options of this cloud.
fn run(site: &CloudSite, command: &str, rest: &[&str]) -> Ran {
    let cloud = ["--snapshot-provider", "azure", "--azure-endpoint", site.api.endpoint()];
    let place = ["--azure-subscription-id", SUBSCRIPTION, "--azure-resource-group", "rg1"];
    site.run(command, &[&cloud[..], &place, rest].concat())
}

fn backups(site: &CloudSite) -> Vec<String> {
    let list = site.ok("list", &["--format", "json"]);
    let list: Value = serde_json::from_str(list.text()).expect("it is JSON");
    let all = list["backups_list"].as_array().expect("it is a list");
    let done = all.iter().filter(|backup| backup["status"] == "DONE");
    done.map(|backup| backup["backup_id"].as_str().expect("it is text").to_owned()).collect()
}

#[test]
fn whatever_goes_wrong_there_is_a_backup_or_nothing() {
    own_dev!();
    let installation = need!(Installation::newest());
    let site = need!(CloudSite::plan(Cloud::Azure, &installation).size_gib(1).start());
    site.api.settings(&json!({"cut_ms": 50, "ready_ms": 200, "more": {"poll_s": 0}}));
    let backup = |site: &CloudSite| {
        let disks = ["--snapshot-disk", DATA_DISK, "--snapshot-disk", TS_DISK];
        run(site, "backup", &[&["--snapshot-instance", INSTANCE, "--immediate-checkpoint"][..], &disks].concat())
    };
    // None of the calls is forgotten here.
    let id = backup(&site).expect_success().text().to_owned();
    let made: BTreeSet<String> = site.api.calls().into_iter().map(|call| call.action).collect();
    assert!(made.iter().all(|action| CALLS.contains(&action.as_str())), "a backup also calls some of {made:?}");
    run(&site, "delete", &["--backup-id", &id]).expect_success();
    assert!(site.api.world().snapshots.is_empty());

    let mut table = format!("{:<42} {}\n", "", KINDS.map(|kind| format!("{kind:<12}")).concat());
    let mut counts = [0, 0];
    for action in CALLS {
        table += &format!("{action:<42} ");
        for kind in KINDS {
            site.api.reset();
            site.api.settings(&json!({"cut_ms": 50, "ready_ms": 200, "more": {"poll_s": 0}}));
            site.api.faults(&[fault(kind, action)]);
            let ran = backup(&site);
            site.api.faults(&[]);
            if !ran.success() {
                run(&site, "recover", &[]).expect_success();
            }
            let (listed, snapshots) = (backups(&site), site.api.world().snapshots);
            let what = format!("{action}, {kind}: {}", ran.stderr);
            assert_eq!(snapshots.len(), 2 * listed.len(), "{what}{snapshots:#?}");
            assert_eq!(listed.len(), usize::from(ran.success()), "{what}");
            counts[usize::from(ran.success())] += 1;
            table += &format!("{:<12}", if ran.success() { "published" } else { "clean" });
            for id in listed {
                run(&site, "delete", &["--backup-id", &id]).expect_success();
            }
            assert!(site.api.world().snapshots.is_empty(), "{what}");
        }
        table += "\n";
    }
    eprintln!("{table}{} published, {} clean, 0 orphans", counts[1], counts[0]);
    assert!(counts[1] >= 15, "what is refused once does not end a backup");
}
