//! Which part of which snapshot goes where.
//!
//! Pure. A path of the original lies on the volume with the longest root that contains it. One snapshot may give several
//! pieces (data directory and tablespaces on one volume), and a data directory may be made of several snapshots (a volume
//! mounted inside it), which then must be put in place from the outside inwards.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::host::HostFacts;
use super::tablespaces::{PlacedTablespace, normal};
use super::unwanted;
use crate::error::{Error, Result};
use crate::model::EngineRecord;
use crate::provider::Ticket;

/// A part of a snapshot and the directory it goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The snapshot.
    pub ticket: Ticket,
    /// The part of it, relative to its root; empty for all.
    pub subtree: PathBuf,
    /// Where it goes; absent or empty.
    pub destination: PathBuf,
    /// Directories, relative to the part, that are made but left empty.
    pub exclude_content: Vec<PathBuf>,
}

/// Cuts the snapshots of a backup into the pieces of a restore, outer ones first.
///
/// # Errors
/// `corrupt` when no snapshot holds the data directory or a tablespace.
pub(super) fn cut_pieces(
    record: &EngineRecord,
    host: &HostFacts,
    pgdata: &Path,
    target: &Path,
    placed: &[PlacedTablespace],
) -> Result<Vec<Piece>> {
    let (home, subtree) = find(record, host, pgdata)
        .ok_or_else(|| missing(record, &format!("the data directory {}", pgdata.display())))?;
    let real = normal(&home.root.join(&subtree));
    let mut exclude_content: Vec<_> = unwanted::EMPTIED.iter().chain(&unwanted::LOGS).map(PathBuf::from).collect();
    let mut pieces = Vec::new();
    for one in placed {
        let Some((ticket, subtree)) = find(record, host, &one.original) else {
            if one.left_out {
                continue;
            }
            return Err(missing(record, &format!("tablespace {:?} at {}", one.name, one.original.display())));
        };
        let inner = normal(&ticket.root.join(&subtree)).strip_prefix(&real).map(Path::to_owned).ok();
        if let (Some(inner), true) = (&inner, ticket.snapshot == home.snapshot) {
            if one.inside && !one.left_out {
                continue; // It comes along with the data directory.
            }
            exclude_content.push(inner.clone());
        }
        if one.left_out {
            continue;
        }
        pieces.push(Piece { ticket, subtree, destination: one.location.clone(), exclude_content: Vec::new() });
    }
    pieces.extend(volumes_inside(record, &home, &real, target, &pieces));
    pieces.push(Piece { ticket: home, subtree, destination: target.to_owned(), exclude_content });
    pieces.sort_by(|a, b| a.destination.cmp(&b.destination));
    Ok(pieces)
}

/// Volumes mounted somewhere inside the data directory that are neither a tablespace nor a place whose content is dropped.
fn volumes_inside(record: &EngineRecord, home: &Ticket, real: &Path, target: &Path, taken: &[Piece]) -> Vec<Piece> {
    let dropped =
        |inner: &Path| unwanted::EMPTIED.iter().chain(&unwanted::LOGS).any(|directory| inner.starts_with(directory));
    let others =
        record.snapshots.iter().map(|snapshot| &snapshot.ticket).filter(|ticket| ticket.snapshot != home.snapshot);
    others
        .filter_map(|ticket| {
            let inner = ticket.root.strip_prefix(real).ok().filter(|inner| !dropped(inner))?;
            let used = taken.iter().any(|piece| piece.ticket.snapshot == ticket.snapshot);
            (!used && !inner.as_os_str().is_empty()).then(|| Piece {
                ticket: ticket.clone(),
                subtree: PathBuf::new(),
                destination: target.join(inner),
                exclude_content: Vec::new(),
            })
        })
        .collect()
}

/// The snapshot that holds `path`, and the path inside it. Volumes are known by resolved paths, PostgreSQL may name a link.
fn find(record: &EngineRecord, host: &HostFacts, path: &Path) -> Option<(Ticket, PathBuf)> {
    let holding = |path: &Path| {
        let tickets = record.snapshots.iter().map(|snapshot| &snapshot.ticket);
        let best = tickets
            .filter(|ticket| path.starts_with(&ticket.root))
            .max_by_key(|ticket| ticket.root.components().count())?;
        Some((best.clone(), path.strip_prefix(&best.root).ok()?.to_owned()))
    };
    let then = path.to_str().and_then(|path| record.real_paths.get(path)).map(Path::new);
    then.and_then(holding).or_else(|| host.at(path).real.as_deref().and_then(holding)).or_else(|| holding(path))
}

fn missing(record: &EngineRecord, what: &str) -> Error {
    let roots: Vec<_> = record.snapshots.iter().map(|snapshot| snapshot.ticket.root.display().to_string()).collect();
    Error::corrupt(format!("no snapshot of this backup holds {what}")).with_hint(format!("it has {}", roots.join(", ")))
}

/// Groups pieces so that those of one group may be made at the same time: none lies inside another one.
pub(super) fn waves(pieces: &[Piece]) -> Vec<Vec<&Piece>> {
    let depth = |piece: &Piece| {
        let around = |other: &&Piece| {
            other.destination != piece.destination && piece.destination.starts_with(&other.destination)
        };
        pieces.iter().filter(around).count()
    };
    let mut waves: Vec<Vec<&Piece>> = Vec::new();
    for piece in pieces {
        let depth = depth(piece);
        waves.resize_with(waves.len().max(depth + 1), Vec::new);
        waves[depth].push(piece);
    }
    waves
}
