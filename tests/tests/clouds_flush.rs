//! What was written a moment before a backup, and by no `fsync`, is whole in a snapshot of a disk.

use std::fs::OpenOptions;
use std::io::Write;

use barman_snap_tests::cloud::{Cloud, CloudSite, INSTANCE, TABLESPACE, parsed};
use barman_snap_tests::pg::Installation;
use barman_snap_tests::{need, own_dev};

#[test]
fn a_setting_that_was_just_appended_is_whole_in_the_restored_directory() {
    own_dev!();
    let installation = need!(Installation::of(17));
    let site = need!(CloudSite::plan(Cloud::Aws, &installation).start());
    site.api.settings(&serde_json::json!({"cut_ms": 50, "ready_ms": 50}));
    let conf = site.cluster.data().join("postgresql.conf");
    let line = format!("# {}\n", "as the DBA has left it ".repeat(20));
    OpenOptions::new()
        .append(true)
        .open(&conf)
        .expect("it is there")
        .write_all(line.as_bytes())
        .expect("can be written");
    // A file that nobody but its writer knows, on the other file system.
    let [_, ts] = CloudSite::places(site.place());
    std::fs::write(ts.join("notes"), &line).expect("can be written");
    let before = std::fs::read(&conf).expect("can be read");

    let id = site.backup(&[]);
    let place = site.place().join("elsewhere");
    let [data, restored_ts] = CloudSite::places(&place);
    let (target, tablespace) = (data.display().to_string(), format!("{TABLESPACE}:{}", restored_ts.display()));
    let options = ["--snapshot-recovery-instance", INSTANCE, "--tablespace", &tablespace, "--format", "json"];
    parsed(&site.mounting("restore", &[&[id.as_str(), &target], options.as_slice()].concat()));
    let after = std::fs::read(data.join("postgresql.conf")).expect("it was restored");
    assert!(!after.contains(&0), "{} bytes are NUL", after.iter().filter(|byte| **byte == 0).count());
    assert_eq!(String::from_utf8_lossy(&after), String::from_utf8_lossy(&before));
    assert_eq!(std::fs::read_to_string(restored_ts.join("notes")).expect("it was restored"), line);
}
