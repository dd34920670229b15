//! The virtual machine, by name or as this host.
//!
//! This host is told by the instance metadata service
//! (<https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service>), which answers on the machine alone.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use azure_mgmt_compute::package_2024_07_01::models::VirtualMachine;
use serde::Deserialize;

use super::AzureProvider;
use super::arm::{ResourceId, Scope, key, location};
use super::errors::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Instance;

/// How long the metadata service may take: it is there at once, or this is no virtual machine of Azure.
const METADATA: Duration = Duration::from_secs(2);
const VERSION: &str = "2021-02-01";

/// The instance of that name (or resource id), or this host.
pub(super) async fn find(azure: &AzureProvider, name: Option<&str>) -> Result<Instance> {
    let id = match name {
        Some(name) => wanted(azure, name)?,
        None => this_host().await?,
    };
    Ok(instance(&id, &get(azure, &id).await?))
}

/// The virtual machine itself, as it is now.
pub(super) async fn get(azure: &AzureProvider, id: &ResourceId) -> Result<VirtualMachine> {
    let subject = format!("virtual machine {} in resource group {}", id.name, id.scope.group);
    let call = Call { action: "Microsoft.Compute/virtualMachines/read", subject: &subject };
    let ask = |client: &azure_mgmt_compute::package_2024_07_01::Client| {
        client.virtual_machines_client().get(&id.scope.group, &id.name, &id.scope.subscription).into_future()
    };
    azure.clients.read(call, ask).await.map_err(|error| match (error.kind(), error.hint()) {
        (ErrorKind::NotFound, None) => {
            error.with_hint("are --snapshot-instance, --azure-resource-group and --azure-subscription-id right?")
        }
        _ => error,
    })
}

/// The id of an instance that this provider has returned.
pub(super) fn id(instance: &Instance) -> Result<ResourceId> {
    let scope = Scope::of(&instance.attributes)
        .ok_or_else(|| Error::invalid(format!("instance {} has no resource group", instance.name)))?;
    Ok(scope.id("virtualMachines", &instance.name))
}

fn wanted(azure: &AzureProvider, name: &str) -> Result<ResourceId> {
    match ResourceId::parse(name) {
        Some(id) if id.kind.eq_ignore_ascii_case("virtualMachines") => Ok(id),
        Some(id) => Err(Error::invalid(format!("--snapshot-instance names no virtual machine: {id}"))),
        None => Ok(azure.scope()?.id("virtualMachines", name)),
    }
}

fn instance(id: &ResourceId, machine: &VirtualMachine) -> Instance {
    let mut attributes = BTreeMap::new();
    id.scope.put(&mut attributes);
    attributes.insert(key::LOCATION.to_owned(), location(&machine.resource.location));
    if let Some(zone) = machine.zones.first() {
        attributes.insert(key::ZONE.to_owned(), zone.clone());
    }
    if let Some(vm_id) = machine.properties.as_ref().and_then(|properties| properties.vm_id.clone()) {
        attributes.insert("vm_id".to_owned(), vm_id);
    }
    Instance { name: id.name.clone(), attributes }
}

/// The members of the metadata that name a machine.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    resource_group_name: String,
    subscription_id: String,
}

async fn this_host() -> Result<ResourceId> {
    let nowhere = || {
        Error::new(ErrorKind::Unsupported, "this host does not say that it is a virtual machine of Azure")
            .with_hint("name it with --snapshot-instance")
    };
    // The variable with which every SDK of Azure is pointed at another metadata service.
    let host = std::env::var("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|_| "http://169.254.169.254".into());
    let url = format!("{}/metadata/instance/compute?api-version={VERSION}", host.trim_end_matches('/'));
    let ask = async {
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        let answer = client.get(url).header("Metadata", "true").send().await?.error_for_status()?;
        answer.bytes().await
    };
    let body = match tokio::time::timeout(METADATA, ask).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Err(nowhere().with_source(error)),
        Err(_) => return Err(nowhere()),
    };
    parse_metadata(&body).ok_or_else(nowhere)
}

fn parse_metadata(body: &[u8]) -> Option<ResourceId> {
    let metadata: Metadata = serde_json::from_slice(body).ok()?;
    let scope = Scope { subscription: metadata.subscription_id, group: metadata.resource_group_name };
    Some(scope.id("virtualMachines", &metadata.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_machine_name_it() {
        let body =
            br#"{"azEnvironment":"AzurePublicCloud","location":"westeurope","name":"vm1","resourceGroupName":"rg1",
            "subscriptionId":"00000000-1111-2222-3333-444444444444","zone":"1"}"#;
        let id = parse_metadata(body).unwrap();
        assert_eq!((id.name.as_str(), id.scope.group.as_str()), ("vm1", "rg1"));
        assert!(parse_metadata(b"<html>").is_none());
    }

    #[test]
    fn an_instance_can_be_found_again_by_another_process() {
        let scope = Scope { subscription: "s1".into(), group: "rg1".into() };
        let machine: VirtualMachine = serde_json::from_str(
            r#"{"location":"West Europe","zones":["1"],"properties":{"vmId":"u-1","storageProfile":{"dataDisks":[]}}}"#,
        )
        .unwrap();
        let instance = instance(&scope.id("virtualMachines", "vm1"), &machine);
        assert_eq!(instance.attributes[key::LOCATION], "westeurope");
        assert_eq!(id(&instance).unwrap(), scope.id("virtualMachines", "vm1"));
    }
}
