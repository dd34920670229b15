//! What the memory provider does beyond the cut: instant snapshots that are promoted, locks, and snapshots of stock tools.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Content, MemoryProvider, Snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Token;
use crate::model::{CloudSnapshot, CloudSnapshots, Literal, ProviderInfo, SnapshotDetails, SnapshotRecord};
use crate::provider::{SnapshotState, Ticket};

impl MemoryProvider {
    /// Adds a snapshot as a stock tool makes it: it carries no token of ours.
    pub fn add_stock_snapshot(&self, id: &str) {
        let created = self.clock.monotonic();
        self.lock().snapshots.push(Snapshot {
            ticket: stock_ticket(id, "", ""),
            mark: String::new(),
            created,
            polls: 0,
            state: SnapshotState::Ready,
            content: Content::new(),
            is_instant: false,
            locked_until: None,
        });
    }

    /// Takes all snapshots out of sight, for this reason; or with `None` brings them back.
    pub fn set_unseen(&self, why: Option<&str>) {
        self.lock().unseen = why.map(str::to_owned);
    }

    /// Locks a snapshot, or with `None` releases it. False if there is no such snapshot.
    pub fn set_lock(&self, snapshot: &str, until: Option<&str>) -> bool {
        let mut state = self.lock();
        let found = state.snapshots.iter_mut().find(|known| known.ticket.snapshot == snapshot);
        found.map(|found| found.locked_until = until.map(str::to_owned)).is_some()
    }

    pub(super) fn delete_now(&self, ticket: &Ticket) -> Result<()> {
        self.refuse_locked(std::slice::from_ref(ticket))?;
        let now = self.clock.monotonic();
        let mut state = self.lock();
        let is_it = |snapshot: &Snapshot| snapshot.ticket.snapshot == ticket.snapshot && snapshot.created <= now;
        if state.snapshots.iter().any(|snapshot| is_it(snapshot) && snapshot.ticket.token != ticket.token) {
            let message = format!("the snapshot {} does not carry the token of its session", ticket.snapshot);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let gone: Vec<_> = state.snapshots.extract_if(.., |snapshot| is_it(snapshot)).collect();
        state.deleted.extend(gone.into_iter().map(|snapshot| (now, snapshot.ticket, snapshot.mark)));
        Ok(())
    }

    pub(super) fn refuse_locked(&self, tickets: &[Ticket]) -> Result<()> {
        let state = self.lock();
        let locked: Vec<String> = state
            .snapshots
            .iter()
            .filter(|known| tickets.iter().any(|ticket| ticket.snapshot == known.ticket.snapshot))
            .filter_map(|known| Some(format!("{} until {}", known.ticket.snapshot, known.locked_until.as_ref()?)))
            .collect();
        match locked.as_slice() {
            [] => Ok(()),
            locked => Err(Error::precondition(format!("locked: {}", locked.join(", ")))),
        }
    }

    pub(super) fn promote_now(&self, tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        let created = self.clock.monotonic();
        let mut state = self.advanced(None);
        let mut promoted = Vec::new();
        for ticket in tickets {
            let durable = Ticket { snapshot: format!("{}/durable", ticket.snapshot), ..ticket.clone() };
            promoted.push(durable.clone());
            if state.snapshots.iter().any(|known| known.ticket.snapshot == durable.snapshot) {
                continue;
            }
            let instant = state.snapshots.iter().find(|known| known.ticket.snapshot == ticket.snapshot);
            let Some(instant) = instant.filter(|instant| instant.state == SnapshotState::Cut) else {
                let message = format!("nothing to promote: {} is gone, or not cut", ticket.snapshot);
                return Err(Error::new(ErrorKind::Provider, message));
            };
            let (mark, content) = (instant.mark.clone(), instant.content.clone());
            state.snapshots.push(Snapshot {
                ticket: durable,
                mark,
                created,
                polls: 0,
                state: SnapshotState::Cut,
                content,
                is_instant: false,
                locked_until: None,
            });
        }
        Ok(promoted)
    }

    pub(super) fn secure_now(&self, tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        let mut state = self.advanced(None);
        let mut secured = Vec::new();
        for ticket in tickets {
            // What was needed only on the way.
            state.snapshots.retain(|known| !(known.is_instant && known.ticket.token == ticket.token));
            let found = state.snapshots.iter_mut().find(|known| known.ticket.snapshot == ticket.snapshot);
            let Some(snapshot) = found.filter(|found| found.state == SnapshotState::Ready) else {
                return Err(Error::new(ErrorKind::Provider, format!("not ready: {}", ticket.snapshot)));
            };
            snapshot.locked_until.clone_from(&self.options.lock_until);
            let mut ticket = ticket.clone();
            if let Some(until) = &self.options.lock_until {
                ticket.attributes.insert("locked_until".into(), until.clone());
            }
            secured.push(ticket);
        }
        Ok(secured)
    }

    pub(super) fn adopt_now(&self, snapshots: &CloudSnapshots) -> Result<Vec<SnapshotRecord>> {
        let named = snapshots.provider_info.provider();
        if named != self.options.name {
            let message = format!("the snapshots are of {named}, this is {}", self.options.name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        snapshots
            .snapshots
            .iter()
            .map(|snapshot| {
                let id = snapshot.details.identifier();
                let id = id.ok_or_else(|| Error::corrupt("a snapshot without a name"))?;
                let mount_point = snapshot.mount_point.clone().unwrap_or_default();
                Ok(SnapshotRecord {
                    ticket: stock_ticket(id, id, &mount_point),
                    mount_point,
                    mount_options: snapshot.mount_options.clone().unwrap_or_default(),
                    file_systems: Vec::new(),
                })
            })
            .collect()
    }
}

/// The snapshots as a stock tool reads those of AWS.
pub(super) fn as_aws(snapshots: &[SnapshotRecord]) -> Literal {
    let snapshot = |record: &SnapshotRecord| CloudSnapshot {
        mount_options: Some(record.mount_options.clone()),
        mount_point: Some(record.mount_point.clone()),
        details: SnapshotDetails::Aws {
            device_name: Some(record.ticket.volume.clone()),
            snapshot_id: Some(record.ticket.snapshot.clone()),
            snapshot_name: Some(record.ticket.name.clone()),
            snapshot_lock_mode: None,
        },
    };
    let provider_info = ProviderInfo::Aws { account_id: None, region: None };
    CloudSnapshots { provider_info, snapshots: snapshots.iter().map(snapshot).collect() }.to_literal()
}

/// The ticket of a snapshot that carries the token of nobody.
fn stock_ticket(id: &str, volume: &str, root: &str) -> Ticket {
    Ticket {
        snapshot: id.to_owned(),
        name: id.to_owned(),
        volume: volume.to_owned(),
        root: PathBuf::from(root),
        method: "memory".into(),
        token: Token::from_bits(0),
        attributes: BTreeMap::from([(Ticket::STOCK.to_owned(), "true".to_owned())]),
    }
}
