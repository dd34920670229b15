//! Text that goes to C: owned by the caller (`bs_string`), or valid for ever ([`interned`]).

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// A text that the caller owns and frees with bs_string_free. Never changes.
pub struct bs_string {
    text: CString,
}

impl bs_string {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: c_string(text) }
    }
}

/// A C string. C cannot have a NUL in it, so one becomes the character that stands for it (U+2400).
pub(crate) fn c_string(text: impl Into<String>) -> CString {
    let text = text.into();
    CString::new(text).unwrap_or_else(|error| {
        let bytes: String = String::from_utf8_lossy(&error.into_vec()).replace('\0', "\u{2400}");
        CString::new(bytes).unwrap_or_default()
    })
}

/// A C string that is valid for ever. Only for the names of statuses, phases and steps, which are few.
pub(crate) fn interned(text: &'static str) -> *const c_char {
    static NAMES: Mutex<BTreeMap<&'static str, CString>> = Mutex::new(BTreeMap::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    // The bytes lie on the heap and stay there when the map moves its values.
    names.entry(text).or_insert_with(|| c_string(text)).as_ptr()
}

/// The text, UTF-8, ended by NUL. Borrowed: valid until the string is freed. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_string_data(string: *const bs_string) -> *const c_char {
    // SAFETY: the caller passes NULL or a string that is not freed yet.
    unsafe { string.as_ref() }.map_or(ptr::null(), |string| string.text.as_ptr())
}

/// Its length in bytes, without the NUL at the end. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_string_length(string: *const bs_string) -> usize {
    // SAFETY: the caller passes NULL or a string that is not freed yet.
    unsafe { string.as_ref() }.map_or(0, |string| string.text.as_bytes().len())
}

/// Frees a string. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bs_string_free(string: *mut bs_string) {
    if !string.is_null() {
        // SAFETY: it came from Box::into_raw here, and the caller frees it once.
        drop(unsafe { Box::from_raw(string) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_inside_does_not_cut_the_text() {
        assert_eq!(c_string("a\0b").to_str().unwrap(), "a\u{2400}b");
    }

    #[test]
    fn an_interned_name_has_one_address() {
        assert_eq!(interned("stuck"), interned("stuck"));
    }
}
