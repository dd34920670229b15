//! `delete`: snapshots, objects, metadata and the WAL that nobody needs then; `--dry-run` prints the plan.

use barman_snap::Result;
use barman_snap::catalog::delete::{DeleteRequest, Selection};

use crate::args::{Common, DeleteArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: DeleteArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, Some(&args.provider)).await?.build();
    let selection = match (&args.backup_id, &args.retention_policy) {
        (Some(id), _) => Selection::Backups(vec![engine.catalog().resolve(id).await?]),
        (None, policy) => Selection::Obsolete(policy.as_deref().unwrap_or_default().parse()?),
    };
    let request = DeleteRequest {
        selection,
        minimum_redundancy: args.minimum_redundancy,
        even_started: false,
        snapshots_gone: args.snapshots_gone,
    };
    let plan = engine.plan_delete(&request).await?;
    if !args.dry_run {
        engine.delete(&plan).await?;
    }
    output::print(common.format, &plan, |plan| {
        let mut text = String::new();
        for skipped in &plan.skipped {
            text.push_str(&format!("backup {} stays: {}\n", skipped.id, skipped.why));
        }
        if plan.is_empty() {
            return text + "nothing to delete";
        }
        let verb = if args.dry_run { "would delete" } else { "deleted" };
        for backup in &plan.backups {
            let count = backup.snapshots.len();
            text.push_str(&format!(
                "{verb} backup {} with {count} snapshot{}\n",
                backup.id,
                if count == 1 { "" } else { "s" }
            ));
            for ticket in backup.snapshots.iter().filter(|_| args.dry_run || common.verbose > 0) {
                text.push_str(&format!("  snapshot {}\n", ticket.snapshot));
            }
            for ticket in &backup.given_up {
                text.push_str(&format!("  snapshot {} counts as gone\n", ticket.snapshot));
            }
            for key in backup.keys.iter().chain([&backup.info_key]).filter(|_| args.dry_run || common.verbose > 0) {
                text.push_str(&format!("  object {key}\n"));
            }
        }
        match &plan.wal_reason {
            Some(reason) => text.push_str(&format!("all WAL stays: {reason}\n")),
            None => text.push_str(&format!("{verb} {} WAL files that no backup needs\n", plan.wal_keys.len())),
        }
        text
    })?;
    Ok(if plan.skipped.is_empty() { Exit::Success } else { Exit::LeftOut })
}
