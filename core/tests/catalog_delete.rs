//! Deleting backups: what the metadata do not say comes from the journal, what cannot go is left whole, and the snapshots
//! go before what names them.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a failure")]

#[allow(dead_code, reason = "not every test needs all of it")]
mod support_session;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use barman_snap::catalog::delete::Selection;
use barman_snap::catalog::{
    Catalog, DeletePlan, DeleteRequest, Layout, ObjectSpace, RetentionPolicy, ServerName, StoreHook, StoreOp,
};
use barman_snap::engine::EngineBuilder;
use barman_snap::id::BackupId;
use barman_snap::model::BackupStatus;
use barman_snap::provider::SnapshotProvider;
use barman_snap::provider::registry::ProviderSource;
use barman_snap::session::{BackupRequest, BackupSession, Step, WalPolicy};
use barman_snap::testing::{Call, ManualClock, MemoryOptions, MemoryProvider, Moment, ScriptedPostgres};
use barman_snap::{Engine, Error, ErrorKind, Result, Retry};
use support_session::House;

/// A cluster on one volume, of which memory providers of several names take snapshots.
struct Place {
    clock: Arc<ManualClock>,
    catalog: Catalog,
    postgres: ScriptedPostgres,
    data: PathBuf,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap().join("data");
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        Self {
            clock: Arc::new(ManualClock::at("2026-05-29T10:11:12Z".parse().unwrap())),
            catalog: Catalog::new(ObjectSpace::in_memory(), layout),
            postgres: ScriptedPostgres::new(&data, vec![]),
            data,
            _dir: dir,
        }
    }

    fn provider(&self, name: &'static str) -> MemoryProvider {
        let provider = MemoryProvider::new(self.clock.clone(), MemoryOptions { name, ..MemoryOptions::default() });
        provider.add_volume(self.data.clone());
        provider
    }

    fn engine(&self, provider: &MemoryProvider) -> EngineBuilder {
        Engine::on(self.catalog.clone()).provider(Arc::new(provider.clone())).clock(self.clock.clone())
    }

    async fn session(&self, provider: &MemoryProvider) -> BackupSession {
        let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
        self.engine(provider).build().backup(self.postgres.connect(), &request).await.unwrap()
    }

    async fn backup(&self, provider: &MemoryProvider) -> BackupId {
        let mut session = self.session(provider).await;
        session.run().await.unwrap();
        session.backup_id().clone()
    }

    async fn spoil(&self, id: &BackupId) {
        self.catalog.space().put(&self.catalog.layout().backup_info(id), "\u{fffd} garbage").await.unwrap();
    }

    async fn has(&self, key: &str) -> bool {
        self.catalog.space().get(key).await.unwrap().is_some()
    }

    async fn has_metadata_and_journal(&self, id: &BackupId) -> bool {
        let layout = self.catalog.layout();
        self.has(&layout.backup_info(id)).await && self.has(&layout.session_entry(id, 0)).await
    }
}

fn of(id: &BackupId) -> DeleteRequest {
    DeleteRequest {
        selection: Selection::Backups(vec![id.clone()]),
        minimum_redundancy: 0,
        even_started: false,
        snapshots_gone: false,
    }
}

fn redundancy(n: u32) -> DeleteRequest {
    let selection = Selection::Obsolete(RetentionPolicy::Redundancy(n));
    DeleteRequest { selection, minimum_redundancy: 0, even_started: false, snapshots_gone: false }
}

async fn delete(engine: &Engine, request: &DeleteRequest) -> Result<DeletePlan> {
    let plan = engine.plan_delete(request).await?;
    engine.delete(&plan).await?;
    Ok(plan)
}

