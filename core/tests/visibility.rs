//! What cannot be seen is not gone: snapshots on a file system that is not mounted, or on which another one is mounted, are neither
//! undone, nor deleted, recorded as deleted, or forgotten; and the same backup is intact when they can be seen again.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests: a panic is a failure; real time")]

mod support_fs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use barman_snap::catalog::delete::Selection;
use barman_snap::catalog::{Catalog, DeleteRequest, Layout, ObjectSpace, RetentionPolicy, ServerName};
use barman_snap::engine::RecoverRequest;
use barman_snap::id::BackupId;
use barman_snap::model::BackupStatus;
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method};
use barman_snap::session::gc::GcLimits;
use barman_snap::session::{Action, BackupRequest, BackupSession, Phase, Step, WalPolicy, Wishes};
use barman_snap::testing::{Call, ManualClock, MemoryOptions, MemoryProvider, Moment, ScriptedPostgres};
use barman_snap::{Engine, Error, ErrorKind};
use support_fs::{Kind, Mounted, mounted, run, text};

/// A cluster on a file system of its own, and a catalog elsewhere.
struct Place {
    clock: Arc<ManualClock>,
    catalog: Catalog,
    postgres: ScriptedPostgres,
    disk: Mounted,
    image: PathBuf,
}

impl Place {
    fn new(kind: Kind) -> Option<Self> {
        let disk = mounted(kind, 300)?;
        let data = match kind {
            Kind::Btrfs => disk.subvolume("pg"),
            _ => disk.directory("pg"),
        };
        std::fs::create_dir_all(data.join("global")).unwrap();
        std::fs::create_dir(data.join("pg_wal")).unwrap();
        std::fs::write(data.join("global/pg_control"), "control").unwrap();
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        Some(Self {
            clock: Arc::new(ManualClock::at("2026-05-29T10:11:12Z".parse().unwrap())),
            catalog: Catalog::new(ObjectSpace::in_memory(), layout),
            postgres: ScriptedPostgres::new(&data, vec![]),
            image: disk.path().with_file_name("image"),
            disk,
        })
    }

    fn engine(&self) -> Engine {
        let provider = LocalProvider::new(LocalOptions { method: Method::Auto, ..LocalOptions::default() });
        Engine::on(self.catalog.clone()).provider(Arc::new(provider)).clock(self.clock.clone()).build()
    }

    async fn session(&self) -> BackupSession {
        let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
        self.engine().backup(self.postgres.connect(), &request).await.unwrap()
    }

    async fn backup(&self) -> BackupId {
        let mut session = self.session().await;
        session.run().await.unwrap();
        self.clock.advance(std::time::Duration::from_secs(60));
        session.backup_id().clone()
    }

    /// A session that has come past the line, and whose process has ended.
    async fn left_past_the_line(&self) -> BackupId {
        let mut session = self.session().await;
        while session.next_step().await.unwrap() != Some(Step::StoreLabel) {}
        let id = session.backup_id().clone();
        drop(session);
        let key = self.catalog.layout().session_entry(&id, 0);
        let (bytes, _) = self.catalog.space().get(&key).await.unwrap().unwrap();
        let mut entry: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        entry["plan"]["owner"]["started"] = 1.into();
        self.catalog.space().put(&key, entry.to_string()).await.unwrap();
        id
    }

    /// Every object of the catalog, to the byte.
    async fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let mut objects = Vec::new();
        for object in self.catalog.space().list("").await.unwrap() {
            let (bytes, _) = self.catalog.space().get(&object.key).await.unwrap().unwrap();
            objects.push((object.key, bytes.to_vec()));
        }
        objects
    }

    fn point(&self) -> &Path {
        self.disk.path()
    }
}

/// How snapshots get out of sight.
#[derive(Clone, Copy, Debug)]
enum Hidden {
    NotMounted,
    OtherFileSystem,
    OtherPlace,
}

impl Hidden {
    const ALL: [Self; 3] = [Self::NotMounted, Self::OtherFileSystem, Self::OtherPlace];

    fn hide(self, place: &Place) -> PathBuf {
        let other = place.image.with_file_name("other");
        unmount(place.point());
        match self {
            Self::NotMounted => {}
            Self::OtherFileSystem => {
                std::fs::File::create(&other).unwrap().set_len(300 << 20).unwrap();
                run("mkfs.ext4", &["-q", "-F", text(&other)]).unwrap();
                run("mount", &["-o", "loop", text(&other), text(place.point())]).unwrap();
            }
            Self::OtherPlace => {
                std::fs::create_dir_all(&other).unwrap();
                run("mount", &["-o", "loop", text(&place.image), text(&other)]).unwrap();
            }
        }
        other
    }

