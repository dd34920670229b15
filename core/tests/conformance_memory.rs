//! The memory provider passes the suites, with every speed and with groups.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::conformance::{self, Fixture};
use barman_snap::id::{IdSource, SystemIds, Token};
use barman_snap::provider::{SnapshotProvider, Volume};
use barman_snap::testing::memory::{Call, Delay, MemoryOptions, MemoryProvider, Moment};
use barman_snap::{Error, ErrorKind, Retry};

struct Memory {
    provider: MemoryProvider,
    clock: SystemClock,
    scratch: tempfile::TempDir,
}

impl Memory {
    fn new(options: MemoryOptions) -> Self {
        let provider = MemoryProvider::new(Arc::new(SystemClock::new()), options);
        provider.add_volume("/srv/a");
        provider.add_volume("/srv/b");
        Self { provider, clock: SystemClock::new(), scratch: tempfile::tempdir().unwrap() }
    }
}

#[async_trait]
impl Fixture for Memory {
    fn provider(&self) -> &dyn SnapshotProvider {
        &self.provider
    }

    fn later(&self) -> Box<dyn SnapshotProvider> {
        Box::new(self.provider.clone())
    }

    fn volume_names(&self) -> Vec<String> {
        vec!["/srv/a".into(), "/srv/b".into()]
    }

    async fn write(&self, volume: &Volume, path: &Path, bytes: &[u8]) {
        assert!(self.provider.write(&volume.id, path, bytes));
    }

    fn scratch(&self) -> PathBuf {
        self.scratch.path().join(SystemIds.token().as_str())
    }

    fn token(&self) -> Token {
        SystemIds.token()
    }

    async fn pause(&self) {
        self.clock.sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn the_memory_provider_passes_at_every_speed() {
    let time = |ms| Delay::Time(Duration::from_millis(ms));
    for (cut_after, ready_after) in
        [(Delay::Polls(0), Delay::Polls(0)), (Delay::Polls(2), Delay::Polls(4)), (time(2), time(5))]
    {
        for group in [false, true] {
            let fixture = Memory::new(MemoryOptions { group, cut_after, ready_after, ..MemoryOptions::default() });
            let report = conformance::run(&fixture).await;
            assert_eq!(report.skipped(), [], "nothing is skipped in memory");
            assert_eq!(fixture.provider.existing(), [], "nothing is left");
            assert_eq!(fixture.provider.existing_volumes(), Vec::<PathBuf>::new(), "no volume is left");
        }
    }
}

#[tokio::test]
async fn a_lost_reply_leaves_the_effect_and_an_error_before_leaves_nothing() {
    let fixture = Memory::new(MemoryOptions::default());
    for (moment, left) in [(Moment::Before, 0), (Moment::After, 1)] {
        let broken = fixture.provider.with_faults(Arc::new(move |call, when, _| {
            (call == Call::Create && when == moment)
                .then(|| Error::new(ErrorKind::Unavailable, "reply lost").with_retry(Retry::Unknown))
        }));
        let request = barman_snap::provider::CreateRequest {
            token: SystemIds.token(),
            mark: "main.0123456789abcdef".into(),
            backup_id: "20260529T101112".parse().unwrap(),
            instance: broken.instance(None).await.unwrap(),
            volumes: vec![barman_snap::provider::VolumeSnapshot {
                volume: fixture.provider.add_volume("/srv/c"),
                name: "c".into(),
            }],
            tags: Default::default(),
        };
        assert_eq!(broken.create(&request).await.unwrap_err().retry(), Retry::Unknown);
        assert_eq!(fixture.provider.find(&request.token, &[]).await.unwrap().len(), left);
    }
}

#[tokio::test]
async fn a_volume_can_be_made_to_fail() {
    let failing = [("/srv/a".to_owned(), "disk on fire".to_owned())].into();
    let fixture = Memory::new(MemoryOptions { failing, ..MemoryOptions::default() });
    let volume = fixture.provider.add_volume("/srv/a");
    let request = barman_snap::provider::CreateRequest {
        token: SystemIds.token(),
        mark: "main.0123456789abcdef".into(),
        backup_id: "20260529T101112".parse().unwrap(),
        instance: fixture.provider.instance(None).await.unwrap(),
        volumes: vec![barman_snap::provider::VolumeSnapshot { volume, name: "a".into() }],
        tags: Default::default(),
    };
    let ticket = fixture.provider.create(&request).await.unwrap().remove(0);
    let state = fixture.provider.status(&ticket).await.unwrap().state;
    assert_eq!(state, barman_snap::provider::SnapshotState::Failed { reason: "disk on fire".into() });
}
