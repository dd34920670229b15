//! Break it at every point, then: clean slate or published, and no snapshot that belongs to nobody.
//!
//! The provider is the real local one (plain copies of real directories); PostgreSQL and the clock are scripted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests: a panic is a failure")]

#[allow(dead_code, reason = "not every test needs all of it")]
mod support_session;

use barman_snap::engine::RecoverRequest;
use barman_snap::id::BackupId;
use barman_snap::model::Tablespace;
use barman_snap::session::fault::FaultPlan;
use barman_snap::session::gc::GcLimits;
use barman_snap::session::journal::Journal;
use barman_snap::session::{BackupRequest, Phase, Step, WalPolicy, Wishes, step};
use barman_snap::testing::faults::Mishap;
use barman_snap::testing::{OneFault, Recorder};
use chrono::DateTime;
use support_session::{House, Verdict};

const FORWARD: [Step; 9] = [
    Step::Start,
    Step::Announce,
    Step::Snapshot(0),
    Step::AwaitCut(0),
    Step::Stop,
    Step::StoreLabel,
    Step::CompleteWal,
    Step::AwaitReady,
    Step::Publish,
];

const BACK: [Step; 3] = [Step::DeleteSnapshots, Step::ClearCatalog, Step::CloseUndo];

/// After the mishap: what `recover` makes of it, in a new process.
async fn rescue(house: &House) -> Verdict {
    let engine = house.engine().build();
    let wishes = Wishes { force: true, ..Wishes::default() };
    let rescues = engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
    for rescue in &rescues {
        assert!(rescue.error.is_none(), "recover failed: {:?}", rescue.error);
        assert!(rescue.ended.is_final(), "{} after recover", rescue.ended);
    }
    // Twice is harmless.
    for again in engine.recover(&RecoverRequest::default()).await.unwrap() {
        assert!(again.error.is_none() && again.ended.is_final());
    }
    house.verdict().await
}

#[tokio::test]
async fn a_backup_without_mishap_is_published() {
    let house = House::new();
    let recorder = std::sync::Arc::new(Recorder::default());
    let mut session = house.backup(house.engine().faults(recorder.clone())).await.unwrap();
    let summary = session.run().await.unwrap();
    assert_eq!(summary.snapshots.len(), house.volumes());
    assert_eq!(recorder.steps(), FORWARD);
    assert_eq!(house.verdict().await, Verdict::Published);
    assert_eq!(house.postgres.backups_open(), 0);
}

#[tokio::test]
async fn every_mishap_at_every_step_ends_published_or_with_a_clean_slate() {
    let mut table = String::new();
    for step in FORWARD {
        for mishap in Mishap::ALL {
            let house = House::new();
            let fault = std::sync::Arc::new(OneFault::new(step, mishap));
            let engine = house.engine().faults(fault.clone());
            let mut session = house.backup(engine).await.unwrap();
            let result = session.run().await;
            let phase = session.phase();
            drop(session);
            assert!(fault.has_struck(), "{mishap:?} at {step} did not strike");
            assert_eq!(house.postgres.backups_open(), 0, "{mishap:?} at {step}: still in backup mode");
            let verdict = rescue(&house).await;
            let past_the_line = FORWARD.iter().position(|other| *other == step) > Some(4)
                || (step == Step::Stop && mishap == Mishap::KilledAfterResult);
            let expected = if past_the_line { Verdict::Published } else { Verdict::CleanSlate };
            assert_eq!(verdict, expected, "{mishap:?} at {step}: {result:?} in phase {phase}");
            house.assert_no_secret_is_told().await;
            if verdict == Verdict::CleanSlate {
                assert!(result.is_err(), "{mishap:?} at {step} was not reported");
            }
            table.push_str(&format!("{step:<16} {:<20} {phase:<13} {verdict:?}\n", format!("{mishap:?}")));
        }
    }
    println!("{table}");
}

