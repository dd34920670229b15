//! What is done to snapshots after backup mode: promoted where they are only instant, locked at the very end. At every point
//! at which that can break: published, or a clean slate, or stuck with the reason.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a failure")]

use std::path::PathBuf;
use std::sync::Arc;

use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName};
use barman_snap::engine::{EngineBuilder, RecoverRequest};
use barman_snap::model::BackupStatus;
use barman_snap::provider::AfterCut;
use barman_snap::session::journal::Journal;
use barman_snap::session::{BackupRequest, BackupSession, Phase, SessionState, Step, WalPolicy, Wishes};
use barman_snap::testing::faults::Mishap;
use barman_snap::testing::{
    Call, Delay, FaultHook, ManualClock, MemoryOptions, MemoryProvider, Moment, OneFault, Recorder, ScriptedPostgres,
};
use barman_snap::{Engine, Error, ErrorKind, Retry};

const FORWARD: [Step; 11] = [
    Step::Start,
    Step::Announce,
    Step::Snapshot(0),
    Step::AwaitCut(0),
    Step::Stop,
    Step::StoreLabel,
    Step::Promote,
    Step::CompleteWal,
    Step::AwaitReady,
    Step::Secure,
    Step::Publish,
];

const UNTIL: &str = "2027-01-01T00:00:00Z";

/// A cluster on two volumes; the provider plays AWS, so that stock readers know its snapshots.
struct Place {
    clock: Arc<ManualClock>,
    catalog: Catalog,
    provider: MemoryProvider,
    postgres: ScriptedPostgres,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with(AfterCut { promote: true, secure: true })
    }

    fn with(after_cut: AfterCut) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (data, location) = (root.join("data"), root.join("ts1"));
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        std::fs::create_dir_all(&location).unwrap();
        let clock = Arc::new(ManualClock::at("2026-05-29T10:11:12Z".parse().unwrap()));
        let options = MemoryOptions {
            name: "aws",
            ready_after: Delay::Polls(2),
            after_cut,
            lock_until: after_cut.secure.then(|| UNTIL.to_owned()),
            ..MemoryOptions::default()
        };
        let provider = MemoryProvider::new(clock.clone(), options);
        for volume in [&data, &location] {
            provider.add_volume(PathBuf::from(volume));
        }
        let location = location.to_str().unwrap().to_owned();
        let tablespace = barman_snap::model::Tablespace { name: "ts1".into(), oid: 16384, location };
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        Self {
            postgres: ScriptedPostgres::new(&data, vec![tablespace]),
            clock,
            catalog: Catalog::new(ObjectSpace::in_memory(), layout),
            provider,
            _dir: dir,
        }
    }

    fn engine(&self) -> EngineBuilder {
        Engine::on(self.catalog.clone()).provider(Arc::new(self.provider.clone())).clock(self.clock.clone())
    }

    /// An engine whose provider does not do as it is told.
    fn faulty(&self, hook: Arc<FaultHook>) -> EngineBuilder {
        self.engine().provider(Arc::new(self.provider.with_faults(hook)))
    }

    async fn session(&self, engine: EngineBuilder) -> BackupSession {
        let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
        engine.build().backup(self.postgres.connect(), &request).await.unwrap()
    }

    async fn recover(&self) -> Vec<barman_snap::session::Rescue> {
        self.recover_as(Wishes { force: true, ..Wishes::default() }).await
    }

    async fn recover_as(&self, wishes: Wishes) -> Vec<barman_snap::session::Rescue> {
        let request = RecoverRequest { wishes, ..RecoverRequest::default() };
        self.engine().build().recover(&request).await.unwrap()
    }

    async fn verdict(&self) -> &'static str {
        let existing = self.provider.existing();
        match self.catalog.list().await.unwrap().as_slice() {
            [] if existing.is_empty() => "clean slate",
            [entry] if entry.status() == Some(BackupStatus::Done) => {
                let record = entry.info.as_ref().unwrap().engine_record().unwrap().unwrap();
                let named: Vec<_> = record.snapshots.into_iter().map(|one| one.ticket.snapshot).collect();
                let there: Vec<_> = existing.into_iter().map(|ticket| ticket.snapshot).collect();
                assert_eq!(named, there, "all that exists is named, and nothing else is");
                "published"
            }
            entries => panic!("a mess: {} entries, {} snapshots", entries.len(), existing.len()),
        }
    }
}

