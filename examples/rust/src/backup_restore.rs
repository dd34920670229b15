//! Takes a backup, lists the catalog, restores it: `backup_restore URL SERVER DSN TARGET_DIR`.
//!
//! Run it as the user of the server. The restored server fetches its WAL with the command line, which has to be in its
//! `PATH`; set `RESTORE_COMMAND` to say something else.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for people")]

use std::process::ExitCode;
use std::sync::Arc;

use barman_snap::engine::restore::{RestoreListener, wal_source};
use barman_snap::postgres::{ConnectOptions, PostgresControl};
use barman_snap::restore::{RestoreRequest, WalSource};
use barman_snap::session::{BackupRequest, CancelToken, Listener, Progress};
use barman_snap::{Engine, Error, Result};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {}", error.kind(), error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, server, dsn, target] = args.as_slice() else {
        return Err(Error::invalid("usage: backup_restore URL SERVER DSN TARGET_DIR"));
    };
    let engine = Engine::builder(url, &Default::default(), server).await?.listener(Listener::new(tell)).build();

    let control = PostgresControl::connect(&ConnectOptions::new(dsn)).await?;
    let request = BackupRequest { immediate_checkpoint: true, ..BackupRequest::default() };
    let summary = engine.backup(Box::new(control), &request).await?.run().await?;
    println!("backup {} needs WAL from {} to {}", summary.backup_id, summary.begin_lsn, summary.end_lsn);

    for entry in engine.catalog().list().await? {
        let status = entry.status().map_or("unreadable", |status| status.as_str());
        println!("{} {status}", entry.id);
    }

    let wal = match std::env::var("RESTORE_COMMAND") {
        Ok(command) => WalSource::Command(command),
        Err(_) => wal_source(vec!["barman-snap".to_owned()], url, server),
    };
    let restore = RestoreRequest::new(target, wal, engine.ids().token());
    let plan = engine.plan_restore(&summary.backup_id, &restore).await?;
    let quiet: RestoreListener = Arc::new(|_| {});
    let restored = engine.restore(&plan, &CancelToken::new(), &quiet).await?;
    println!("restored to {}", restored.target.display());
    Ok(())
}

fn tell(progress: &Progress) {
    if let Progress::StepDone { step, elapsed, .. } = progress {
        eprintln!("{step}: {} ms", elapsed.as_millis());
    }
}
