//! `recover`: what became of sessions that were left by their process.

use std::time::Duration;

use barman_snap::Result;
use barman_snap::engine::RecoverRequest;
use barman_snap::session::{Action, CancelToken, Patience, Rescue, Wishes};

use crate::args::{Common, RecoverArgs};
use crate::exit::Exit;
use crate::{output, progress, setup};

pub(crate) async fn run(common: &Common, args: RecoverArgs) -> Result<Exit> {
    let patience = Patience { wal: Duration::from_secs(args.wal_timeout), ..Patience::default() };
    let engine = setup::engine(common, &args.catalog, Some(&args.provider))
        .await?
        .patience(patience)
        .listener(progress::listener(common))
        .build();
    let cancel = CancelToken::new();
    let interrupted = cancel.clone();
    let _guard = setup::on_interrupt(move || interrupted.cancel())?;
    let request = RecoverRequest {
        backup_id: args.backup_id.as_deref().map(str::parse).transpose()?,
        wishes: Wishes {
            force: args.force,
            discard: args.discard,
            snapshots_gone: args.snapshots_gone,
            ..Wishes::default()
        },
        dry_run: args.dry_run,
        cancel,
    };
    let rescues = engine.recover(&request).await?;
    let of_interest: Vec<_> = rescues
        .iter()
        .filter(|rescue| args.backup_id.is_some() || !matches!(rescue.plan.action, Action::Nothing))
        .collect();
    output::print(common.format, &of_interest, |rescues| {
        if rescues.is_empty() {
            return "nothing to recover".to_owned();
        }
        let mut text = String::new();
        for rescue in rescues {
            text.push_str(&rescue.plan.to_string());
            match &rescue.error {
                Some(error) => text.push_str(&format!(" -> {}, but {}", rescue.ended, error.chain())),
                None if args.dry_run => text.push_str(" (dry run)"),
                None => text.push_str(&format!(" -> {}", rescue.ended)),
            }
            text.push('\n');
        }
        text
    })?;
    let unseen = |rescue: &Rescue| matches!(rescue.plan.action, Action::NotVisible { .. });
    Ok(match () {
        () if rescues.iter().any(|rescue| rescue.error.is_some()) => Exit::Failure,
        () if rescues.iter().any(unseen) => Exit::LeftOut,
        () => Exit::Success,
    })
}
