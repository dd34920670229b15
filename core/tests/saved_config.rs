//! The configuration files that no snapshot has: where they are kept, and what happens where they are not there.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a failure")]

#[allow(dead_code, reason = "not every test needs all of it")]
mod support_session;

use std::sync::Arc;

use barman_snap::catalog::{Catalog, StoreHook, StoreOp};
use barman_snap::engine::RecoverRequest;
use barman_snap::id::{BackupId, Token};
use barman_snap::restore::{RestoreRequest, WalSource};
use barman_snap::session::{BackupRequest, Phase, Step, WalPolicy, Wishes};
use barman_snap::{Engine, Error, ErrorKind, Result};
use support_session::{CONFIG, House, Verdict};

/// Refuses to store private objects, as a policy of the store may do it.
#[derive(Debug)]
struct NothingPrivate;

impl StoreHook for NothingPrivate {
    fn before(&self, op: StoreOp, key: &str) -> Result<()> {
        match op {
            StoreOp::PutNew if key.contains("/private/") => {
                Err(Error::new(ErrorKind::PermissionDenied, "not allowed to write"))
            }
            _ => Ok(()),
        }
    }

    fn after(&self, _: StoreOp, _: &str) -> Result<()> {
        Ok(())
    }
}

async fn backup(house: &House) -> BackupId {
    let mut session = house.backup(house.engine()).await.unwrap();
    session.run().await.unwrap();
    session.backup_id().clone()
}

async fn plan(house: &House, engine: &Engine, id: &BackupId, with_config: bool) -> Result<Vec<Vec<u8>>> {
    let mut request = RestoreRequest::new(house.free_place(), WalSource::None, Token::from_bits(9));
    request.with_config = with_config;
    request.tablespaces.push(format!("ts1:{}", house.free_place().with_file_name("ts1").display()).parse().unwrap());
    let plan = engine.plan_restore(id, &request).await?;
    assert!(!serde_json::to_string(&plan).unwrap().contains("s3cret"));
    Ok(plan.config.saved.into_values().collect())
}

#[tokio::test]
async fn a_restore_has_the_files_to_the_byte_and_notices_what_was_put_in_their_place() {
    let house = House::new();
    let (id, other) = (backup(&house).await, backup(&house).await);
    let engine = house.engine().build();
    assert_eq!(plan(&house, &engine, &id, true).await.unwrap(), [CONFIG]);
    let (space, layout) = (house.catalog().space(), house.catalog().layout());
    let (own, foreign) = (layout.saved_config(&id), layout.saved_config(&other));
    let (bytes, _) = space.get(&own).await.unwrap().unwrap();
    let (others, _) = space.get(&foreign).await.unwrap().unwrap();
    assert_ne!(bytes, others, "each has a salt of its own");
    let mut damaged = bytes.to_vec();
    damaged[40] ^= 1;
    for wrong in [others.to_vec(), damaged, vec![b' '; 1 << 20], Vec::new()] {
        space.put(&own, wrong).await.unwrap();
        assert_eq!(plan(&house, &engine, &id, false).await.unwrap(), Vec::<Vec<u8>>::new());
        let error = plan(&house, &engine, &id, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--with-config")), "{error}");
    }
    space.delete(&own).await.unwrap();
    let error = plan(&house, &engine, &id, true).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.message().contains("is missing"), "{error}");
}

#[tokio::test]
async fn where_it_cannot_be_stored_there_is_no_backup_and_one_clear_line() {
    let house = House::new();
    let space = house.catalog().space().with_hook(Arc::new(NothingPrivate));
    let catalog = Catalog::new(space, house.catalog().layout().clone());
    let mut session = house.backup(house.engine_on(catalog)).await.unwrap();
    let error = session.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let line = error.chain();
    assert!(line.starts_with("cannot store the configuration files of backup 2026"), "{line}");
    assert_eq!((session.phase(), house.verdict().await), (Phase::Undone, Verdict::CleanSlate));
    assert_eq!(house.postgres.backups_open(), 0);
}

#[tokio::test]
async fn a_session_of_an_older_version_that_had_the_files_in_its_journal_is_completed_without_them_in_the_metadata() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    let id = session.backup_id().clone();
    while session.next_step().await.unwrap() != Some(Step::Stop) {}
    drop(session);
    // As it was: no object, and the content in the plan.
    let (space, layout) = (house.catalog().space(), house.catalog().layout());
    space.delete(&layout.saved_config(&id)).await.unwrap();
    house
        .edit_plan(&id, |plan| {
            plan["owner"]["started"] = 1.into();
            plan.as_object_mut().unwrap().remove("saved_config");
            plan["config_files"] =
                serde_json::json!({ "/etc/pg/postgresql.conf": "primary_conninfo = 'password=s3cret'" });
        })
        .await;
    let engine = house.engine().build();
    let wishes = Wishes { force: true, ..Wishes::default() };
    let rescues = engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
    assert_eq!(rescues[0].ended, Phase::Published, "{rescues:?}");
    let (info, _) = space.get(&layout.backup_info(&id)).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&info).contains("s3cret"));
    assert_eq!(plan(&house, &engine, &id, true).await.unwrap(), [b"primary_conninfo = 'password=s3cret'"]);
}

#[tokio::test]
async fn a_deleted_backup_takes_its_configuration_along() {
    let house = House::new();
    let id = backup(&house).await;
    let engine = house.engine().build();
    assert_eq!(house.catalog().saved_configs().await.unwrap(), std::slice::from_ref(&id));
    let options = barman_snap::options::DeleteOptions { backup: Some(id.to_string()), ..Default::default() };
    let plan = options.run(&engine).await.unwrap();
    assert!(plan.to_string().contains("/private/config.json"), "{plan}");
    assert!(house.catalog().saved_configs().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_cluster_whose_files_are_all_in_the_snapshots_has_no_such_object() {
    let house = House::new();
    house.postgres.set_facts(|facts| facts.config_file = None);
    let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
    let mut session = house.engine().build().backup(house.postgres.connect(), &request).await.unwrap();
    session.run().await.unwrap();
    assert!(house.catalog().saved_configs().await.unwrap().is_empty());
    let record = house.catalog().read(session.backup_id()).await.unwrap().engine_record().unwrap().unwrap();
    assert_eq!(record.saved_config, None);
}
