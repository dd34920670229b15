//! Bringing to an end, and removing, what others have left.

use std::ffi::c_char;

use barman_snap::options::{GcOptions, RecoverOptions, from_json};

use crate::border::{Out, guard, handle, optional_text};
use crate::cancel::{bs_cancel, token};
use crate::engine::bs_engine;
use crate::error::bs_error;
use crate::status::bs_status;
use crate::string::bs_string;

/// Brings sessions that were left by their process to their end. `*rescues` becomes a JSON array with an object per
/// session: backup_id, phase (before), action, ended (the phase now), error.
///
/// `options` is NULL or a JSON object with any of: backup_id, force, discard, snapshots_gone, dry_run. `cancel` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_recover(
    engine: *const bs_engine,
    options: *const c_char,
    cancel: *const bs_cancel,
    rescues: *mut *mut bs_string,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes live handles, NULL or text that ends with NUL, NULL or a place for the result.
        let (engine, options, cancel, out) = unsafe {
            let options = optional_text(options, "options")?;
            (handle(engine, "engine")?, options, token(cancel), Out::new(rescues, "rescues")?)
        };
        let request = from_json::<RecoverOptions>(options)?.request(cancel)?;
        out.json(&engine.host.run("recover", engine.host.engine.recover(&request))?)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Finds snapshots that bear our mark and belong to nobody, volumes that a restore has made and never attached, and journals of
/// what is gone. `*plan` becomes a JSON object: orphans, volumes, kept_volumes, unseen_volumes, unseen_snapshots, unreachable,
/// journals, kept_journals, saved_configs, open_sessions, refusal. Nothing is removed unless `options` says {"apply": true}.
///
/// `options` is NULL or a JSON object with any of: apply, keep_undone_days, volumes_older_than_days.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_gc(
    engine: *const bs_engine,
    options: *const c_char,
    plan: *mut *mut bs_string,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes a live engine, NULL or text that ends with NUL, NULL or a place for the result.
        let (engine, options, out) =
            unsafe { (handle(engine, "engine")?, optional_text(options, "options")?, Out::new(plan, "plan")?) };
        let options: GcOptions = from_json(options)?;
        out.json(&engine.host.run("gc", options.run(&engine.host.engine))?)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}
