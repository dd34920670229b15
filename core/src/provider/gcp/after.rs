//! After backup mode: standard snapshots of what a group call has cut, and the end of the group.

use futures::future::try_join_all;

use super::Gcp;
use super::group::{group_link, of_disk, split, together};
use super::link::Link;
use super::snapshots::Origin;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::{CreateRequest, Ticket, Volume};

impl Gcp {
    /// Makes a standard snapshot of each instant snapshot; other tickets stay as they are. Repeated, it finds those that it
    /// has made.
    pub(super) async fn promote_all(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        try_join_all(tickets.iter().map(|ticket| self.promote_one(requests, ticket))).await
    }

    async fn promote_one(&self, requests: &[CreateRequest], ticket: &Ticket) -> Result<Ticket> {
        let Some((group, disk)) = split(ticket) else { return Ok(ticket.clone()) };
        let wanted = requests.iter().filter(|request| request.token == ticket.token).find_map(|request| {
            let wanted = request.volumes.iter().find(|wanted| wanted.volume.id == ticket.volume)?;
            Some((request, wanted))
        });
        let (request, wanted) =
            wanted.ok_or_else(|| Error::internal(format!("nobody has asked for a snapshot of {}", ticket.volume)))?;
        let members = self.members(&group).await?;
        let Some(name) = members.into_iter().find(|member| of_disk(member, disk)).and_then(|member| member.name) else {
            let error = match self.fresh.is_young(&group.to_string(), self.clock.monotonic()) {
                true => {
                    let message = format!("the instant snapshot of disk {disk} does not show yet");
                    Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Safe)
                }
                false => Error::not_found(format!("the instant snapshot of disk {disk} is gone")),
            };
            return Err(error.with_context("volume", ticket.volume.clone()));
        };
        let instant = Link::new(&group.project, &group.scope, "instantSnapshots", &name);
        self.insert(request, wanted, Origin::Instant(&instant)).await
    }

    /// Deletes the groups of these requests: their standard snapshots are ready and need them no more.
    pub(super) async fn remove_groups(&self, requests: &[CreateRequest]) -> Result<()> {
        for request in requests {
            let volumes: Vec<Volume> = request.volumes.iter().map(|wanted| wanted.volume.clone()).collect();
            if let Some(place) = together(&volumes) {
                self.delete_group(&group_link(&request.token, &place)).await?;
            }
        }
        Ok(())
    }
}
