//! The session handle.

use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use barman_snap::options::{self, BackupOptions, Host, from_json};
use barman_snap::session::{BackupSession, CancelToken, Phase, Progress};
use barman_snap::{Error, ErrorKind, Result};

use crate::border::{Out, guard, handle, optional_text, release};
use crate::engine::bs_engine;
use crate::error::bs_error;
use crate::progress::{bs_progress, listener};
use crate::status::bs_status;
use crate::string::{bs_string, c_string, interned};

/// A backup that is being taken. One thread at a time may drive it (bs_session_run, bs_session_next_step: a second one
/// gets BS_STATUS_CONFLICT); all other functions may be called from any thread meanwhile.
pub struct bs_session {
    host: Arc<Host>,
    session: Mutex<BackupSession>,
    cancel: CancelToken,
    backup_id: CString,
    phase: LastPhase,
}

/// The phase that was told last, readable while another thread drives.
#[derive(Clone)]
struct LastPhase(Arc<AtomicUsize>);

impl LastPhase {
    fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(0)))
    }

    fn set(&self, phase: Phase) {
        let index = Phase::ALL.iter().position(|known| *known == phase).unwrap_or_default();
        self.0.store(index, Ordering::Release);
    }

    fn see(&self, progress: &Progress) {
        match progress {
            Progress::StepDone { phase, .. } => self.set(*phase),
            Progress::Undoing { .. } => self.set(Phase::Undoing),
            _ => {}
        }
    }

    fn name(&self) -> &'static str {
        Phase::ALL[self.0.load(Ordering::Acquire)].as_str()
    }
}

impl bs_session {
    /// The session, for the one thread that drives it.
    fn drive(&self) -> Result<MutexGuard<'_, BackupSession>> {
        match self.session.try_lock() {
            Ok(session) => Ok(session),
            // A step that panicked has stopped the session where it was; its next step looks first, as after a crash.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(ErrorKind::Conflict, "another thread is driving this session"))
            }
        }
    }
}

/// Plans a backup and claims its id; nothing else has been done when this returns. Then call bs_session_run, or
/// bs_session_next_step until there is no next step.
///
/// `connection` is a libpq connection string or URI, the name of a database, or NULL for what the PG* variables say.
/// `options` is NULL or a JSON object with any of: name, snapshot_instance, snapshot_disks, exclude_tablespaces,
/// immediate_checkpoint, wal_external, tags. `progress` may be NULL; it and `user_data` must stay valid until the session is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_backup_begin(
    engine: *const bs_engine,
    connection: *const c_char,
    options: *const c_char,
    progress: bs_progress,
    user_data: *mut c_void,
    session: *mut *mut bs_session,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes a live engine, NULL or texts that end with NUL, NULL or a place for the result.
        let (engine, connection, options, out) = unsafe {
            (
                handle(engine, "engine")?,
                optional_text(connection, "connection")?,
                optional_text(options, "options")?,
                Out::new(session, "session")?,
            )
        };
        let request = from_json::<BackupOptions>(options)?.into();
        let phase = LastPhase::new();
        let seen = phase.clone();
        let core = engine.host.engine.with_listener(listener(progress, user_data, move |event| seen.see(event)));
        let cancel = CancelToken::new();
        let begun = options::begin(&core, connection, &request, &cancel);
        let session = engine.host.run("backup", begun)?;
        phase.set(session.phase());
        out.set(bs_session {
            host: Arc::clone(&engine.host),
            cancel: session.cancel_token(),
            backup_id: c_string(session.backup_id().to_string()),
            session: Mutex::new(session),
            phase,
        });
        Ok(())
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Does the next step. `*step` becomes its name ("start", "snapshot", ..., valid for ever), or NULL when there is none
/// left. `step` may be NULL. After an error go on calling while the phase is "undoing": the next steps undo.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_session_next_step(
    session: *const bs_session,
    step: *mut *const c_char,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or a live session.
        let session = unsafe { handle(session, "session") }?;
        let mut driven = session.drive()?;
        let done = session.host.run("backup", driven.next_step());
        session.phase.set(driven.phase());
        let name = done?.map_or(ptr::null(), |step| interned(step.as_str()));
        if !step.is_null() {
            // SAFETY: the caller passes NULL or a place for a pointer.
            unsafe { step.write(name) };
        }
        Ok(())
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Runs the session to its end. On success `*summary` becomes a JSON object: backup_id, begin_lsn, end_lsn, snapshots,
/// backup_mode_ms, cut_ms, bytes_copied, wal_supplied,
/// archived_elsewhere. On failure the context "ended" of the error says what is left:
/// "undone" is nothing, "finishing" is for bs_recover to complete, "stuck" is for somebody to look at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_session_run(
    session: *const bs_session,
    summary: *mut *mut bs_string,
    error: *mut *mut bs_error,
) -> bs_status {
    let work = || {
        // SAFETY: the caller passes NULL or a live session, NULL or a place for the result.
        let (session, out) = unsafe { (handle(session, "session")?, Out::new(summary, "summary")?) };
        let mut driven = session.drive()?;
        let result = session.host.run("backup", driven.run());
        session.phase.set(driven.phase());
        out.json(&result?)
    };
    // SAFETY: the caller passes NULL or a place for an error.
    unsafe { guard(error, work) }
}

/// Cancels the session, from any thread and any callback, as often as one likes; not from a signal handler. Whoever
/// drives it gets BS_STATUS_CANCELLED, and it is undone by going on to drive it; once the snapshots are safe it is left
/// to bs_recover instead. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_session_cancel(session: *const bs_session) {
    // SAFETY: the caller passes NULL or a live session.
    if let Some(session) = unsafe { session.as_ref() } {
        session.cancel.cancel();
    }
}

/// The phase after the last step: planned, starting, started, snapshotting, stopped, finishing, published, undoing,
/// undone or stuck. Valid for ever. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_session_phase(session: *const bs_session) -> *const c_char {
    // SAFETY: the caller passes NULL or a live session.
    unsafe { session.as_ref() }.map_or(ptr::null(), |session| interned(session.phase.name()))
}

/// The id of the backup. Borrowed: valid until the session is freed. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_session_backup_id(session: *const bs_session) -> *const c_char {
    // SAFETY: the caller passes NULL or a live session.
    unsafe { session.as_ref() }.map_or(ptr::null(), |session| session.backup_id.as_ptr())
}

/// Frees a session. NULL is fine. No other call may be using it. One that is not over is left as if its process had died:
/// PostgreSQL ends the backup, and bs_recover cleans up. To leave nothing behind, cancel it and run it first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_session_free(session: *mut bs_session) {
    // SAFETY: it came from Box::into_raw here, and the caller frees it once.
    unsafe { release(session, |session| session.host.is_at_home()) };
}
