//! The life of snapshots: made, found, deleted.

use futures::FutureExt;
use futures::future::join_all;

use super::{Bench, Outcome, as_found, ok, refused};
use crate::error::{ErrorKind, Retry};
use crate::provider::{CreateRequest, SnapshotState, Ticket};

pub(super) async fn checking_changes_nothing(bench: &Bench<'_>) -> Outcome {
    let request = bench.one();
    for _ in 0..2 {
        ok("a good request passes the check", bench.provider.check_requests(std::slice::from_ref(&request)).await);
    }
    assert_eq!(bench.find(&request.token).await, [], "a check makes no snapshot");
    Outcome::Passed
}

pub(super) async fn what_was_checked_can_be_created(bench: &Bench<'_>) -> Outcome {
    for volume in &bench.volumes {
        let request = bench.request(std::slice::from_ref(volume));
        ok("a good request passes the check", bench.provider.check_requests(std::slice::from_ref(&request)).await);
        let tickets = bench.create(&request).await;
        let [ticket] = tickets.as_slice() else { panic!("one ticket per volume: {tickets:?}") };
        assert_eq!((&ticket.volume, &ticket.root), (&volume.id, &volume.root), "a ticket tells its volume");
        assert_eq!(ticket.name, request.volumes[0].name, "a ticket has the name that was asked for");
        assert_eq!(ticket.token, request.token, "a ticket carries the token");
        assert_eq!(ticket.method, volume.method, "a ticket tells the method");
        bench.wait(ticket).await;
        bench.delete(ticket).await;
    }
    Outcome::Passed
}

pub(super) async fn a_bad_name_is_refused_by_the_check(bench: &Bench<'_>) -> Outcome {
    let mut request = bench.one();
    request.volumes[0].name = String::new();
    let error = refused(
        "a name that cannot be is refused",
        bench.provider.check_requests(std::slice::from_ref(&request)).await,
    );
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    Outcome::Passed
}

pub(super) async fn states_only_go_forward_and_end_in_ready(bench: &Bench<'_>) -> Outcome {
    let ticket = bench.ready().await;
    let status = bench.wait(&ticket).await;
    assert_eq!(status.state, SnapshotState::Ready, "ready stays ready");
    bench.delete(&ticket).await;
    Outcome::Passed
}

pub(super) async fn volumes_are_created_concurrently(bench: &Bench<'_>) -> Outcome {
    let base = bench.request(&bench.volumes);
    let single = |index: usize| CreateRequest { volumes: vec![base.volumes[index].clone()], ..base.clone() };
    let requests: Vec<_> = (0..base.volumes.len()).map(single).collect();
    let results = join_all(requests.iter().map(|request| bench.provider.create(request))).await;
    let tickets: Vec<Ticket> =
        results.into_iter().flat_map(|result| ok("calls for different volumes may run at once", result)).collect();
    assert_eq!(tickets.len(), bench.volumes.len());
    for ticket in &tickets {
        bench.wait(ticket).await;
    }
    join_all(tickets.iter().map(|ticket| bench.delete(ticket))).await;
    assert_eq!(bench.find(&base.token).await, []);
    Outcome::Passed
}

pub(super) async fn several_volumes_are_cut_by_one_call_or_refused(bench: &Bench<'_>) -> Outcome {
    if bench.volumes.len() < 2 {
        return Outcome::Skipped("the fixture has one volume only".into());
    }
    let request = bench.request(&bench.volumes);
    if !bench.provider.can_group(&bench.volumes) {
        let error = refused("without the capability a group is refused", bench.provider.create(&request).await);
        assert_ne!(error.retry(), Retry::Unknown, "a refusal is certain");
        assert_eq!(bench.find(&request.token).await, [], "a refused group leaves nothing");
        return Outcome::Passed;
    }
    let mut tickets = bench.create(&request).await;
    let order = |tickets: &[Ticket]| tickets.iter().map(|ticket| ticket.volume.clone()).collect::<Vec<_>>();
    let wanted: Vec<_> = bench.volumes.iter().map(|volume| volume.id.clone()).collect();
    assert_eq!(order(&tickets), wanted, "tickets come in the order of the volumes");
    let after = bench.provider.after_cut(&bench.volumes, true);
    let requests = std::slice::from_ref(&request);
    if after.promote {
        for ticket in &tickets {
            bench.wait_cut(ticket).await;
        }
        let promote = async || ok("what was cut is made durable", bench.provider.promote(requests, &tickets).await);
        let durable = promote().await;
        assert_eq!(order(&durable), wanted, "one for each, in the same order");
        assert_eq!(as_found(&promote().await), as_found(&durable), "the same ones when its reply was lost");
        tickets = durable;
    }
    for ticket in &tickets {
        bench.wait(ticket).await;
    }
    if after.secure {
        tickets = ok("ready snapshots are secured", bench.provider.secure(requests, &tickets).await);
        assert_eq!(bench.find(&request.token).await.len(), wanted.len(), "what was on the way is gone");
    }
    for ticket in &tickets {
        bench.delete(ticket).await;
    }
    assert_eq!(bench.find(&request.token).await, [], "nothing is left");
    Outcome::Passed
}

