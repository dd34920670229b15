//! Others use the disk, too: what somebody puts in the way of a restore after its plan was made is never emptied and never
//! removed, and what the restore has made itself is.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use barman_snap::clock::SystemClock;
use barman_snap::id::{BackupId, Token};
use barman_snap::model::{BackupInfo, BackupStatus, EngineRecord, Lsn, SnapshotRecord, Tablespace, Timeline};
use barman_snap::provider::{CreateRequest, Instance, SnapshotProvider, VolumeSnapshot};
use barman_snap::restore::host::look;
use barman_snap::restore::plan::{places_to_look_at, plan};
use barman_snap::restore::{ArchiveFacts, PlanInput, RestorePlan, RestoreRequest, Tools, WalSource, provision};
use barman_snap::testing::{Call, MemoryOptions, MemoryProvider, Moment};
use barman_snap::{Error, ErrorKind};

/// A backup of a data directory and a tablespace, each on a volume of its own.
struct World {
    dir: tempfile::TempDir,
    provider: MemoryProvider,
    id: BackupId,
    info: BackupInfo,
    record: EngineRecord,
}

impl World {
    async fn new() -> Self {
        let provider = MemoryProvider::new(Arc::new(SystemClock::new()), MemoryOptions::default());
        let id: BackupId = "20260529T095900".parse().unwrap();
        let token = Token::from_bits(1);
        let mut record = EngineRecord {
            tablespace_map: Some("16384 /srv/ts\n".into()),
            settings: BTreeMap::new(),
            ..EngineRecord::new("memory", token.clone())
        };
        for (root, file) in [("/srv/data", "PG_VERSION"), ("/srv/ts", "PG_15_202209061/1/2")] {
            let volume = provider.add_volume(root);
            assert!(provider.write(root, file, b"15\n"));
            let name = provider.snapshot_name(&volume, &id);
            let request = CreateRequest {
                token: token.clone(),
                mark: "main.0123456789abcdef".into(),
                backup_id: id.clone(),
                instance: Instance { name: "localhost".into(), attributes: BTreeMap::new() },
                volumes: vec![VolumeSnapshot { volume, name }],
                tags: BTreeMap::new(),
            };
            let ticket = provider.create(&request).await.unwrap().remove(0);
            let mount_point = root.to_owned();
            let mount_options = "rw".to_owned();
            record.snapshots.push(SnapshotRecord { ticket, mount_point, mount_options, file_systems: Vec::new() });
        }
        let info = BackupInfo {
            backup_label: Some("START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\n".into()),
            status: BackupStatus::Done,
            pgdata: Some("/srv/data".into()),
            begin_xlog: Some(Lsn(0x900_0028)),
            end_xlog: Some(Lsn(0xA00_0100)),
            timeline: Some(Timeline(1)),
            version: Some(150_004),
            tablespaces: Some(vec![Tablespace { name: "ts".into(), oid: 16384, location: "/srv/ts".into() }]),
            config_file: Some("/srv/data/postgresql.conf".into()),
            ..BackupInfo::default()
        };
        Self { dir: tempfile::tempdir().unwrap(), provider, id, info, record }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The plan for a restore to `new/data` and `new/ts`.
    fn plan(&self) -> RestorePlan {
        let wal = WalSource::Command("cp /archive/%f %p".into());
        let mut request = RestoreRequest::new(self.at("new/data"), wal, Token::from_bits(2));
        request.tablespaces = vec![format!("ts:{}", self.at("new/ts").display()).parse().unwrap()];
        plan(PlanInput {
            backup_id: &self.id,
            info: &self.info,
            record: &self.record,
            request: &request,
            host: &look(&places_to_look_at(&self.info, &request).unwrap()).unwrap(),
            archive: &ArchiveFacts::default(),
            devices: None,
            now: "2026-06-01T00:00:00Z".parse().unwrap(),
        })
        .unwrap()
    }

    /// Carries out the plan; when the data directory is about to be made, `meddle` comes in between.
    async fn fail(&self, plan: &RestorePlan, meddle: impl Fn() -> Option<Error> + Send + Sync + 'static) -> Error {
        let provider = self.provider.with_faults(Arc::new(move |call, moment, about: &str| {
            let now = call == Call::CreateVolume && moment == Moment::Before && about.contains("/srv/data");
            if now { meddle() } else { None }
        }));
        let clock = SystemClock::new();
        let tools = Tools { provider: &provider, clock: &clock, cancelled: &|| false, progress: &|_| {} };
        let error = provision(plan, tools).await.unwrap_err();
        assert!(self.provider.existing_volumes().is_empty(), "what it has made is gone: {error:?}");
        error
    }
}

fn put(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "precious").unwrap();
}

fn refused() -> Option<Error> {
    Some(Error::new(ErrorKind::Provider, "no (test)"))
}

/// All files and directories below, relative to it.
fn below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_destination_that_was_filled_after_the_plan_is_left_as_it_is() {
    for was_there in [false, true] {
        let world = World::new().await;
        if was_there {
            fs::create_dir_all(world.at("new/data")).unwrap();
        }
        let plan = world.plan();
        put(&world.at("new/data/theirs"));
        let error = world.fail(&plan, || None).await;
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(below(world.dir.path()), ["new", "new/data", "new/data/theirs"]);
    }
}

#[tokio::test]
async fn a_destination_that_is_filled_while_the_restore_runs_is_left_as_it_is() {
    for was_there in [false, true] {
        let world = World::new().await;
        if was_there {
            fs::create_dir_all(world.at("new/data")).unwrap();
        }
        let theirs = world.at("new/data/theirs");
        let meddle = move || {
            put(&theirs);
            None
        };
        let error = world.fail(&world.plan(), meddle).await;
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert_eq!(below(world.dir.path()), ["new", "new/data", "new/data/theirs"], "was there: {was_there}");
    }
}

#[tokio::test]
async fn an_empty_destination_that_was_there_is_empty_again() {
    let world = World::new().await;
    for place in ["new/data", "new/ts"] {
        fs::create_dir_all(world.at(place)).unwrap();
    }
    world.fail(&world.plan(), refused).await;
    assert_eq!(below(world.dir.path()), ["new", "new/data", "new/ts"]);
}

#[tokio::test]
async fn a_parent_that_somebody_else_has_made_after_the_plan_stays() {
    let world = World::new().await;
    let plan = world.plan();
    fs::create_dir(world.at("new")).unwrap();
    world.fail(&plan, refused).await;
    assert_eq!(below(world.dir.path()), ["new"]);
}

#[tokio::test]
async fn a_parent_that_the_restore_has_made_goes_unless_somebody_else_uses_it() {
    let world = World::new().await;
    world.fail(&world.plan(), refused).await;
    assert!(below(world.dir.path()).is_empty());

    let theirs = world.at("new/theirs");
    let meddle = move || {
        put(&theirs);
        refused()
    };
    world.fail(&world.plan(), meddle).await;
    assert_eq!(below(world.dir.path()), ["new", "new/theirs"]);
}
