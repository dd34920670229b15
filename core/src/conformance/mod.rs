//! The suites that every provider has to pass: the sentences of the contract on [`SnapshotProvider`], as tests.
//!
//! A provider's own test is a [`Fixture`] and one call of [`run`]. A suite passes, is skipped with a reason that the
//! report keeps, or panics. Suites clean up what they make; a provider that passes leaves nothing.

mod restoring;
mod snapshots;
mod volumes;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use crate::id::{BackupId, Token};
use crate::provider::{
    CreateRequest, Instance, RestoredVolume, SnapshotProvider, SnapshotState, SnapshotStatus, Ticket, Volume,
    VolumeSelection, VolumeSnapshot,
};

/// What the suites need beside the provider.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The provider.
    fn provider(&self) -> &dyn SnapshotProvider;

    /// Another one for the same volumes and snapshots that shares no memory with it, as a later process would have.
    fn later(&self) -> Box<dyn SnapshotProvider>;

    /// The names of volumes to work on, as a user would give them: at least one, better two. They have room for a few
    /// megabytes, and nobody else uses them.
    fn volume_names(&self) -> Vec<String>;

    /// Writes a file on a volume; the path is relative to [`Volume::root`] and its directories are made as needed.
    async fn write(&self, volume: &Volume, path: &Path, bytes: &[u8]);

    /// The path of a directory that does not exist, for content of a snapshot.
    fn scratch(&self) -> PathBuf;

    /// Makes the content of a restored and attached volume readable, and says in which directory it is, as [`Volume::root`]
    /// is of the volume that the snapshot was taken of. By default the directory of a provider that fills directories;
    /// `None` skips the suites that need the content of a device, with that as the reason.
    async fn open(&self, volume: &RestoredVolume) -> Option<PathBuf> {
        volume.path.clone()
    }

    /// Undoes [`open`](Self::open).
    async fn close(&self, _volume: &RestoredVolume) {}

    /// A token that nobody has had before.
    fn token(&self) -> Token;

    /// Waits a moment between two questions for the status.
    async fn pause(&self);
}

/// How a suite ended, if it did not panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider does what the contract says.
    Passed,
    /// It does not apply, and why.
    Skipped(String),
}

/// What [`run`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The suites in order, by their names.
    pub suites: Vec<(&'static str, Outcome)>,
}

impl Report {
    /// The suites that were skipped, with their reasons.
    pub fn skipped<'a>(&'a self) -> Vec<(&'static str, &'a str)> {
        let skipped = |(name, outcome): &'a (&'static str, Outcome)| match outcome {
            Outcome::Skipped(why) => Some((*name, why.as_str())),
            Outcome::Passed => None,
        };
        self.suites.iter().filter_map(skipped).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.suites {
            match outcome {
                Outcome::Passed => writeln!(f, "passed   {name}")?,
                Outcome::Skipped(why) => writeln!(f, "skipped  {name}: {why}")?,
            }
        }
        Ok(())
    }
}

/// The one list of suites.
macro_rules! suites {
    ($($module:ident::$name:ident,)*) => {
        /// Runs every suite, one after the other. Panics where the provider breaks the contract; the message names the
        /// sentence that it broke.
        pub async fn run(fixture: &dyn Fixture) -> Report {
            let bench = Bench::new(fixture).await;
            let mut report = Report::default();
            $(
                tracing::info!(suite = stringify!($name), "conformance");
                report.suites.push((stringify!($name), $module::$name(&bench).await));
            )*
            report
        }
    };
}

suites! {
    volumes::the_instance_is_this_host_and_an_unknown_one_is_an_error,
    volumes::named_volumes_come_in_the_order_of_their_names,
    volumes::all_unknown_names_are_in_the_error,
    volumes::a_path_is_held_by_its_volume,
    volumes::a_volume_survives_being_stored,
    volumes::the_name_of_a_snapshot_depends_on_volume_and_backup_alone,
    snapshots::checking_changes_nothing,
    snapshots::what_was_checked_can_be_created,
    snapshots::a_bad_name_is_refused_by_the_check,
    snapshots::states_only_go_forward_and_end_in_ready,
    snapshots::volumes_are_created_concurrently,
    snapshots::several_volumes_are_cut_by_one_call_or_refused,
    snapshots::find_returns_all_that_bears_the_token_and_nothing_else,
    snapshots::a_later_process_finds_what_a_session_made,
    snapshots::list_returns_what_was_made_for_the_server_and_nothing_else,
    snapshots::a_second_create_makes_no_second_snapshot,
    snapshots::a_dropped_create_is_found_if_it_happened,
    snapshots::deleting_twice_is_success_and_the_status_is_not_found,
    snapshots::an_incomplete_snapshot_can_be_deleted,
    snapshots::a_snapshot_with_another_token_is_not_deleted,
    restoring::a_snapshot_holds_what_was_there_at_its_cut,
    restoring::a_subtree_is_restored_without_what_is_excluded,
    restoring::a_directory_that_is_not_empty_is_refused_and_untouched,
    restoring::a_snapshot_that_is_gone_cannot_be_restored,
    restoring::a_volume_is_attached_detached_and_deleted_any_number_of_times,
    restoring::what_no_restore_made_is_not_deleted,
    restoring::a_volume_can_be_listed_until_it_is_attached_or_gone,
    restoring::an_attached_volume_is_known_by_its_snapshot,
}

