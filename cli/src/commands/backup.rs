//! `backup`: prints the new id alone on stdout.

use std::time::Duration;

use barman_snap::Result;
use barman_snap::session::{BackupRequest, BackupSummary, Patience, SessionPlan, WalPolicy};

use crate::args::{BackupArgs, Common, Format};
use crate::exit::Exit;
use crate::{output, progress, setup};

pub(crate) async fn run(common: &Common, args: BackupArgs) -> Result<Exit> {
    let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    let patience = Patience {
        cut: limit(args.cut_timeout),
        ready: limit(args.ready_timeout),
        wal: Duration::from_secs(args.wal_timeout),
        ..Patience::default()
    };
    let engine = setup::backup_engine(common, &args.catalog, &args.snapshot)
        .await?
        .patience(patience)
        .listener(progress::listener(common))
        .build();
    let request = request(&args)?;
    let mut control = setup::connect(&args.connection).await?;
    if args.dry_run {
        let plan = engine.plan_backup(control.as_mut(), &request).await?;
        output::print(common.format, &plan, describe)?;
        return Ok(Exit::Success);
    }
    let primary = match &args.primary_dbname {
        Some(dbname) => {
            let mut primary = setup::connect_to(dbname).await?;
            engine.check_primary(control.as_mut(), primary.as_mut()).await?;
            Some(primary)
        }
        None => None,
    };
    let mut session = engine.backup(control, &request).await?;
    if let Some(primary) = primary {
        session.set_primary(primary);
    }
    let cancel = session.cancel_token();
    let _guard = setup::on_interrupt(move || cancel.cancel())?;
    let summary = session.run().await?;
    if common.verbose > 0 {
        output::note(&describe_summary(&summary));
    }
    match common.format {
        Format::Text => output::write(&summary.backup_id.to_string())?,
        Format::Json => output::print(common.format, &summary, |_| String::new())?,
    }
    let Some(file) = &summary.archived_elsewhere else { return Ok(Exit::Success) };
    output::note(&format!(
        "warning: the server says that {file} was archived, but it is not in this catalog: archive_command stores it elsewhere, or \
         nowhere. Backup {} is complete, but there is no recovery to a later time. Let archive_command be `barman-snap \
         wal-archive` with this URL and server, or give --wal-external if another tool keeps the WAL",
        summary.backup_id
    ));
    Ok(Exit::LeftOut)
}

fn request(args: &BackupArgs) -> Result<BackupRequest> {
    Ok(BackupRequest {
        name: args.name.clone(),
        instance: args.snapshot.snapshot_instance.clone(),
        volumes: args.snapshot.snapshot_disk.clone(),
        exclude_tablespaces: args.snapshot.exclude_tablespace.clone(),
        immediate_checkpoint: args.immediate_checkpoint,
        wal: if args.wal_external { WalPolicy::External } else { WalPolicy::Catalog },
        tags: setup::tags(&args.tag)?,
        group: args.consistency.group(),
        new_system_id: args.new_system_id.clone(),
        backup_id: None,
    })
}

fn describe_summary(summary: &BackupSummary) -> String {
    let copied = summary.bytes_copied.map(|count| format!(", {} copied", output::bytes(count))).unwrap_or_default();
    format!(
        "{} snapshots, {:.3} s in backup mode, cut in {:.3} s{copied}, WAL {} to {}",
        summary.snapshots.len(),
        summary.backup_mode.as_secs_f64(),
        summary.cut.as_secs_f64(),
        summary.begin_lsn,
        summary.end_lsn,
    )
}

/// The plan, for people.
fn describe(plan: &SessionPlan) -> String {
    let facts = &plan.facts;
    let role = if facts.in_recovery { "standby" } else { "primary" };
    let mut text = format!(
        "would take backup {} of server {}\n  PostgreSQL {} {role} at {}, system {}\n",
        plan.backup_id,
        plan.server,
        facts.version,
        facts.data_directory.display(),
        facts.system_id
    );
    for (number, wave) in plan.waves.iter().enumerate() {
        let when = if plan.waves.len() > 1 { format!("wave {}", number + 1) } else { "all at once".to_owned() };
        for planned in wave.iter().map(|at| &plan.volumes[*at]) {
            let volume = &planned.volume;
            text.push_str(&format!("  {when}: {} ({}) as {}\n", volume.id, volume.method, planned.name));
        }
    }
    for one in &plan.excluded_tablespaces {
        text.push_str(&format!("  left out: {}\n", one.consequences()));
    }
    text.push_str(match plan.wal {
        WalPolicy::Catalog => "  WAL from begin to stop must reach the catalog\n",
        WalPolicy::External => "  WAL is left to another tool\n",
    });
    text
}
