//! Progress as a C function pointer.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use barman_snap::engine::restore::RestoreListener;
use barman_snap::session::{Listener, Progress};
use serde::Serialize;

use crate::string::c_string;

/// Told what has just happened, as a JSON object whose "event" is planned, step_begun, step_done, waiting or undoing for a
/// backup; making, made, prepared or checking for a restore (new ones may come). The text is borrowed: valid until the
/// function returns.
///
/// It must return soon, and must not leave by longjmp or an exception. Never called twice at the same time for one call,
/// but perhaps on another thread. It may call bs_session_cancel and bs_cancel_fire, but nothing that waits.
pub type bs_progress = Option<unsafe extern "C" fn(event: *const c_char, user_data: *mut c_void)>;

/// A callback and what it gets back untouched.
#[derive(Clone, Copy)]
struct Callback {
    function: bs_progress,
    user_data: *mut c_void,
}

// SAFETY: `user_data` is never followed here; the header says that the callback may be called on another thread.
unsafe impl Send for Callback {}
// SAFETY: as above.
unsafe impl Sync for Callback {}

impl Callback {
    fn tell(&self, event: &impl Serialize) {
        let Some(function) = self.function else { return };
        // All fields are plain; an event that could not be written would be one nobody needs.
        let Ok(event) = serde_json::to_string(event) else { return };
        let event = c_string(event);
        // SAFETY: the caller gave a function of this type, and the text lives until it returns.
        unsafe { function(event.as_ptr(), self.user_data) };
    }
}

/// A listener of a session that calls `function` after `look`.
pub(crate) fn listener(
    function: bs_progress,
    user_data: *mut c_void,
    look: impl Fn(&Progress) + Send + Sync + 'static,
) -> Listener {
    let callback = Callback { function, user_data };
    Listener::new(move |progress| {
        look(progress);
        callback.tell(progress);
    })
}

/// A listener of a restore or a verification.
pub(crate) fn restore_listener(function: bs_progress, user_data: *mut c_void) -> RestoreListener {
    let callback = Callback { function, user_data };
    Arc::new(move |event| callback.tell(&event))
}
