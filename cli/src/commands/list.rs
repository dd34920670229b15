//! `list`: the backups of a server, and the sessions that came to nothing or are not over.

use std::collections::BTreeMap;

use barman_snap::catalog::CatalogEntry;
use barman_snap::id::BackupId;
use barman_snap::session::{Phase, SessionState};
use barman_snap::{Result, options};

use crate::args::{Common, Format, ListArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: ListArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, None).await?.build();
    if common.format == Format::Json {
        output::print(common.format, &options::list(&engine).await?, |_| String::new())?;
        return Ok(Exit::Success);
    }
    let entries = engine.catalog().list().await?;
    let (sessions, broken) = engine.sessions().await?;
    // A published session is its backup; the others have something of their own to say.
    let others: Vec<&SessionState> =
        sessions.iter().filter(|state| !entries.iter().any(|entry| entry.id == state.plan.backup_id)).collect();
    let unfinished = sessions.iter().filter(|state| !state.phase.is_final());
    let unfinished = unfinished.map(|state| (state.plan.backup_id.clone(), state.phase)).collect();
    output::write(&text(&entries, &others, &unfinished))?;
    // A mistyped URL or name looks just like a server without backups.
    if entries.is_empty() && others.is_empty() && common.quiet == 0 {
        if let Err(error) = engine.catalog().check_there() {
            output::note(&format!("warning: {}", error.chain()));
        }
        output::note(&format!("no backups of server {} in {}", args.catalog.server, args.catalog.url));
    }
    for entry in &entries {
        if let Err(error) = &entry.info {
            output::note(&format!("warning: backup {}: {}", entry.id, error.chain()));
        }
    }
    for (id, error) in broken {
        output::note(&format!("warning: session of backup {id}: {}", error.chain()));
    }
    Ok(Exit::Success)
}

fn text(entries: &[CatalogEntry], others: &[&SessionState], unfinished: &BTreeMap<BackupId, Phase>) -> String {
    let mut rows: Vec<Vec<String>> =
        entries.iter().map(|entry| row(entry, unfinished.get(&entry.id).copied())).collect();
    rows.extend(others.iter().filter(|state| state.phase != Phase::Published).map(|state| {
        let plan = &state.plan;
        let (status, remark) = match state.phase {
            Phase::Undone => ("FAILED", state.undo_reason.clone().unwrap_or_default()),
            phase => ("STARTED", format!("session is {phase}")),
        };
        let name = plan.backup_name.clone().unwrap_or_default();
        vec![
            plan.backup_id.to_string(),
            String::new(),
            String::new(),
            status.into(),
            plan.provider.clone(),
            name,
            remark,
        ]
    }));
    rows.sort();
    output::table(&["Backup ID", "End Time", "Begin WAL", "Status", "Snapshots", "Name", "Remark"], &rows)
}

fn row(entry: &CatalogEntry, unfinished: Option<Phase>) -> Vec<String> {
    let id = entry.id.to_string();
    let Ok(info) = &entry.info else {
        return vec![
            id,
            String::new(),
            String::new(),
            "UNREADABLE".into(),
            String::new(),
            String::new(),
            String::new(),
        ];
    };
    let keep = entry.keep.map(|keep| format!("KEEP:{}", keep.as_str().to_uppercase()));
    let session = unfinished.map(|phase| format!("session is {phase}"));
    let remark = keep.into_iter().chain(session).collect::<Vec<_>>().join(", ");
    let record = info.engine_record().ok().flatten();
    let snapshots = match (&record, info.snapshots()) {
        (Some(record), _) => format!("{} {}", record.snapshots.len(), record.provider),
        (None, Ok(Some(cloud))) => format!("{} {}", cloud.snapshots.len(), cloud.provider_info.provider()),
        _ => String::new(),
    };
    vec![
        id,
        info.end_time.map(|time| time.format("%Y-%m-%d %H:%M:%S %:z").to_string()).unwrap_or_default(),
        info.begin_wal.clone().unwrap_or_default(),
        info.status.as_str().to_owned(),
        snapshots,
        info.backup_name.clone().unwrap_or_default(),
        remark,
    ]
}
