//! `gc`: it removes what belongs to nobody, and the journal that names snapshots outlives them.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a failure")]

#[allow(dead_code, reason = "not every test needs all of it")]
mod support_session;

use barman_snap::ErrorKind;
use barman_snap::id::BackupId;
use barman_snap::session::Step;
use barman_snap::session::gc::GcLimits;
use serde_json::Value;
use support_session::{House, Verdict};

/// Nothing is kept for its age.
const AT_ONCE: GcLimits =
    GcLimits { keep_undone: chrono::Duration::zero(), volumes_older_than: chrono::Duration::zero() };

#[tokio::test]
async fn gc_finds_what_bears_our_mark_and_belongs_to_nobody() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    session.run().await.unwrap();
    let id = session.backup_id().clone();
    let engine = house.engine().build();
    assert!(engine.plan_gc(&GcLimits::default()).await.unwrap().is_empty());
    // A stock tool deletes the metadata and knows nothing of local snapshots.
    engine.catalog().remove(&id).await.unwrap();
    let plan = engine.plan_gc(&GcLimits::default()).await.unwrap();
    assert_eq!(plan.orphans.len(), house.volumes());
    assert!(plan.journals.is_empty(), "the journal outlives its snapshots");
    assert!(plan.to_string().contains("they go first"), "{plan}");
    engine.apply_gc(&plan).await.unwrap();
    assert_eq!(house.verdict().await, Verdict::CleanSlate);
    let plan = engine.plan_gc(&GcLimits::default()).await.unwrap();
    assert_eq!(plan.journals, [id]);
    engine.apply_gc(&plan).await.unwrap();
    assert!(engine.plan_gc(&GcLimits::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn gc_removes_the_saved_configuration_that_a_stock_tool_has_left_behind_and_no_other() {
    let house = House::new();
    let (mut lasting, mut deleted) =
        (house.backup(house.engine()).await.unwrap(), house.backup(house.engine()).await.unwrap());
    lasting.run().await.unwrap();
    deleted.run().await.unwrap();
    let mut open = house.backup(house.engine()).await.unwrap();
    while open.next_step().await.unwrap() != Some(Step::Announce) {}
    let catalog = house.catalog();
    // As it does it: what it knows, and backup.info.
    for id in [deleted.backup_id(), open.backup_id()] {
        catalog.space().delete(&catalog.layout().backup_label(id)).await.unwrap();
        catalog.space().delete(&catalog.layout().backup_info(id)).await.unwrap();
    }
    let engine = house.engine().build();
    let plan = engine.plan_gc(&GcLimits::default()).await.unwrap();
    assert_eq!(plan.saved_configs, [deleted.backup_id().clone()]);
    assert!(plan.to_string().contains("saved configuration of backup") && !plan.is_empty(), "{plan}");
    engine.apply_gc(&plan).await.unwrap();
    assert_eq!(catalog.saved_configs().await.unwrap(), [lasting.backup_id().clone(), open.backup_id().clone()]);
}

#[tokio::test]
async fn gc_leaves_the_snapshots_of_an_unfinished_session_alone() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    while session.next_step().await.unwrap() != Some(Step::Snapshot(0)) {}
    drop(session);
    let plan = house.engine().build().plan_gc(&GcLimits::default()).await.unwrap();
    assert!(plan.is_empty(), "{plan}");
    assert_eq!(plan.open_sessions.len(), 1);
}

#[tokio::test]
async fn gc_leaves_the_snapshots_of_a_backup_alone_whose_metadata_have_lost_our_record() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    session.run().await.unwrap();
    let engine = house.engine().build();
    let mut info = engine.catalog().read(session.backup_id()).await.unwrap();
    info.copy_stats = None;
    engine.catalog().replace(session.backup_id(), &info).await.unwrap();
    let plan = engine.plan_gc(&AT_ONCE).await.unwrap();
    assert!(plan.is_empty(), "{plan}");
}

/// A published backup whose metadata a stock tool has deleted, and whose snapshots are not to be seen.
async fn forgotten(house: &House) -> BackupId {
    let mut session = house.backup(house.engine()).await.unwrap();
    session.run().await.unwrap();
    house.engine().build().catalog().remove(session.backup_id()).await.unwrap();
    house.hide_snapshots(true);
    session.backup_id().clone()
}

#[tokio::test]
async fn a_host_that_was_renamed_sees_what_lies_on_its_own_file_systems() {
    let house = House::new();
    let id = forgotten(&house).await;
    house.edit_plan(&id, |plan| plan["instance"]["name"] = "another".into()).await;
    let plan = house.engine().build().plan_gc(&AT_ONCE).await.unwrap();
    assert_eq!(plan.journals, [id], "{plan}");
}

/// The journal stays, and the plan says why in one line, as text and as JSON; `apply` obeys.
async fn assert_journal_stays(house: &House, id: &BackupId, why: &str) {
    let engine = house.engine().build();
    let plan = engine.plan_gc(&AT_ONCE).await.unwrap();
    assert!(plan.is_empty(), "{plan}");
    let line =
        plan.to_string().lines().find(|line| line.starts_with(&format!("journal of session {id}"))).unwrap().to_owned();
    assert!(line.contains("stays") && line.contains(why), "{line}");
    let json: Value = serde_json::to_value(&plan).unwrap();
    assert!(json["kept_journals"][0]["why"].as_str().unwrap().contains(why), "{json}");
    engine.apply_gc(&plan).await.unwrap();
    assert_eq!(engine.sessions().await.unwrap().0.len(), 1, "the journal is there");
}

#[tokio::test]
async fn the_journal_of_snapshots_on_another_host_stays() {
    let house = House::new();
    let id = forgotten(&house).await;
    house.edit_old_plan(&id, |plan| plan["instance"]["name"] = "another".into()).await;
    assert_journal_stays(&house, &id, "host another").await;
}

#[tokio::test]
async fn the_journal_of_snapshots_on_a_machine_of_the_same_name_stays() {
    let house = House::new();
    let id = forgotten(&house).await;
    house
        .edit_old_plan(&id, |plan| {
            plan["owner"]["boot_id"] = "another".into();
            plan["owner"]["machine"] = "another".into();
        })
        .await;
    assert_journal_stays(&house, &id, "another machine").await;
}

#[tokio::test]
async fn the_journal_of_snapshots_on_a_file_system_that_is_not_mounted_stays() {
    let house = House::new();
    let id = forgotten(&house).await;
    house.edit_place(&id, 1, |place| place["mount_point"] = "/not/mounted".into()).await;
    assert_journal_stays(&house, &id, "/not/mounted").await;
    house.edit_old_plan(&id, |plan| plan["volumes"][1]["volume"]["mount_point"] = "/not/there".into()).await;
    assert_journal_stays(&house, &id, "/not/there").await;
}

#[tokio::test]
async fn the_journal_of_snapshots_of_a_provider_that_is_not_there_stays() {
    let house = House::new();
    let id = forgotten(&house).await;
    house.edit_plan(&id, |plan| plan["provider"] = "nobody".into()).await;
    assert_journal_stays(&house, &id, "provider nobody is needed").await;
}

#[tokio::test]
async fn a_journal_is_not_dropped_when_its_snapshots_come_to_light_after_the_plan() {
    let house = House::new();
    let id = forgotten(&house).await;
    let engine = house.engine().build();
    let plan = engine.plan_gc(&AT_ONCE).await.unwrap();
    assert_eq!(plan.journals, [id]);
    house.hide_snapshots(false);
    let error = engine.apply_gc(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert_eq!(engine.sessions().await.unwrap().0.len(), 1, "the journal is there");
}
