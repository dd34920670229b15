//! From the disks of a cloud to mounts, on captured descriptions of every kind of machine (`fixtures/hosts`), and back from
//! paths to disks. The descriptions are composed of what the documentation of each cloud and of the kernel says such a machine
//! shows.
#![allow(clippy::unwrap_used, reason = "a test: a panic is the report")]

use std::path::{Path, PathBuf};

use barman_snap::ErrorKind;
use barman_snap::host::devices::{AttachedDisk, DeviceHint, DiskOnHost, Disks, HostDescription};
use proptest::prelude::*;

fn host(name: &str) -> HostDescription {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/hosts/{name}.json"));
    HostDescription::from_file(&path).unwrap()
}

fn disk(id: &str, hints: Vec<DeviceHint>) -> AttachedDisk {
    AttachedDisk { id: id.into(), hints }
}

/// EBS volumes that are attached under these names, on machines whose disks have no serial numbers.
fn xen(names: &[&str]) -> Vec<AttachedDisk> {
    names.iter().map(|name| disk(name, DeviceHint::ebs("vol-0aa", Some(&format!("/dev/sd{name}"))))).collect()
}

fn google(names: &[&str]) -> Vec<AttachedDisk> {
    names.iter().map(|name| disk(name, DeviceHint::google(name))).collect()
}

fn azure(luns: &[u32]) -> Vec<AttachedDisk> {
    luns.iter().map(|lun| disk(&format!("lun{lun}"), DeviceHint::azure(*lun))).collect()
}

/// One line per disk: `id device [part type mount point fs_root …]`.
fn show(disks: &[DiskOnHost]) -> Vec<String> {
    let line = |disk: &DiskOnHost| {
        let mut line = format!("{} {}", disk.id, disk.device.as_deref().unwrap_or("-"));
        for one in &disk.file_systems {
            line.push_str(&format!(
                " | {} {} {} {}",
                one.part,
                one.fs_type,
                one.mount_point.display(),
                one.fs_root.display()
            ));
            if !one.shared_with.is_empty() {
                line.push_str(&format!(" +{}", one.shared_with.join("+")));
            }
        }
        for idle in &disk.idle {
            line.push_str(&format!(" | {} {}", idle.device, if idle.is_swap { "swap" } else { "idle" }));
        }
        line + if disk.is_root { " root" } else { "" }
    };
    disks.iter().map(line).collect()
}

fn seen(name: &str, attached: &[AttachedDisk]) -> Vec<String> {
    show(Disks::on(&host(name), attached).unwrap().all())
}

fn ids(disks: &[DiskOnHost]) -> Vec<&str> {
    disks.iter().map(|disk| disk.id.as_str()).collect()
}

