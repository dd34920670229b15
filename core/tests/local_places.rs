//! Where local snapshots may lie, and which borders inside of a cluster are no reason to refuse it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

mod support_fs;
mod support_local;

use std::path::PathBuf;

use barman_snap::ErrorKind;
use barman_snap::id::{IdSource, SystemIds};
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method, SNAPSHOT_DIRECTORY};
use barman_snap::provider::{CreateVolumeRequest, SnapshotProvider, Ticket, VolumeSelection};
use support_fs::{Kind, mounted, run, text};
use support_local::{holding, make_cluster, provider, request, take};

fn wanted(ticket: &Ticket, destination: PathBuf) -> CreateVolumeRequest {
    CreateVolumeRequest {
        ticket: ticket.clone(),
        token: SystemIds.token(),
        subtree: PathBuf::new(),
        destination: Some(destination),
        instance: None,
        mark: String::new(),
        exclude_content: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_is_a_mount_point_gets_no_snapshots_into_it() {
    let Some(fs) = mounted(Kind::Xfs, 512) else { return };
    let data = fs.path().to_owned();
    make_cluster(&data);
    for method in [Method::Reflink, Method::Copy] {
        let provider = provider(method);
        // Found by themselves, and named by the user.
        let instance = provider.instance(None).await.unwrap();
        let named = VolumeSelection::Named(vec![text(&data).to_owned()]);
        for volumes in
            [holding(&provider, std::slice::from_ref(&data)).await, provider.volumes(&instance, &named).await.unwrap()]
        {
            let request = request(&provider, &volumes[0]).await;
            let error = provider.check_requests(std::slice::from_ref(&request)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Precondition);
            assert!(error.to_string().contains("--snapshot-directory"), "{error}");
            // `check` says the same.
            let lines = provider.preflight_requests(&[request]).await.lines;
            assert!(lines.iter().any(|line| !line.ok && line.detail.contains(text(&data))), "{lines:?}");
        }
    }
    assert!(!data.join(SNAPSHOT_DIRECTORY).exists());

    let elsewhere = tempfile::tempdir().unwrap();
    let options = |directory: PathBuf| LocalOptions {
        method: Method::Copy,
        snapshot_directory: Some(directory),
        ..LocalOptions::default()
    };
    let inside = LocalProvider::new(options(data.join("base")));
    let volumes = holding(&inside, std::slice::from_ref(&data)).await;
    inside.check_requests(&[request(&inside, &volumes[0]).await]).await.unwrap_err();
    let outside = LocalProvider::new(options(elsewhere.path().to_owned()));
    let volumes = holding(&outside, std::slice::from_ref(&data)).await;
    let ticket = take(&outside, &volumes[0]).await;
    outside.delete(&ticket).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_has_put_into_a_data_directory_is_found_restored_and_deleted() {
    let Some(fs) = mounted(Kind::Xfs, 512) else { return };
    let data = fs.path().to_owned();
    make_cluster(&data);
    let provider = provider(Method::Reflink);
    let volumes = holding(&provider, std::slice::from_ref(&data)).await;
    let request = request(&provider, &volumes[0]).await;
    // It did not look where that is.
    let ticket = provider.create(&request).await.unwrap().remove(0);
    assert!(ticket.snapshot.starts_with(text(&data.join(SNAPSHOT_DIRECTORY))));
    support_local::settled(&provider, &ticket).await;
    assert_eq!(provider.find(&request.token, &volumes).await.unwrap(), std::slice::from_ref(&ticket));
    let temp = tempfile::tempdir().unwrap();
    let restored = provider.create_volume(&wanted(&ticket, temp.path().join("restored"))).await.unwrap();
    assert!(temp.path().join("restored/base/1/49").exists());
    assert!(!temp.path().join("restored").join(SNAPSHOT_DIRECTORY).exists());
    provider.delete_volume(&restored).await.unwrap();
    provider.delete(&ticket).await.unwrap();
    assert!(!data.join(SNAPSHOT_DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_a_mounted_subvolume_go_to_another_mount_of_the_same_btrfs() {
    let Some(fs) = mounted(Kind::Btrfs, 512) else { return };
    fs.subvolume("pg");
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let source = run_text("findmnt", &["-nvo", "SOURCE", text(fs.path())]);
    run("mount", &["-o", "subvol=pg", source.trim(), text(&data)]).unwrap();
    let _mounted = Unmount(data.clone());
    make_cluster(&data);
    let provider = provider(Method::Auto);
    let volumes = holding(&provider, std::slice::from_ref(&data)).await;
    assert_eq!((volumes[0].root.clone(), volumes[0].method.as_str()), (data.clone(), "btrfs"));
    let ticket = take(&provider, &volumes[0]).await;
    assert!(ticket.snapshot.starts_with(text(&fs.path().join(SNAPSHOT_DIRECTORY))), "{}", ticket.snapshot);
    assert_eq!(provider.find(&ticket.token, &volumes).await.unwrap(), std::slice::from_ref(&ticket));
    let restored = provider.create_volume(&wanted(&ticket, fs.path().join("restored"))).await.unwrap();
    provider.delete_volume(&restored).await.unwrap();
    provider.delete(&ticket).await.unwrap();
    assert!(!data.join(SNAPSHOT_DIRECTORY).exists() && !fs.path().join(SNAPSHOT_DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subvolume_that_postgresql_does_not_know_is_left_out_and_no_reason_to_refuse() {
    let Some(fs) = mounted(Kind::Btrfs, 512) else { return };
    let data = fs.subvolume("pg");
    make_cluster(&data);
    let snapper = fs.subvolume("pg/.snapshots");
    std::fs::write(snapper.join("1"), "x").unwrap();
    for method in [Method::Btrfs, Method::Reflink] {
        let provider = provider(method);
        let volumes = holding(&provider, std::slice::from_ref(&data)).await;
        let ticket = take(&provider, &volumes[0]).await;
        let restored = provider.create_volume(&wanted(&ticket, fs.path().join("restored"))).await.unwrap();
        assert!(fs.path().join("restored/global/pg_control").exists());
        assert!(!fs.path().join("restored/.snapshots/1").exists());
        provider.delete_volume(&restored).await.unwrap();
        provider.delete(&ticket).await.unwrap();
    }
    assert!(snapper.join("1").exists());
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        run("umount", &[text(&self.0)]).or_else(|_| run("umount", &["-l", text(&self.0)])).unwrap();
    }
}

fn run_text(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Why the file systems are not flushed for local snapshots: each method takes what was written, on disk or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_a_moment_ago_and_never_flushed_is_whole_in_every_local_snapshot() {
    let (Some(btrfs), Some(xfs)) = (mounted(Kind::Btrfs, 512), mounted(Kind::Xfs, 512)) else { return };
    let line = "as the DBA has left it ".repeat(20);
    for (data, method) in [
        (btrfs.subvolume("pg"), Method::Btrfs),
        (xfs.directory("reflink"), Method::Reflink),
        (xfs.directory("copy"), Method::Copy),
    ] {
        make_cluster(&data);
        let provider = provider(method);
        let volumes = holding(&provider, std::slice::from_ref(&data)).await;
        let request = request(&provider, &volumes[0]).await;
        provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
        std::fs::write(data.join("postgresql.conf"), &line).unwrap();
        let ticket = provider.create(&request).await.unwrap().remove(0);
        support_local::settled(&provider, &ticket).await;
        let content = std::fs::read_to_string(PathBuf::from(&ticket.snapshot).join("postgresql.conf")).unwrap();
        assert_eq!(content, line, "{method}");
        provider.delete(&ticket).await.unwrap();
    }
}
