//! Every call to Google Cloud that a backup makes, broken in every way: throttled once, failed once, hung, robbed of its reply,
//! refused for a missing permission. Each time the backup is published, or after `recover` nothing of it is left; no snapshot
//! exists that the catalog does not know. Prints the table.
#![allow(clippy::unwrap_used, reason = "a panic is a failure")]

use std::collections::BTreeSet;

use barman_snap_tests::cloud::{Cloud, CloudSite, Fault};
use barman_snap_tests::pg::Installation;
use barman_snap_tests::{need, own_dev};
use serde_json::json;

const BACKUP: &[&str] = &["--snapshot-provider", "gcp"];

/// A way to break a call.
type Break = (&'static str, fn(&str) -> Fault);

const WAYS: [Break; 5] = [
    ("throttled", |action| Fault::throttle(action).seconds(1.0)),
    ("failed", Fault::fail),
    ("hung", |action| Fault::hang(action, 1.0)),
    ("reply lost", Fault::lost_reply),
    ("denied", Fault::denied),
];

#[test]
fn a_backup_is_published_or_leaves_nothing_whatever_call_is_broken() {
    own_dev!();
    let installation = need!(Installation::newest());
    let site = need!(CloudSite::plan(Cloud::Gcp, &installation).size_gib(1).start());
    site.api.settings(&json!({"cut_ms": 20, "ready_ms": 300}));
    // What a backup asks for is what the log says, not what this test believes.
    site.ok("backup", BACKUP);
    let actions: BTreeSet<String> = site.api.calls().into_iter().map(|call| call.action).collect();
    let actions: Vec<String> = actions
        .into_iter()
        .filter(|action| action.starts_with("compute.") || action.ends_with("objects.create"))
        .collect();
    assert!(actions.contains(&"compute.snapshots.create".to_owned()), "{actions:?}");
    clean(&site);
    let mut table = format!("{:<36}", "call");
    for (way, _) in WAYS {
        table += &format!("{way:<14}");
    }
    let (mut published, mut undone) = (0, 0);
    for action in &actions {
        table += &format!("\n{action:<36}");
        for (way, broken) in WAYS {
            site.api.faults(&[broken(action)]);
            let done = site.run("backup", BACKUP);
            site.api.faults(&[]);
            let what = if done.success() { "published" } else { "undone" };
            table += &format!("{what:<14}");
            if done.success() {
                published += 1;
            } else {
                undone += 1;
                assert!(!done.stderr.trim().is_empty(), "{action} {way}: an error says what was wrong");
                site.ok("recover", &[]);
            }
            let known = backups(&site).len();
            assert_eq!(known, usize::from(done.success()), "{action} {way}: {}", done.stderr);
            let world = site.api.world();
            assert_eq!(world.snapshots.len(), 2 * known, "{action} {way} leaves orphans: {:?}", world.snapshots);
            clean(&site);
        }
    }
    println!("{table}\n\n{published} published, {undone} undone, 0 orphans, {} calls", actions.len());
}

/// The ids of the backups.
fn backups(site: &CloudSite) -> Vec<String> {
    let listed: serde_json::Value = serde_json::from_str(site.ok("list", &["--format", "json"]).text()).unwrap();
    let backups = listed["backups_list"].as_array().expect("it is a list");
    backups.iter().map(|backup| backup["backup_id"].as_str().unwrap().to_owned()).collect()
}

/// Deletes all backups: six snapshots of a disk within an hour are all that Google allows.
fn clean(site: &CloudSite) {
    for id in backups(site) {
        site.ok("delete", &["--backup-id", &id]);
    }
    assert!(site.api.world().snapshots.is_empty(), "a deleted backup leaves no snapshot");
    site.api.reset();
    site.api.settings(&json!({"cut_ms": 20, "ready_ms": 300}));
}
