//! The catalog over a directory: create, list, keep, remove, delete.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, say why it skips, and use the real time"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use barman_snap::catalog::delete::Selection;
use barman_snap::catalog::{Catalog, DeletePlan, DeleteRequest, Keep, Layout, ObjectSpace, ServerName, StoreOptions};
use barman_snap::id::{BackupId, Token};
use barman_snap::model::{BackupInfo, BackupStatus, EngineRecord, Literal, SnapshotRecord};
use barman_snap::provider::pool::ProviderPool;
use barman_snap::provider::registry::ProviderSource;
use barman_snap::provider::{
    Capabilities, CreateRequest, CreateVolumeRequest, Instance, RestoredVolume, SnapshotProvider, SnapshotStatus,
    Ticket, Volume, VolumeSelection,
};
use barman_snap::{Error, ErrorKind, Result};
use chrono::{DateTime, Utc};

fn id(text: &str) -> BackupId {
    text.parse().unwrap()
}

const A: &str = "20260101T000000";
const B: &str = "20260102T000000";
const C: &str = "20260103T000000";

fn info(status: BackupStatus, begin_wal: &str) -> BackupInfo {
    BackupInfo {
        status,
        begin_wal: Some(begin_wal.into()),
        end_wal: Some(begin_wal.into()),
        server_name: Some("pg1".into()),
        ..BackupInfo::default()
    }
}

fn done(begin_wal: &str) -> BackupInfo {
    info(BackupStatus::Done, begin_wal)
}

async fn local(dir: &Path) -> Catalog {
    Catalog::open(dir.to_str().unwrap(), &StoreOptions::default(), "pg1").await.unwrap()
}

#[tokio::test]
async fn a_backup_is_created_once_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = local(dir.path()).await;
    assert!(catalog.list().await.unwrap().is_empty());
    assert_eq!(catalog.latest_id().await.unwrap(), None);
    assert_eq!(catalog.read(&id(A)).await.unwrap_err().kind(), ErrorKind::NotFound);

    let started = info(BackupStatus::Started, "000000010000000000000009");
    assert!(catalog.create(&id(A), &started).await.unwrap());
    assert!(!catalog.create(&id(A), &started).await.unwrap(), "an earlier attempt whose reply was lost");
    let error = catalog.create(&id(A), &done("00000001000000000000000A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(catalog.read(&id(A)).await.unwrap(), started);

    catalog.write_label(&id(A), "START WAL LOCATION: ä\n").await.unwrap();
    catalog.replace(&id(A), &done("000000010000000000000009")).await.unwrap();
    assert_eq!(catalog.read(&id(A)).await.unwrap().status, BackupStatus::Done);
    assert_eq!(catalog.read_label(&id(A)).await.unwrap().unwrap(), "START WAL LOCATION: ä\n");
    assert_eq!(catalog.latest_id().await.unwrap(), Some(id(A)));
    assert_eq!(catalog.resolve("last").await.unwrap(), id(A));
    assert_eq!(catalog.resolve(B).await.unwrap(), id(B), "an id is not looked up");

    catalog.remove(&id(A)).await.unwrap();
    catalog.remove(&id(A)).await.unwrap();
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(),
        0
    );
}

#[tokio::test]
async fn garbage_beside_good_backups_is_reported_and_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = local(dir.path()).await;
    catalog.create(&id(A), &done("000000010000000000000009")).await.unwrap();
    catalog.create(&id(C), &done("00000001000000000000000C")).await.unwrap();
    let base = dir.path().join("pg1/base");
    for (file, content) in [
        (format!("{B}/backup.info"), &b"\xFF\x00 garbage"[..]),
        ("notes.txt".into(), b"x"),
        ("20260104T000000/data.tar".into(), b"x"),
        ("not-an-id/backup.info".into(), b"status=DONE"),
    ] {
        std::fs::create_dir_all(base.join(&file).parent().unwrap()).unwrap();
        std::fs::write(base.join(file), content).unwrap();
    }
    let list = catalog.list().await.unwrap();
    let seen: Vec<_> = list.iter().map(|entry| (entry.id.to_string(), entry.status())).collect();
    assert_eq!(seen, [(A.into(), Some(BackupStatus::Done)), (B.into(), None), (C.into(), Some(BackupStatus::Done))]);
    assert_eq!(list[1].info.as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(catalog.latest_id().await.unwrap(), Some(id("20260104T000000")), "a taken id is taken");
}

