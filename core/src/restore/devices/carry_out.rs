//! Makes the volumes, attaches, finds and mounts them, and takes all of it back.
//!
//! # When something fails
//! The way back is the way there, reversed: unmount, detach, delete, remove the directories. What cannot be taken back is
//! named in the error; a volume that is still mounted is neither detached nor deleted. A `create_volume` whose reply was lost
//! is found again by its token.
//!
//! # When the process is killed
//! Volumes carry the token and the mark; those that were not attached yet are in
//! [`list_volumes`](crate::provider::SnapshotProvider::list_volumes). What was attached and mounted stays so.

use std::path::PathBuf;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::super::host::system_id;
use super::super::left_out;
use super::super::pgdata::{self, Prepared};
use super::super::plan::RestorePlan;
use super::super::provision::{RestoreEvent, Restored, Tools, blocking, millis};
use super::find;
use super::layout::DevicePlan;
use super::mount::{MountedFileSystem, make_mount_point, mount, remove_empty, unmount};
use crate::error::{Error, Result, Retry};
use crate::host::beneath::read_file;
use crate::id::Token;
use crate::provider::{CreateVolumeRequest, Instance, RestoredVolume};

/// What a restore has done beyond making volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// The instance that the volumes are attached to.
    pub instance: Instance,
    /// What was mounted, outer mount points first. Empty when the user had mounted the volumes.
    pub mounts: Vec<MountedFileSystem>,
    /// Directories that were not there before, outer ones first.
    pub directories: Vec<PathBuf>,
}

/// What exists because of us.
struct Made {
    volumes: Vec<RestoredVolume>,
    devices: Devices,
    /// Directories for tablespaces that were left out, outer ones first. They are not empty once all is done.
    left_out: Vec<PathBuf>,
    /// There may be volumes that nobody could look for.
    unknown: bool,
}

/// Carries out `plan`, as [`provision`](super::super::provision()) does.
pub(in crate::restore) async fn provision(
    plan: &RestorePlan,
    devices: &DevicePlan,
    tools: Tools<'_>,
) -> Result<Restored> {
    let started = tools.clock.monotonic();
    let nothing = Devices { instance: devices.instance.clone(), mounts: Vec::new(), directories: Vec::new() };
    let mut made = Made { volumes: Vec::new(), devices: nothing, left_out: Vec::new(), unknown: false };
    match carry_out(plan, devices, tools, &mut made).await {
        Ok(prepared) => Ok(Restored {
            chosen: plan.chosen.clone(),
            target: plan.target.clone(),
            set_aside: Vec::new(),
            bytes_copied: None,
            volumes: made.volumes,
            devices: Some(made.devices),
            prepared,
            duration_ms: millis(tools.clock.monotonic().saturating_sub(started)),
        }),
        Err(error) => Err(undo(error, plan, devices, &made, tools).await),
    }
}

async fn carry_out(plan: &RestorePlan, devices: &DevicePlan, tools: Tools<'_>, made: &mut Made) -> Result<Prepared> {
    create(plan, devices, tools, made).await?;
    attach(devices, tools, made).await?;
    for planned in &devices.mounts {
        let volume = made.volumes[planned.volume].clone();
        let device = find::wait_for(&volume, &planned.part, tools).await?;
        tools.go_on()?;
        let at = planned.mount_point.clone();
        made.devices.directories.extend(blocking(move || make_mount_point(&at)).await?);
        let planned = planned.clone();
        let mounted = blocking(move || mount(&planned, &volume, &device)).await?;
        let (device, mount_point) = (mounted.device.clone(), mounted.mount_point.clone());
        made.devices.mounts.push(mounted);
        (tools.progress)(RestoreEvent::Mounted { device, mount_point });
    }
    tools.go_on()?;
    for one in plan.tablespaces.iter().filter(|one| one.left_out && !one.inside) {
        // On a volume that came along it is there already.
        if std::fs::symlink_metadata(&one.location).is_err() {
            let at = one.location.clone();
            made.left_out.extend(blocking(move || make_mount_point(&at)).await?);
        }
    }
    let (copy, wanted) = (plan.clone(), devices.system_id.clone());
    let prepared = blocking(move || {
        check_system_id(&copy, wanted.as_deref())?;
        pgdata::prepare(&copy)
    });
    let prepared = prepared.await?;
    (tools.progress)(RestoreEvent::Prepared);
    tools.go_on()?;
    Ok(prepared)
}

