//! The description of a host, which another one has written: no text may make the reader or the search for disks panic.
#![no_main]

use std::path::PathBuf;

use barman_snap::host::devices::{AttachedDisk, DeviceHint, Disks, HostDescription};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(host) = HostDescription::from_json(text) else { return };
    let hints = [DeviceHint::ebs("vol-0123456789abcdef0", Some("/dev/sdf")), DeviceHint::google("data"), DeviceHint::azure(0)];
    let disk = |(at, hints): (usize, Vec<DeviceHint>)| AttachedDisk { id: at.to_string(), hints };
    let attached: Vec<AttachedDisk> = hints.into_iter().enumerate().map(disk).collect();
    let ids: Vec<String> = attached.iter().map(|disk| disk.id.clone()).collect();
    let disks = Disks::on(&host, &attached).expect("a description whose mounts were read");
    let _ = disks.named(&ids);
    let _ = disks.findings(&ids);
    let _ = disks.holding(&[PathBuf::from("/srv/pg"), PathBuf::from("/")]);
    for disk in &attached {
        let _ = host.find(&disk.hints);
    }
    let again = HostDescription::from_json(&host.to_json().expect("plain data")).expect("what was written must read");
    assert_eq!(again, host);
});