/// The fixture with what every suite starts from.
struct Bench<'a> {
    fixture: &'a dyn Fixture,
    provider: &'a dyn SnapshotProvider,
    instance: Instance,
    volumes: Vec<Volume>,
    next_id: AtomicU32,
}

impl<'a> Bench<'a> {
    async fn new(fixture: &'a dyn Fixture) -> Self {
        let provider = fixture.provider();
        let instance = ok("the instance of this host is known", provider.instance(None).await);
        let names = VolumeSelection::Named(fixture.volume_names());
        let volumes = ok("the volumes of the fixture are known", provider.volumes(&instance, &names).await);
        assert!(!volumes.is_empty(), "a fixture has at least one volume");
        for volume in &volumes {
            fixture.write(volume, Path::new("data/file"), b"before").await;
            fixture.write(volume, Path::new("data/deep/er/file"), b"deep").await;
            fixture.write(volume, Path::new("data/pg_wal/segment"), b"wal").await;
            fixture.write(volume, Path::new("other/file"), b"other").await;
        }
        Self { fixture, provider, instance, volumes, next_id: AtomicU32::new(0) }
    }

    fn backup_id(&self) -> BackupId {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        ok("an id", format!("20260529T10{:02}{:02}", number / 60, number % 60).parse())
    }

    /// A request for these volumes, with a new token and id.
    fn request(&self, volumes: &[Volume]) -> CreateRequest {
        let backup_id = self.backup_id();
        let name = |volume: &Volume| VolumeSnapshot {
            volume: volume.clone(),
            name: self.provider.snapshot_name(volume, &backup_id),
        };
        CreateRequest {
            token: self.fixture.token(),
            mark: "conformance".into(),
            instance: self.instance.clone(),
            volumes: volumes.iter().map(name).collect(),
            tags: [("purpose".to_owned(), "conformance".to_owned())].into(),
            backup_id,
        }
    }

    /// A request for the first volume.
    fn one(&self) -> CreateRequest {
        self.request(&self.volumes[..1])
    }

    async fn create(&self, request: &CreateRequest) -> Vec<Ticket> {
        ok("create accepts a good request", self.provider.create(request).await)
    }

    /// Makes a snapshot of the first volume and waits until it can be used.
    async fn ready(&self) -> Ticket {
        let mut tickets = self.create(&self.one()).await;
        let ticket = tickets.remove(0);
        self.wait(&ticket).await;
        ticket
    }

    /// Waits for the end of a snapshot, and checks on the way that it never goes back.
    async fn wait(&self, ticket: &Ticket) -> SnapshotStatus {
        let mut last = 0;
        for _ in 0..10_000 {
            let status = ok("the status of a snapshot that exists is known", self.provider.status(ticket).await);
            let rank = match &status.state {
                SnapshotState::Creating => 0,
                SnapshotState::Cut => 1,
                SnapshotState::Ready => 2,
                SnapshotState::Failed { reason } => panic!("the snapshot {} failed: {reason}", ticket.snapshot),
            };
            assert!(rank >= last, "a snapshot never goes back: {status:?}");
            if status.state == SnapshotState::Ready {
                return status;
            }
            last = rank;
            self.fixture.pause().await;
        }
        panic!("the snapshot {} never became ready", ticket.snapshot)
    }

    async fn find(&self, token: &Token) -> Vec<Ticket> {
        ok("find answers", self.provider.find(token, &self.volumes).await)
    }

    /// Waits for the cut of a snapshot that does not get any further by itself.
    async fn wait_cut(&self, ticket: &Ticket) {
        for _ in 0..10_000 {
            match ok("the status is known", self.provider.status(ticket).await).state {
                SnapshotState::Cut | SnapshotState::Ready => return,
                SnapshotState::Creating => self.fixture.pause().await,
                SnapshotState::Failed { reason } => panic!("the snapshot {} failed: {reason}", ticket.snapshot),
            }
        }
        panic!("the snapshot {} was never cut", ticket.snapshot)
    }

    async fn delete(&self, ticket: &Ticket) {
        ok("a snapshot of ours can be deleted", self.provider.delete(ticket).await);
    }
}

/// The tickets without what only `create` can know: as `find` returns them.
fn as_found(tickets: &[Ticket]) -> Vec<Ticket> {
    let mut tickets = tickets.to_vec();
    for ticket in &mut tickets {
        ticket.attributes.remove(Ticket::OPERATION);
    }
    tickets
}

/// The value, or a panic that names the sentence which was broken.
fn ok<T>(sentence: &str, result: crate::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{sentence}: {}", error.chain()))
}

/// The error, or a panic that names the sentence which was broken.
fn refused<T: fmt::Debug>(sentence: &str, result: crate::Result<T>) -> crate::Error {
    match result {
        Ok(value) => panic!("{sentence}, but it returned {value:?}"),
        Err(error) => error,
    }
}
