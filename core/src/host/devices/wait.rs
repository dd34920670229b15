//! Waits for a disk to show on this host after it was attached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::DeviceHint;
use super::description::HostDescription;
use super::graph::Graph;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// A disk that has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appearance {
    /// Its device.
    pub device: PathBuf,
    /// Every device that lies on it, itself included: what it is called in [`FileSystem::part`], and its path. Empty parts
    /// are the disk itself.
    ///
    /// [`FileSystem::part`]: crate::provider::FileSystem::part
    pub parts: Vec<(String, PathBuf)>,
}

impl HostDescription {
    /// The device with these hints, with all that lies on it.
    pub fn find(&self, hints: &[DeviceHint]) -> Option<Appearance> {
        let graph = Graph::new(self);
        let (id, device) = graph.find(hints)?;
        let parts = graph.lying_on(graph.one_of_paths(id)).into_iter().map(|part| (graph.part(part), graph.path(part)));
        // The disk goes by the name that it was found under.
        let named = |(part, path): (String, String)| match part.is_empty() {
            true => (part, PathBuf::from(&device)),
            false => (part, PathBuf::from(path)),
        };
        Some(Appearance { parts: parts.map(named).collect(), device: PathBuf::from(&device) })
    }
}

/// Looks at the host at `root` until a device with one of these hints is there.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if there is none after `limit`; what was looked for is in it. An error of
/// [`HostDescription::capture`].
pub async fn wait_for_device(
    root: &Path,
    hints: &[DeviceHint],
    clock: &dyn Clock,
    limit: Duration,
) -> Result<Appearance> {
    let until = clock.monotonic().saturating_add(limit);
    loop {
        let root = root.to_owned();
        let host = tokio::task::spawn_blocking(move || HostDescription::capture(&root, &[]))
            .await
            .map_err(|error| Error::internal("the look at the devices has died").with_source(error))??;
        if let Some(found) = host.find(hints) {
            return Ok(found);
        }
        if clock.monotonic() >= until {
            let tried: Vec<String> = hints.iter().map(ToString::to_string).collect();
            let message =
                format!("no device has shown on {} in {} s: {}", host.host, limit.as_secs(), tried.join(", "));
            return Err(Error::new(ErrorKind::Unavailable, message)
                .with_hint("is it attached to this host? In a container, /dev and /sys of the host have to be seen"));
        }
        clock.sleep(PAUSE).await;
    }
}