#[tokio::test]
async fn every_mishap_on_the_way_back_still_ends_with_a_clean_slate() {
    for step in BACK {
        for mishap in Mishap::ALL {
            let house = House::new();
            // Cancelling brings the session to its way back, with snapshots made.
            let fault = std::sync::Arc::new(OneFault::new(step, mishap));
            let mut session = house.backup(house.engine().faults(fault.clone())).await.unwrap();
            while session.next_step().await.unwrap() != Some(Step::Snapshot(0)) {}
            session.cancel_token().cancel();
            let error = session.run().await.unwrap_err();
            assert_eq!(error.kind(), barman_snap::ErrorKind::Cancelled, "{error:?}");
            drop(session);
            assert!(fault.has_struck(), "{mishap:?} at {step} did not strike");
            assert_eq!(rescue(&house).await, Verdict::CleanSlate, "{mishap:?} at {step}");
        }
    }
}

#[tokio::test]
async fn a_death_between_any_two_steps_and_another_during_recovery_is_recovered() {
    for step in FORWARD {
        for second in FORWARD.into_iter().chain(BACK) {
            let house = House::new();
            let first = std::sync::Arc::new(OneFault::new(step, Mishap::KilledAfter));
            let mut session = house.backup(house.engine().faults(first)).await.unwrap();
            assert!(session.run().await.is_err());
            drop(session);
            let fault = std::sync::Arc::new(OneFault::new(second, Mishap::KilledAfter));
            let engine = house.engine().faults(fault as std::sync::Arc<dyn FaultPlan>).build();
            let wishes = Wishes { force: true, ..Wishes::default() };
            engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
            assert_ne!(rescue(&house).await, Verdict::Mess, "killed after {step}, then after {second}");
        }
    }
}

#[tokio::test]
async fn each_step_run_twice_is_harmless() {
    for step in FORWARD.into_iter().filter(|step| *step != Step::Start && *step != Step::Stop) {
        let house = House::new();
        // The effect happens, its result is lost, the same driver does it again: what an embedding program may do, and
        // what every step behind the line does by itself.
        let fault = std::sync::Arc::new(OneFault::new(step, Mishap::KilledAfter));
        let mut session = house.backup(house.engine().faults(fault)).await.unwrap();
        assert!(session.run().await.is_err());
        drop(session);
        let (verdict, twice) = (rescue(&house).await, house.verdict().await);
        assert_eq!(verdict, twice, "{step}");
        assert_ne!(verdict, Verdict::Mess, "{step}");
    }
}

#[tokio::test]
async fn of_two_drivers_one_is_fenced_and_nothing_is_left() {
    let house = House::new();
    let mut first = house.backup(house.engine()).await.unwrap();
    while first.next_step().await.unwrap() != Some(Step::Announce) {}
    // Somebody is sure that the first is dead.
    assert_eq!(rescue(&house).await, Verdict::CleanSlate);
    let error = first.run().await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Fenced, "{error:?}");
    drop(first);
    assert_eq!(house.verdict().await, Verdict::CleanSlate);
    assert_eq!(house.postgres.backups_open(), 0);
}

#[tokio::test]
async fn a_fenced_driver_deletes_what_its_own_create_calls_made_too_late() {
    let house = House::new();
    let mut first = house.backup(house.engine()).await.unwrap();
    while first.phase() != Phase::Snapshotting {
        // Its intent is written, its create call is on the way ...
        if step::next(first.state()) == Some(Step::Snapshot(0)) {
            break;
        }
        first.next_step().await.unwrap();
    }
    assert_eq!(rescue(&house).await, Verdict::CleanSlate);
    // ... and takes effect only now.
    assert_eq!(first.next_step().await.unwrap_err().kind(), barman_snap::ErrorKind::Fenced);
    assert_eq!(house.verdict().await, Verdict::CleanSlate);
}