fn paths(paths: &[&str]) -> Vec<PathBuf> {
    paths.iter().map(PathBuf::from).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn on_xen_the_kernel_has_renamed_the_devices_of_the_api() {
    let found = seen("aws_xen", &xen(&["a1", "f", "z"]));
    assert_eq!(found[0], "a1 /dev/xvda | 1 ext4 / / root");
    assert_eq!(found[1], "f /dev/xvdf |  xfs /srv/pg /");
    assert_eq!(found[2], "z -");
}

fn nitro() -> Vec<AttachedDisk> {
    let volume = |id: &str, name: &str| disk(id, DeviceHint::ebs(id, Some(name)));
    vec![
        volume("vol-00000000000000001", "/dev/sda1"),
        // The API and the links of udev were crossed on purpose: only the serial number is right.
        volume("vol-0123456789abcdef0", "/dev/sdf"),
        volume("vol-0123456789abcdef1", "/dev/sdg"),
    ]
}

#[test]
fn on_nitro_the_serial_number_counts_and_not_the_name() {
    assert_eq!(
        seen("aws_nitro", &nitro()),
        [
            "vol-00000000000000001 /dev/nvme0n1 | 1 ext4 / / | 15 vfat /boot/efi / | /dev/nvme0n1p14 idle root",
            "vol-0123456789abcdef0 /dev/nvme2n1 |  xfs /srv/pg /",
            "vol-0123456789abcdef1 /dev/nvme1n1 | 1 ext4 /srv/pg/ts /",
        ]
    );
    let disks = Disks::on(&host("aws_nitro"), &nitro()).unwrap();
    let uuid = disks.all()[1].file_systems[0].uuid.as_deref();
    assert_eq!(uuid, Some("0b3f2e0c-5f0e-4c61-9d34-5d1e4b1f0a01"));
    // With and without the dash.
    let plain = [disk("v", vec![DeviceHint::Serial("vol0123456789abcdef0".into())])];
    assert_eq!(seen("aws_nitro", &plain), ["v /dev/nvme2n1 |  xfs /srv/pg /"]);
}

#[test]
fn a_name_that_leads_to_another_volume_is_not_followed() {
    let gone = [disk("vol-dead", DeviceHint::ebs("vol-dead", Some("/dev/sdf")))];
    assert_eq!(seen("aws_nitro", &gone), ["vol-dead -"]);
    let by_name = [disk("any", vec![DeviceHint::ApiName("/dev/sdf".into())])];
    assert_eq!(seen("aws_nitro", &by_name), ["any /dev/sdf | 1 ext4 /srv/pg/ts /"]);
}

#[test]
fn on_google_a_name_has_to_be_the_whole_name() {
    let found = seen("gcp_scsi", &google(&["data", "my-data", "regional", "ata"]));
    assert_eq!(found[0], "data /dev/sdc |  ext4 /srv/ts /");
    assert_eq!(found[1], "my-data /dev/sdb |  ext4 /srv/pg /");
    assert_eq!(found[2], "regional /dev/sdd |  xfs /srv/regional /");
    assert_eq!(found[3], "ata -");
}

#[test]
fn on_google_the_links_of_plain_udev_or_the_disk_itself_are_enough() {
    let found = seen("gcp_plain_udev", &google(&["data", "ts"]));
    assert_eq!(found, ["data /dev/sdb |  ext4 /srv/pg /", "ts /dev/sdc |  ext4 /srv/ts /"]);
}

#[test]
fn on_google_disks_on_nvme_have_the_same_links() {
    let found = seen("gcp_nvme", &google(&["persistent-disk-0", "data", "hyper"]));
    assert_eq!(found[0], "persistent-disk-0 /dev/nvme0n1 | 1 ext4 / / root");
    assert_eq!(found[1], "data /dev/nvme0n2 |  xfs /srv/pg /");
    assert_eq!(found[2], "hyper /dev/nvme0n3 |  xfs /srv/hyper /");
}

#[test]
fn on_azure_a_partitioned_scsi_disk_is_found_by_its_lun() {
    let found = seen("azure_scsi", &azure(&[0, 1, 10]));
    assert_eq!(found, ["lun0 /dev/sdc | 1 ext4 /srv/pg /", "lun1 /dev/sdd |  xfs /srv/ts /", "lun10 -"]);
}

#[test]
fn on_azure_nvme_disks_are_found_without_any_links_and_local_disks_are_not_taken_for_them() {
    let found = seen("azure_nvme", &azure(&[0, 1, 2]));
    assert_eq!(found, ["lun0 /dev/nvme0n2 |  xfs /srv/pg /", "lun1 -", "lun2 /dev/nvme0n4 | 1 xfs /srv/ts /"]);
}

#[test]
fn a_volume_group_over_two_disks_needs_both() {
    let disks = Disks::on(&host("lvm_two_disks"), &xen(&["f", "g"])).unwrap();
    assert_eq!(
        show(disks.all()),
        [
            "f /dev/xvdf | lvm:pg-vg/data-lv xfs /srv/pg / +g",
            "g /dev/xvdg | lvm:pg-vg/data-lv xfs /srv/pg / +f | lvm:pg-vg/ts ext4 /srv/ts /",
        ]
    );
    assert_eq!(ids(&disks.holding(&paths(&["/srv/pg/data"])).unwrap()), ["f", "g"]);
    assert_eq!(ids(&disks.holding(&paths(&["/srv/ts/x"])).unwrap()), ["g"]);
    let error = disks.named(&names(&["f"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert_eq!(
        error.to_string(),
        "a file system would be in the snapshots only in part: /srv/pg lies on f and g (add --snapshot-disk g)"
    );
    assert_eq!(ids(&disks.named(&names(&["g", "f"])).unwrap()), ["g", "f"]);
}

#[test]
fn encrypted_disks_are_followed_also_below_lvm_and_swap_is_told() {
    assert_eq!(
        seen("luks", &xen(&["f", "g"])),
        [
            "f /dev/xvdf | crypt:secret ext4 /srv/pg /",
            "g /dev/xvdg | lvm:vg/ts ext4 /srv/ts / | /dev/mapper/vg-swap swap"
        ]
    );
}

#[test]
fn md_arrays_are_followed_and_a_local_half_is_refused() {
    let disks = Disks::on(&host("md_raid"), &xen(&["f", "g", "h"])).unwrap();
    assert_eq!(
        show(disks.all()),
        [
            "f /dev/xvdf | md:md0p1 xfs /srv/pg / +g",
            "g /dev/xvdg | md:md0p1 xfs /srv/pg / +f",
            "h /dev/xvdh | md:md1 ext4 /srv/ts /",
        ]
    );
    assert_eq!(disks.all()[2].outside, ["/dev/xvdb"]);
    let named = disks.named(&names(&["h"])).unwrap_err().to_string();
    assert!(named.contains("/srv/ts lies on h and /dev/xvdb"), "{named}");
    let held = disks.holding(&paths(&["/srv/pg", "/srv/ts/a"])).unwrap_err().to_string();
    assert!(held.contains("/srv/ts/a (in part: /dev/md1, mounted on /srv/ts, lies also on /dev/xvdb)"), "{held}");
}

#[test]
fn one_disk_may_have_several_file_systems_and_each_several_mounts() {
    let disks = Disks::on(&host("partitions_and_binds"), &xen(&["f"])).unwrap();
    // What is mounted on /hidden cannot be reached: something else is mounted over it.
    assert_eq!(
        show(disks.all()),
        [
            "f /dev/xvdf | 1 ext4 /mnt/data / | 2 xfs /srv/ts / | 1 ext4 /srv/my pg /pg | /dev/xvdf3 swap | /dev/xvdf4 idle"
        ]
    );
    let held = disks.holding(&paths(&["/srv/my pg/17", "/srv/ts/x"])).unwrap();
    let volume = held[0].volume("ebs", Default::default()).unwrap();
    assert_eq!((volume.root.as_path(), volume.file_systems.len()), (Path::new("/srv/my pg"), 3));
    assert_eq!(volume.mount_options, "ro,relatime");
    assert_eq!(volume.file_systems[0].uuid.as_deref(), Some("6f1d3c1e-0000-4000-8000-000000000001"));
}

#[test]
fn btrfs_hides_its_devices_and_is_found_all_the_same() {
    let disks = Disks::on(&host("btrfs_two_disks"), &xen(&["f", "g"])).unwrap();
    let found = show(disks.all());
    assert_eq!(found[0], "f /dev/xvdf |  btrfs /mnt/pool / +g |  btrfs /srv/pg /pg +g");
    assert_eq!(found[1], "g /dev/xvdg |  btrfs /mnt/pool / +f |  btrfs /srv/pg /pg +f");
    let held = disks.holding(&paths(&["/srv/pg/17"])).unwrap();
    assert_eq!(held[1].file_systems[0].mount_point, Path::new("/srv/pg"));
    let error = disks.holding(&paths(&["/tank/17"])).unwrap_err().to_string();
    assert!(error.contains("/tank/17 (on tank/pg, mounted on /tank)"), "{error}");
}

#[test]
fn several_paths_to_one_disk_are_one_disk() {
    let attached = [disk("lun", vec![DeviceHint::Serial("60001".into())])];
    assert_eq!(seen("multipath", &attached), ["lun /dev/sda | 1 xfs /srv/pg /"]);
    let disks = Disks::on(&host("multipath"), &attached).unwrap();
    assert_eq!(ids(&disks.holding(&paths(&["/srv/pg"])).unwrap()), ["lun"]);
    assert!(disks.all()[0].outside.is_empty());
}

#[test]
fn a_node_that_sys_does_not_know_is_followed_by_its_number() {
    let mut attached = xen(&["f", "g"]);
    attached.push(disk("vol-0bed", DeviceHint::ebs("vol-0bed", None)));
    let found = seen("nodes_by_hand", &attached);
    assert_eq!(found[0], "f /dev/xvdf |  ext4 /srv/pg /");
    assert_eq!(found[2], "vol-0bed /dev/loop4 | 1 ext4 /srv/ts /");
    // A fake of /sys gives the loop device the serial number of another volume; then its name says nothing.
    assert_eq!(found[1], "g -");
}

#[test]
fn what_lies_on_no_disk_is_named_with_the_device_that_it_lies_on() {
    let disks = Disks::on(&host("aws_nitro"), &nitro()[1..]).unwrap();
    let wanted = paths(&["/srv/pg/17", "/scratch/ts", "/var/lib/pg", "/srv/pg/ts/x"]);
    let error = disks.holding(&wanted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert_eq!(
        error.to_string(),
        "not on any of the disks attached to ip-10-0-0-12: /scratch/ts (on /dev/nvme3n1, mounted on /scratch); \
         /var/lib/pg (on /dev/nvme0n1p1, mounted on /) (attached are vol-0123456789abcdef0 (/dev/nvme2n1), \
         vol-0123456789abcdef1 (/dev/nvme1n1))"
    );
    assert_eq!(
        ids(&disks.holding(&paths(&["/srv/pg/ts/x", "/srv/pg/17"])).unwrap()),
        ["vol-0123456789abcdef1", "vol-0123456789abcdef0"]
    );
}

#[test]
fn a_disk_that_cannot_be_used_says_why() {
    let disks = Disks::on(&host("aws_xen"), &xen(&["f", "z"])).unwrap();
    let absent = disks.named(&names(&["f", "q"])).unwrap_err();
    assert_eq!((absent.kind(), absent.message()), (ErrorKind::NotFound, "not attached to ip-10-0-0-11: q"));
    let hidden = disks.named(&names(&["f", "z"])).unwrap_err().to_string();
    assert!(hidden.contains("no such device on ip-10-0-0-11: z (looked for serial number vol0aa, "), "{hidden}");
    let mut idle = host("aws_xen");
    idle.mountinfo =
        idle.mountinfo.lines().filter(|line| !line.contains("xvdf")).map(|line| format!("{line}\n")).collect();
    let idle = Disks::on(&idle, &xen(&["f"])).unwrap();
    let error = idle.named(&names(&["f"])).unwrap_err().to_string();
    assert!(error.starts_with("not mounted on ip-10-0-0-11: f (/dev/xvdf)"), "{error}");
    assert!(idle.all()[0].volume("ebs", Default::default()).is_err());
    let lines = idle.findings(&names(&["f"])).lines;
    let verdicts: Vec<_> = lines.iter().map(|line| (line.name.as_str(), line.ok)).collect();
    assert_eq!(verdicts, [("disks on the host", true), ("disks mounted", false), ("disks complete", true)]);
}

#[test]
fn what_lies_on_a_new_disk_can_be_asked_for_part_by_part() {
    let parts = |name: &str, disk: &AttachedDisk| {
        let found = host(name).find(&disk.hints).unwrap();
        found.parts.into_iter().map(|(part, path)| format!("{part}={}", path.display())).collect::<Vec<_>>()
    };
    assert_eq!(parts("azure_scsi", &azure(&[0])[0]), ["=/dev/sdc", "1=/dev/sdc1"]);
    assert_eq!(
        parts("luks", &xen(&["g"])[0]),
        [
            "=/dev/xvdg",
            "crypt:vault=/dev/mapper/vault",
            "lvm:vg/ts=/dev/mapper/vg-ts",
            "lvm:vg/swap=/dev/mapper/vg-swap"
        ]
    );
    assert!(host("aws_xen").find(&xen(&["z"])[0].hints).is_none());
}

#[test]
fn the_golden_file_is_read_and_written_as_it_is() {
    let golden = include_str!("fixtures/hosts/aws_nitro.json");
    let description = HostDescription::from_json(golden).unwrap();
    let now: serde_json::Value = serde_json::from_str(&description.to_json().unwrap()).unwrap();
    assert_eq!(now, serde_json::from_str::<serde_json::Value>(golden).unwrap());
    assert_eq!(description.real_path(Path::new("/var/lib/postgresql/17/main")).unwrap(), Path::new("/srv/pg/17/main"));
}

#[test]
fn the_servers_of_a_host_are_read_and_written_as_they_are() {
    let golden = include_str!("fixtures/hosts/servers.json");
    let description = HostDescription::from_json(golden).unwrap();
    let now: serde_json::Value = serde_json::from_str(&description.to_json().unwrap()).unwrap();
    let mut wanted: serde_json::Value = serde_json::from_str(golden).unwrap();
    // The same moment may be written in two ways.
    let started = &mut wanted["servers"]["/var/lib/postgresql/17/main"]["identity"]["started"];
    let same = |text: &str| chrono::DateTime::parse_from_rfc3339(text).unwrap();
    let written = now["servers"]["/var/lib/postgresql/17/main"]["identity"]["started"].clone();
    assert_eq!(same(started.as_str().unwrap()), same(written.as_str().unwrap()));
    *started = written;
    assert_eq!(now, wanted);
    assert!(description.server(Path::new("/var/lib/postgresql/17/other")).unwrap().identity.is_none());
    assert!(host("aws_nitro").server(Path::new("/var/lib/postgresql/17/main")).is_err(), "an older one says nothing");
}

/// Everything that reads a description, with hints of every kind.
fn use_it(description: &HostDescription) {
    let mut attached = nitro();
    attached.extend(google(&["data"]));
    attached.extend(azure(&[0, u32::MAX]));
    attached.extend(xen(&["f", "", "a1"]));
    let Ok(disks) = Disks::on(description, &attached) else { return };
    let everything: Vec<String> = attached.iter().map(|disk| disk.id.clone()).collect();
    let _ = disks.named(&everything);
    let _ = disks.findings(&everything);
    let _ = disks.holding(&paths(&["/", "/srv/pg", "relative", ""]));
    for disk in disks.all() {
        let _ = disk.volume("ebs", Default::default());
    }
    for disk in &attached {
        let _ = description.find(&disk.hints);
    }
}

const FIXTURES: [&str; 14] = [
    "aws_xen",
    "aws_nitro",
    "gcp_scsi",
    "gcp_plain_udev",
    "gcp_nvme",
    "azure_scsi",
    "azure_nvme",
    "lvm_two_disks",
    "luks",
    "md_raid",
    "partitions_and_binds",
    "btrfs_two_disks",
    "multipath",
    "nodes_by_hand",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}", head in any::<bool>()) {
        let text = if head { format!(r#"{{"version": 1, "host": "h", "mountinfo": {text:?}}}"#) } else { text };
        if let Ok(description) = HostDescription::from_json(&text) {
            use_it(&description);
        }
    }

    /// Names and numbers of a real description are exchanged for each other: circles, doubles and danglers come about.
    #[test]
    fn no_mixed_up_description_makes_anything_panic(which in 0..FIXTURES.len(), swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12)) {
        let mut value = serde_json::to_value(host(FIXTURES[which])).unwrap();
        let mut texts: Vec<String> = Vec::new();
        collect(&value, &mut texts);
        for (from, to) in swaps {
            let mut at = from.index(texts.len());
            replace(&mut value, &mut at, &texts[to.index(texts.len())]);
        }
        if let Ok(description) = HostDescription::from_json(&value.to_string()) {
            use_it(&description);
        }
    }
}

fn collect(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => into.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        serde_json::Value::Object(fields) => fields.values().for_each(|item| collect(item, into)),
        _ => {}
    }
}

/// Replaces the text number `at`, counted as [`collect`] does.
fn replace(value: &mut serde_json::Value, at: &mut usize, with: &str) {
    match value {
        serde_json::Value::String(text) => {
            if *at == 0 {
                *text = with.to_owned();
            }
            *at = at.wrapping_sub(1);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| replace(item, at, with)),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(|item| replace(item, at, with)),
        _ => {}
    }
}
