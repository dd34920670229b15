//! The error object. Everything is made when the error is, so that reading it cannot fail.

use std::ffi::{CString, c_char};
use std::ptr;
use std::time::Duration;

use barman_snap::{Error, Retry};

use crate::status::{bs_retry, bs_status};
use crate::string::c_string;

/// Why a call failed. Owned by the caller, freed with bs_error_free, never changes. What its functions return is borrowed
/// from it.
pub struct bs_error {
    kind: bs_status,
    retry: Retry,
    message: CString,
    operation: Option<CString>,
    hint: Option<CString>,
    sqlstate: Option<CString>,
    context: Vec<(CString, CString)>,
}

impl bs_error {
    pub(crate) fn new(error: &Error) -> Self {
        Self {
            kind: error.kind().into(),
            retry: error.retry(),
            message: c_string(error.chain()),
            operation: error.operation().map(c_string),
            hint: error.hint().map(c_string),
            sqlstate: error.sqlstate().map(c_string),
            context: error.context().iter().map(|(key, value)| (c_string(*key), c_string(value.as_str()))).collect(),
        }
    }
}

/// The error behind a pointer, or nothing.
///
/// # Safety
/// NULL, or an error that is not freed yet.
unsafe fn look<'a>(error: *const bs_error) -> Option<&'a bs_error> {
    // SAFETY: as the caller promises.
    unsafe { error.as_ref() }
}

fn text(text: Option<&CString>) -> *const c_char {
    text.map_or(ptr::null(), |text| text.as_ptr())
}

/// What went wrong: the same value that the failed function returned. BS_STATUS_OK for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_kind(error: *const bs_error) -> bs_status {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    unsafe { look(error) }.map_or(bs_status::Ok, |error| error.kind)
}

/// Whether doing the same again can help. BS_RETRY_NEVER for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_retry(error: *const bs_error) -> bs_retry {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    unsafe { look(error) }.map_or(bs_retry::Never, |error| error.retry.into())
}

/// After how many milliseconds to try again, for BS_RETRY_AFTER; else 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_retry_after_ms(error: *const bs_error) -> u64 {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    let after = match unsafe { look(error) }.map(|error| error.retry) {
        Some(Retry::After(after)) => after,
        _ => Duration::ZERO,
    };
    u64::try_from(after.as_millis()).unwrap_or(u64::MAX)
}

/// One line for people: what went wrong, its causes, and in brackets what to do. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_message(error: *const bs_error) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    text(unsafe { look(error) }.map(|error| &error.message))
}

/// The operation that was stopped ("restore", "await-cut"); NULL if none was named.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_operation(error: *const bs_error) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    text(unsafe { look(error) }.and_then(|error| error.operation.as_ref()))
}

/// What the user can do, which is also part of the message; NULL if that is not known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_hint(error: *const bs_error) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    text(unsafe { look(error) }.and_then(|error| error.hint.as_ref()))
}

/// The five characters of PostgreSQL's SQLSTATE; NULL if PostgreSQL gave none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_sqlstate(error: *const bs_error) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    text(unsafe { look(error) }.and_then(|error| error.sqlstate.as_ref()))
}

/// How many values for machines the error carries (backup_id, volume, path, ...).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_context_count(error: *const bs_error) -> usize {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    unsafe { look(error) }.map_or(0, |error| error.context.len())
}

/// The name of value `index`, from 0 on; NULL if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_context_key(error: *const bs_error, index: usize) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    text(unsafe { look(error) }.and_then(|error| error.context.get(index)).map(|(key, _)| key))
}

/// Value `index`, from 0 on; NULL if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_context_value(error: *const bs_error, index: usize) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    text(unsafe { look(error) }.and_then(|error| error.context.get(index)).map(|(_, value)| value))
}

/// Frees an error. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_error_free(error: *mut bs_error) {
    if !error.is_null() {
        // SAFETY: it came from Box::into_raw here, and the caller frees it once.
        drop(unsafe { Box::from_raw(error) });
    }
}