#[tokio::test]
async fn two_backups_started_in_the_same_second_get_two_ids() {
    let house = House::new();
    let mut first = house.backup(house.engine()).await.unwrap();
    let mut second = house.backup(house.engine()).await.unwrap();
    assert_eq!(second.backup_id(), &first.backup_id().next());
    first.run().await.unwrap();
    second.run().await.unwrap();
    assert_eq!(house.engine().build().catalog().list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_clock_that_went_backwards_is_refused_and_summer_time_is_not() {
    let house = House::new();
    house.backup(house.engine()).await.unwrap().run().await.unwrap();
    // Summer time ends: the local time goes back an hour, the absolute time goes on.
    house.clock.set_zone(chrono::FixedOffset::west_opt(3600).unwrap());
    let newest = house.engine().build().catalog().latest_id().await.unwrap().unwrap();
    let mut second = house.backup(house.engine()).await.unwrap();
    assert_eq!(second.backup_id(), &newest.next());
    second.run().await.unwrap();
    // The clock itself goes back a day.
    house.clock.set(house.clock_start() - chrono::Duration::days(1));
    let error = house.backup(house.engine()).await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Precondition);
    assert!(error.to_string().contains("clock"), "{error}");
}

#[tokio::test]
async fn a_lost_connection_undoes_the_backup() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    while session.next_step().await.unwrap() != Some(Step::Snapshot(0)) {}
    house.postgres.lose_connections("the server was restarted");
    let error = session.run().await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Postgres, "{error:?}");
    assert_eq!(session.phase(), Phase::Undone);
    assert_eq!(house.verdict().await, Verdict::CleanSlate);
}

#[tokio::test]
async fn a_promotion_during_the_backup_undoes_it() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    while session.next_step().await.unwrap() != Some(Step::Snapshot(0)) {}
    house.postgres.promote();
    assert!(session.run().await.unwrap_err().to_string().contains("timeline"));
    assert_eq!(house.verdict().await, Verdict::CleanSlate);
}

#[tokio::test]
async fn a_tablespace_that_comes_or_goes_while_the_backup_starts_undoes_it() {
    let new = || Tablespace { name: "late".into(), oid: 16_999, location: "/srv/late".into() };
    for created in [true, false] {
        let house = House::new();
        let mut session = house.backup(house.engine()).await.unwrap();
        match created {
            true => house.postgres.create_tablespace_at_start(new()),
            false => house.postgres.set_facts(|facts| drop(facts.tablespaces.pop().unwrap())),
        }
        let error = session.run().await.unwrap_err();
        assert_eq!(error.kind(), barman_snap::ErrorKind::Precondition, "{error:?}");
        let what = if created { "\"late\" at /srv/late was created" } else { "was dropped" };
        assert!(error.message().contains(what), "{error}");
        assert_eq!(house.verdict().await, Verdict::CleanSlate);
    }
}

#[tokio::test]
async fn a_backup_deleted_while_it_is_made_is_not_brought_back() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    while session.next_step().await.unwrap() != Some(Step::AwaitReady) {}
    let id = session.backup_id().clone();
    house.engine().build().catalog().remove(&id).await.unwrap();
    let error = session.run().await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Conflict, "{error:?}");
    assert_eq!(house.verdict().await, Verdict::CleanSlate);
}

#[tokio::test]
async fn cancelling_behind_the_line_leaves_it_to_recover() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    while session.next_step().await.unwrap() != Some(Step::Stop) {}
    session.cancel_token().cancel();
    let error = session.run().await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Cancelled);
    assert!(error.to_string().contains("recover"), "{error}");
    drop(session);
    assert_eq!(rescue(&house).await, Verdict::Published);
}

#[tokio::test]
async fn a_live_process_is_left_alone() {
    let house = House::new();
    let mut session = house.backup(house.engine()).await.unwrap();
    session.next_step().await.unwrap();
    let rescues = house.engine().build().recover(&RecoverRequest::default()).await.unwrap();
    assert!(rescues[0].plan.to_string().contains("leave alone"), "{}", rescues[0].plan);
    session.run().await.unwrap();
    assert_eq!(house.verdict().await, Verdict::Published);
}

