//! Names of resources: `projects/P/zones/Z/disks/D`, alone or as the end of a URL.
//!
//! The API writes one and the same resource with different beginnings (`https://www.googleapis.com/compute/v1/…`,
//! `https://compute.googleapis.com/compute/v1/…`, a user's endpoint, none). Two links are compared by their parts, never by
//! how a text ends: the disk `data` is not the disk `my-data`.

use std::fmt;

/// Where a resource lies inside its project.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope {
    /// In no place.
    Global,
    /// In a zone.
    Zone(String),
    /// In a region.
    Region(String),
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Link {
    /// The project.
    pub(super) project: String,
    /// Zone, region, or neither.
    pub(super) scope: Scope,
    /// `disks`, `snapshots`, `instantSnapshots`, …
    pub(super) kind: String,
    /// Its name.
    pub(super) name: String,
}

impl Link {
    /// The resource of that kind and name.
    pub(super) fn new(project: &str, scope: &Scope, kind: &str, name: &str) -> Self {
        Self { project: project.to_owned(), scope: scope.clone(), kind: kind.to_owned(), name: name.to_owned() }
    }

    /// A snapshot.
    pub(super) fn snapshot(project: &str, name: &str) -> Self {
        Self::new(project, &Scope::Global, "snapshots", name)
    }

    /// Reads a URL, or the part of it from `projects/` on.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let at = parts.iter().position(|part| *part == "projects")?;
        let (project, scope, rest) = match &parts[at + 1..] {
            [project, "global", rest @ ..] => (project, Scope::Global, rest),
            [project, "zones", zone, rest @ ..] => (project, Scope::Zone((*zone).to_owned()), rest),
            [project, "regions", region, rest @ ..] => (project, Scope::Region((*region).to_owned()), rest),
            _ => return None,
        };
        match rest {
            [kind, name] if !kind.is_empty() && !name.is_empty() => Some(Self::new(project, &scope, kind, name)),
            _ => None,
        }
    }

    /// Without the project: `zones/Z/disks/D`.
    pub(super) fn partial(&self) -> String {
        format!("{}/{}/{}", self.scope, self.kind, self.name)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Zone(zone) => write!(f, "zones/{zone}"),
            Self::Region(region) => write!(f, "regions/{region}"),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "projects/{}/{}", self.project, self.partial())
    }
}

/// The last element of a URL: the name of what it leads to.
pub(super) fn last(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_url_does_not_matter() {
        let tail = "projects/p/zones/europe-west1-b/disks/data";
        for head in ["", "https://www.googleapis.com/compute/v1/", "http://127.0.0.1:5/compute/v1/"] {
            let link = Link::parse(&format!("{head}{tail}")).unwrap();
            assert_eq!(link.to_string(), tail);
            assert_eq!(link.partial(), "zones/europe-west1-b/disks/data");
        }
    }

    #[test]
    fn zone_region_and_global_are_told_apart() {
        let scope = |text: &str| Link::parse(text).map(|link| link.scope);
        assert_eq!(scope("projects/p/regions/r/disks/d"), Some(Scope::Region("r".into())));
        assert_eq!(scope("projects/p/global/snapshots/s"), Some(Scope::Global));
        for bad in
            ["", "disks/d", "projects/p/zones/z/disks", "projects/p/zones/z/disks/", "projects/p/zones/z/disks/d/x"]
        {
            assert_eq!(scope(bad), None, "{bad}");
        }
    }
}
