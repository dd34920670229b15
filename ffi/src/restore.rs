//! Restore and verify.

use std::ffi::{c_char, c_void};
use std::path::Path;

use barman_snap::options::{RestoreOptions, VerifyOptions, from_json};

use crate::border::{Out, guard, handle, optional_text, text};
use crate::cancel::{bs_cancel, token};
use crate::engine::bs_engine;
use crate::error::bs_error;
use crate::progress::{bs_progress, restore_listener};
use crate::status::bs_status;
use crate::string::bs_string;

/// Restores a backup (an id, a name, "first", "last", or "auto" for the one that suits the target) to a data directory,
/// ready to be started. `*restored` becomes a JSON object that says what was done; with dry_run, the plan. Refusals come
/// before anything is changed; what was made is removed again on a failure.
///
/// `options` is NULL or a JSON object with any of: tablespaces (an object: name or old directory, and new directory),
/// waldir, in_place, target_time, target_lsn, target_xid, target_name, target_immediate, target_tli, target_exclusive,
/// target_action, restore_command, wal_restore_program (an array: the words before "wal-restore [--new-tablespaces inside]
/// URL SERVER %f %p"; without it, barman-snap), clone, replace, standby, snapshot_recovery_instance, mounted, dry_run. `cancel`
/// and `progress` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_restore(
    engine: *const bs_engine,
    backup: *const c_char,
    target_dir: *const c_char,
    options: *const c_char,
    cancel: *const bs_cancel,
    progress: bs_progress,
    user_data: *mut c_void,
    restored: *mut *mut bs_string,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or live handles, NULL or texts that end with NUL, NULL or a place for the result.
        let (engine, backup, target, options, cancel, out) = unsafe {
            (
                handle(engine, "engine")?,
                text(backup, "backup")?,
                text(target_dir, "target_dir")?,
                optional_text(options, "options")?,
                token(cancel),
                Out::new(restored, "restored")?,
            )
        };
        let (host, options) = (&engine.host, from_json::<RestoreOptions>(options)?);
        let (address, listener) = (host.address(), restore_listener(progress, user_data));
        let run = options.run(&host.engine, &address, (backup, Path::new(target)), &cancel, &listener);
        out.json(&host.run("restore", run)?)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Restores a backup to a throw-away place, starts it, looks at every page, and records the proof. `*proof` becomes a JSON
/// object; look at its "passed": a backup that was found bad is no error of this call.
///
/// `options` is NULL or a JSON object with any of: work_dir, pg_bin_dir, sql (an array), sql_database, all_wal, timeout_ms,
/// without (an array of checks to leave out: "amcheck", "checksums"), wal_restore_program, snapshot_recovery_instance. `cancel` and `progress` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_verify(
    engine: *const bs_engine,
    backup: *const c_char,
    options: *const c_char,
    cancel: *const bs_cancel,
    progress: bs_progress,
    user_data: *mut c_void,
    proof: *mut *mut bs_string,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or live handles, NULL or texts that end with NUL, NULL or a place for the result.
        let (engine, backup, options, cancel, out) = unsafe {
            (
                handle(engine, "engine")?,
                text(backup, "backup")?,
                optional_text(options, "options")?,
                token(cancel),
                Out::new(proof, "proof")?,
            )
        };
        let (host, options) = (&engine.host, from_json::<VerifyOptions>(options)?);
        let (address, listener) = (host.address(), restore_listener(progress, user_data));
        out.json(&host.run("verify", options.run(&host.engine, &address, backup, &cancel, &listener))?)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}