#[tokio::test]
async fn a_session_behind_the_line_can_be_adopted_and_its_first_driver_is_fenced() {
    let house = House::new();
    let mut first = house.backup(house.engine()).await.unwrap();
    let id = first.backup_id().clone();
    let engine = house.engine().build();
    first.next_step().await.unwrap();
    let error = engine.adopt(&id).await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Precondition, "before the line only recover can help");
    while first.next_step().await.unwrap() != Some(Step::Stop) {}
    let mut second = engine.adopt(&id).await.unwrap();
    assert_eq!(second.next_step().await.unwrap(), Some(Step::StoreLabel));
    assert_eq!(first.next_step().await.unwrap_err().kind(), barman_snap::ErrorKind::Fenced);
    second.run().await.unwrap();
    assert_eq!(house.verdict().await, Verdict::Published);
    assert!(engine.adopt(&id).await.is_err(), "it is over");
}

#[tokio::test]
async fn the_check_tells_a_running_session_from_one_that_was_left() {
    let house = House::new();
    let engine = house.engine().build();
    let sessions = async || {
        let report = engine.check(Ok(house.postgres.connect()), &Default::default()).await;
        report.lines.into_iter().find(|line| line.name == "sessions").unwrap()
    };
    assert!(sessions().await.ok);
    let mut session = house.backup(house.engine()).await.unwrap();
    let running = sessions().await;
    assert!(running.ok && running.detail.contains("running"), "{running:?}");
    session.run().await.unwrap();
    house.leave_a_dead_session().await;
    let left = sessions().await;
    assert!(!left.ok && left.hint.is_some_and(|hint| hint.contains("recover")));
}

#[tokio::test]
async fn the_check_goes_by_the_id_that_the_next_backup_would_get() {
    let house = House::new();
    let engine = house.engine().build();
    let bad = async || {
        let report = engine.check(Ok(house.postgres.connect()), &Default::default()).await;
        report.lines.into_iter().filter(|line| !line.ok).collect::<Vec<_>>()
    };
    house.backup(house.engine()).await.unwrap().run().await.unwrap();
    // In the same second, so the names of now are taken.
    assert!(bad().await.is_empty(), "{:?}", bad().await);
    house.clock.set(house.clock_start() - chrono::Duration::days(1));
    let [line] = bad().await.try_into().unwrap();
    assert!(line.name == "backup id" && line.detail.contains("clock") && line.hint.is_some(), "{line:?}");
}

#[tokio::test]
async fn what_a_later_version_has_written_is_neither_garbage_nor_undone() {
    let house = House::new();
    let mut published = house.backup(house.engine()).await.unwrap();
    published.run().await.unwrap();
    let mut halfway = house.backup(house.engine()).await.unwrap();
    while halfway.next_step().await.unwrap() != Some(Step::StoreLabel) {}
    let (done, open) = (published.backup_id().clone(), halfway.backup_id().clone());
    drop(halfway);
    house.raise_record_version(&done).await;
    house.raise_record_version(&open).await;

    let engine = house.engine().build();
    // Its journal still says whose the snapshots are; without it nobody knows.
    let plan = engine.plan_gc(&GcLimits::default()).await.unwrap();
    assert!(plan.is_empty() && plan.refusal.is_none(), "{plan}");
    let catalog = engine.catalog();
    Journal::new(catalog.space().clone(), catalog.layout().clone()).remove(&done).await.unwrap();
    let plan = engine.plan_gc(&GcLimits::default()).await.unwrap();
    assert!(plan.is_empty() && plan.refusal.is_some(), "{plan}");
    let wishes = Wishes { force: true, ..Wishes::default() };
    let rescues = engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
    let rescue = rescues.iter().find(|rescue| rescue.plan.backup_id == open).unwrap();
    assert!(rescue.plan.to_string().contains("later version"), "{}", rescue.plan);
    assert!(!rescue.ended.is_final());
}

