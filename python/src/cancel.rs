//! `barman_snap.CancelToken`

use barman_snap::session::CancelToken as Token;
use pyo3::prelude::*;

/// Cancels what it was given to, from any thread, as often as one likes.
///
/// A backup that is cancelled is undone, unless its snapshots are safe already: then it is left to ``Engine.recover``. A
/// restore or a verification removes what it has made. Whoever waits for it gets a ``CancelledError``.
#[pyclass(frozen, module = "barman_snap")]
pub(crate) struct CancelToken {
    pub(crate) token: Token,
}

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        Self { token: Token::new() }
    }

    /// Cancels.
    fn cancel(&self) {
        self.token.cancel();
    }

    /// Whether it was cancelled.
    #[getter]
    fn cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    fn __repr__(&self) -> String {
        format!("<CancelToken cancelled={}>", if self.cancelled() { "True" } else { "False" })
    }
}

/// The token of an argument that may be left out.
pub(crate) fn given(cancel: Option<Py<CancelToken>>) -> Token {
    cancel.map_or_else(Token::new, |cancel| cancel.get().token.clone())
}