/// All volumes at the same time. One of the plan that is there already is not made.
async fn create(plan: &RestorePlan, devices: &DevicePlan, tools: Tools<'_>, made: &mut Made) -> Result<()> {
    tools.go_on()?;
    let new = devices.volumes.iter().filter(|volume| volume.attached.is_none());
    let requests: Vec<_> = new
        .map(|volume| CreateVolumeRequest {
            ticket: volume.ticket.clone(),
            token: plan.token.clone(),
            subtree: PathBuf::new(),
            destination: None,
            instance: Some(devices.instance.clone()),
            mark: devices.mark.clone(),
            exclude_content: Vec::new(),
        })
        .collect();
    let one = async |request: &CreateVolumeRequest| {
        (tools.progress)(RestoreEvent::Creating { snapshot: request.ticket.snapshot.clone() });
        let volume = tools.provider.create_volume(request).await?;
        (tools.progress)(RestoreEvent::Created { volume: volume.id.clone() });
        Ok::<_, Error>(volume)
    };
    // All of them come to an end, also when one fails: what is still being made could not be deleted.
    let results = join_all(requests.iter().map(one)).await;
    let mut failed: Option<Error> = None;
    let mut lost = false;
    for result in results {
        match result {
            Ok(volume) => made.volumes.push(volume),
            Err(error) => {
                lost |= error.retry() == Retry::Unknown;
                failed.get_or_insert(error);
            }
        }
    }
    let Some(error) = failed else { return Ok(()) };
    if lost {
        match find_lost(plan, devices, tools, &made.volumes).await {
            Ok(found) => made.volumes.extend(found),
            Err(failure) => {
                tracing::warn!(token = %plan.token, error = failure.chain(), "cannot look for volumes without a reply");
                made.unknown = true;
            }
        }
    }
    Err(error)
}

/// The volumes that were made without a word.
async fn find_lost(
    plan: &RestorePlan,
    devices: &DevicePlan,
    tools: Tools<'_>,
    known: &[RestoredVolume],
) -> Result<Vec<RestoredVolume>> {
    let found = tools.provider.list_volumes(&devices.mark).await?;
    let ours =
        |volume: &RestoredVolume| volume.carries(&plan.token) && !known.iter().any(|known| known.id == volume.id);
    Ok(found.into_iter().filter(ours).collect())
}

/// One after the other: each takes the next free name or number on the instance, and clouds refuse, or mix up, two at once.
async fn attach(devices: &DevicePlan, tools: Tools<'_>, made: &mut Made) -> Result<()> {
    for volume in &mut made.volumes {
        tools.go_on()?;
        *volume = tools.provider.attach(volume, &devices.instance).await?;
        (tools.progress)(RestoreEvent::Attached { volume: volume.id.clone() });
    }
    Ok(())
}

/// A volume of another cluster must not be prepared, however it got there.
fn check_system_id(plan: &RestorePlan, wanted: Option<&str>) -> Result<()> {
    let file = plan.target.join("global/pg_control");
    let control = read_file(&file, 64 << 10)?.ok_or_else(|| {
        Error::io("read", &file, std::io::ErrorKind::NotFound.into())
            .with_hint("what is mounted there is not the data directory of the backup")
    })?;
    match (wanted, system_id(&control)) {
        (Some(wanted), Some(found)) if wanted != found => Err(Error::precondition(format!(
            "{} is the data directory of another cluster: system identifier {found}, the backup has {wanted}",
            plan.target.display()
        ))),
        _ => Ok(()),
    }
}

/// Takes everything back; may be called again. Returns what is left, in words for the user.
pub(in crate::restore) async fn take_back(
    volumes: &[RestoredVolume],
    devices: &Devices,
    token: &Token,
    tools: Tools<'_>,
) -> Vec<String> {
    let mut left = Vec::new();
    let mut held = Vec::new();
    for one in devices.mounts.iter().rev() {
        if let Err(error) = unmount(&one.mount_point, tools.clock).await {
            tracing::warn!(mount_point = %one.mount_point.display(), error = error.chain(), "cannot unmount");
            left.push(format!("{} is still mounted", one.mount_point.display()));
            held.push(one.volume.as_str());
        }
    }
    for volume in volumes {
        let gone = match held.contains(&volume.id.as_str()) {
            true => Err(Error::precondition("it is still mounted")),
            false => remove(volume, &devices.instance, tools).await,
        };
        if let Err(error) = gone {
            tracing::warn!(volume = volume.id, error = error.chain(), "cannot remove a volume");
            left.push(format!("the volume {} with the token {token} ({})", volume.id, error.message()));
        }
    }
    let directories = remove_empty(&devices.directories);
    left.extend(directories.iter().map(|directory| format!("the directory {}", directory.display())));
    left
}

async fn remove(volume: &RestoredVolume, instance: &Instance, tools: Tools<'_>) -> Result<()> {
    tools.provider.detach(volume, instance).await?;
    tools.provider.delete_volume(volume).await
}

/// The error of a restore, with what became of its effects.
async fn undo(error: Error, plan: &RestorePlan, devices: &DevicePlan, made: &Made, tools: Tools<'_>) -> Error {
    if devices.mounts.is_empty() {
        return error.with_context("left", "the volumes are mounted; if files were changed already, make them anew");
    }
    left_out::unmake(plan);
    // Those on a new volume go with it.
    remove_empty(&made.left_out);
    let mut left = take_back(&made.volumes, &made.devices, &plan.token, tools).await;
    if made.unknown {
        left.push(format!("perhaps volumes with the token {}, whose making got no reply", plan.token));
    }
    if left.is_empty() {
        return error.with_context("undone", "everything that the restore had made was removed again");
    }
    let hint = format!("the restore could not take everything back; left are: {}", left.join("; "));
    Error::new(error.kind(), error.message().to_owned()).with_source(error).with_hint(hint)
}
