//! Operations: what the cloud does after it has answered a call.
//!
//! Every call that changes something returns an operation, without error even if it cannot succeed (a quota, say); only the
//! operation tells. <https://cloud.google.com/compute/docs/api/how-tos/api-requests-responses#async_responses>

use std::time::Duration;

use google_cloud_compute_v1::model::Operation;
use google_cloud_compute_v1::model::operation::Status;

use super::Gcp;
use super::errors::{self, Call, failed};
use super::link::{Link, Scope};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::Ticket;

/// Longest pause between two questions.
const SLOWEST: Duration = Duration::from_secs(2);

/// Whether it has come to its end, good or bad.
pub(super) fn is_done(operation: &Operation) -> bool {
    operation.status == Some(Status::Done)
}

/// The attribute of a ticket that leads to an operation: its name, or, where it is in a zone or a region, all of its link.
pub(super) fn attribute(operation: &Operation) -> Option<(String, String)> {
    let name = operation.name.clone()?;
    let link = operation.self_link.as_deref().and_then(Link::parse).filter(|link| link.scope != Scope::Global);
    Some((Ticket::OPERATION.to_owned(), link.map_or(name, |link| link.to_string())))
}

impl Gcp {
    /// The operation that a ticket names, if it is still known; one of `project` and `scope` unless the ticket says another.
    pub(super) async fn operation_of(
        &self,
        ticket: &Ticket,
        project: &str,
        scope: &Scope,
    ) -> Result<Option<Operation>> {
        let Some(named) = ticket.attributes.get(Ticket::OPERATION) else { return Ok(None) };
        match Link::parse(named) {
            Some(link) => self.operation(&link.project, &link.scope, &link.name).await,
            None => self.operation(project, scope, named).await,
        }
    }

    /// An operation by its name. `None` if it is no longer known: they are kept for some days only.
    pub(super) async fn operation(&self, project: &str, scope: &Scope, name: &str) -> Result<Option<Operation>> {
        let answer = match scope {
            Scope::Global => {
                let client = self.clients.global_operations().await?;
                client.get().set_project(project).set_operation(name).send().await
            }
            Scope::Zone(zone) => {
                let client = self.clients.zone_operations().await?;
                client.get().set_project(project).set_zone(zone).set_operation(name).send().await
            }
            Scope::Region(region) => {
                let client = self.clients.region_operations().await?;
                client.get().set_project(project).set_region(region).set_operation(name).send().await
            }
        };
        match answer.map_err(failed("look at an operation", Call::Read)) {
            Ok(operation) => Ok(Some(operation)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for the end of an operation, at most for `limit`.
    ///
    /// # Errors
    /// The error of the operation; [`Retry::Unknown`] if it has not ended in time.
    pub(super) async fn wait(
        &self,
        what: &str,
        project: &str,
        scope: &Scope,
        first: Operation,
        limit: Duration,
    ) -> Result<()> {
        let begun = self.clock.monotonic();
        let mut pause = Duration::from_millis(50);
        let mut operation = first;
        loop {
            if is_done(&operation) {
                return errors::of_operation(what, &operation);
            }
            if self.clock.monotonic().saturating_sub(begun) >= limit {
                let message = format!("cannot {what}: not done after {} s", limit.as_secs());
                return Err(Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Unknown));
            }
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(SLOWEST);
            let Some(name) = operation.name.clone() else {
                return Err(Error::internal(format!("cannot {what}: the operation has no name")));
            };
            operation = match self.operation(project, scope, &name).await {
                Ok(Some(now)) => now,
                // Too old to be kept means long done.
                Ok(None) => return Ok(()),
                // A look that failed says nothing about the operation.
                Err(error) if error.retry() != Retry::Never => operation,
                Err(error) => return Err(error.with_retry(Retry::Unknown)),
            };
        }
    }
}
