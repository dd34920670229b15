//! Which instance is meant.
//!
//! As the stock tools resolve it (barman.md 5.2): `i-…` is an id, and what is no id is the value of the tag `Name`, among
//! instances that are not terminated. Several of one name are an error that tells their ids. Without a name it is this
//! machine, if its metadata service says so.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{Filter, Instance as Ec2Instance, InstanceStateName, Reservation};

use super::client::{Clients, Ec2};
use super::errors::code;
use super::{ACCOUNT, INSTANCE_ID, REGION, ZONE, names};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Instance;

/// The states of an instance that has volumes.
const STATES: [InstanceStateName; 5] = [
    InstanceStateName::Pending,
    InstanceStateName::Running,
    InstanceStateName::ShuttingDown,
    InstanceStateName::Stopping,
    InstanceStateName::Stopped,
];

/// The instance of that name or id, or this machine.
pub(super) async fn find(clients: &Clients, name: Option<&str>) -> Result<Instance> {
    let Some(name) = name else { return this_machine(clients).await };
    let ec2 = clients.here()?;
    if looks_like_id(name)
        && let Some(found) = owned(&ec2, name).await?
    {
        return instance(&ec2, name, &found);
    }
    let found = by_name(&ec2, name).await?;
    match found.as_slice() {
        [one] => instance(&ec2, name, one),
        [] => Err(Error::not_found(format!("there is no instance {name:?} in {}", ec2.region))
            .with_hint("give the id (i-…) or the value of its tag Name, and its region (--aws-region)")),
        several => {
            let ids: Vec<&str> = several.iter().filter_map(|(found, _)| found.instance_id()).collect();
            Err(Error::new(
                ErrorKind::InvalidInput,
                format!("several instances are named {name:?}: {}", ids.join(", ")),
            )
            .with_hint("give the id of one"))
        }
    }
}

async fn this_machine(clients: &Clients) -> Result<Instance> {
    let unknown = || {
        Error::precondition("this machine is no EC2 instance that can be asked for its id")
            .with_hint("give --snapshot-instance; in a container the metadata service needs a hop limit of 2")
    };
    let id = clients.metadata("/latest/meta-data/instance-id").await.ok_or_else(unknown)?;
    // The region of the machine, whatever the environment says.
    let region = clients.metadata("/latest/meta-data/placement/region").await;
    let ec2 = match region {
        Some(region) => clients.region(region.trim()),
        None => clients.here()?,
    };
    let found = owned(&ec2, id.trim()).await?;
    let found = found.ok_or_else(|| Error::not_found(format!("there is no instance {id:?} in {}", ec2.region)))?;
    instance(&ec2, id.trim(), &found)
}

/// `i-` and hex digits.
fn looks_like_id(name: &str) -> bool {
    name.strip_prefix("i-").is_some_and(|rest| rest.len() >= 8 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The instance with this id, unless it is terminated or does not exist.
pub(super) async fn by_id(ec2: &Ec2, id: &str) -> Result<Option<Ec2Instance>> {
    Ok(owned(ec2, id).await?.map(|(found, _)| found))
}

/// An instance and its account.
type Owned = (Ec2Instance, Option<String>);

fn all(reservations: Vec<Reservation>) -> impl Iterator<Item = Owned> {
    reservations.into_iter().flat_map(|reservation| {
        let owner = reservation.owner_id;
        reservation.instances.unwrap_or_default().into_iter().map(move |found| (found, owner.clone()))
    })
}

async fn owned(ec2: &Ec2, id: &str) -> Result<Option<Owned>> {
    match ec2.api.describe_instances().instance_ids(id).send().await {
        Ok(answer) => {
            let mut found = all(answer.reservations.unwrap_or_default()).filter(|(found, _)| has_volumes(found));
            Ok(found.find(|(found, _)| found.instance_id() == Some(id)))
        }
        // Stock falls back to the name, too.
        Err(error) if matches!(code(&error), Some("InvalidInstanceID.NotFound" | "InvalidInstanceID.Malformed")) => {
            Ok(None)
        }
        Err(error) => Err(ec2.look("DescribeInstances", format!("look for instance {id}")).failed(error)),
    }
}

async fn by_name(ec2: &Ec2, name: &str) -> Result<Vec<Owned>> {
    let states = STATES.iter().map(|state| state.as_str().to_owned()).collect();
    let found = ec2
        .api
        .describe_instances()
        .filters(names::filter("tag:Name", name))
        .filters(Filter::builder().name("instance-state-name").set_values(Some(states)).build())
        .into_paginator()
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .map_err(|error| ec2.look("DescribeInstances", format!("look for instance {name:?}")).failed(error))?;
    let named = |instance: &Ec2Instance| names::tag(instance.tags(), names::NAME) == Some(name);
    Ok(all(found).filter(|(found, _)| has_volumes(found) && named(found)).collect())
}

fn has_volumes(instance: &Ec2Instance) -> bool {
    instance.state().and_then(|state| state.name()).is_none_or(|state| STATES.contains(state))
}

fn instance(ec2: &Ec2, name: &str, (found, owner): &Owned) -> Result<Instance> {
    let (Some(id), Some(zone)) = (found.instance_id(), found.placement().and_then(|place| place.availability_zone()))
    else {
        return Err(Error::new(ErrorKind::Provider, format!("EC2 tells no id or zone of instance {name}")));
    };
    let mut attributes: BTreeMap<String, String> =
        [(INSTANCE_ID, id), (REGION, &ec2.region), (ZONE, zone)].map(|(key, value)| (key.into(), value.into())).into();
    attributes.extend(owner.as_ref().map(|owner| (ACCOUNT.to_owned(), owner.clone())));
    Ok(Instance { name: name.to_owned(), attributes })
}

/// The id of an instance that [`find`] returned.
pub(super) fn id(instance: &Instance) -> Result<&str> {
    instance
        .attributes
        .get(INSTANCE_ID)
        .map(String::as_str)
        .ok_or_else(|| Error::invalid(format!("instance {} was not found by the AWS provider", instance.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_from_a_name() {
        for (name, is_id) in [
            ("i-0123456789abcdef0", true),
            ("i-01234567", true),
            ("i-database", false),
            ("i-0123", false),
            ("db-1", false),
            ("I-0123456789abcdef0", false),
        ] {
            assert_eq!(looks_like_id(name), is_id, "{name}");
        }
    }

    #[test]
    fn an_instance_of_another_provider_is_refused() {
        let other = Instance { name: "x".into(), attributes: BTreeMap::new() };
        assert_eq!(id(&other).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
