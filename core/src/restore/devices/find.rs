//! Waits until a volume that was attached shows as a block device of this host, with what is expected on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::provision::{Tools, blocking};
use super::probe::{Found, probe};
use crate::error::{Error, Result};
use crate::host::devices::{DeviceHint, HostDescription};
use crate::provider::RestoredVolume;

/// How long a device may take to appear after the cloud has said that it is attached.
const LIMIT: Duration = Duration::from_secs(120);
/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// A device with a file system.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// Where it is, as the kernel names it.
    pub(super) path: PathBuf,
    /// What is on it; `None` if that is unknown to this program.
    pub(super) found: Option<Found>,
}

/// The device of `part` of a volume, as soon as it is there.
pub(super) async fn wait_for(volume: &RestoredVolume, part: &str, tools: Tools<'_>) -> Result<Device> {
    let began = tools.clock.monotonic();
    loop {
        tools.go_on()?;
        let (hints, part_name) = (volume.hints.clone(), part.to_owned());
        let looked = blocking(move || look(&hints, &part_name)).await?;
        let waited = tools.clock.monotonic().saturating_sub(began);
        match looked {
            Some(device) if device.found.is_some() || waited >= LIMIT => return Ok(device),
            None if waited >= LIMIT => return Err(never(volume, part)),
            _ => tools.clock.sleep(PAUSE).await,
        }
    }
}

fn look(hints: &[DeviceHint], part: &str) -> Result<Option<Device>> {
    let host = HostDescription::capture(Path::new("/"), &[])?;
    let shown = host.find(hints).and_then(|disk| disk.parts.into_iter().find(|(name, _)| name == part));
    let Some((_, path)) = shown else { return Ok(None) };
    let found = probe(&path)?;
    Ok(Some(Device { path, found }))
}

fn never(volume: &RestoredVolume, part: &str) -> Error {
    let part = if part.is_empty() { String::new() } else { format!("partition {part} of ") };
    Error::precondition(format!(
        "{part}the volume {} was attached, but no device of it appeared on this host within {} s",
        volume.id,
        LIMIT.as_secs()
    ))
    .with_hint("a restore runs on the instance that the volumes are attached to: is this host that instance?")
}