#[tokio::test]
async fn a_driver_that_was_fenced_does_not_bring_back_what_was_removed() {
    let house = House::new();
    let mut first = house.backup(house.engine()).await.unwrap();
    while step::next(first.state()) != Some(Step::Publish) {
        first.next_step().await.unwrap();
    }
    let wishes = Wishes { force: true, discard: true, ..Wishes::default() };
    let engine = house.engine().build();
    engine.recover(&RecoverRequest { wishes, ..RecoverRequest::default() }).await.unwrap();
    assert_eq!(house.verdict().await, Verdict::CleanSlate);
    assert!(first.run().await.is_err());
    assert_eq!(house.verdict().await, Verdict::CleanSlate);
}

#[tokio::test]
async fn a_backup_of_another_cluster_is_refused_before_anything_is_done() {
    let house = House::new();
    house.backup(house.engine()).await.unwrap().run().await.unwrap();
    let engine = house.engine().build();
    let pinned = engine.catalog().pinned_system_id().await.unwrap().unwrap();
    let key = engine.catalog().layout().system_id();
    engine.catalog().space().put(&key, "42").await.unwrap();
    let error = house.backup(house.engine()).await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Conflict);
    assert!(error.to_string().contains("42") && error.to_string().contains(&pinned), "{error}");
    assert_eq!(engine.sessions().await.unwrap().0.len(), 1, "no id was claimed");
    let request = BackupRequest { wal: WalPolicy::External, new_system_id: Some(pinned.clone()), ..Default::default() };
    engine.backup(house.postgres.connect(), &request).await.unwrap().run().await.unwrap();
    assert_eq!(engine.catalog().pinned_system_id().await.unwrap(), Some(pinned));
}

#[tokio::test]
async fn an_id_that_the_caller_gives_is_taken_or_refused_but_never_replaced() {
    let house = House::new();
    let engine = house.engine().build();
    let given: BackupId = "20200101T000000".parse().unwrap();
    let request =
        BackupRequest { wal: WalPolicy::External, backup_id: Some(given.clone()), ..BackupRequest::default() };
    let mut session = engine.backup(house.postgres.connect(), &request).await.unwrap();
    assert_eq!(session.backup_id(), &given);
    // Claimed by a session that runs, then by a backup that is there.
    let error = engine.backup(house.postgres.connect(), &request).await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Conflict, "{error}");
    session.run().await.unwrap();
    let error = engine.backup(house.postgres.connect(), &request).await.unwrap_err();
    assert_eq!(error.kind(), barman_snap::ErrorKind::Conflict, "{error}");
    assert_eq!(engine.sessions().await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_server_that_is_another_one_when_the_cut_is_over_undoes_the_backup() {
    let identity = |backend, in_recovery| barman_snap::postgres::ServerIdentity {
        reached: "nowhere".into(),
        system_id: "7406321547896325411".into(),
        started: DateTime::parse_from_rfc3339("2026-05-29T10:11:12.123456+00:00").unwrap(),
        port: 5432,
        in_recovery,
        backend,
    };
    for (later, why) in [
        (None, None),
        (Some(identity(4712, false)), Some("another process of the server answers (process 4712)")),
        (Some(identity(4711, true)), Some("promoted")),
    ] {
        let house = House::new();
        house.postgres.set_identity(identity(4711, false));
        let mut session = house.backup(house.engine()).await.unwrap();
        while step::next(session.state()) != Some(Step::Stop) {
            session.next_step().await.unwrap();
        }
        if let Some(later) = later {
            house.postgres.set_identity(later);
        }
        let ended = session.run().await;
        assert_eq!(house.postgres.backups_open(), 0);
        match why {
            None => assert_eq!((ended.map(drop).unwrap(), house.verdict().await), ((), Verdict::Published)),
            Some(why) => {
                assert!(ended.unwrap_err().to_string().contains(why), "{why}");
                assert_eq!(house.verdict().await, Verdict::CleanSlate);
            }
        }
    }
}
