//! The calls for instant snapshot groups and the instant snapshots in them, zonal and regional.
//!
//! They are two APIs of the same shape, and the SDK has a client for each. Which is asked follows from the place of the group.

use std::time::Duration;

use google_cloud_compute_v1::model::{InstantSnapshot, InstantSnapshotGroup, Operation};

use super::Gcp;
use super::errors::{Call, failed};
use super::link::{Link, Scope};
use crate::error::{Error, ErrorKind, Result, Retry};

/// How long a deletion may take.
const DELETION: Duration = Duration::from_secs(120);

/// Groups in the API.
pub(super) const KIND: &str = "instantSnapshotGroups";

impl Gcp {
    /// A group as the API knows it.
    pub(super) async fn group(&self, link: &Link) -> Result<Option<InstantSnapshotGroup>> {
        let asked = match &link.scope {
            Scope::Region(region) => {
                let client = self.clients.region_instant_groups().await?;
                let call = client.get().set_project(&link.project).set_region(region);
                call.set_instant_snapshot_group(&link.name).send().await
            }
            scope => {
                let client = self.clients.instant_groups().await?;
                let call = client.get().set_project(&link.project).set_zone(zone(scope)?);
                call.set_instant_snapshot_group(&link.name).send().await
            }
        };
        match asked.map_err(failed("look at an instant snapshot group", Call::Read)) {
            Ok(group) => Ok(Some(group)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All groups of a place.
    pub(super) async fn groups(&self, project: &str, scope: &Scope) -> Result<Vec<InstantSnapshotGroup>> {
        let mut found = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let answer = match scope {
                Scope::Region(region) => {
                    let client = self.clients.region_instant_groups().await?;
                    client
                        .list()
                        .set_project(project)
                        .set_region(region)
                        .set_or_clear_page_token(page.take())
                        .send()
                        .await
                }
                scope => {
                    let client = self.clients.instant_groups().await?;
                    client
                        .list()
                        .set_project(project)
                        .set_zone(zone(scope)?)
                        .set_or_clear_page_token(page.take())
                        .send()
                        .await
                }
            };
            let answer = answer.map_err(failed("list instant snapshot groups", Call::Read))?;
            found.extend(answer.items);
            page = answer.next_page_token.filter(|token| !token.is_empty());
            if page.is_none() {
                return Ok(found);
            }
        }
    }

    /// The instant snapshots in a group.
    pub(super) async fn members(&self, group: &Link) -> Result<Vec<InstantSnapshot>> {
        let mut found = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let (items, next) = match &group.scope {
                Scope::Region(region) => {
                    let client = self.clients.region_instant_snapshots().await?;
                    let call = client.list().set_project(&group.project).set_region(region);
                    let answer = call.set_or_clear_page_token(page.take()).send().await;
                    let answer = answer.map_err(failed("list instant snapshots", Call::Read))?;
                    (answer.items, answer.next_page_token)
                }
                scope => {
                    let client = self.clients.instant_snapshots().await?;
                    let call = client.list().set_project(&group.project).set_zone(zone(scope)?);
                    let answer = call.set_or_clear_page_token(page.take()).send().await;
                    let answer = answer.map_err(failed("list instant snapshots", Call::Read))?;
                    (answer.items, answer.next_page_token)
                }
            };
            let is_in = |member: &InstantSnapshot| {
                let of = member.source_instant_snapshot_group.as_deref().and_then(Link::parse);
                of.is_some_and(|of| of.scope == group.scope && of.name == group.name)
            };
            found.extend(items.into_iter().filter(is_in));
            page = next.filter(|token| !token.is_empty());
            if page.is_none() {
                return Ok(found);
            }
        }
    }

    /// Deletes a group with all its instant snapshots, and waits until they are gone.
    pub(super) async fn delete_group(&self, link: &Link) -> Result<()> {
        self.fresh.forget(&link.to_string());
        let Some(_) = self.group(link).await? else { return Ok(()) };
        // What becomes of its members is not documented; those that outlive it are deleted one by one.
        let members = self.members(link).await?;
        self.delete_instant(link).await?;
        for member in members {
            if let Some(name) = &member.name {
                self.delete_instant(&Link::new(&link.project, &link.scope, "instantSnapshots", name)).await?;
            }
        }
        Ok(())
    }

    /// Deletes a group or an instant snapshot, again while it is being made or deleted by another call; gone is success.
    async fn delete_instant(&self, link: &Link) -> Result<()> {
        let begun = self.clock.monotonic();
        loop {
            let tried = match link.kind.as_str() {
                KIND => self.delete_group_once(link).await,
                _ => self.delete_member_once(link).await,
            };
            let error = match tried {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error.retry() {
                _ if error.kind() == ErrorKind::NotFound => return Ok(()),
                Retry::After(pause) if self.clock.monotonic().saturating_sub(begun) < DELETION => {
                    self.clock.sleep(pause.min(DELETION / 10)).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn delete_group_once(&self, link: &Link) -> Result<()> {
        let what = format!("delete instant snapshot group {}", link.name);
        let sent = match &link.scope {
            Scope::Region(region) => {
                let client = self.clients.region_instant_groups().await?;
                let call = client.delete().set_project(&link.project).set_region(region);
                call.set_instant_snapshot_group(&link.name).send().await
            }
            scope => {
                let client = self.clients.instant_groups().await?;
                let call = client.delete().set_project(&link.project).set_zone(zone(scope)?);
                call.set_instant_snapshot_group(&link.name).send().await
            }
        };
        self.ended(&what, link, sent.map_err(failed(&what, Call::Write))?).await
    }

    async fn delete_member_once(&self, link: &Link) -> Result<()> {
        let what = format!("delete instant snapshot {}", link.name);
        let sent = match &link.scope {
            Scope::Region(region) => {
                let client = self.clients.region_instant_snapshots().await?;
                let call = client.delete().set_project(&link.project).set_region(region);
                call.set_instant_snapshot(&link.name).send().await
            }
            scope => {
                let client = self.clients.instant_snapshots().await?;
                let call = client.delete().set_project(&link.project).set_zone(zone(scope)?);
                call.set_instant_snapshot(&link.name).send().await
            }
        };
        self.ended(&what, link, sent.map_err(failed(&what, Call::Write))?).await
    }

    async fn ended(&self, what: &str, link: &Link, operation: Operation) -> Result<()> {
        self.wait(what, &link.project, &link.scope, operation, DELETION).await
    }
}

/// The zone that a place is.
pub(super) fn zone(scope: &Scope) -> Result<&str> {
    match scope {
        Scope::Zone(zone) => Ok(zone),
        other => Err(Error::internal(format!("{other} is no zone"))),
    }
}
