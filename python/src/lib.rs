//! The Python module `barman_snap._native`. Its documentation for users is in `barman_snap/_native.pyi`.
//!
//! What it is: a translation. Python values in, one call of the engine without the GIL, a Python value or an exception of
//! `barman_snap.exceptions` out. What it is not: a place where anything is decided, or where anything is set up (no
//! logger, no signal handler, no thread before an engine is made).
//!
//! The invariants: every call of the engine goes through [`host::Host::wait`], which releases the GIL, looks for signals,
//! refuses forks and stops panics; every error of the engine becomes a subclass of `BarmanSnapError`.

#![allow(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]

mod backup;
mod engine;
mod errors;
mod host;
mod session;
mod values;

/// See the [crate documentation](self).
#[pyo3::pymodule]
mod _native {
    use barman_snap::ErrorKind;
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::backup::Backup;
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::session::Session;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("ERROR_KINDS", ErrorKind::ALL.map(ErrorKind::as_str).to_vec())
    }
}
