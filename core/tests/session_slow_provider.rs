//! A provider as slow and as busy as real ones get: it limits rates with and without saying for how long, takes calls into
//! account long after nobody waits for their replies any more, and lists what there was a while ago. Time is virtual.
//!
//! The invariant: a backup is not lost to a limit that ends, none is stuck, and what took effect late is found by `recover` or
//! `gc`.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a failure")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName};
use barman_snap::clock::Clock;
use barman_snap::engine::RecoverRequest;
use barman_snap::model::{BackupStatus, Tablespace};
use barman_snap::session::gc::GcLimits;
use barman_snap::session::{BackupRequest, WalPolicy, Wishes};
use barman_snap::testing::{Call, Delay, ManualClock, MemoryOptions, MemoryProvider, Moment, ScriptedPostgres};
use barman_snap::{Engine, Error, ErrorKind, Result, Retry};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the provider does to calls.
type Trouble = dyn Fn(Call, Duration) -> Option<Error> + Send + Sync;

fn throttled(retry: Retry) -> Option<Error> {
    Some(Error::new(ErrorKind::Exhausted, "too many requests (test)").with_retry(retry))
}

struct Place {
    clock: Arc<ManualClock>,
    space: ObjectSpace,
    provider: MemoryProvider,
    postgres: ScriptedPostgres,
    dir: tempfile::TempDir,
}

impl Place {
    fn new(options: MemoryOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap().join("data");
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        let clock = Arc::new(ManualClock::at("2026-05-29T10:11:12Z".parse().unwrap()));
        let provider = MemoryProvider::new(clock.clone(), options);
        provider.add_volume(PathBuf::from(&data));
        let postgres = ScriptedPostgres::new(&data, Vec::new());
        Self { postgres, clock, space: ObjectSpace::in_memory(), provider, dir }
    }

    fn engine(&self, provider: MemoryProvider) -> Engine {
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        let catalog = Catalog::new(self.space.clone(), layout);
        Engine::on(catalog).provider(Arc::new(provider)).clock(self.clock.clone()).build()
    }

    /// A backup; how long it was in virtual time.
    async fn backup(
        &self,
        trouble: impl Fn(Call, Duration) -> Option<Error> + Send + Sync + 'static,
    ) -> (Result<()>, Duration) {
        let trouble: Box<Trouble> = Box::new(trouble);
        let (clock, begun) = (self.clock.clone(), self.clock.monotonic());
        let provider = self.provider.with_faults(Arc::new(move |call, moment, _about: &str| {
            (moment == Moment::Before).then(|| trouble(call, clock.monotonic())).flatten()
        }));
        let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
        let result = match self.engine(provider).backup(self.postgres.connect(), &request).await {
            Ok(mut session) => session.run().await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(self.postgres.backups_open(), 0, "still in backup mode");
        (result, self.clock.monotonic() - begun)
    }

    async fn recover_and_gc(&self) -> Engine {
        let engine = self.engine(self.provider.clone());
        let wishes = Wishes { force: true, ..Wishes::default() };
        for rescue in engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap() {
            assert!(rescue.error.is_none() && rescue.ended.is_final(), "{rescue:?}");
        }
        let plan = engine.plan_gc(&GcLimits::default()).await.unwrap();
        engine.apply_gc(&plan).await.unwrap();
        engine
    }

    /// Runs `recover`, then `gc`; what there is afterwards belongs to a complete backup.
    async fn clean(&self) -> &'static str {
        let engine = self.recover_and_gc().await;
        let existing = self.provider.existing();
        match engine.catalog().list().await.unwrap().as_slice() {
            [] if existing.is_empty() => "clean",
            [entry] if entry.status() == Some(BackupStatus::Done) && existing.len() == 1 => "published",
            entries => panic!("a mess: {} entries, {} snapshots", entries.len(), existing.len()),
        }
    }
}

fn usual() -> MemoryOptions {
    MemoryOptions { cut_after: Delay::Polls(1), ready_after: Delay::Polls(3), ..MemoryOptions::default() }
}

