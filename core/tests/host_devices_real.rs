//! Device discovery on this very machine: loop devices under names of a cloud, a partitioned one, btrfs over two, bind mounts;
//! and the capture of a made-up tree. What needs root says so and is skipped.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

mod support_fs;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use barman_snap::ErrorKind;
use barman_snap::host::devices::{AttachedDisk, DeviceHint, Disks, HostDescription};
use support_fs::{is_root, run, text};

/// A loop device on a sparse image, gone when dropped.
struct Loop {
    device: String,
    nodes: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
    directory: tempfile::TempDir,
}

impl Loop {
    /// Of `megabytes`, with one partition over nearly all of it if that is wanted.
    fn new(megabytes: u64, partitioned: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        if partitioned {
            fs::write(&image, partition_table((megabytes << 11) as u32)).unwrap();
            fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(megabytes << 20).unwrap();
        }
        let output = Command::new("losetup").args(["--find", "--show", "-P"]).arg(&image).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Self { device, nodes: Vec::new(), mounts: Vec::new(), directory }
    }

    fn sys_name(&self) -> &str {
        self.device.strip_prefix("/dev/").unwrap()
    }

    /// A node with the number of this device (or of its partition) under another name, as the test clouds make it.
    fn node(&mut self, name: &str) -> PathBuf {
        let number = fs::read_to_string(format!("/sys/block/{}/dev", self.sys_name())).unwrap();
        let (major, minor) = number.trim().split_once(':').unwrap();
        let node = Path::new("/dev").join(name);
        run("mknod", &[text(&node), "b", major, minor]).unwrap();
        self.nodes.push(node.clone());
        node
    }

    fn mount(&mut self, name: &str, arguments: &[&str]) -> PathBuf {
        let place = self.directory.path().join(name);
        fs::create_dir(&place).unwrap();
        run("mount", &[arguments, &[text(&place)]].concat()).unwrap();
        self.mounts.push(place.clone());
        place
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for place in self.mounts.iter().rev() {
            let _ = run("umount", &[text(place)]);
        }
        for node in &self.nodes {
            let _ = fs::remove_file(node);
        }
        // Partitions that partx has made do not go with the device.
        let _ = run("partx", &["-d", &self.device]);
        let _ = run("losetup", &["-d", &self.device]);
    }
}

