//! How long snapshots of a tree of 2 GB take. Asserts nothing; run by hand:
//! `cargo test -p barman-snap --test local_times -- --ignored --nocapture`
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a program for people")]

mod support_fs;

use std::time::Duration;

use barman_snap::clock::{Clock, SystemClock};
use barman_snap::id::{IdSource, SystemIds};
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method};
use barman_snap::provider::{CreateRequest, SnapshotProvider, SnapshotState, VolumeSelection, VolumeSnapshot};
use support_fs::{Kind, Mounted};

const FILES: usize = 2600;

fn fill(root: &std::path::Path) {
    std::fs::create_dir_all(root.join("global")).unwrap();
    std::fs::write(root.join("global/pg_control"), vec![1; 8192]).unwrap();
    let mut block = vec![0_u8; 800 << 10];
    for n in 0..FILES {
        let directory = root.join(format!("base/{}", n % 4));
        std::fs::create_dir_all(&directory).unwrap();
        block.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 + n) as u8);
        std::fs::write(directory.join(n.to_string()), &block).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of a minute, not a test"]
async fn times_of_each_method() {
    for (kind, method) in [
        (Kind::Btrfs, Method::Btrfs),
        (Kind::Btrfs, Method::Reflink),
        (Kind::Xfs, Method::Reflink),
        (Kind::Ext4, Method::Copy),
    ] {
        let fs = match Mounted::new(kind, 8192) {
            Ok(fs) => fs,
            Err(why) => return eprintln!("skipped: {why}"),
        };
        let root = if method == Method::Btrfs { fs.subvolume("data") } else { fs.directory("data") };
        fill(&root);
        support_fs::run("sync", &["-f", support_fs::text(fs.path())]).unwrap();
        let provider = LocalProvider::new(LocalOptions { method, ..LocalOptions::default() });
        let instance = provider.instance(None).await.unwrap();
        let clock = SystemClock::new();
        for round in 0..3 {
            let volumes = provider.volumes(&instance, &VolumeSelection::Holding(vec![root.clone()])).await.unwrap();
            let backup_id = "20260529T101112".parse().unwrap();
            let name = provider.snapshot_name(&volumes[0], &backup_id);
            let request = CreateRequest {
                token: SystemIds.token(),
                mark: "main.0123456789abcdef".into(),
                backup_id,
                instance: instance.clone(),
                volumes: vec![VolumeSnapshot { volume: volumes[0].clone(), name }],
                tags: Default::default(),
            };
            let start = clock.monotonic();
            provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
            let checked = clock.monotonic();
            let ticket = provider.create(&request).await.unwrap().remove(0);
            let created = clock.monotonic();
            let mut cut = None;
            let status = loop {
                let status = provider.status(&ticket).await.unwrap();
                if status.state == SnapshotState::Ready {
                    break status;
                }
                if status.state == SnapshotState::Cut {
                    cut.get_or_insert_with(|| clock.monotonic());
                }
                clock.sleep(Duration::from_millis(1)).await;
            };
            let ready = clock.monotonic();
            provider.delete(&ticket).await.unwrap();
            let deleted = clock.monotonic();
            eprintln!(
                "{kind:?} {method} #{round}: check {:?}, create {:?}, cut {:?}, ready {:?}, delete {:?}, copied {:?} MiB",
                checked - start,
                created - checked,
                cut.unwrap_or(ready) - checked,
                ready - checked,
                deleted - ready,
                status.bytes_copied.map(|bytes| bytes >> 20),
            );
        }
    }
}
