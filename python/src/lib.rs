//! The Python module `barman_snap._native`: private. What users see of it is in the package around it, `barman_snap/*.py`.
//!
//! What it is: a translation. Options as a `dict` in, one call of the engine without the GIL, plain Python values or an
//! exception of `barman_snap.exceptions` out. What it is not: a place where anything is decided, or where anything is set up
//! (no logger, no signal handler, no thread before an engine is made).
//!
//! The invariants: every call of the engine goes through [`waiting::wait`], which releases the GIL, looks for signals,
//! refuses forks and stops panics; every error of the engine becomes a subclass of `barman_snap.Error`.

#![allow(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]

mod cancel;
mod conformance;
mod engine;
mod errors;
mod logging;
mod provider;
mod session;
mod values;
mod waiting;
mod watcher;

/// What is written in Rust; private to the package.
// The classes are frozen and lock what changes: nothing here relies on the GIL.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    use barman_snap::ErrorKind;
    use barman_snap::provider::registry::Providers;
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::cancel::CancelToken;
    #[pymodule_export]
    use crate::conformance::run_conformance;
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::logging::set_log_sink;
    #[pymodule_export]
    use crate::session::Session;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("ERROR_KINDS", ErrorKind::ALL.map(ErrorKind::as_str).to_vec())?;
        module.add("PROVIDERS", Providers::NAMES.to_vec())
    }
}
