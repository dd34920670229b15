//! `restore`: to a directory, or to new volumes, ready to be started.

use std::sync::Arc;

use barman_snap::engine::restore::{RestoreListener, wal_source};
use barman_snap::restore::target::{parse_time, parse_timeline};
use barman_snap::restore::{
    DeviceWishes, Purpose, RecoveryTarget, RestoreEvent, RestoreRequest, Restored, TargetAction, TargetOptions,
    TargetTimeline, WalSource,
};
use barman_snap::session::CancelToken;
use barman_snap::{Error, Result};

use crate::args::{Common, Format, RestoreArgs, TargetArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: RestoreArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, Some(&args.provider)).await?.build();
    let recovery = target(&args.target)?;
    let chosen = engine.choose(&args.backup_id, &recovery).await?;
    let id = chosen.backup_id.clone();
    let wal = match &args.restore_command {
        Some(command) => WalSource::Command(command.clone()),
        None => wal_source(setup::restore_program(common)?, &args.catalog.url, &args.catalog.server),
    };
    let target_dir = std::path::absolute(&args.target_dir).map_err(|error| {
        Error::invalid(format!("not a directory: {}", args.target_dir.display())).with_source(error)
    })?;
    let mut request = RestoreRequest::new(target_dir, wal, engine.ids().token());
    request.recovery = recovery;
    request.chosen = Some(chosen);
    request.in_place = args.in_place;
    request.waldir.clone_from(&args.waldir);
    request.purpose = Purpose::from_flags(args.clone, args.replace, args.standby)?;
    request.with_config = args.with_config;
    request.tablespaces = args.tablespace.iter().map(|text| text.parse()).collect::<Result<_>>()?;
    request.devices = Some(DeviceWishes { instance: args.snapshot_recovery_instance.clone(), mounted: args.mounted });
    let plan = engine.plan_restore(&id, &request).await?;
    if args.dry_run {
        output::print(common.format, &plan, ToString::to_string)?;
        return Ok(Exit::Success);
    }
    if common.quiet == 0 {
        plan.chosen.iter().for_each(|chosen| output::note(&chosen.to_string()));
        if let Some(because) = &plan.because {
            output::note(&format!(
                "restoring a {}, because {because}; --replace says otherwise",
                plan.purpose.as_str()
            ));
        }
        plan.note.iter().for_each(|note| output::note(note));
        for warning in &plan.warnings {
            output::note(&format!("warning: {warning}"));
        }
    }
    let cancel = CancelToken::new();
    let interrupted = cancel.clone();
    let _guard = setup::on_interrupt(move || interrupted.cancel())?;
    let restored = engine.restore(&plan, &cancel, &listener(common)).await?;
    match common.format {
        Format::Json => output::print(common.format, &restored, |_| String::new())?,
        Format::Text if common.quiet == 0 => output::note(&describe(&restored, &plan.recovery)),
        Format::Text => {}
    }
    Ok(Exit::Success)
}

/// The recovery target that the options mean.
pub(crate) fn target(args: &TargetArgs) -> Result<RecoveryTarget> {
    let options = TargetOptions {
        time: args.target_time.as_deref().map(|text| parse_time(text, &chrono::Local)).transpose()?,
        lsn: args.target_lsn.as_deref().map(str::parse).transpose()?,
        xid: args
            .target_xid
            .as_deref()
            .map(|text| text.parse().map_err(|_| Error::invalid(format!("not a transaction id: {text:?}"))))
            .transpose()?,
        name: args.target_name.clone(),
        immediate: args.target_immediate,
        exclusive: args.target_exclusive,
        timeline: args.target_tli.as_deref().map_or(Ok(TargetTimeline::default()), parse_timeline)?,
        action: args.target_action.as_deref().map(|action| match action {
            "pause" => TargetAction::Pause,
            "shutdown" => TargetAction::Shutdown,
            _ => TargetAction::Promote,
        }),
    };
    options.into_target()
}

/// Tells on stderr what is being done, with `-v`.
pub(crate) fn listener(common: &Common) -> RestoreListener {
    let verbose = common.verbose > 0;
    Arc::new(move |event| {
        let text = match event {
            RestoreEvent::Made { destination, bytes_copied } => {
                let copied =
                    bytes_copied.map(|count| format!(" ({} copied)", output::bytes(count))).unwrap_or_default();
                format!("  ✓ {}{copied}", destination.display())
            }
            RestoreEvent::Creating { snapshot } => format!("  … a volume of {snapshot}"),
            RestoreEvent::Created { volume } => format!("  ✓ volume {volume}"),
            RestoreEvent::Attached { volume } => format!("  ✓ {volume} attached"),
            RestoreEvent::Mounted { device, mount_point } => {
                format!("  ✓ {} mounted at {}", device.display(), mount_point.display())
            }
            RestoreEvent::Prepared => "  ✓ data directory prepared".to_owned(),
            RestoreEvent::Checking { name } => format!("  … {name}"),
            _ => return,
        };
        if verbose {
            output::note(&text);
        }
    })
}

fn describe(restored: &Restored, recovery: &RecoveryTarget) -> String {
    let seconds = std::time::Duration::from_millis(restored.duration_ms).as_secs_f64();
    let copied = restored.bytes_copied.map(|count| format!(", {} copied", output::bytes(count))).unwrap_or_default();
    let mut text = format!("restored to {} in {seconds:.3} s{copied}\n", restored.target.display());
    for aside in &restored.set_aside {
        text.push_str(&format!("what was there is now {}; remove it when you are sure\n", aside.to.display()));
    }
    for note in &restored.prepared.configuration {
        text.push_str(&format!("configuration: {note}\n"));
    }
    let mounts = restored.devices.as_ref().map(|devices| devices.mounts.as_slice()).unwrap_or_default();
    for mount in mounts {
        let (device, at) = (mount.device.display(), mount.mount_point.display());
        text.push_str(&format!("mounted {} ({device}) at {at}\n", mount.volume));
        mount.warnings.iter().for_each(|warning| text.push_str(&format!("warning: {warning}\n")));
    }
    if !mounts.is_empty() {
        text.push_str("for /etc/fstab:\n");
        mounts.iter().for_each(|mount| text.push_str(&format!("    {}\n", mount.fstab)));
    }
    text.push_str(&format!("start PostgreSQL on it: it will recover {recovery}"));
    text
}
