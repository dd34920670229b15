//! `check`: the preflight report.

use barman_snap::Result;
use barman_snap::session::{BackupRequest, WalPolicy};

use crate::args::{CheckArgs, Common};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: CheckArgs) -> Result<Exit> {
    let engine = setup::backup_engine(common, &args.catalog, &args.snapshot).await?.build();
    let request = BackupRequest {
        instance: args.snapshot.snapshot_instance.clone(),
        volumes: args.snapshot.snapshot_disk.clone(),
        exclude_tablespaces: args.snapshot.exclude_tablespace.clone(),
        tags: setup::tags(&args.tag)?,
        group: args.consistency.group(),
        wal: if args.wal_external { WalPolicy::External } else { WalPolicy::Catalog },
        ..BackupRequest::default()
    };
    let report = engine.check(setup::connect(&args.connection).await, &request).await;
    output::print(common.format, &report, |report| {
        let mut text = format!("Server {}:\n", args.catalog.server);
        for line in &report.lines {
            let verdict = if line.ok { "OK" } else { "FAILED" };
            text.push_str(&format!("\t{}: {verdict} ({})\n", line.name, line.detail));
            if let Some(hint) = &line.hint {
                text.push_str(&format!("\t\t{hint}\n"));
            }
        }
        text
    })?;
    Ok(if report.is_ok() { Exit::Success } else { Exit::Failure })
}