#[tokio::test]
async fn the_snapshots_of_a_backup_that_cannot_be_read_are_found_by_its_journal() {
    let place = Place::new();
    let provider = place.provider("memory");
    let id = place.backup(&provider).await;
    place.spoil(&id).await;
    let refuses = provider.with_faults(Arc::new(|call, moment, _: &str| {
        (call == Call::Delete && moment == Moment::Before)
            .then(|| Error::new(ErrorKind::Provider, "in use").with_retry(Retry::Never))
    }));
    let error = delete(&place.engine(&refuses).build(), &of(&id)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Provider, "{error}");
    assert_eq!(provider.existing().len(), 1);
    assert!(place.has_metadata_and_journal(&id).await, "what names the snapshots stays as long as they");

    let plan = delete(&place.engine(&provider).build(), &of(&id)).await.unwrap();
    assert_eq!(plan.backups[0].snapshots.len(), 1, "the plan names them");
    assert!(provider.existing().is_empty());
    assert!(place.catalog.sessions().await.unwrap().is_empty() && place.catalog.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_backup_that_was_left_before_its_metadata_named_its_snapshots_takes_them_along() {
    let place = Place::new();
    let provider = place.provider("memory");
    let mut session = place.session(&provider).await;
    while session.next_step().await.unwrap() != Some(Step::Snapshot(0)) {}
    let id = session.backup_id().clone();
    drop(session);
    let engine = place.engine(&provider).build();
    assert_eq!(engine.plan_delete(&of(&id)).await.unwrap_err().kind(), ErrorKind::Precondition, "it may be running");
    delete(&engine, &DeleteRequest { even_started: true, ..of(&id) }).await.unwrap();
    assert!(provider.existing().is_empty());
    assert!(place.catalog.sessions().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_backup_that_cannot_be_read_and_is_being_made_is_left_alone() {
    let place = Place::new();
    let provider = place.provider("memory");
    let mut session = place.session(&provider).await;
    while session.next_step().await.unwrap() != Some(Step::Stop) {}
    let id = session.backup_id().clone();
    place.spoil(&id).await;
    let error = place.engine(&provider).build().plan_delete(&of(&id)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.to_string().contains("is working on"), "{error}");
}

#[tokio::test]
async fn the_provider_that_is_needed_is_named() {
    let place = Place::new();
    let id = place.backup(&place.provider("elsewhere")).await;
    let engine = place.engine(&place.provider("memory")).build();
    let error = engine.plan_delete(&of(&id)).await.unwrap_err();
    assert!(error.chain().contains("provider elsewhere is needed"), "{}", error.chain());
    place.spoil(&id).await;
    let error = engine.plan_delete(&of(&id)).await.unwrap_err();
    assert!(error.chain().contains("provider elsewhere is needed"), "{}", error.chain());
    assert!(place.has_metadata_and_journal(&id).await);
}

#[tokio::test]
async fn with_neither_metadata_nor_journal_nothing_is_deleted() {
    let place = Place::new();
    let provider = place.provider("memory");
    let id = place.backup(&provider).await;
    place.spoil(&id).await;
    place.catalog.space().put(&place.catalog.layout().session_entry(&id, 3), "garbage").await.unwrap();
    let error = place.engine(&provider).build().plan_delete(&of(&id)).await.unwrap_err();
    assert!(error.chain().contains("neither the metadata nor the journal"), "{}", error.chain());
    assert_eq!(provider.existing().len(), 1);
}

#[tokio::test]
async fn snapshots_on_another_host_are_not_given_up_and_the_host_is_named() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    session.run().await.unwrap();
    let id = session.backup_id().clone();
    let engine = house.engine().build();
    let key = engine.catalog().layout().backup_info(&id);
    engine.catalog().space().put(&key, "garbage").await.unwrap();
    house.edit_old_plan(&id, |plan| plan["instance"]["name"] = "another".into()).await;
    house.hide_snapshots(true);
    let error = engine.plan_delete(&of(&id)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.chain().contains("host another"), "{}", error.chain());
    // The disk was moved here: the snapshots themselves say so.
    house.hide_snapshots(false);
    delete(&engine, &of(&id)).await.unwrap();
    assert_eq!(house.verdict().await, support_session::Verdict::CleanSlate);
}

#[tokio::test]
async fn a_locked_backup_is_refused_by_id_and_left_out_of_a_retention_run() {
    let place = Place::new();
    let provider = place.provider("memory");
    let engine = place.engine(&provider).build();
    let (oldest, locked) = (place.backup(&provider).await, place.backup(&provider).await);
    let newest = place.backup(&provider).await;
    let snapshot = provider.existing()[1].snapshot.clone();
    assert!(provider.set_lock(&snapshot, Some("2027-01-01")));

    let error = delete(&engine, &of(&locked)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    let line = error.chain();
    assert!(["locked", "2027-01-01", &locked.to_string()].iter().all(|word| line.contains(word)), "{line}");
    assert_eq!(provider.existing().len(), 3, "nothing of it is gone");

    let plan = delete(&engine, &redundancy(1)).await.unwrap();
    let deleted: Vec<_> = plan.backups.iter().map(|backup| &backup.id).collect();
    assert_eq!(deleted, [&oldest]);
    assert_eq!(plan.skipped.len(), 1);
    assert!(plan.to_string().contains(&format!("backup {locked} stays: locked")), "{plan}");
    let left: Vec<_> = place.catalog.list().await.unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(left, [locked, newest]);
    assert_eq!(provider.existing().len(), 2);
}

/// Several providers by their names.
#[derive(Debug)]
struct Several(BTreeMap<&'static str, MemoryProvider>);

#[async_trait]
impl ProviderSource for Several {
    async fn open(&self, name: &str) -> Result<Arc<dyn SnapshotProvider>> {
        let found = self.0.get(name).ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("no {name} here")))?;
        Ok(Arc::new(found.clone()))
    }
}

#[tokio::test]
async fn a_retention_run_goes_over_backups_of_several_providers() {
    let place = Place::new();
    let providers = ["one", "two", "three"].map(|name| place.provider(name));
    for provider in &providers {
        place.backup(provider).await;
    }
    let [one, two, three] = &providers;
    let source = Several([("two", two.clone()), ("three", three.clone())].into());
    let engine = place.engine(one).providers(Arc::new(source)).build();
    let plan = delete(&engine, &redundancy(1)).await.unwrap();
    assert_eq!(plan.backups.len(), 2);
    assert!(one.existing().is_empty() && two.existing().is_empty());
    assert_eq!(three.existing().len(), 1);
}

#[tokio::test]
async fn a_backup_that_fails_does_not_keep_the_others_and_the_wal_stays() {
    let place = Place::new();
    let provider = place.provider("memory");
    for _ in 0..3 {
        place.backup(&provider).await;
    }
    let broken = provider.existing()[0].snapshot.clone();
    let wal = place.catalog.layout().wal("000000010000000000000001".parse().unwrap(), None);
    place.catalog.space().put(&wal, "wal").await.unwrap();
    let faulty = provider.with_faults(Arc::new(move |call, _, about: &str| {
        (call == Call::Delete && about == broken).then(|| Error::new(ErrorKind::Provider, "in use by an image"))
    }));
    let error = delete(&place.engine(&faulty).build(), &redundancy(1)).await.unwrap_err();
    assert!(error.chain().contains("in use by an image"), "{}", error.chain());
    assert_eq!(place.catalog.list().await.unwrap().len(), 2, "the second one is gone, the first is whole");
    assert_eq!(provider.existing().len(), 2);
    assert!(place.has(&wal).await);
    delete(&place.engine(&provider).build(), &redundancy(1)).await.unwrap();
    assert_eq!(provider.existing().len(), 1);
    assert!(!place.has(&wal).await);
}

#[tokio::test]
async fn a_backup_of_a_stock_tool_is_deleted_with_the_snapshots_that_its_metadata_name() {
    for (name, file) in [
        ("aws", "aws_snapshot_two_disks_locked.info"),
        ("gcp", "gcp_snapshot.info"),
        ("azure", "azure_snapshot_tablespaces_pg17.info"),
    ] {
        let place = Place::new();
        let provider = place.provider(name);
        let id: BackupId = "20260101T000000".parse().unwrap();
        let text = std::fs::read(format!("tests/fixtures/backup_info/{file}")).unwrap();
        place.catalog.space().put(&place.catalog.layout().backup_info(&id), text).await.unwrap();
        let named = place.catalog.read(&id).await.unwrap().snapshots().unwrap().unwrap();
        let ids: Vec<_> = named.snapshots.iter().map(|one| one.details.identifier().unwrap().to_owned()).collect();
        for snapshot in ids.iter().map(String::as_str).chain(["of-somebody-else"]) {
            provider.add_stock_snapshot(snapshot);
        }
        let engine = place.engine(&place.provider("memory"));
        let engine = engine.providers(Arc::new(Several([(name, provider.clone())].into()))).build();

        assert!(provider.set_lock(&ids[0], Some("2027-01-01")));
        assert_eq!(delete(&engine, &of(&id)).await.unwrap_err().kind(), ErrorKind::Precondition);
        assert_eq!(provider.existing().len(), ids.len() + 1, "{name}: nothing of it is gone");
        provider.set_lock(&ids[0], None);
        let plan = delete(&engine, &of(&id)).await.unwrap();
        let deleted: Vec<_> = plan.backups[0].snapshots.iter().map(|ticket| ticket.snapshot.clone()).collect();
        assert_eq!(deleted, ids, "{name}");
        let left: Vec<_> = provider.existing().into_iter().map(|ticket| ticket.snapshot).collect();
        assert_eq!(left, ["of-somebody-else"], "{name}");
        assert!(place.catalog.list().await.unwrap().is_empty(), "{name}");
    }
}

/// Lets everything that changes something fail from the call number `from` on, in the store and at the provider, as if the process
/// had been killed there: before its effect, or after it.
#[derive(Debug)]
struct Killed {
    calls: AtomicUsize,
    from: usize,
    after: bool,
}

impl Killed {
    fn count(&self) -> usize {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    fn error() -> Error {
        Error::new(ErrorKind::Unavailable, "killed here")
    }
}

impl StoreHook for Killed {
    fn before(&self, op: StoreOp, _: &str) -> Result<()> {
        let changes = matches!(op, StoreOp::Put | StoreOp::PutNew | StoreOp::PutIfVersion | StoreOp::Delete);
        let number = if changes { self.count() } else { self.calls.load(Ordering::Relaxed) };
        let is_it = if self.after { number > self.from } else { number >= self.from };
        if changes && is_it { Err(Self::error()) } else { Ok(()) }
    }

    fn after(&self, op: StoreOp, _: &str) -> Result<()> {
        let changes = matches!(op, StoreOp::Put | StoreOp::PutNew | StoreOp::PutIfVersion | StoreOp::Delete);
        let is_it = self.after && self.calls.load(Ordering::Relaxed) > self.from;
        if changes && is_it { Err(Self::error()) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_deletion_that_is_killed_at_any_call_leaves_no_broken_backup_that_counts_and_is_ended_by_the_next() {
    let mut killed = 0;
    for after in [false, true] {
        for from in 0.. {
            let place = Place::new();
            let provider = place.provider("memory");
            for _ in 0..3 {
                place.backup(&provider).await;
            }
            let wal = place.catalog.layout().wal("000000010000000000000001".parse().unwrap(), None);
            place.catalog.space().put(&wal, "wal").await.unwrap();
            let hook = Arc::new(Killed { calls: AtomicUsize::new(0), from, after });
            let catalog = Catalog::new(place.catalog.space().with_hook(hook.clone()), place.catalog.layout().clone());
            let seen = hook.clone();
            let faulty = provider.with_faults(Arc::new(move |call, moment, _: &str| {
                let number = match (call, moment) {
                    (Call::Delete, Moment::Before) => seen.count(),
                    (Call::Delete, Moment::After) => seen.calls.load(Ordering::Relaxed) - 1,
                    _ => return None,
                };
                let is_it = number > seen.from || (number == seen.from && seen.after == (moment == Moment::After));
                is_it.then(Killed::error)
            }));
            let engine = Engine::on(catalog).provider(Arc::new(faulty)).clock(place.clock.clone()).build();
            let result = delete(&engine, &redundancy(1)).await;
            let existing: Vec<_> = provider.existing().into_iter().map(|ticket| ticket.snapshot).collect();
            for entry in place.catalog.list().await.unwrap() {
                let info = entry.info.unwrap();
                let record = info.engine_record().unwrap().unwrap();
                let whole = record.snapshots.iter().all(|one| existing.contains(&one.ticket.snapshot));
                assert!(whole || info.status == BackupStatus::Failed, "call {from}: {} counts and is broken", entry.id);
            }
            // The same command again.
            delete(&place.engine(&provider).build(), &redundancy(1)).await.unwrap();
            assert_eq!((place.catalog.list().await.unwrap().len(), provider.existing().len()), (1, 1), "call {from}");
            assert!(!place.has(&wal).await, "call {from}: WAL that no backup needs");
            if result.is_ok() {
                assert!(hook.calls.load(Ordering::Relaxed) <= from, "call {from} failed, and nobody was told");
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 20, "{killed}");
}
