//! What the tests of the local provider have in common: a directory like a cluster, and a snapshot of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a failure")]
#![allow(dead_code, reason = "shared by several test programs, none of which uses all of it")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use barman_snap::clock::{Clock, SystemClock};
use barman_snap::id::{IdSource, SystemIds};
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method};
use barman_snap::provider::{
    CreateRequest, SnapshotProvider, SnapshotState, Ticket, Volume, VolumeSelection, VolumeSnapshot,
};

pub(crate) fn provider(method: Method) -> LocalProvider {
    LocalProvider::new(LocalOptions { method, ..LocalOptions::default() })
}

pub(crate) async fn holding(provider: &LocalProvider, paths: &[PathBuf]) -> Vec<Volume> {
    let instance = provider.instance(None).await.unwrap();
    provider.volumes(&instance, &VolumeSelection::Holding(paths.to_vec())).await.unwrap()
}

pub(crate) async fn request(provider: &LocalProvider, volume: &Volume) -> CreateRequest {
    let backup_id = "20260529T101112".parse().unwrap();
    CreateRequest {
        token: SystemIds.token(),
        mark: "main.0123456789abcdef".into(),
        instance: provider.instance(None).await.unwrap(),
        volumes: vec![VolumeSnapshot { volume: volume.clone(), name: provider.snapshot_name(volume, &backup_id) }],
        backup_id,
        tags: Default::default(),
    }
}

pub(crate) async fn settled(provider: &LocalProvider, ticket: &Ticket) -> SnapshotState {
    let clock = SystemClock::new();
    for _ in 0..20_000 {
        let state = provider.status(ticket).await.unwrap().state;
        if !matches!(state, SnapshotState::Creating | SnapshotState::Cut) {
            return state;
        }
        clock.sleep(Duration::from_millis(2)).await;
    }
    panic!("still creating");
}

pub(crate) async fn take(provider: &LocalProvider, volume: &Volume) -> Ticket {
    let request = request(provider, volume).await;
    provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
    let ticket = provider.create(&request).await.unwrap().remove(0);
    assert_eq!(settled(provider, &ticket).await, SnapshotState::Ready);
    ticket
}

/// Something that looks enough like a data directory.
pub(crate) fn make_cluster(root: &Path) {
    for directory in ["base/1", "global", "pg_wal", "pg_tblspc"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::write(root.join("PG_VERSION"), "17\n").unwrap();
    std::fs::write(root.join("global/pg_control"), vec![7; 8192]).unwrap();
    for n in 0..50 {
        std::fs::write(root.join(format!("base/1/{n}")), vec![n; 65536]).unwrap();
    }
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700)).unwrap();
}