/// Hits the first `times` calls of a kind.
fn first(call: Call, times: u32, retry: Retry) -> impl Fn(Call, Duration) -> Option<Error> + Send + Sync {
    let left = AtomicU32::new(times);
    move |asked, _| {
        let hit = asked == call && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        hit.then(|| throttled(retry)).flatten()
    }
}

#[tokio::test]
async fn a_create_that_is_refused_by_a_rate_limit_is_tried_again_in_time() {
    // How often, and what the provider says about when to come again; at most how long it takes.
    for (times, retry, at_most) in [
        (2, Retry::After(seconds(5)), 15),
        (2, Retry::After(seconds(30)), 65),
        (2, Retry::After(seconds(60)), 130),
        (1, Retry::After(seconds(240)), 245),
        (10, Retry::After(seconds(5)), 100),
        (8, Retry::Safe, 60),
    ] {
        let place = Place::new(usual());
        let (result, took) = place.backup(first(Call::Create, times, retry)).await;
        result.unwrap_or_else(|error| panic!("{times} times {retry:?}: {}", error.chain()));
        assert!(took <= seconds(at_most), "{times} times {retry:?}: {took:?}");
        assert_eq!(place.clean().await, "published");
    }
}

#[tokio::test]
async fn what_cannot_succeed_in_time_is_not_waited_for_in_backup_mode() {
    for (retry, at_most) in [(Retry::After(seconds(600)), 5), (Retry::After(seconds(7)), 305), (Retry::Safe, 65)] {
        let place = Place::new(usual());
        let (result, took) = place.backup(first(Call::Create, u32::MAX, retry)).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Exhausted);
        assert!(took <= seconds(at_most), "{retry:?}: {took:?}");
        assert_eq!(place.clean().await, "clean");
    }
}

#[tokio::test]
async fn reads_that_are_throttled_for_long_neither_fail_a_backup_nor_stick_its_session() {
    let calls = [Call::Instance, Call::Volumes, Call::CheckRequests, Call::Status, Call::Find];
    for call in calls {
        for retry in [Retry::Safe, Retry::After(seconds(5)), Retry::After(seconds(20))] {
            let place = Place::new(usual());
            // 100 seconds from the first such call on; a create call loses its reply, so that it has to be looked for.
            let since = std::sync::Mutex::new(None);
            let lost = AtomicU32::new(0);
            let (result, took) = place
                .backup(move |asked, now| {
                    if asked == Call::Create && call == Call::Find && lost.fetch_add(1, Ordering::SeqCst) == 0 {
                        return Some(Error::new(ErrorKind::Unavailable, "no answer").with_retry(Retry::Unknown));
                    }
                    let begun = *since.lock().unwrap().get_or_insert(now);
                    if asked == call && now < begun + seconds(100) { throttled(retry) } else { None }
                })
                .await;
            // Nothing was made, so a look that is answered in the end says so.
            let lost = call == Call::Find;
            assert_eq!(result.is_err(), lost, "{call:?} {retry:?}: {result:?}");
            assert!((seconds(90)..seconds(200)).contains(&took), "{call:?} {retry:?}: {took:?}");
            assert_eq!(place.clean().await, if lost { "clean" } else { "published" });
        }
    }
}

#[tokio::test]
async fn what_is_throttled_behind_backup_mode_is_done_in_the_end() {
    for call in [Call::Promote, Call::Secure, Call::Status] {
        let after_cut = barman_snap::provider::AfterCut { promote: true, secure: true };
        let place = Place::new(MemoryOptions { after_cut, ..usual() });
        let (result, took) = place.backup(first(call, 20, Retry::After(seconds(15)))).await;
        result.unwrap_or_else(|error| panic!("{call:?}: {}", error.chain()));
        assert!(took >= seconds(290), "{call:?}: {took:?}");
        assert_eq!(place.clean().await, "published");
    }
}

