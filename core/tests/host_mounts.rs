//! The mount table against what findmnt says of the same host.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

mod support_fs;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use barman_snap::host::MountTable;
use support_fs::{Kind, mounted, run, text};

/// Tests that mount and tests that compare all mounts must not meet.
static MOUNTS: Mutex<()> = Mutex::new(());

/// What findmnt says of the mount that this path is on; of several on one place it prints the topmost last.
fn findmnt(path: &Path, column: &str) -> Option<String> {
    let output = Command::new("findmnt").args(["-n", "-o", column, "--target", text(path)]).output().ok()?;
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().last().unwrap_or_default().trim().to_owned())
}

/// Other tests mount and unmount meanwhile; only what was said of an unchanged table counts.
fn agrees(path: &Path) {
    for _ in 0..20 {
        let before = MountTable::current().unwrap();
        let result = std::panic::catch_unwind(|| agrees_now(path));
        if before == MountTable::current().unwrap() || result.is_ok() {
            return result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
    panic!("the mounts of this host do not hold still");
}

fn agrees_now(path: &Path) {
    let table = MountTable::current().unwrap();
    let mount = table.of_path(path).unwrap();
    let Some(options) = findmnt(path, "OPTIONS") else {
        eprintln!("skipped: no findmnt");
        return;
    };
    assert_eq!(mount.options, options, "options of {}", path.display());
    assert_eq!(Some(mount.fs_type.clone()), findmnt(path, "FSTYPE"), "type of {}", path.display());
    assert_eq!(Some(mount.mount_point.display().to_string()), findmnt(path, "TARGET"), "place of {}", path.display());
    assert_eq!(Some(mount.device_number.clone()), findmnt(path, "MAJ:MIN"));
}

#[test]
fn every_mount_of_this_host_has_the_options_that_findmnt_prints() {
    let _alone = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let table = MountTable::current().unwrap();
    for mount in table.iter() {
        let is_there = || MountTable::current().unwrap().of_path(&mount.mount_point) == Some(mount);
        if is_there() && mount.mount_point.exists() {
            agrees(&mount.mount_point);
        }
    }
}

#[test]
fn bind_mounts_subvolumes_and_read_only_views_agree_with_findmnt() {
    let _alone = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(fs) = mounted(Kind::Btrfs, 256) else { return };
    fs.subvolume("pg");
    let view = fs.directory("a view");
    let device = findmnt(fs.path(), "SOURCE").unwrap();
    run("mount", &["-o", "subvol=/pg,ro,noatime", &device, text(&view)]).unwrap();
    let bind = fs.directory("bind");
    run("mount", &["--bind", text(&fs.directory("plain")), text(&bind)]).unwrap();
    run("mount", &["-o", "remount,bind,ro", text(&bind)]).unwrap();
    let result = std::panic::catch_unwind(|| {
        agrees(fs.path());
        agrees(&view);
        agrees(&bind);
        let table = MountTable::current().unwrap();
        assert_eq!(table.of_path(&view.join("x")).unwrap().fs_root, Path::new("/pg"));
        assert!(table.of_path(&bind).unwrap().options.starts_with("ro,"));
        let below: Vec<_> = table.below(fs.path()).iter().map(|mount| mount.mount_point.clone()).collect();
        assert_eq!(below, [view.clone(), bind.clone()]);
    });
    run("umount", &[text(&bind)]).unwrap();
    run("umount", &[text(&view)]).unwrap();
    result.unwrap();
}

#[test]
fn of_two_mounts_on_one_place_the_last_one_counts() {
    let _alone = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(fs) = mounted(Kind::Ext4, 64) else { return };
    run("mount", &["-t", "tmpfs", "tmpfs", text(fs.path())]).unwrap();
    let result = std::panic::catch_unwind(|| {
        agrees(fs.path());
        assert_eq!(MountTable::current().unwrap().of_path(fs.path()).unwrap().fs_type, "tmpfs");
    });
    run("umount", &[text(fs.path())]).unwrap();
    result.unwrap();
    assert_eq!(MountTable::current().unwrap().of_path(fs.path()).unwrap().fs_type, "ext4");
}
