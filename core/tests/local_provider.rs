//! The local provider where things are not as they should be: nested file systems, no space, no rights, dead processes.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

mod support_fs;
mod support_local;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use barman_snap::ErrorKind;
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::host::{MountTable, PgPaths, check_nested, cover};
use barman_snap::id::{IdSource, SystemIds};
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method, SNAPSHOT_DIRECTORY};
use barman_snap::provider::{CreateVolumeRequest, SnapshotProvider, SnapshotState, Ticket};
use support_fs::{Kind, is_root, mounted, run, text};
use support_local::{holding, make_cluster, provider, request, settled, take};

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_a_cluster_are_found_by_themselves() {
    let (Some(btrfs), Some(xfs)) = (mounted(Kind::Btrfs, 512), mounted(Kind::Xfs, 512)) else { return };
    let data = btrfs.subvolume("pg").join("data");
    make_cluster(&data);
    let wal = xfs.directory("wal");
    std::fs::remove_dir(data.join("pg_wal")).unwrap();
    std::os::unix::fs::symlink(&wal, data.join("pg_wal")).unwrap();
    let inside = data.join("ts_inside");
    std::fs::create_dir(&inside).unwrap();
    let paths = PgPaths::look_up(&data, &[]).unwrap();
    assert_eq!(paths.real(), [data.clone(), wal.clone()]);
    let provider = LocalProvider::default();
    let mut wanted = paths.real();
    wanted.push(inside);
    let volumes = holding(&provider, &wanted).await;
    let found: Vec<_> = volumes.iter().map(|volume| (volume.root.clone(), volume.method.as_str())).collect();
    assert_eq!(found, [(btrfs.path().join("pg"), "btrfs"), (wal, "reflink")]);
    let mounts = MountTable::current().unwrap();
    let placed = cover(&paths, &volumes, &mounts).require().unwrap();
    assert_eq!(placed[0].subtree, Path::new("data"));
    let error = cover(&paths, &volumes[..1], &mounts).require().unwrap_err();
    assert!(error.to_string().contains(&format!("--snapshot-disk {}", xfs.path().display())), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subvolume_inside_of_the_cluster_is_noticed() {
    let Some(fs) = mounted(Kind::Btrfs, 512) else { return };
    let data = fs.subvolume("pg");
    make_cluster(&data);
    let nested = fs.subvolume("pg/base/2");
    for method in [Method::Btrfs, Method::Reflink] {
        let provider = provider(method);
        let volumes = holding(&provider, std::slice::from_ref(&data)).await;
        let error = provider.check_requests(&[request(&provider, &volumes[0]).await]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.message().contains(text(&nested)), "{error}");
        let paths = PgPaths::look_up(&data, &[]).unwrap();
        assert!(check_nested(&paths, &volumes, SNAPSHOT_DIRECTORY).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_directory_that_is_a_mount_of_its_own_is_a_volume_and_no_error() {
    let Some(fs) = mounted(Kind::Btrfs, 512) else { return };
    let data = fs.subvolume("pg");
    make_cluster(&data);
    std::fs::remove_dir(data.join("pg_wal")).unwrap();
    let wal = fs.subvolume("pg/pg_wal");
    std::fs::write(wal.join("segment"), "wal").unwrap();
    let provider = LocalProvider::default();
    let paths = PgPaths::look_up(&data, &[]).unwrap();
    let volumes = holding(&provider, &paths.real()).await;
    assert_eq!(volumes.iter().map(|volume| volume.root.clone()).collect::<Vec<_>>(), [data, wal]);
    check_nested(&paths, &volumes, SNAPSHOT_DIRECTORY).unwrap();
    for volume in &volumes {
        let ticket = take(&provider, volume).await;
        provider.delete(&ticket).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_space_is_refused_with_numbers_before_anything_is_made() {
    let Some(fs) = mounted(Kind::Ext4, 128) else { return };
    let data = fs.directory("data");
    make_cluster(&data);
    std::fs::write(data.join("base/1/big"), vec![1; 60 << 20]).unwrap();
    let provider = LocalProvider::default();
    let volumes = holding(&provider, &[data]).await;
    let error = provider.check_requests(&[request(&provider, &volumes[0]).await]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.message().contains("MiB needed") && error.message().contains("MiB free"), "{error}");
    assert!(!fs.path().join(SNAPSHOT_DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_runs_out_of_space_fails_with_the_reason_and_can_be_deleted() {
    let Some(fs) = mounted(Kind::Ext4, 256) else { return };
    let data = fs.directory("data");
    make_cluster(&data);
    let provider = LocalProvider::default();
    let volumes = holding(&provider, std::slice::from_ref(&data)).await;
    let request = request(&provider, &volumes[0]).await;
    provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
    // It was small when it was looked at.
    std::fs::write(data.join("base/1/big"), vec![1; 120 << 20]).unwrap();
    let ticket = provider.create(&request).await.unwrap().remove(0);
    match settled(&provider, &ticket).await {
        SnapshotState::Failed { reason } => {
            assert!(reason.contains("No space left") || reason.contains("MiB free"), "{reason}");
        }
        state => panic!("{state:?}"),
    }
    let wanted = CreateVolumeRequest {
        ticket: ticket.clone(),
        token: SystemIds.token(),
        subtree: PathBuf::new(),
        destination: Some(fs.path().join("restored")),
        exclude_content: Vec::new(),
        instance: None,
        mark: String::new(),
    };
    assert_eq!(provider.create_volume(&wanted).await.unwrap_err().kind(), ErrorKind::Precondition);
    provider.delete(&ticket).await.unwrap();
    assert!(!fs.path().join(SNAPSHOT_DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_come_and_go_and_change_do_not_break_a_copy() {
    let Some(fs) = mounted(Kind::Xfs, 512) else { return };
    let data = fs.directory("data");
    make_cluster(&data);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let churn = {
        let (stop, data) = (stop.clone(), data.clone());
        std::thread::spawn(move || {
            for n in 0_u64.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let path = data.join(format!("base/1/{}", n % 97));
                let _ = std::fs::write(&path, vec![n as u8; (n as usize % 7) * 10_000]);
                let _ = std::fs::remove_file(data.join(format!("base/1/{}", (n * 31) % 97)));
                let directory = data.join(format!("base/{}", 2 + n % 5));
                let _ = std::fs::create_dir(&directory);
                let _ = std::fs::remove_dir(&directory);
            }
        })
    };
    let outcome = async {
        for method in [Method::Reflink, Method::Copy] {
            let provider = provider(method);
            let volumes = holding(&provider, std::slice::from_ref(&data)).await;
            for _ in 0..10 {
                let ticket = take(&provider, &volumes[0]).await;
                let tree = Path::new(&ticket.snapshot);
                assert_eq!(std::fs::read(tree.join("global/pg_control")).unwrap(), vec![7; 8192]);
                provider.delete(&ticket).await.unwrap();
            }
        }
    };
    outcome.await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    churn.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_checksums_are_shared_on_btrfs_as_well() {
    let Some(fs) = mounted(Kind::Btrfs, 512) else { return };
    let data = fs.directory("data");
    run("chattr", &["+C", text(&data)]).unwrap();
    make_cluster(&data);
    let provider = provider(Method::Reflink);
    let volumes = holding(&provider, &[data]).await;
    let ticket = take(&provider, &volumes[0]).await;
    assert_eq!(provider.status(&ticket).await.unwrap().bytes_copied, Some(0));
    provider.delete(&ticket).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_cannot_be_used_as_a_data_directory_and_restores_with_its_mode() {
    let Some(fs) = mounted(Kind::Xfs, 512) else { return };
    let data = fs.directory("data");
    make_cluster(&data);
    run("chown", &["-R", "postgres:postgres", text(&data)]).unwrap();
    let owner = data.metadata().unwrap().uid();
    let provider = LocalProvider::default();
    let volumes = holding(&provider, std::slice::from_ref(&data)).await;
    let ticket = take(&provider, &volumes[0]).await;
    let snapshot = Path::new(&ticket.snapshot).metadata().unwrap();
    assert_eq!((snapshot.mode() & 0o7777, snapshot.uid()), (0o500, owner));
    let wanted = CreateVolumeRequest {
        ticket: ticket.clone(),
        token: SystemIds.token(),
        subtree: PathBuf::new(),
        destination: Some(fs.path().join("restored")),
        exclude_content: Vec::new(),
        instance: None,
        mark: String::new(),
    };
    let volume = provider.create_volume(&wanted).await.unwrap();
    let restored = fs.path().join("restored").metadata().unwrap();
    assert_eq!((restored.mode() & 0o7777, restored.uid()), (0o700, owner));
    assert_eq!(volume.bytes_copied, Some(0), "blocks are shared");
    // A server that runs there protects it.
    let pid_file = fs.path().join("restored/postmaster.pid");
    std::fs::write(&pid_file, format!("{}\n{}\n", std::process::id(), fs.path().join("restored").display())).unwrap();
    assert_eq!(provider.delete_volume(&volume).await.unwrap_err().kind(), ErrorKind::Precondition);
    std::fs::write(&pid_file, format!("{}\n{}\n", std::process::id(), data.display())).unwrap();
    provider.delete_volume(&volume).await.unwrap();
    provider.delete(&ticket).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_a_snapshot_does_not_lead_a_restore_elsewhere() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().canonicalize().unwrap();
    let data = base.join("data");
    make_cluster(&data);
    std::os::unix::fs::symlink("/etc", data.join("elsewhere")).unwrap();
    let options =
        LocalOptions { method: Method::Copy, snapshot_directory: Some(base.clone()), ..LocalOptions::default() };
    let provider = LocalProvider::new(options);
    let volumes = holding(&provider, &[data]).await;
    let ticket = take(&provider, &volumes[0]).await;
    for subtree in ["elsewhere", "..", "../../..", "/etc"] {
        let wanted = CreateVolumeRequest {
            ticket: ticket.clone(),
            token: SystemIds.token(),
            subtree: subtree.into(),
            destination: Some(base.join("restored")),
            exclude_content: Vec::new(),
            instance: None,
            mark: String::new(),
        };
        provider.create_volume(&wanted).await.unwrap_err();
        assert!(!base.join("restored").exists(), "{subtree}");
    }
    // Nor does one in the place of the snapshot.
    let (tree, moved, outside) = (PathBuf::from(&ticket.snapshot), base.join("moved"), base.join("outside"));
    std::fs::rename(&tree, &moved).unwrap();
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    std::os::unix::fs::symlink(&outside, &tree).unwrap();
    for subtree in ["", "sub"] {
        let wanted = CreateVolumeRequest {
            ticket: ticket.clone(),
            token: SystemIds.token(),
            subtree: subtree.into(),
            destination: Some(base.join("restored")),
            exclude_content: Vec::new(),
            instance: None,
            mark: String::new(),
        };
        provider.create_volume(&wanted).await.unwrap_err();
        assert!(!base.join("restored").exists(), "{subtree}");
    }
    std::fs::remove_file(&tree).unwrap();
    std::fs::rename(&moved, &tree).unwrap();
    provider.delete(&ticket).await.unwrap();
}

const CHILD: &str = "BARMAN_SNAP_TEST_CHILD";

/// Runs one test of this program in another process, as another user if asked.
fn child(test: &str, directory: &Path, user: Option<&str>) -> Command {
    let program = directory.join("program");
    if !program.exists() {
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    }
    let mut command = match user {
        None => Command::new(&program),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(&program);
            command
        }
    };
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, directory);
    command.current_dir("/");
    command
}

/// The part that runs in the process to be killed: starts a copy, tells its ticket, and waits.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed_in_the_middle_of_a_copy() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let directory = PathBuf::from(directory);
    let provider = provider(Method::Copy);
    let volumes = holding(&provider, &[directory.join("data")]).await;
    let request = request(&provider, &volumes[0]).await;
    let ticket = provider.create(&request).await.unwrap().remove(0);
    std::fs::write(directory.join("ticket.tmp"), serde_json::to_vec(&ticket).unwrap()).unwrap();
    std::fs::rename(directory.join("ticket.tmp"), directory.join("ticket")).unwrap();
    SystemClock::new().sleep(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remains_of_a_killed_process_are_failed_and_can_be_deleted() {
    let Some(fs) = mounted(Kind::Ext4, 4096) else { return };
    let data = fs.directory("data");
    make_cluster(&data);
    for n in 0..40 {
        std::fs::write(data.join(format!("base/1/big{n}")), vec![n; 32 << 20]).unwrap();
    }
    let mut running = child("child_that_is_killed_in_the_middle_of_a_copy", fs.path(), None)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let clock = SystemClock::new();
    let ticket_file = fs.path().join("ticket");
    for _ in 0..10_000 {
        if ticket_file.exists() {
            break;
        }
        clock.sleep(Duration::from_millis(1)).await;
    }
    let ticket: Ticket = serde_json::from_slice(&std::fs::read(&ticket_file).unwrap()).unwrap();
    let provider = provider(Method::Copy);
    assert_eq!(provider.status(&ticket).await.unwrap().state, SnapshotState::Creating, "seen from another process");
    let error = provider.delete(&ticket).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, barman_snap::Retry::Safe));
    running.kill().unwrap();
    running.wait().unwrap();
    let volumes = holding(&provider, &[data]).await;
    assert_eq!(provider.find(&ticket.token, &volumes).await.unwrap(), std::slice::from_ref(&ticket));
    match provider.status(&ticket).await.unwrap().state {
        SnapshotState::Failed { reason } => assert!(reason.contains("has died"), "{reason}"),
        state => panic!("{state:?}"),
    }
    provider.delete(&ticket).await.unwrap();
    assert_eq!(provider.find(&ticket.token, &volumes).await.unwrap(), []);
    assert!(!fs.path().join(SNAPSHOT_DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_copied_but_not_flushed_is_completed_by_the_next() {
    let Some(fs) = mounted(Kind::Ext4, 4096) else { return };
    let data = fs.directory("data");
    make_cluster(&data);
    for n in 0..20 {
        std::fs::write(data.join(format!("base/1/big{n}")), vec![n; 32 << 20]).unwrap();
    }
    let mut running = child("child_that_is_killed_in_the_middle_of_a_copy", fs.path(), None)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let clock = SystemClock::new();
    let place = fs.path().join(SNAPSHOT_DIRECTORY);
    let noted = || std::fs::read_dir(&place).is_ok_and(|mut all| all.any(|e| is_note(&e.unwrap().file_name())));
    for _ in 0..60_000 {
        if noted() {
            break;
        }
        clock.sleep(Duration::from_millis(1)).await;
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let ticket: Ticket = serde_json::from_slice(&std::fs::read(fs.path().join("ticket")).unwrap()).unwrap();
    let provider = provider(Method::Copy);
    let status = provider.status(&ticket).await.unwrap();
    assert_eq!(status.state, SnapshotState::Ready);
    assert!(status.bytes_copied.unwrap() >= 20 * (32 << 20));
    assert!(!noted(), "the note is gone when the record says it all");
    provider.delete(&ticket).await.unwrap();
}

fn is_note(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.ends_with(".copied"))
}

/// The part that runs as an unprivileged user.
#[tokio::test(flavor = "multi_thread")]
async fn child_without_privileges() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    assert!(!is_root());
    let directory = PathBuf::from(directory);
    let expected = std::fs::read_to_string(directory.join("method")).unwrap();
    let data = directory.join("data");
    make_cluster(&data);
    // It may write to the data directory, where snapshots are not to lie, and has another place.
    let provider = LocalProvider::default();
    let volumes = holding(&provider, std::slice::from_ref(&data)).await;
    let error = provider.check_requests(&[request(&provider, &volumes[0]).await]).await.unwrap_err();
    assert!(error.to_string().contains("--snapshot-directory"), "{error}");
    let snapshot_directory = Some(directory.join("mine"));
    let provider = LocalProvider::new(LocalOptions { snapshot_directory, ..LocalOptions::default() });
    let volumes = holding(&provider, &[data]).await;
    assert_eq!(volumes[0].method, expected);
    let ticket = take(&provider, &volumes[0]).await;
    let wanted = CreateVolumeRequest {
        ticket: ticket.clone(),
        token: SystemIds.token(),
        subtree: PathBuf::new(),
        destination: Some(directory.join("mine/restored")),
        exclude_content: Vec::new(),
        instance: None,
        mark: String::new(),
    };
    let volume = provider.create_volume(&wanted).await.unwrap();
    assert_eq!(std::fs::read(directory.join("mine/restored/base/1/9")).unwrap(), vec![9; 65536]);
    provider.delete_volume(&volume).await.unwrap();
    provider.delete(&ticket).await.unwrap();
    assert!(!Path::new(&ticket.snapshot).parent().unwrap().exists());
    std::fs::write(directory.join("mine/done"), "").unwrap();
}

#[test]
fn the_owner_of_the_data_needs_no_privilege() {
    for (kind, options, method) in [
        (Kind::Btrfs, "loop", "btrfs"),
        (Kind::Btrfs, "loop,user_subvol_rm_allowed", "btrfs"),
        (Kind::Xfs, "loop", "reflink"),
        (Kind::Ext4, "loop", "copy"),
    ] {
        let fs = match support_fs::Mounted::with_options(kind, 512, options) {
            Ok(fs) => fs,
            Err(why) => return eprintln!("skipped: no {kind:?} file system: {why}"),
        };
        let own = if method == "btrfs" { fs.subvolume("data") } else { fs.directory("data") };
        for path in [own, fs.directory("mine")] {
            run("chown", &["postgres:postgres", text(&path)]).unwrap();
        }
        std::fs::write(fs.path().join("method"), method).unwrap();
        let output = child("child_without_privileges", fs.path(), Some("postgres")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && fs.path().join("mine/done").exists(), "{method} {options}: {said}");
    }
}

#[test]
fn a_user_without_a_writable_place_is_told_so() {
    if !is_root() {
        return eprintln!("skipped: needs root to become another user");
    }
    let Some(fs) = mounted(Kind::Btrfs, 512) else { return };
    make_cluster(&fs.subvolume("data"));
    run("chmod", &["-R", "a+rX", text(fs.path())]).unwrap();
    fs.directory("mine");
    let output = child("child_that_may_not_write", fs.path(), Some("postgres")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The part that runs as a user who owns nothing.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_may_not_write() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let provider = LocalProvider::default();
    let volumes = holding(&provider, &[PathBuf::from(directory).join("data")]).await;
    assert_eq!(volumes[0].method, "copy", "neither a foreign subvolume nor a place to share blocks with");
    let error = provider.check_requests(&[request(&provider, &volumes[0]).await]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}
