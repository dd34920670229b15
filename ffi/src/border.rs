//! The border: every function that can fail goes through [`guard`], every pointer through one of the readers.

use std::any::Any;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use barman_snap::{Error, Result};
use serde::Serialize;

use crate::error::bs_error;
use crate::status::bs_status;
use crate::string::bs_string;

/// Does the work of a function, and turns whatever becomes of it into a status and, if it is asked for, an error object.
///
/// # Safety
/// `error` is NULL or points to a place for a pointer.
pub(crate) unsafe fn guard(error: *mut *mut bs_error, work: impl FnOnce() -> Result<()>) -> bs_status {
    // A panic leaves handles behind whose locks are poisoned at worst; the functions look through that.
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
    let Err(why) = result else { return bs_status::Ok };
    let object = bs_error::new(&why);
    if !error.is_null() {
        // SAFETY: as the caller promises.
        unsafe { error.write(Box::into_raw(Box::new(object))) };
    }
    why.kind().into()
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("the engine panicked: {}", said.unwrap_or("no message")))
        .with_hint("this is a defect of barman_snap; please report it")
}

fn null(name: &str) -> Error {
    Error::invalid(format!("the argument {name} is NULL"))
}

/// A handle that must be there.
///
/// # Safety
/// `pointer` is NULL or valid for `'a`.
pub(crate) unsafe fn handle<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: as the caller promises.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

/// A text that must be there.
///
/// # Safety
/// `text` is NULL, or ends with NUL and is valid for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: as the caller promises.
    unsafe { optional_text(text, name) }?.ok_or_else(|| null(name))
}

/// A text that may be left out with NULL.
///
/// # Safety
/// `text` is NULL, or ends with NUL and is valid for `'a`.
pub(crate) unsafe fn optional_text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and the rest is as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map(Some)
        .map_err(|error| Error::invalid(format!("the argument {name} is not UTF-8")).with_source(error))
}

/// A place for a result. Looked at before the work begins, written after it has succeeded.
pub(crate) struct Out<T>(NonNull<*mut T>);

impl<T> Out<T> {
    /// # Safety
    /// `place` is NULL or points to a place for a pointer, which stays there until the function returns.
    pub(crate) unsafe fn new(place: *mut *mut T, name: &str) -> Result<Self> {
        NonNull::new(place).map(Self).ok_or_else(|| null(name))
    }

    /// Hands the result to the caller, who frees it.
    pub(crate) fn set(self, value: T) {
        // SAFETY: `new` was promised that the place is good.
        unsafe { self.0.write(Box::into_raw(Box::new(value))) };
    }
}

impl Out<bs_string> {
    /// Hands a value to the caller, as JSON.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<()> {
        let text =
            serde_json::to_string(value).map_err(|error| Error::internal("cannot write JSON").with_source(error))?;
        self.set(bs_string::new(text));
        Ok(())
    }
}

/// Drops what a handle points to, unless this is a fork of the process that made it: what it holds (a connection with a
/// statement under way, the locks of threads that are not here) is that of the parent.
///
/// # Safety
/// NULL, or a pointer from `Box::into_raw` that nobody uses any more.
pub(crate) unsafe fn release<T>(handle: *mut T, is_at_home: impl FnOnce(&T) -> bool) {
    if handle.is_null() {
        return;
    }
    // SAFETY: as the caller promises.
    let held = unsafe { Box::from_raw(handle) };
    if is_at_home(&held) {
        drop(held);
    } else {
        std::mem::forget(held);
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;
    use std::sync::Arc;

    use super::*;
    use crate::error::{bs_error_context_value, bs_error_free, bs_error_kind, bs_error_message};

    #[test]
    fn a_panic_stops_at_the_border() {
        let mut error = ptr::null_mut();
        // SAFETY: `error` is a place for a pointer; what is read from it is freed last.
        unsafe {
            assert_eq!(guard(&raw mut error, || panic!("over {}", 9000)), bs_status::Internal);
            assert_eq!(bs_error_kind(error), bs_status::Internal);
            let message = CStr::from_ptr(bs_error_message(error)).to_str().unwrap();
            assert!(message.contains("over 9000"), "{message}");
            bs_error_free(error);
        }
    }

    #[test]
    fn an_error_carries_its_context() {
        let mut error = ptr::null_mut();
        // SAFETY: as above.
        unsafe {
            let work = || Err(Error::not_found("no such volume").with_context("volume", "/srv"));
            assert_eq!(guard(&raw mut error, work), bs_status::NotFound);
            assert_eq!(CStr::from_ptr(bs_error_context_value(error, 0)).to_str(), Ok("/srv"));
            assert!(bs_error_context_value(error, 1).is_null());
            bs_error_free(error);
        }
    }

    #[test]
    fn nobody_has_to_take_the_error_object() {
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { guard(ptr::null_mut(), || Err(Error::corrupt("x"))) }, bs_status::Corrupt);
    }

    #[test]
    fn in_a_fork_nothing_is_dropped() {
        let held = Arc::new(());
        for (is_at_home, left) in [(true, 1), (false, 2), (true, 2)] {
            // SAFETY: each is made here and released once.
            unsafe { release(Box::into_raw(Box::new(Arc::clone(&held))), |_| is_at_home) };
            assert_eq!(Arc::strong_count(&held), left);
        }
        // SAFETY: NULL is allowed.
        unsafe { release(ptr::null_mut::<Arc<()>>(), |_| true) };
    }

    #[test]
    fn text_that_is_not_utf8_is_named() {
        // SAFETY: it ends with NUL.
        let error = unsafe { text(c"\xff".as_ptr(), "server") }.unwrap_err();
        assert!(error.message().contains("server"), "{error}");
    }
}