#[tokio::test]
async fn only_a_complete_backup_can_be_kept_and_a_kept_one_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = local(dir.path()).await;
    catalog.create(&id(A), &done("000000010000000000000009")).await.unwrap();
    catalog.create(&id(B), &info(BackupStatus::Failed, "00000001000000000000000A")).await.unwrap();
    assert_eq!(catalog.set_keep(&id(B), Keep::Full).await.unwrap_err().kind(), ErrorKind::Precondition);
    catalog.set_keep(&id(A), Keep::Standalone).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join(format!("pg1/base/{A}/annotations/keep"))).unwrap(), b"standalone");
    assert_eq!(catalog.list().await.unwrap()[0].keep, Some(Keep::Standalone));
    let error = plan_delete(&catalog, &request(&[A], 0)).await.unwrap_err();
    assert!(error.message().contains("kept (standalone)"), "{error}");
    catalog.release_keep(&id(A)).await.unwrap();
    catalog.release_keep(&id(A)).await.unwrap();
    assert_eq!(catalog.keep(&id(A)).await.unwrap(), None);
    std::fs::create_dir_all(dir.path().join(format!("pg1/base/{A}/annotations"))).unwrap();
    std::fs::write(dir.path().join(format!("pg1/base/{A}/annotations/keep")), "for ever").unwrap();
    assert_eq!(catalog.keep(&id(A)).await.unwrap(), Some(Keep::Full), "an unknown word keeps the most");
}

#[tokio::test]
async fn a_keep_is_seen_through_the_url_with_and_without_a_slash() {
    let space = ObjectSpace::in_memory();
    let through = |prefix: &str| {
        let layout = Layout::new(prefix, ServerName::new("pg1").unwrap()).unwrap().with_annotation_quirk();
        Catalog::new(space.clone(), layout)
    };
    let (plain, slash) = (through("p"), through("p/"));
    plain.create(&id(A), &done("000000010000000000000009")).await.unwrap();
    // As stock Barman writes it through s3://bucket/p/
    slash.set_keep(&id(A), Keep::Full).await.unwrap();
    let doubled = format!("p//pg1/base/{A}/annotations/keep");
    let single = format!("p/pg1/base/{A}/annotations/keep");
    assert_eq!(space.get(&doubled).await.unwrap().unwrap().0, "full");
    assert_eq!(plain.list().await.unwrap()[0].keep, Some(Keep::Full));
    plain.set_keep(&id(A), Keep::Standalone).await.unwrap();
    for key in [&doubled, &single] {
        assert_eq!(space.get(key).await.unwrap().unwrap().0, "standalone", "{key}");
    }
    plain.release_keep(&id(A)).await.unwrap();
    assert_eq!(slash.keep(&id(A)).await.unwrap(), None);
}

#[tokio::test]
async fn writable_is_checked_without_leaving_anything() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new");
    let catalog = local(&root).await;
    catalog.check_writable().await.unwrap();
    assert!(!root.join("pg1").exists());
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let blocked = local(&dir.path().join("file")).await;
    assert!(blocked.check_writable().await.is_err());
}

#[tokio::test]
async fn a_wrong_url_or_server_name_is_refused() {
    for (url, server) in
        [("ftp://x/y", "pg1"), ("s3://", "pg1"), ("/srv", "../x"), ("/srv", ""), ("s3://b/a//b", "pg1")]
    {
        let error = Catalog::open(url, &StoreOptions::default(), server).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url} {server}");
    }
}

fn request(ids: &[&str], minimum_redundancy: u32) -> DeleteRequest {
    let ids = ids.iter().map(|text| id(text)).collect();
    DeleteRequest { selection: Selection::Backups(ids), minimum_redundancy, even_started: false, snapshots_gone: false }
}

