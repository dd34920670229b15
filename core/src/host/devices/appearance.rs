//! A disk that was attached to this host, and what lies on it: what a restore waits for.
//!
//! Pure, like the rest: who waits captures the host again and again, and knows when to give up.

use std::path::PathBuf;

use super::DeviceHint;
use super::description::HostDescription;
use super::graph::Graph;

/// A disk that shows on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appearance {
    /// Its device.
    pub device: PathBuf,
    /// Every device that lies on it: what it is called in [`FileSystem::part`], and its path. The first is the disk itself, with
    /// an empty part.
    ///
    /// [`FileSystem::part`]: crate::provider::FileSystem::part
    pub parts: Vec<(String, PathBuf)>,
}

impl HostDescription {
    /// The device with these hints, with all that lies on it; `None` if none of them leads to one.
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