/// A master boot record with one partition from sector 2048 to the end.
fn partition_table(sectors: u32) -> Vec<u8> {
    let mut sector = vec![0; 512];
    let mut entry = vec![0, 0, 2, 0, 0x83, 0xff, 0xff, 0xff];
    entry.extend(2048_u32.to_le_bytes());
    entry.extend((sectors - 2048).to_le_bytes());
    sector[446..462].copy_from_slice(&entry);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A device name that no other test on this machine uses: letters only, as of a disk.
fn unique(last: char) -> String {
    let letters: String = std::process::id().to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
    format!("q{letters}{last}")
}

fn attached(id: &str, api_name: &str) -> AttachedDisk {
    AttachedDisk { id: id.into(), hints: DeviceHint::ebs(id, Some(api_name)) }
}

/// True after saying that the test is skipped.
fn skipped() -> bool {
    if !is_root() {
        eprintln!("skipped: loop devices and mknod need root");
    } else if !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: the kernel has no loop devices");
    } else {
        return false;
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must have root and loop devices");
    true
}

#[test]
fn a_loop_device_under_a_name_of_the_cloud_is_found_with_its_bind_mounts() {
    if skipped() {
        return;
    }
    let mut disk = Loop::new(32, false);
    run("mkfs.ext4", &["-q", &disk.device.clone()]).unwrap();
    let name = unique('x');
    let node = disk.node(&format!("xvd{name}"));
    let place = disk.mount("data", &[text(&node)]);
    fs::create_dir(place.join("pg")).unwrap();
    let bound = disk.mount("bound", &["--bind", text(&place.join("pg"))]);
    let host = HostDescription::here().unwrap();
    let disks =
        Disks::on(&host, &[attached("vol-1", &format!("/dev/sd{name}")), attached("vol-2", "/dev/sdzzzz")]).unwrap();
    let found = &disks.named(&["vol-1".to_owned()]).unwrap()[0];
    assert_eq!(found.device.as_deref(), node.to_str());
    let places: Vec<_> =
        found.file_systems.iter().map(|one| (one.mount_point.as_path(), one.fs_root.as_path())).collect();
    assert_eq!(places, [(place.as_path(), Path::new("/")), (bound.as_path(), Path::new("/pg"))]);
    assert_eq!(found.file_systems[0].fs_type, "ext4");
    let volume = disks.holding(&[bound.join("17")]).unwrap()[0].volume("ebs", Default::default()).unwrap();
    assert_eq!((volume.root, volume.id.as_str()), (bound, "vol-1"));
    assert_eq!(disks.named(&["vol-2".to_owned()]).unwrap_err().kind(), ErrorKind::Precondition);
    // The root of this host lies on neither.
    let error = disks.holding(&[PathBuf::from("/proc")]).unwrap_err();
    assert!(error.message().contains("/proc (on proc, mounted on /proc)"), "{error}");
}

#[test]
fn a_partition_of_a_loop_device_is_followed_to_its_disk() {
    if skipped() {
        return;
    }
    let mut disk = Loop::new(32, true);
    let part = format!("{}p1", disk.device);
    if !Path::new(&part).exists() {
        // A kernel may know of no partition tables at all; then a program reads the table for it.
        run("partx", &["-a", &disk.device]).unwrap();
    }
    let name = unique('y');
    disk.node(&format!("xvd{name}"));
    let disks = [attached("vol-1", &format!("/dev/xvd{name}"))];
    let before = Disks::on(&HostDescription::here().unwrap(), &disks).unwrap();
    assert_eq!(before.all()[0].idle[0].device, part, "{:?}", before.all());
    run("mkfs.ext4", &["-q", &part]).unwrap();
    let place = disk.mount("data", &[&part]);
    let host = HostDescription::here().unwrap();
    let found = Disks::on(&host, &disks).unwrap().holding(&[place.join("pg")]).unwrap();
    let volume = found[0].volume("ebs", Default::default()).unwrap();
    assert_eq!((volume.root, volume.file_systems[0].part.as_str()), (place, "1"));
    let shown = host.find(&disks[0].hints).unwrap();
    assert_eq!(shown.parts[1], ("1".to_owned(), PathBuf::from(part)));
}

#[test]
fn btrfs_over_two_loop_devices_needs_both() {
    if skipped() {
        return;
    }
    let (mut one, mut two) = (Loop::new(160, false), Loop::new(160, false));
    if run("mkfs.btrfs", &["-q", &one.device, &two.device]).is_err() {
        eprintln!("skipped: no mkfs.btrfs");
        return;
    }
    let names = [unique('a'), unique('b')];
    one.node(&format!("xvd{}", names[0]));
    two.node(&format!("xvd{}", names[1]));
    let options = format!("device={},device={}", one.device, two.device);
    let device = two.device.clone();
    let place = one.mount("data", &["-o", &options, &device]);
    let ids = ["vol-1".to_owned(), "vol-2".to_owned()];
    let attached: Vec<AttachedDisk> =
        ids.iter().zip(&names).map(|(id, name)| attached(id, &format!("/dev/sd{name}"))).collect();
    let disks = Disks::on(&HostDescription::here().unwrap(), &attached).unwrap();
    assert_eq!(disks.holding(&[place.join("pg")]).unwrap().len(), 2);
    let error = disks.named(&ids[..1]).unwrap_err().to_string();
    assert!(error.contains("lies on vol-1 and vol-2 (add --snapshot-disk vol-2)"), "{error}");
    drop(disks);
    // The mount has to go before the second device does.
    run("umount", &[text(&place)]).unwrap();
    one.mounts.clear();
}

/// A tree as of a Nitro instance, with one volume; a second one is attached when it is asked for.
fn made_up(root: &Path) {
    let file = |path: &str, content: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    file(
        "proc/self/mountinfo",
        "26 1 259:1 / / rw shared:1 - ext4 /dev/nvme0n1p1 rw\n40 26 253:0 / /srv rw - xfs /dev/mapper/c rw\n",
    );
    file("proc/sys/kernel/hostname", "made-up\n");
    for (path, content) in [
        ("nvme0n1/dev", "259:0"),
        ("nvme0n1/size", "16384"),
        ("nvme0n1/nsid", "1"),
        ("nvme0n1/device/serial", "vol0aa              "),
        ("nvme0n1/device/model", "Amazon Elastic Block Store              "),
        ("nvme0n1/nvme0n1p1/dev", "259:1"),
        ("nvme0n1/nvme0n1p1/partition", "1"),
        ("nvme0n1/nvme0n1p2/dev", "259:2"),
        ("nvme0n1/nvme0n1p2/partition", "2"),
        ("nvme0n1/nvme0n1p2/holders/dm-0", ""),
        ("dm-0/dev", "253:0"),
        ("dm-0/dm/name", "c"),
        ("dm-0/dm/uuid", "CRYPT-LUKS2-c"),
        ("dm-0/slaves/nvme0n1p2", ""),
    ] {
        file(&format!("sys/block/{path}"), &format!("{content}\n"));
    }
    file("data/17/PG_VERSION", "17\n");
    for directory in ["dev/disk/azure/data/by-lun", "dev/disk/by-id", "data/17/pg_tblspc", "data/wal", "data/ts"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    symlink("../wal", root.join("data/17/pg_wal")).unwrap();
    symlink("/data/ts", root.join("data/17/pg_tblspc/16400")).unwrap();
    symlink("data", root.join("link")).unwrap();
    symlink("../../nvme0n1p2", root.join("dev/disk/by-id/some-part2")).unwrap();
    symlink("../../../../nvme0n1", root.join("dev/disk/azure/data/by-lun/0")).unwrap();
    symlink("nvme0n1", root.join("dev/sdf")).unwrap();
    symlink("/etc/passwd", root.join("dev/disk/by-id/nonsense")).unwrap();
}

#[test]
fn a_tree_is_captured_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    made_up(temp.path());
    let host = HostDescription::capture(temp.path(), &[PathBuf::from("/link/17"), PathBuf::from("/link")]).unwrap();
    assert_eq!(host.host, "made-up");
    let disk = &host.block_devices.iter().find(|device| device.name == "nvme0n1").unwrap();
    assert_eq!((disk.size, disk.serial.as_deref(), disk.nsid), (Some(16384 * 512), Some("vol0aa"), Some(1)));
    assert_eq!(disk.model.as_deref(), Some("Amazon Elastic Block Store"));
    let links: Vec<_> = host.links.iter().map(|(from, to)| format!("{from} {to}")).collect();
    assert_eq!(
        links,
        [
            "/dev/disk/azure/data/by-lun/0 /dev/nvme0n1",
            "/dev/disk/by-id/some-part2 /dev/nvme0n1p2",
            "/dev/sdf /dev/nvme0n1"
        ]
    );
    let real: Vec<_> = host.real_paths.iter().map(|(named, real)| format!("{named} {real}")).collect();
    assert_eq!(real, ["/data/17/pg_wal /data/wal", "/data/ts /data/ts", "/link /data", "/link/17 /data/17"]);
    let again = HostDescription::from_json(&host.to_json().unwrap()).unwrap();
    assert_eq!(again, host);
    let disks = Disks::on(&host, &[attached("vol-0aa", "/dev/sda1")]).unwrap();
    let parts: Vec<_> = disks.all()[0].file_systems.iter().map(|one| one.part.as_str()).collect();
    assert_eq!((parts, disks.all()[0].is_root), (vec!["1", "crypt:c"], true));
    let absent = HostDescription::capture(temp.path(), &[PathBuf::from("/not/there")]).unwrap_err();
    assert_eq!((absent.kind(), absent.message()), (ErrorKind::NotFound, "cannot find /not/there"));
    assert!(HostDescription::capture(&temp.path().join("data"), &[]).is_err());
}

#[test]
fn a_device_that_comes_late_is_found_when_it_is_there() {
    let temp = tempfile::tempdir().unwrap();
    made_up(temp.path());
    let hints = DeviceHint::ebs("vol-0bb", None);
    let look = || HostDescription::capture(temp.path(), &[]).unwrap().find(&hints);
    assert_eq!(look(), None);
    let directory = temp.path().join("sys/block/nvme1n1");
    fs::create_dir_all(directory.join("device")).unwrap();
    fs::write(directory.join("dev"), "259:9\n").unwrap();
    fs::write(directory.join("device/serial"), "vol0bb\n").unwrap();
    let shown = look().unwrap();
    assert_eq!(shown.device, Path::new("/dev/nvme1n1"));
    assert_eq!(shown.parts, [(String::new(), PathBuf::from("/dev/nvme1n1"))]);
}