#[tokio::test]
async fn a_provider_that_never_shows_a_snapshot_again_does_not_hold_a_session_for_ever() {
    let place = Place::new(usual());
    let (result, took) = place.backup(first(Call::Status, u32::MAX, Retry::After(seconds(60)))).await;
    assert!(result.unwrap_err().message().starts_with("cannot see how far snapshot"));
    assert!(took < seconds(1000), "in backup mode: {took:?}");
    assert_eq!(place.clean().await, "clean");
}

#[tokio::test]
async fn a_snapshot_that_comes_late_is_found_by_the_backup_or_by_gc() {
    let mut ends = Vec::new();
    for late in [1, 8, 14, 17, 20, 40, 120] {
        for lag in [0, 3] {
            let options = MemoryOptions { late: seconds(late), lag: seconds(lag), ..usual() };
            let place = Place::new(options);
            let (result, _) = place.backup(|_, _| None).await;
            place.recover_and_gc().await;
            place.clock.advance(seconds(late + lag));
            let end = place.clean().await;
            assert_eq!(result.is_ok(), end == "published", "late by {late} s, lists by {lag} s: {result:?}");
            ends.push(end);
        }
    }
    assert!(ends.contains(&"published") && ends.contains(&"clean"), "{ends:?}");
}

#[tokio::test]
async fn a_list_that_lags_undoes_nothing_and_holds_up_no_undo() {
    for lag in [1, 10, 30] {
        let place = Place::new(MemoryOptions { lag: seconds(lag), ..usual() });
        place.backup(|_, _| None).await.0.unwrap();
        assert_eq!(place.clean().await, "published");

        let place = Place::new(MemoryOptions { lag: seconds(lag), ..usual() });
        // Refused in backup mode, once its snapshot was made: the undo has to delete it.
        let seen = AtomicU32::new(0);
        let (result, _) = place
            .backup(move |call, _| {
                let refuse = call == Call::Status && seen.fetch_add(1, Ordering::SeqCst) == 0;
                refuse.then(|| Error::new(ErrorKind::PermissionDenied, "no (test)"))
            })
            .await;
        result.unwrap_err();
        assert_eq!(place.clean().await, "clean", "lists lag by {lag} s");
    }
}

#[tokio::test]
async fn where_one_call_for_all_is_forbidden_each_volume_is_cut_by_its_own() {
    for call in [Call::CheckRequests, Call::Create] {
        for in_recovery in [false, true] {
            for asked_for in [None, Some(true)] {
                let place = Place::new(MemoryOptions { group: true, ..usual() });
                let location = place.dir.path().canonicalize().unwrap().join("ts1");
                std::fs::create_dir_all(&location).unwrap();
                place.provider.add_volume(&location);
                let data = place.provider.volume_ids()[0].clone();
                let tablespace =
                    Tablespace { name: "ts1".into(), oid: 16384, location: location.to_str().unwrap().into() };
                let postgres = ScriptedPostgres::new(&data, vec![tablespace]);
                postgres.set_facts(|facts| facts.in_recovery = in_recovery);
                // What takes all is the first call.
                let first = AtomicU32::new(0);
                let provider = place.provider.with_faults(Arc::new(move |asked, moment, _about: &str| {
                    let hit = asked == call && moment == Moment::Before && first.fetch_add(1, Ordering::SeqCst) == 0;
                    hit.then(|| Error::new(ErrorKind::PermissionDenied, "no group (test)"))
                }));
                let request = BackupRequest { wal: WalPolicy::External, group: asked_for, ..BackupRequest::default() };
                let result = match place.engine(provider).backup(postgres.connect(), &request).await {
                    Ok(mut session) => session.run().await.map(drop),
                    Err(error) => Err(error),
                };
                assert_eq!(result.is_err(), asked_for.is_some(), "{call:?}: {result:?}");
                let made = place.provider.existing();
                if asked_for.is_none() {
                    assert_eq!(made.len(), 2);
                    // On a standby the volume with pg_control comes last.
                    assert_eq!(made[1].volume == data, in_recovery, "{made:?}");
                } else {
                    assert_eq!(made, []);
                }
            }
        }
    }
}
