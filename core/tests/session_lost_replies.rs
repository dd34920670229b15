//! Every single request that a backup makes of the object store and of its provider: failed once, failed for good, its
//! reply lost once. Then `recover` with everything working, and the invariant: published, or a clean slate.
//!
//! The steps of `session_faults` are coarse; this is every request, by its number.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests: a panic is a failure")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName, StoreHook, StoreOp};
use barman_snap::engine::RecoverRequest;
use barman_snap::model::BackupStatus;
use barman_snap::provider::AfterCut;
use barman_snap::session::{BackupRequest, Patience, WalPolicy, Wishes};
use barman_snap::testing::{Call, Delay, ManualClock, MemoryOptions, MemoryProvider, Moment, ScriptedPostgres};
use barman_snap::{Engine, Error, ErrorKind, Result, Retry};
use chrono::DateTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The request does not get through, once.
    Throttled,
    /// The request is refused for good, and so is every later one of its kind.
    Refused,
    /// The request takes effect, once; nobody hears of it.
    ReplyLost,
}

const TROUBLES: [Trouble; 3] = [Trouble::Throttled, Trouble::Refused, Trouble::ReplyLost];

impl Trouble {
    fn error(self) -> Error {
        let error = |kind, retry| Error::new(kind, format!("{self:?} (test)")).with_retry(retry);
        match self {
            Self::Throttled => error(ErrorKind::Exhausted, Retry::After(Duration::from_secs(1))),
            Self::Refused => error(ErrorKind::PermissionDenied, Retry::Never),
            Self::ReplyLost => error(ErrorKind::Unavailable, Retry::Unknown),
        }
    }
}

/// Counts requests, and makes trouble at one of them.
#[derive(Debug)]
struct Troublemaker {
    at: usize,
    trouble: Trouble,
    seen: AtomicUsize,
    struck: AtomicUsize,
}

impl Troublemaker {
    fn new(at: usize, trouble: Trouble) -> Arc<Self> {
        Arc::new(Self { at, trouble, seen: AtomicUsize::new(0), struck: AtomicUsize::new(0) })
    }

    fn request(&self, effect_happened: bool) -> Result<()> {
        let lost = self.trouble == Trouble::ReplyLost;
        if effect_happened != lost {
            return Ok(());
        }
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        let strikes = number == self.at || (self.trouble == Trouble::Refused && number > self.at);
        if strikes {
            self.struck.fetch_add(1, Ordering::SeqCst);
            return Err(self.trouble.error());
        }
        Ok(())
    }

    fn has_struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst) > 0
    }
}

impl StoreHook for Troublemaker {
    fn before(&self, _op: StoreOp, _key: &str) -> Result<()> {
        self.request(false)
    }

    fn after(&self, _op: StoreOp, _key: &str) -> Result<()> {
        self.request(true)
    }
}

struct Place {
    clock: Arc<ManualClock>,
    space: ObjectSpace,
    provider: MemoryProvider,
    postgres: ScriptedPostgres,
    volumes: usize,
    dir: tempfile::TempDir,
}

impl Place {
    fn new(group: bool, after_cut: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let data = root.join("data");
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        let location = root.join("ts1");
        let config = root.join("postgresql.conf");
        std::fs::write(&config, "primary_conninfo = 'password=s3cret'\n").unwrap();
        std::fs::create_dir_all(&location).unwrap();
        let clock = Arc::new(ManualClock::at("2026-05-29T10:11:12Z".parse::<DateTime<chrono::Utc>>().unwrap()));
        let options = MemoryOptions {
            group,
            cut_after: Delay::Polls(2),
            ready_after: Delay::Polls(4),
            after_cut: AfterCut { promote: after_cut, secure: after_cut },
            ..MemoryOptions::default()
        };
        let provider = MemoryProvider::new(clock.clone(), options);
        for volume in [&data, &location] {
            provider.add_volume(PathBuf::from(volume));
        }
        let tablespace = barman_snap::model::Tablespace {
            name: "ts1".into(),
            oid: 16384,
            location: location.to_str().unwrap().into(),
        };
        let postgres = ScriptedPostgres::new(&data, vec![tablespace]);
        postgres.set_facts(|facts| facts.config_file = config.to_str().map(str::to_owned));
        Self { postgres, clock, space: ObjectSpace::in_memory(), provider, volumes: 2, dir }
    }

    fn engine(&self, space: ObjectSpace, provider: MemoryProvider) -> Engine {
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        Engine::on(Catalog::new(space, layout))
            .provider(Arc::new(provider))
            .clock(self.clock.clone())
            .patience(Patience { cut: Some(Duration::from_secs(600)), ..Patience::default() })
            .build()
    }

