//! Whether what a restore will write fits, seen before anything is written.
//!
//! The original often lives on the same file system: one that is filled by a restore stops it. The invariant: nothing is
//! begun that is seen not to fit, and where the provider cannot say how much it will be, nothing is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::plan::RestorePlan;
use super::provision::{Tools, piece_request};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::RestoreSpace;

/// What stays free beside the files of the backup: recovery writes WAL and whatever that changes.
const MARGIN: u64 = 64 << 20;

/// Looks at every piece of the plan.
///
/// # Errors
/// `exhausted` when a file system has not enough room for all that goes to it.
pub(crate) async fn check(plan: &RestorePlan, tools: Tools<'_>) -> Result<()> {
    let mut wanted = Vec::new();
    for piece in &plan.pieces {
        tools.go_on()?;
        match tools.provider.restore_space(&piece_request(plan, piece)).await {
            Ok(space) => wanted.extend(space),
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            // A snapshot that cannot be read: the restore meets it next, and says what it is.
            Err(error) => tracing::debug!(error = error.chain(), "cannot tell how much a restore would write"),
        }
    }
    judge(wanted)
}

fn judge(wanted: Vec<RestoreSpace>) -> Result<()> {
    let mut systems: BTreeMap<u64, (u64, u64, PathBuf)> = BTreeMap::new();
    for one in wanted {
        let (bytes, free, _) = systems.entry(one.device).or_insert((0, one.free, one.directory));
        *bytes = bytes.saturating_add(one.bytes);
        *free = one.free.min(*free);
    }
    for (bytes, free, directory) in systems.into_values() {
        if bytes.saturating_add(MARGIN) > free {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the restore would write {} MiB to the file system of {}, and {} MiB are free",
                    bytes.div_ceil(1 << 20),
                    directory.display(),
                    free >> 20
                ),
            )
            .with_hint(format!(
                "it needs {} MiB more than that, for what recovery writes: make room, or choose another place",
                MARGIN >> 20
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_one_file_system_is_added_up() {
        let one = |device, mib: u64, free: u64| RestoreSpace {
            directory: format!("/d{device}").into(),
            device,
            bytes: mib << 20,
            free: free << 20,
        };
        assert!(judge(vec![one(1, 100, 164), one(2, 100, 164)]).is_ok());
        let error = judge(vec![one(1, 100, 200), one(1, 100, 200), one(2, 1, 1000)]).unwrap_err();
        assert_eq!(error.message(), "the restore would write 200 MiB to the file system of /d1, and 200 MiB are free");
        assert!(judge(Vec::new()).is_ok());
    }
}
