//! A switch that ends long work. Sessions have one of their own.

use barman_snap::session::CancelToken;

/// Cancels the calls it was given to, from any thread. Owned by the caller, freed with bs_cancel_free.
pub struct bs_cancel {
    token: CancelToken,
}

/// The token behind an optional pointer; one that nobody can fire for NULL.
///
/// # Safety
/// NULL, or a switch that is not freed yet.
pub(crate) unsafe fn token(cancel: *const bs_cancel) -> CancelToken {
    // SAFETY: as the caller promises.
    unsafe { cancel.as_ref() }.map(|cancel| cancel.token.clone()).unwrap_or_default()
}

/// Makes a switch. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn bs_cancel_new() -> *mut bs_cancel {
    Box::into_raw(Box::new(bs_cancel { token: CancelToken::new() }))
}

/// Cancels every call that was given this switch, now and later; they clean up and return BS_STATUS_CANCELLED. May be
/// called from any thread and any callback, as often as one likes; not from a signal handler. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_cancel_fire(cancel: *const bs_cancel) {
    // SAFETY: the caller passes NULL or a switch that is not freed yet.
    unsafe { token(cancel) }.cancel();
}

/// Frees a switch. NULL is fine. Calls that were given it go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_cancel_free(cancel: *mut bs_cancel) {
    if !cancel.is_null() {
        // SAFETY: it came from Box::into_raw here, and the caller frees it once.
        drop(unsafe { Box::from_raw(cancel) });
    }
}
