//! The virtual machine with the disks.

use std::collections::BTreeMap;

use google_cloud_compute_v1::model::Instance as Machine;

use super::Gcp;
use super::errors::{Call, failed};
use super::here::Here;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Instance;

/// Attribute: the project of the instance.
pub(super) const PROJECT: &str = "project";
/// Attribute: its zone.
pub(super) const ZONE: &str = "zone";

impl Gcp {
    /// The instance of that name in the project and zone of the options, or this machine.
    pub(super) async fn find_instance(&self, name: Option<&str>) -> Result<Instance> {
        let (project, zone, name) = match (&self.options.project, &self.options.zone, name) {
            (Some(project), Some(zone), Some(name)) => (project.clone(), zone.clone(), name.to_owned()),
            (project, zone, name) => {
                let here = Here::look().await.map_err(|error| explain(error, project, zone, name))?;
                if name.is_none() && zone.as_ref().is_some_and(|zone| *zone != here.zone) {
                    let message = format!(
                        "this virtual machine is in {}, not in {}",
                        here.zone,
                        zone.as_deref().unwrap_or_default()
                    );
                    return Err(Error::invalid(message).with_hint("leave out --gcp-zone, or give --snapshot-instance"));
                }
                let name = name.map(str::to_owned).unwrap_or(here.name);
                (project.clone().unwrap_or(here.project), zone.clone().unwrap_or(here.zone), name)
            }
        };
        let attributes = BTreeMap::from([(PROJECT.to_owned(), project), (ZONE.to_owned(), zone)]);
        let instance = Instance { name, attributes };
        self.machine(&instance).await?;
        Ok(instance)
    }

    /// The instance as the API knows it, with its attached disks.
    pub(super) async fn machine(&self, instance: &Instance) -> Result<Machine> {
        let (project, zone) = place(instance)?;
        let client = self.clients.instances().await?;
        let asked = client.get().set_project(project).set_zone(zone).set_instance(&instance.name).send().await;
        const HINT: &str = "are --snapshot-instance, --gcp-zone and --gcp-project right?";
        asked.map_err(failed("look at the instance", Call::Read)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::not_found(format!("no instance {} in zone {zone} of project {project}", instance.name))
                    .with_hint(HINT)
                    .with_source(error)
            }
            ErrorKind::InvalidInput => {
                Error::invalid(format!("there can be no instance {} in {zone} of project {project}", instance.name))
                    .with_hint(HINT)
                    .with_source(error)
            }
            _ => error,
        })
    }

    /// The project in which things are looked for that no attribute places.
    pub(super) async fn home(&self) -> Result<String> {
        match &self.options.project {
            Some(project) => Ok(project.clone()),
            None => {
                let here = Here::look().await.map_err(|error| explain(error, &None, &None, None))?;
                Ok(here.project)
            }
        }
    }
}

/// Project and zone of an instance.
pub(super) fn place(instance: &Instance) -> Result<(&str, &str)> {
    match (instance.attributes.get(PROJECT), instance.attributes.get(ZONE)) {
        (Some(project), Some(zone)) => Ok((project, zone)),
        _ => Err(Error::invalid(format!("the instance {} has no project and zone", instance.name))),
    }
}

fn explain(error: Error, project: &Option<String>, zone: &Option<String>, name: Option<&str>) -> Error {
    let missing: Vec<&str> =
        [("--gcp-project", project.is_none()), ("--gcp-zone", zone.is_none()), ("--snapshot-instance", name.is_none())]
            .into_iter()
            .filter_map(|(option, is_missing)| is_missing.then_some(option))
            .collect();
    error.with_hint(format!("give {}", missing.join(", ")))
}