pub(super) async fn find_returns_all_that_bears_the_token_and_nothing_else(bench: &Bench<'_>) -> Outcome {
    let (ours, theirs) = (bench.one(), bench.one());
    let mine = bench.create(&ours).await;
    // Directly after the call, complete or not.
    let known = as_found(&mine);
    assert_eq!(bench.find(&ours.token).await, known, "find returns what create returned");
    let other = bench.create(&theirs).await;
    assert_eq!(bench.find(&ours.token).await, known, "the snapshot of another session is not in it");
    assert_eq!(bench.find(&bench.fixture.token()).await, [], "nothing bears a new token");
    for ticket in mine.iter().chain(&other) {
        bench.wait(ticket).await;
        let known = as_found(std::slice::from_ref(ticket));
        assert_eq!(bench.find(&ticket.token).await, known, "also when it is complete");
        bench.delete(ticket).await;
        assert_eq!(bench.find(&ticket.token).await, [], "what was deleted is not found");
    }
    Outcome::Passed
}

pub(super) async fn a_later_process_finds_what_a_session_made(bench: &Bench<'_>) -> Outcome {
    let ticket = bench.ready().await;
    let stored = serde_json::to_string(&ticket).unwrap_or_default();
    let read: Ticket = serde_json::from_str(&stored).unwrap_or_else(|error| panic!("a ticket can be stored: {error}"));
    let later = bench.fixture.later();
    let found = ok("find answers", later.find(&ticket.token, &bench.volumes).await);
    assert_eq!(found, as_found(std::slice::from_ref(&ticket)));
    let status = ok("all that is needed is in the ticket", later.status(&read).await);
    assert_eq!(status.state, SnapshotState::Ready);
    ok("all that is needed is in the ticket", later.delete(&read).await);
    assert_eq!(bench.find(&ticket.token).await, []);
    Outcome::Passed
}

pub(super) async fn list_returns_what_was_made_for_the_server_and_nothing_else(bench: &Bench<'_>) -> Outcome {
    let ours = CreateRequest { mark: "conformance-list".into(), ..bench.one() };
    let mine = bench.create(&ours).await;
    let other = bench.create(&bench.one()).await;
    let list = async |mark: &str| ok("list answers", bench.provider.list(mark, &bench.volumes).await);
    assert_eq!(list("conformance-list").await, as_found(&mine));
    assert_eq!(list("conformance-lis").await, [], "a part of the name is another server");
    for ticket in mine.iter().chain(&other) {
        bench.wait(ticket).await;
        bench.delete(ticket).await;
    }
    assert_eq!(list("conformance-list").await, []);
    Outcome::Passed
}

pub(super) async fn a_second_create_makes_no_second_snapshot(bench: &Bench<'_>) -> Outcome {
    let request = bench.one();
    let first = bench.create(&request).await;
    let again = CreateRequest { volumes: bench.request(&bench.volumes[..1]).volumes, ..request.clone() };
    for second in [&request, &again] {
        match bench.provider.create(second).await {
            Ok(tickets) => {
                assert_eq!(as_found(&tickets), as_found(&first), "a second create returns the existing snapshot");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "or says that there is one: {error}"),
        }
        assert_eq!(bench.find(&request.token).await, as_found(&first), "there is one snapshot");
    }
    bench.wait(&first[0]).await;
    bench.delete(&first[0]).await;
    Outcome::Passed
}

pub(super) async fn a_dropped_create_is_found_if_it_happened(bench: &Bench<'_>) -> Outcome {
    let request = bench.one();
    // Polled once, then dropped at its first await point.
    let _ = bench.provider.create(&request).now_or_never();
    let mut found = bench.find(&request.token).await;
    for _ in 0..100 {
        if !found.is_empty() {
            break;
        }
        // It may still be on its way.
        bench.fixture.pause().await;
        found = bench.find(&request.token).await;
    }
    assert!(found.len() <= 1, "at most one snapshot was made: {found:?}");
    for ticket in &found {
        bench.wait(ticket).await;
        bench.delete(ticket).await;
    }
    assert_eq!(bench.find(&request.token).await, [], "what was found can be undone");
    Outcome::Passed
}

pub(super) async fn deleting_twice_is_success_and_the_status_is_not_found(bench: &Bench<'_>) -> Outcome {
    let ticket = bench.ready().await;
    for _ in 0..2 {
        bench.delete(&ticket).await;
        let error = refused("a deleted snapshot has no status", bench.provider.status(&ticket).await);
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    Outcome::Passed
}

pub(super) async fn an_incomplete_snapshot_can_be_deleted(bench: &Bench<'_>) -> Outcome {
    let tickets = bench.create(&bench.one()).await;
    bench.delete(&tickets[0]).await;
    let error = refused("a deleted snapshot has no status", bench.provider.status(&tickets[0]).await);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(bench.find(&tickets[0].token).await, []);
    Outcome::Passed
}

pub(super) async fn a_snapshot_with_another_token_is_not_deleted(bench: &Bench<'_>) -> Outcome {
    let ticket = bench.ready().await;
    let forged = Ticket { token: bench.fixture.token(), ..ticket.clone() };
    let error = refused("what does not carry the token is not deleted", bench.provider.delete(&forged).await);
    assert_ne!(error.retry(), Retry::Unknown, "a refusal is certain");
    assert_eq!(bench.wait(&ticket).await.state, SnapshotState::Ready, "and it is still there");
    bench.delete(&ticket).await;
    Outcome::Passed
}
