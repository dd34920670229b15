//! Status codes. Their order is that of `ErrorKind::ALL`, from 1 on; a test keeps it so.

use std::ffi::c_char;

use barman_snap::{ErrorKind, Retry};

use crate::string::interned;

/// What became of a call. The values are stable; new ones may be added at the end, so have a default branch.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bs_status {
    /// It worked.
    Ok = 0,
    /// The request itself is wrong: an option, a name, a URL, a NULL. Change the request.
    InvalidInput = 1,
    /// The machine or the server is not in a state in which it could work. Change the surroundings.
    Precondition = 2,
    /// The thing asked for does not exist.
    NotFound = 3,
    /// A thing of that name exists and differs, or somebody else was faster.
    Conflict = 4,
    /// Another driver has taken over this session; this one must not touch it any more.
    Fenced = 5,
    /// Credentials or privileges do not allow it.
    PermissionDenied = 6,
    /// Could not be reached, or did not answer in time.
    Unavailable = 7,
    /// A limit or quota is in the way.
    Exhausted = 8,
    /// Stored bytes are not what they should be.
    Corrupt = 9,
    /// PostgreSQL refused a statement, or its connection was lost.
    Postgres = 10,
    /// The snapshot provider refused, or a snapshot failed.
    Provider = 11,
    /// The object store or the local file system failed.
    Storage = 12,
    /// It was cancelled.
    Cancelled = 13,
    /// The provider or the platform cannot do this at all.
    Unsupported = 14,
    /// A defect of this library.
    Internal = 15,
}

/// Whether doing the same again can help.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bs_retry {
    /// It will fail in the same way.
    Never = 0,
    /// Nothing happened; the same may succeed.
    Safe = 1,
    /// Nothing happened; the same may succeed after some time: see bs_error_retry_after_ms.
    After = 2,
    /// It cannot be told whether it happened. Look before doing it again.
    Unknown = 3,
}

impl From<ErrorKind> for bs_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::InvalidInput,
            ErrorKind::Precondition => Self::Precondition,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Fenced => Self::Fenced,
            ErrorKind::PermissionDenied => Self::PermissionDenied,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Exhausted => Self::Exhausted,
            ErrorKind::Corrupt => Self::Corrupt,
            ErrorKind::Postgres => Self::Postgres,
            ErrorKind::Provider => Self::Provider,
            ErrorKind::Storage => Self::Storage,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::Unsupported => Self::Unsupported,
            // ErrorKind may grow; the test below fails then, and this branch keeps the library honest until it is mended.
            _ => Self::Internal,
        }
    }
}

impl From<Retry> for bs_retry {
    fn from(retry: Retry) -> Self {
        match retry {
            Retry::Never => Self::Never,
            Retry::Safe => Self::Safe,
            Retry::After(_) => Self::After,
            Retry::Unknown => Self::Unknown,
        }
    }
}

/// The name of a status: "not_found". For a number that is no status: "unknown". Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn bs_status_name(status: i32) -> *const c_char {
    let kind = usize::try_from(status).ok().and_then(|status| ErrorKind::ALL.get(status.checked_sub(1)?));
    interned(match (status, kind) {
        (0, _) => "ok",
        (_, Some(kind)) => kind.as_str(),
        _ => "unknown",
    })
}

/// The version of the library: "0.1.0". Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn bs_version() -> *const c_char {
    interned(env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn the_codes_are_the_kinds_in_their_order_from_one_on() {
        let codes: Vec<i32> = ErrorKind::ALL.iter().map(|kind| bs_status::from(*kind) as i32).collect();
        assert_eq!(codes, (1..=15).collect::<Vec<_>>());
    }

    #[test]
    fn every_number_has_a_name() {
        // SAFETY: the names are interned and end with NUL.
        let name = |status| unsafe { CStr::from_ptr(bs_status_name(status)) }.to_str().unwrap().to_owned();
        assert_eq!(name(0), "ok");
        assert_eq!(name(bs_status::NotFound as i32), "not_found");
        assert_eq!(name(15), "internal");
        assert_eq!((name(-1), name(16)), ("unknown".into(), "unknown".into()));
    }
}