    fn show(self, place: &Place, other: &Path) {
        match self {
            Self::NotMounted => {}
            Self::OtherFileSystem => unmount(place.point()),
            Self::OtherPlace => unmount(other),
        }
        run("mount", &["-o", "loop", text(&place.image), text(place.point())]).unwrap();
        let _ = std::fs::remove_file(other);
        let _ = std::fs::remove_dir(other);
    }
}

/// A copy that its session has left goes on for a moment.
fn unmount(point: &Path) {
    for _ in 0..100 {
        if run("umount", &[text(point)]).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{} is busy", point.display());
}

const AT_ONCE: GcLimits =
    GcLimits { keep_undone: chrono::Duration::zero(), volumes_older_than: chrono::Duration::zero() };

fn delete(selection: Selection) -> DeleteRequest {
    DeleteRequest { selection, minimum_redundancy: 0, even_started: false, snapshots_gone: false }
}

#[tokio::test]
async fn nothing_is_undone_deleted_recorded_or_forgotten_while_snapshots_cannot_be_seen() {
    for kind in [Kind::Ext4, Kind::Btrfs] {
        let Some(place) = Place::new(kind) else { return };
        let (old, new) = (place.backup().await, place.backup().await);
        let left = place.left_past_the_line().await;
        let engine = place.engine();
        for hidden in Hidden::ALL {
            let before = place.objects().await;
            let other = hidden.hide(&place);
            for dry_run in [true, false] {
                let wishes = Wishes { force: true, discard: true, ..Wishes::default() };
                let request = RecoverRequest { wishes, dry_run, ..RecoverRequest::default() };
                let rescues = engine.recover(&request).await.unwrap();
                let rescue = rescues.iter().find(|rescue| rescue.plan.backup_id == left).unwrap();
                assert!(matches!(rescue.plan.action, Action::NotVisible { .. }), "{hidden:?}: {rescue:?}");
            }
            let error = engine.plan_delete(&delete(Selection::Backups(vec![old.clone()]))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Precondition);
            assert!(error.chain().contains("cannot be seen from here"), "{hidden:?}: {}", error.chain());
            let policy = Selection::Obsolete(RetentionPolicy::Redundancy(1));
            let plan = engine.plan_delete(&delete(policy)).await.unwrap();
            engine.delete(&plan).await.unwrap();
            assert_eq!((plan.backups.len(), plan.skipped.len()), (0, 1), "{hidden:?}: {plan}");
            let plan = engine.plan_gc(&AT_ONCE).await.unwrap();
            assert!(plan.is_empty(), "{hidden:?}: {plan}");
            assert_eq!(plan.unseen_snapshots.len(), 3, "{plan}");
            engine.apply_gc(&plan).await.unwrap();
            let provider = engine.provider();
            let record = engine.catalog().read(&new).await.unwrap().engine_record().unwrap().unwrap();
            let ticket = &record.snapshots[0].ticket;
            assert_eq!(provider.status(ticket).await.unwrap_err().kind(), ErrorKind::Precondition, "{hidden:?}");
            assert_eq!(provider.content(ticket).await.unwrap_err().kind(), ErrorKind::Precondition, "{hidden:?}");
            assert_eq!(provider.delete(ticket).await.unwrap_err().kind(), ErrorKind::Precondition, "{hidden:?}");
            hidden.show(&place, &other);
            assert_eq!(place.objects().await, before, "{kind:?}, {hidden:?}");
            provider.status(ticket).await.unwrap();
        }
        // Seen again, all works as if nothing had been.
        let rescues = engine.recover(&RecoverRequest::default()).await.unwrap();
        assert_eq!(rescues.iter().find(|rescue| rescue.plan.backup_id == left).unwrap().ended, Phase::Published);
        let plan = engine.plan_delete(&delete(Selection::Obsolete(RetentionPolicy::Redundancy(1)))).await.unwrap();
        engine.delete(&plan).await.unwrap();
        assert_eq!(plan.backups.len(), 2);
        assert_eq!(
            std::fs::read_dir(place.point().join(".barman_snap")).unwrap().count(),
            2,
            "a snapshot and its record"
        );
    }
}

#[tokio::test]
async fn an_undo_whose_snapshots_get_out_of_sight_is_not_recorded_as_done_and_is_ended_later() {
    let Some(place) = Place::new(Kind::Ext4) else { return };
    let mut session = place.session().await;
    while session.next_step().await.unwrap() != Some(Step::AwaitCut(0)) {}
    let other = Hidden::NotMounted.hide(&place);
    session.cancel_token().cancel();
    session.run().await.unwrap_err();
    drop(session);
    let (states, _) = place.engine().sessions().await.unwrap();
    assert_eq!((states[0].phase, states[0].snapshots_deleted), (Phase::Stuck, false));
    Hidden::NotMounted.show(&place, &other);
    let wishes = Wishes { force: true, ..Wishes::default() };
    let rescues = place.engine().recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
    assert_eq!(rescues[0].ended, Phase::Undone, "{rescues:?}");
    assert!(!place.point().join(".barman_snap").exists());
}

#[tokio::test]
async fn what_is_gone_by_the_word_of_the_user_can_be_given_up() {
    let Some(place) = Place::new(Kind::Ext4) else { return };
    let id = place.backup().await;
    let left = place.left_past_the_line().await;
    let other = Hidden::NotMounted.hide(&place);
    let engine = place.engine();
    let request = DeleteRequest { snapshots_gone: true, ..delete(Selection::Backups(vec![id.clone()])) };
    let plan = engine.plan_delete(&request).await.unwrap();
    assert_eq!((plan.backups[0].snapshots.len(), plan.backups[0].given_up.len()), (0, 1));
    assert!(plan.to_string().contains("counts as gone"), "{plan}");
    engine.delete(&plan).await.unwrap();
    assert_eq!(engine.catalog().read(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    let wishes = Wishes { snapshots_gone: true, ..Wishes::default() };
    let rescues = engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
    let rescue = rescues.iter().find(|rescue| rescue.plan.backup_id == left).unwrap();
    assert_eq!(rescue.ended, Phase::Undone, "{rescue:?}");
    Hidden::NotMounted.show(&place, &other);
}

#[tokio::test]
async fn a_deletion_that_breaks_off_leaves_what_no_list_takes_for_a_backup_and_the_next_run_ends_it() {
    let Some(place) = Place::new(Kind::Btrfs) else { return };
    let (old, new) = (place.backup().await, place.backup().await);
    let engine = place.engine();
    let plan = engine.plan_delete(&delete(Selection::Backups(vec![old.clone()]))).await.unwrap();
    // Its snapshot cannot be deleted: a subvolume in it is in the way, which only the deletion itself finds.
    let snapshot = PathBuf::from(&plan.backups[0].snapshots[0].snapshot);
    run("btrfs", &["property", "set", text(&snapshot), "ro", "false"]).unwrap();
    run("btrfs", &["-q", "subvolume", "create", text(&snapshot.join("in the way"))]).unwrap();
    engine.delete(&plan).await.unwrap_err();
    let info = engine.catalog().read(&old).await.unwrap();
    assert_eq!(info.status, BackupStatus::Failed);
    assert!(info.error.unwrap().contains("its deletion was begun"), "and says so");
    assert_eq!(engine.catalog().resolve("first").await.unwrap(), new);
    // The minimum redundancy counts only what can be restored.
    let last = DeleteRequest { minimum_redundancy: 1, ..delete(Selection::Backups(vec![new.clone()])) };
    assert_eq!(engine.plan_delete(&last).await.unwrap_err().kind(), ErrorKind::Precondition);
    run("btrfs", &["-q", "subvolume", "delete", text(&snapshot.join("in the way"))]).unwrap();
    let plan = engine.plan_delete(&delete(Selection::Obsolete(RetentionPolicy::Redundancy(1)))).await.unwrap();
    engine.delete(&plan).await.unwrap();
    assert_eq!(plan.backups.iter().map(|backup| &backup.id).collect::<Vec<_>>(), [&old]);
    let left: Vec<BackupId> = engine.catalog().list().await.unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(left, [new]);
    assert!(!snapshot.exists());
}

#[tokio::test]
async fn the_age_of_a_session_is_measured_by_the_clock_of_the_store() {
    let Some(place) = Place::new(Kind::Ext4) else { return };
    let id = place.left_past_the_line().await;
    let key = place.catalog.layout().session_entry(&id, 0);
    let (bytes, _) = place.catalog.space().get(&key).await.unwrap().unwrap();
    let mut entry: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    entry["plan"]["owner"]["boot_id"] = "of another host".into();
    entry["plan"]["owner"]["machine"] = "another".into();
    place.catalog.space().put(&key, entry.to_string()).await.unwrap();
    let keys = |objects: Vec<(String, Vec<u8>)>| objects.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let before = keys(place.objects().await);
    // The clock of this host is years off, one way or the other; the driver was heard of a moment ago.
    for year in ["2020", "2099"] {
        place.clock.set(format!("{year}-05-29T10:11:12Z").parse().unwrap());
        let rescues = place.engine().recover(&RecoverRequest::default()).await.unwrap();
        assert!(
            matches!(&rescues[0].plan.action, Action::LeaveAlone { why } if why.contains("heard of")),
            "{rescues:?}"
        );
    }
    assert_eq!(keys(place.objects().await), before, "nothing is left of the question");
}

/// What a provider may say when it is asked for what was made with other keys, without the permission, or not at all.
#[derive(Clone, Copy, Debug)]
enum Says {
    OtherAccount,
    Refused(Call, ErrorKind),
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_or_does_not_let_us_look_has_lost_nothing() {
    let mut says = vec![Says::OtherAccount];
    for kind in [ErrorKind::Unavailable, ErrorKind::PermissionDenied] {
        says.extend(
            [Call::Unseen, Call::Find, Call::List, Call::Status, Call::CheckDelete]
                .map(|call| Says::Refused(call, kind)),
        );
    }
    for said in says {
        let clock = Arc::new(ManualClock::at("2026-05-29T10:11:12Z".parse().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap().join("data");
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        let catalog = Catalog::new(ObjectSpace::in_memory(), layout);
        let provider = MemoryProvider::new(clock.clone(), MemoryOptions::default());
        provider.add_volume(data.clone());
        let engine_of = |provider: &MemoryProvider| {
            Engine::on(catalog.clone()).provider(Arc::new(provider.clone())).clock(clock.clone()).build()
        };
        let postgres = ScriptedPostgres::new(&data, vec![]);
        let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
        let mut ids = Vec::new();
        for _ in 0..2 {
            let mut session = engine_of(&provider).backup(postgres.connect(), &request).await.unwrap();
            session.run().await.unwrap();
            ids.push(session.backup_id().clone());
            clock.advance(std::time::Duration::from_secs(60));
        }
        let mut session = engine_of(&provider).backup(postgres.connect(), &request).await.unwrap();
        while session.next_step().await.unwrap() != Some(Step::StoreLabel) {}
        drop(session);
        let bytes = async || {
            let mut objects = Vec::new();
            for object in catalog.space().list("").await.unwrap() {
                objects.push((catalog.space().get(&object.key).await.unwrap().unwrap().0, object.key));
            }
            (objects, provider.existing())
        };
        let before = bytes().await;
        let blind = match said {
            Says::OtherAccount => {
                provider.set_unseen(Some("its snapshots are in account 1, these are the keys of account 2"));
                provider.clone()
            }
            Says::Refused(refused, kind) => provider.with_faults(Arc::new(move |call, moment, _: &str| {
                (call == refused && moment == Moment::Before).then(|| Error::new(kind, "the provider says no"))
            })),
        };
        let engine = engine_of(&blind);
        let wishes = Wishes { force: true, ..Wishes::default() };
        let _ = engine.recover(&RecoverRequest { wishes, dry_run: true, ..RecoverRequest::default() }).await.unwrap();
        // What does not ask this question works as ever: nothing is lost by that.
        let asked = |calls: &[Call]| {
            matches!(said, Says::OtherAccount) || matches!(said, Says::Refused(call, _) if calls.contains(&call))
        };
        if asked(&[Call::Unseen, Call::Find]) {
            let _ = engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
        }
        if asked(&[Call::Unseen, Call::CheckDelete]) {
            engine.plan_delete(&delete(Selection::Backups(vec![ids[0].clone()]))).await.unwrap_err();
            if let Ok(plan) = engine.plan_delete(&delete(Selection::Obsolete(RetentionPolicy::Redundancy(1)))).await {
                assert!(plan.backups.is_empty() && plan.skipped.len() == 1, "{said:?}: {plan}");
                engine.delete(&plan).await.unwrap();
            }
        }
        let plan = engine.plan_gc(&AT_ONCE).await.unwrap();
        assert!(plan.is_empty(), "{said:?}: {plan}");
        engine.apply_gc(&plan).await.unwrap();
        if asked(&[Call::Unseen, Call::List]) {
            assert!(!plan.unseen_snapshots.is_empty() || !plan.unreachable.is_empty(), "{said:?}: {plan}");
        }
        provider.set_unseen(None);
        assert!(bytes().await == before, "{said:?}: something has changed");
        let rescues =
            engine_of(&provider).recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
        assert_eq!(rescues.last().unwrap().ended, Phase::Published, "{said:?}");
    }
}