#[tokio::test]
async fn the_snapshots_are_promoted_early_and_locked_last() {
    let place = Place::new();
    let recorder = Arc::new(Recorder::default());
    let mut session = place.session(place.engine().faults(recorder.clone())).await;
    let summary = session.run().await.unwrap();
    assert_eq!(recorder.steps(), FORWARD);
    assert_eq!(summary.snapshots.len(), 2);
    assert_eq!(place.verdict().await, "published");
    let info = place.catalog.read(session.backup_id()).await.unwrap();
    for snapshot in info.engine_record().unwrap().unwrap().snapshots {
        assert!(snapshot.ticket.snapshot.ends_with("/durable"), "{snapshot:?}");
        assert_eq!(snapshot.ticket.attributes["locked_until"], UNTIL);
    }
}

#[tokio::test]
async fn each_of_the_two_steps_is_there_only_if_the_plan_says_so() {
    for (promote, secure) in [(false, false), (true, false), (false, true)] {
        // Who promotes has to remove what was only instant, which the memory provider does when it secures.
        let place = Place::with(AfterCut { promote, secure });
        let recorder = Arc::new(Recorder::default());
        place.session(place.engine().faults(recorder.clone())).await.run().await.unwrap();
        let steps = recorder.steps();
        assert_eq!((steps.contains(&Step::Promote), steps.contains(&Step::Secure)), (promote, secure));
    }
}

#[tokio::test]
async fn every_mishap_at_every_step_ends_published_or_with_a_clean_slate() {
    for step in FORWARD {
        for mishap in Mishap::ALL {
            let place = Place::new();
            let fault = Arc::new(OneFault::new(step, mishap));
            let mut session = place.session(place.engine().faults(fault.clone())).await;
            let result = session.run().await;
            drop(session);
            assert!(fault.has_struck(), "{mishap:?} at {step} did not strike");
            for rescue in place.recover().await {
                assert!(rescue.error.is_none() && rescue.ended.is_final(), "{mishap:?} at {step}: {rescue:?}");
            }
            let past_the_line = FORWARD.iter().position(|other| *other == step) > Some(4)
                || (step == Step::Stop && mishap == Mishap::KilledAfterResult);
            let expected = if past_the_line { "published" } else { "clean slate" };
            assert_eq!(place.verdict().await, expected, "{mishap:?} at {step}: {result:?}");
        }
    }
}

#[tokio::test]
async fn what_the_provider_will_never_promote_undoes_the_backup() {
    let place = Place::new();
    let engine = place.faulty(Arc::new(|call, moment, _: &str| {
        let error = || Error::new(ErrorKind::Provider, "no such key").with_retry(Retry::Never);
        (call == Call::Promote && moment == Moment::Before).then(error)
    }));
    let mut session = place.session(engine).await;
    let error = session.run().await.unwrap_err();
    assert!(error.to_string().contains("no such key"), "{error}");
    assert_eq!(session.phase(), Phase::Undone);
    assert_eq!(place.verdict().await, "clean slate");
}

#[tokio::test]
async fn a_copy_that_failed_leaves_the_complete_snapshots_to_recover() {
    let place = Place::with(AfterCut { promote: false, secure: true });
    let engine = place.faulty(Arc::new(|call, moment, _: &str| {
        let error = || Error::new(ErrorKind::Provider, "the copy snap-2 failed: no such key").with_retry(Retry::Never);
        (call == Call::Secure && moment == Moment::Before).then(error)
    }));
    let mut session = place.session(engine).await;
    let error = session.run().await.unwrap_err();
    assert!(error.to_string().contains("the copy snap-2 failed: no such key"), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.starts_with("its snapshots are complete; fix the cause, then run `barman-snap recover`"), "{hint}");
    assert_eq!((session.phase(), place.provider.existing().len()), (Phase::Finishing, 2));
    drop(session);
    place.recover().await;
    assert_eq!(place.verdict().await, "published");
}

