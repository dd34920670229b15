//! Which host this is. Local snapshots lie on one host, the catalog is seen by many: what is not here must not count as gone.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::provider::Ticket;

/// The attribute of a ticket that names the host it was made on.
const HOST: &str = "host";

/// The name of this host.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The attributes of a ticket that is made here.
pub(super) fn attributes() -> BTreeMap<String, String> {
    BTreeMap::from([(HOST.to_owned(), host())])
}

/// Refuses a snapshot that was made on another host and is not to be seen from this one. Another host may well have a
/// directory of the same name; a host may get a new name, and a disk another host. So it is the snapshot itself that counts.
pub(super) fn check(ticket: &Ticket) -> Result<()> {
    let made_on = ticket.attributes.get(HOST).filter(|made_on| **made_on != host());
    match made_on {
        Some(made_on) if !Path::new(&ticket.snapshot).exists() => {
            Err(Error::precondition(format!("snapshot {} lies on host {made_on}, this is {}", ticket.snapshot, host()))
                .with_hint("run it there"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::id::Token;

    #[test]
    fn what_lies_on_another_host_is_not_gone() {
        let mut ticket = Ticket {
            snapshot: "/nowhere/.barman_snap/x".into(),
            name: "x".into(),
            volume: "/nowhere".into(),
            root: "/nowhere".into(),
            method: "copy".into(),
            token: Token::from_bits(1),
            attributes: attributes(),
        };
        assert!(check(&ticket).is_ok(), "here it is gone");
        ticket.attributes.insert(HOST.into(), "another".into());
        assert_eq!(check(&ticket).map_err(|error| error.kind()), Err(ErrorKind::Precondition));
        ticket.root = "/".into();
        assert!(check(&ticket).is_err(), "a directory of the same name is not enough");
        ticket.snapshot = "/".into();
        assert!(check(&ticket).is_ok(), "the disk has moved here");
    }
}