    /// A backup, and whatever becomes of it; then what is left is recovered with nothing in the way.
    async fn backup_and_recover(&self, space: ObjectSpace, provider: MemoryProvider) -> (bool, &'static str) {
        let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
        let engine = self.engine(space, provider);
        let worked = match engine.backup(self.postgres.connect(), &request).await {
            Ok(mut session) => session.run().await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(self.postgres.backups_open(), 0, "still in backup mode");
        let engine = self.engine(self.space.clone(), self.provider.clone());
        let wishes = Wishes { force: true, ..Wishes::default() };
        for rescue in engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap() {
            assert!(rescue.error.is_none() && rescue.ended.is_final(), "{rescue:?}");
        }
        (worked, self.verdict(&engine).await)
    }

    async fn verdict(&self, engine: &Engine) -> &'static str {
        let entries = engine.catalog().list().await.unwrap();
        let existing = self.provider.existing();
        let configs = engine.catalog().saved_configs().await.unwrap();
        match entries.as_slice() {
            [] if existing.is_empty() && configs.is_empty() => "clean slate",
            [entry] if entry.status() == Some(BackupStatus::Done) && existing.len() == self.volumes => {
                let record = entry.info.as_ref().unwrap().engine_record().unwrap().unwrap();
                let saved = record.saved_config.unwrap();
                engine.catalog().read_config(&entry.id, &saved, &record.token).await.unwrap();
                "published"
            }
            _ => panic!("a mess: {} entries, {} snapshots", entries.len(), existing.len()),
        }
    }
}

#[tokio::test]
async fn every_request_to_the_object_store_may_fail_or_lose_its_reply() {
    let mut counts = std::collections::BTreeMap::new();
    for trouble in TROUBLES {
        for at in 0.. {
            let place = Place::new(false, true);
            let troublemaker = Troublemaker::new(at, trouble);
            let space = place.space.with_hook(troublemaker.clone());
            let (worked, verdict) = place.backup_and_recover(space, place.provider.clone()).await;
            if !troublemaker.has_struck() {
                assert!(worked, "without trouble it works");
                assert!(at > 10, "a backup makes more requests than {at}");
                break;
            }
            assert!(!worked || verdict == "published", "{trouble:?} at request {at}: success was reported");
            *counts.entry((format!("{trouble:?}"), verdict)).or_insert(0) += 1;
        }
    }
    println!("{counts:#?}");
    assert!(counts.len() > 3, "both ends are reached: {counts:?}");
}

#[tokio::test]
async fn every_call_of_the_provider_may_fail_or_lose_its_reply() {
    let mut table = String::new();
    for (group, after_cut) in [(false, false), (true, false), (false, true), (true, true)] {
        for trouble in TROUBLES {
            for at in 0.. {
                let place = Place::new(group, after_cut);
                let troublemaker = Troublemaker::new(at, trouble);
                let (hook, last) = (troublemaker.clone(), Arc::new(std::sync::Mutex::new(String::new())));
                let name = last.clone();
                let provider = place.provider.with_faults(Arc::new(move |call: Call, moment: Moment, _about: &str| {
                    let error = hook.request(moment == Moment::After).err();
                    if error.is_some() {
                        *name.lock().unwrap() = format!("{call:?}");
                    }
                    error
                }));
                let (worked, verdict) = place.backup_and_recover(place.space.clone(), provider).await;
                if !troublemaker.has_struck() {
                    break;
                }
                let call = last.lock().unwrap().clone();
                assert!(!worked || verdict == "published", "{trouble:?} at {call}: success was reported");
                if trouble != Trouble::Refused && call == "Create" {
                    assert_eq!(verdict, "published", "{trouble:?} at {call}: found or tried again, not given up");
                }
                table.push_str(&format!(
                    "group {group:<5} after the cut {after_cut:<5} {trouble:<9?} {call:<14} {verdict}\n"
                ));
            }
        }
    }
    println!("{table}");
    for call in ["Create", "Promote", "Secure"] {
        assert!(table.contains(&format!("ReplyLost {call}")), "{table}");
    }
}

#[tokio::test]
async fn a_snapshot_that_fails_before_its_cut_undoes_the_backup_and_says_which() {
    let place = Place::new(false, false);
    let volume = place.postgres_volume();
    let options = MemoryOptions {
        cut_after: Delay::Polls(2),
        failing: [(volume.clone(), "the disk is on fire".to_owned())].into(),
        ..MemoryOptions::default()
    };
    let provider = MemoryProvider::new(place.clock.clone(), options);
    for root in place.roots() {
        provider.add_volume(root);
    }
    let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
    let engine = place.engine(place.space.clone(), provider.clone());
    let mut session = engine.backup(place.postgres.connect(), &request).await.unwrap();
    let error = session.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Provider);
    assert!(error.to_string().contains(&volume) && error.to_string().contains("on fire"), "{error}");
    assert!(provider.existing().is_empty());
}

impl Place {
    fn roots(&self) -> Vec<PathBuf> {
        ["data", "ts1"].iter().map(|name| self.dir.path().canonicalize().unwrap().join(name)).collect()
    }

    fn postgres_volume(&self) -> String {
        self.roots()[0].to_str().unwrap().to_owned()
    }
}