#[tokio::test]
async fn what_may_get_better_is_left_to_recover() {
    for (failing, kind) in [
        (Call::Promote, ErrorKind::PermissionDenied),
        (Call::Promote, ErrorKind::Unavailable),
        (Call::Secure, ErrorKind::PermissionDenied),
        (Call::Secure, ErrorKind::Unavailable),
    ] {
        let place = Place::new();
        let engine = place.faulty(Arc::new(move |call, moment, _: &str| {
            let error = || Error::new(kind, "not now").with_retry(Retry::Unknown);
            (call == failing && moment == Moment::After).then(error)
        }));
        let mut session = place.session(engine).await;
        let error = session.run().await.unwrap_err();
        assert!(error.to_string().contains("recover"), "{error}");
        assert_eq!(session.phase(), Phase::Finishing);
        drop(session);
        let missing = if failing == Call::Promote { "durable snapshots" } else { "locks and copies" };
        let rescues = place.recover().await;
        assert!(rescues[0].plan.to_string().contains(missing), "{}", rescues[0].plan);
        assert_eq!(place.verdict().await, "published", "{failing:?} {kind:?}");
    }
}

#[tokio::test]
async fn a_locked_snapshot_makes_an_undo_stuck_which_says_until_when() {
    let place = Place::new();
    // The lock is there; then the provider finds out that it cannot go on, and the user gives the backup up.
    let engine = place.faulty(Arc::new(|call, moment, _: &str| {
        (call == Call::Secure && moment == Moment::After).then(|| Error::new(ErrorKind::Provider, "no such region"))
    }));
    let mut session = place.session(engine).await;
    let error = session.run().await.unwrap_err();
    assert!(error.to_string().contains("no such region"), "{error}");
    drop(session);
    for discard in [true, false] {
        let rescues = place.recover_as(Wishes { force: true, discard, ..Wishes::default() }).await;
        assert_eq!(rescues[0].ended, Phase::Stuck, "{rescues:?}");
        let reason = rescues[0].error.as_ref().unwrap().to_string();
        assert!(reason.contains("locked") && reason.contains(UNTIL), "{reason}");
    }

    for ticket in place.provider.existing() {
        place.provider.set_lock(&ticket.snapshot, None);
    }
    let rescues = place.recover().await;
    assert_eq!(rescues[0].ended, Phase::Undone, "{rescues:?}");
    assert_eq!(place.verdict().await, "clean slate");
}

#[tokio::test]
async fn an_older_program_is_told_by_the_first_entry_that_it_cannot_follow() {
    for (after_cut, version) in [(AfterCut::default(), 1), (AfterCut { promote: true, secure: false }, 2)] {
        let place = Place::with(after_cut);
        let mut session = place.session(place.engine()).await;
        session.run().await.unwrap();
        let journal = Journal::new(place.catalog.space().clone(), place.catalog.layout().clone());
        let entries = journal.read(session.backup_id()).await.unwrap();
        assert_eq!(entries[0].version, version);
        assert_eq!(SessionState::replay(&entries).unwrap().plan.after_cut, after_cut);
        assert!(entries.iter().all(|entry| entry.version <= version));
    }
}

#[tokio::test]
async fn a_half_finished_backup_is_readable_to_stock_tools_which_can_clean_it_up() {
    let place = Place::new();
    let mut session = place.session(place.engine()).await;
    let id = session.backup_id().clone();
    while let Some(step) = session.next_step().await.unwrap() {
        let info = place.catalog.read(&id).await;
        let Ok(info) = info else { continue };
        let named = info.snapshots().unwrap().map_or(0, |stock| stock.snapshots.len());
        let expected = if FORWARD.iter().position(|other| *other == step) > Some(2) { 2 } else { 0 };
        assert_eq!(named, expected, "after {step}");
        if step == Step::AwaitReady {
            assert_eq!(info.status, BackupStatus::Started);
            break;
        }
    }
    drop(session);
    // What a stock tool does: the snapshots that it reads of, then all below `base/<id>`.
    let named = place.catalog.read(&id).await.unwrap().snapshots().unwrap().unwrap();
    for snapshot in &named.snapshots {
        let id = snapshot.details.identifier().unwrap();
        let ticket = place.provider.existing().into_iter().find(|ticket| ticket.snapshot == id).unwrap();
        assert!(ticket.snapshot.ends_with("/durable"), "what is named is what counts");
        barman_snap::provider::SnapshotProvider::delete(&place.provider, &ticket).await.unwrap();
    }
    place.catalog.remove(&id).await.unwrap();
    // Ours sees it, and removes the rest.
    assert_eq!(place.recover().await[0].ended, Phase::Undone);
    assert_eq!(place.verdict().await, "clean slate");
}