/// A plan for which the provider has nothing against it.
async fn plan_delete(catalog: &Catalog, request: &DeleteRequest) -> Result<DeletePlan> {
    let deleter = Arc::new(Deleter { broken: Mutex::new(false), deleted: Mutex::default() });
    let pool = ProviderPool::new(deleter, Arc::new(Nobody));
    catalog.plan_delete(request, Utc::now(), &pool, &BTreeMap::new()).await
}

/// Opens no provider.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl ProviderSource for Nobody {
    async fn open(&self, name: &str) -> Result<Arc<dyn SnapshotProvider>> {
        Err(Error::new(ErrorKind::Unsupported, format!("no {name} here")))
    }
}

/// A backup with one snapshot, some WAL, a journal and a proof.
async fn full_backup(catalog: &Catalog, at: &str, wal: &str) {
    let token = Token::from_bits(u128::from(at.as_bytes()[7]));
    let ticket = Ticket {
        snapshot: format!("snap-{at}"),
        name: "data".into(),
        volume: "/srv".into(),
        root: "/srv".into(),
        method: "copy".into(),
        token: token.clone(),
        attributes: Default::default(),
    };
    let record = EngineRecord {
        version: 1,
        provider: "local".into(),
        token,
        snapshots: vec![SnapshotRecord {
            ticket,
            mount_point: "/".into(),
            mount_options: "rw".into(),
            file_systems: Vec::new(),
        }],
        tablespace_map: None,
        wal_external: false,
        from_standby: false,
        settings: Default::default(),
        config_files: Default::default(),
        saved_config: None,
        saved_files: Vec::new(),
        real_paths: Default::default(),
        excluded_tablespaces: Vec::new(),
        bytes_copied: None,
        timings: Default::default(),
    };
    let mut info = done(wal);
    info.set_engine_record(&record).unwrap();
    catalog.create(&id(at), &info).await.unwrap();
    catalog.write_label(&id(at), "label").await.unwrap();
    let (space, layout) = (catalog.space(), catalog.layout());
    space.put(&layout.session_entry(&id(at), 0), "{}").await.unwrap();
    space.put(&layout.session_alive(&id(at)), "{}").await.unwrap();
    space.put(&layout.proof(&id(at), "1").unwrap(), "{}").await.unwrap();
    space.put(&format!("{}/notes", layout.backup(&id(at))), "of a person").await.unwrap();
    space.put(&layout.wal(wal.parse().unwrap(), None), "wal").await.unwrap();
}

