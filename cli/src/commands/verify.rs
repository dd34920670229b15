//! `verify`: the proof that a backup can be restored.

use std::time::Duration;

use barman_snap::Result;
use barman_snap::engine::restore::wal_source;
use barman_snap::restore::target::parse_timeline;
use barman_snap::restore::{DeviceWishes, Proof, RecoveryTarget, SqlCheck, TargetTimeline, VerifyDepth, VerifyOptions};
use barman_snap::session::CancelToken;

use super::restore::listener;
use crate::args::{Common, VerifyArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: VerifyArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, Some(&args.provider)).await?.build();
    let chosen = engine.choose(&args.backup_id, &RecoveryTarget::default()).await?;
    let id = chosen.backup_id.clone();
    let wal = wal_source(setup::restore_program(common)?, &args.catalog.url, &args.catalog.server);
    let options = VerifyOptions {
        work_dir: args.work_dir.clone(),
        bin_dir: args.pg_bin_dir.clone(),
        depth: if args.all_wal { VerifyDepth::EndOfWal } else { VerifyDepth::Consistency },
        timeline: args.target_tli.as_deref().map_or(Ok(TargetTimeline::default()), parse_timeline)?,
        sql: args.sql.iter().map(|sql| check(&args.sql_dbname, sql)).collect(),
        devices: Some(DeviceWishes { instance: args.snapshot_recovery_instance.clone(), mounted: false }),
        recovery_limit: Duration::from_secs(args.timeout),
        chosen: Some(chosen),
        ..VerifyOptions::default()
    };
    let options = options.without(&args.without)?;
    let cancel = CancelToken::new();
    let interrupted = cancel.clone();
    let _guard = setup::on_interrupt(move || interrupted.cancel())?;
    let proof = engine.verify(&id, &wal, &options, &cancel, &listener(common)).await?;
    if common.quiet == 0 {
        proof.chosen.iter().for_each(|chosen| output::note(&chosen.to_string()));
    }
    output::print(common.format, &proof, Proof::report)?;
    Ok(if proof.passed { Exit::Success } else { Exit::Failure })
}

fn check(database: &str, sql: &str) -> SqlCheck {
    SqlCheck { database: database.to_owned(), sql: sql.to_owned(), expect: None }
}
