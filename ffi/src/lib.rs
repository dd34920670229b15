//! The C library. The words for its users are in `cbindgen.toml` (top of the header) and on each function.
//!
//! What it is: a translation. Text in, one call of the engine, text or a handle out. What it is not: a place where
//! anything is decided. The invariants, kept by [`border`] for every function:
//!
//! * no panic crosses into C,
//! * no NULL is followed, and one where something is needed is `BS_STATUS_INVALID_INPUT`,
//! * outputs are written on success only, the error object on failure only,
//! * ownership is in the type: what the caller has to free has a handle type with a `_free` function of its own.

#![allow(non_camel_case_types, reason = "the names are those of C")]
#![allow(unsafe_code, reason = "this is the border to C")]
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(
    clippy::missing_safety_doc,
    reason = "what a caller has to keep is the same for all functions, and stands at the top of the header"
)]

mod border;
pub mod cancel;
pub mod catalog;
pub mod engine;
pub mod error;
pub mod maintenance;
pub mod progress;
pub mod restore;
pub mod session;
pub mod status;
pub mod string;
pub mod wal;