#[tokio::test]
async fn deleting_takes_all_of_a_backup_in_order_and_the_wal_that_nobody_needs() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = local(dir.path()).await;
    full_backup(&catalog, A, "000000010000000000000009").await;
    full_backup(&catalog, B, "00000001000000000000000C").await;
    let plan = plan_delete(&catalog, &request(&[A], 1)).await.unwrap();
    insta::assert_snapshot!(plan, @r"
    backup 20260101T000000
      snapshot snap-20260101T000000
      object pg1/base/20260101T000000/backup_label
      object pg1/proofs/20260101T000000/1.json
      object pg1/sessions/20260101T000000/00000000.json
      object pg1/sessions/20260101T000000/alive
      object pg1/base/20260101T000000/backup.info
    1 WAL file: pg1/wals/0000000100000000/000000010000000000000009
    ");
    assert_eq!(catalog.list().await.unwrap().len(), 2, "a plan changes nothing");
    assert_eq!(
        catalog.carry_out(&plan, &Nobody, DateTime::UNIX_EPOCH).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );

    let provider = Arc::new(Deleter { broken: Mutex::new(true), deleted: Mutex::default() });
    let pool = ProviderPool::new(provider.clone(), Arc::new(Nobody));
    catalog.carry_out(&plan, &pool, DateTime::UNIX_EPOCH).await.unwrap_err();
    assert!(catalog.read(&id(A)).await.is_ok(), "what is left is still named");
    *provider.broken.lock().unwrap() = false;
    for _ in 0..2 {
        catalog.carry_out(&plan, &pool, DateTime::UNIX_EPOCH).await.unwrap();
    }
    assert_eq!(provider.deleted.lock().unwrap()[0], format!("snap-{A}"));
    let keys: Vec<_> = catalog.space().list("").await.unwrap().into_iter().map(|object| object.key).collect();
    let of_a: Vec<_> = keys.iter().filter(|key| key.contains(A)).collect();
    assert_eq!(of_a, [&format!("pg1/base/{A}/notes")], "what nobody knows stays");
    assert_eq!(keys.iter().filter(|key| key.contains("wals")).count(), 1);

    let error = plan_delete(&catalog, &request(&[B], 1)).await.unwrap_err();
    assert!(error.message().contains("minimum redundancy"), "{error}");
    assert_eq!(plan_delete(&catalog, &request(&[A], 0)).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_failed_backup_is_no_redundancy_and_a_running_one_is_not_deleted() {
    let catalog = Catalog::new(ObjectSpace::in_memory(), Layout::new("", ServerName::new("pg1").unwrap()).unwrap());
    catalog.create(&id(A), &done("000000010000000000000009")).await.unwrap();
    catalog.create(&id(B), &info(BackupStatus::Failed, "00000001000000000000000A")).await.unwrap();
    catalog.create(&id(C), &info(BackupStatus::Started, "00000001000000000000000B")).await.unwrap();
    let plan = |request: DeleteRequest| {
        let catalog = &catalog;
        async move { plan_delete(catalog, &request).await }
    };
    assert_eq!(plan(request(&[A], 1)).await.unwrap_err().kind(), ErrorKind::Precondition);
    assert_eq!(plan(request(&[B], 1)).await.unwrap().backups.len(), 1);
    assert!(plan(request(&[C], 0)).await.unwrap_err().hint().unwrap().contains("recover"));
    assert_eq!(plan(DeleteRequest { even_started: true, ..request(&[C], 1) }).await.unwrap().backups.len(), 1);
}

/// A provider that only deletes.
#[derive(Debug)]
struct Deleter {
    broken: Mutex<bool>,
    deleted: Mutex<Vec<String>>,
}

#[async_trait]
impl SnapshotProvider for Deleter {
    fn name(&self) -> &'static str {
        "local"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
    async fn delete(&self, ticket: &Ticket) -> Result<()> {
        if *self.broken.lock().unwrap() {
            return Err(Error::new(ErrorKind::Provider, "no"));
        }
        self.deleted.lock().unwrap().push(ticket.snapshot.clone());
        Ok(())
    }
    async fn instance(&self, _: Option<&str>) -> Result<Instance> {
        unreachable!()
    }
    async fn volumes(&self, _: &Instance, _: &VolumeSelection) -> Result<Vec<Volume>> {
        unreachable!()
    }
    fn snapshot_name(&self, _: &Volume, _: &BackupId) -> String {
        unreachable!()
    }
    fn snapshots_info(&self, _: &Instance, _: &[SnapshotRecord]) -> Option<Literal> {
        unreachable!()
    }
    fn can_group(&self, _: &[Volume]) -> bool {
        unreachable!()
    }
    async fn check_requests(&self, _: &[CreateRequest]) -> Result<()> {
        unreachable!()
    }
    async fn create(&self, _: &CreateRequest) -> Result<Vec<Ticket>> {
        unreachable!()
    }
    async fn status(&self, _: &Ticket) -> Result<SnapshotStatus> {
        unreachable!()
    }
    async fn find(&self, _: &Token, _: &[Volume]) -> Result<Vec<Ticket>> {
        unreachable!()
    }
    async fn list(&self, _: &str, _: &[Volume]) -> Result<Vec<Ticket>> {
        unreachable!()
    }
    async fn create_volume(&self, _: &CreateVolumeRequest) -> Result<RestoredVolume> {
        unreachable!()
    }
    async fn attach(&self, _: &RestoredVolume, _: &Instance) -> Result<RestoredVolume> {
        unreachable!()
    }
    async fn detach(&self, _: &RestoredVolume, _: &Instance) -> Result<()> {
        unreachable!()
    }
    async fn delete_volume(&self, _: &RestoredVolume) -> Result<()> {
        unreachable!()
    }
}
