//! From an error of the engine to the exception of its kind, and back. The classes are in `barman_snap/exceptions.py`.

use std::fmt;

use barman_snap::{Error, ErrorKind, Retry};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

/// The exception for an error; if even that cannot be made, the exception that says why.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error).unwrap_or_else(|failure| failure)
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py.import("barman_snap.exceptions")?.getattr("_class_of")?.call1((error.kind().as_str(),))?;
    let class = class.cast_into::<PyType>()?;
    let (retry, after) = match error.retry() {
        Retry::Never => ("never", None),
        Retry::Safe => ("safe", None),
        Retry::After(after) => ("after", Some(after)),
        Retry::Unknown => ("unknown", None),
    };
    let context = PyDict::new(py);
    // The first one wins: it was added nearest to where it happened.
    for (key, value) in error.context().iter().rev() {
        context.set_item(key, value)?;
    }
    let fields = PyDict::new(py);
    fields.set_item("operation", error.operation())?;
    fields.set_item("retry", retry)?;
    fields.set_item("retry_after", after)?;
    fields.set_item("sqlstate", error.sqlstate())?;
    fields.set_item("hint", error.hint())?;
    fields.set_item("context", context)?;
    let exception = PyErr::from_value(class.call((error.chain(),), Some(&fields))?);
    if let Some(raised) = raised_in(error) {
        exception.set_cause(py, Some(raised.clone_ref(py)));
    }
    Ok(exception)
}

/// An exception of a provider that is written in Python, as the source of an error of the engine.
#[derive(Debug)]
struct Raised {
    exception: PyErr,
    // One of ours has said all in the message of the error.
    is_ours: bool,
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ours { Ok(()) } else { self.exception.fmt(f) }
    }
}

impl std::error::Error for Raised {}

fn raised_in(error: &Error) -> Option<&PyErr> {
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(raised) = source.downcast_ref::<Raised>() {
            return Some(&raised.exception);
        }
        next = source.source();
    }
    None
}

/// The error for what a provider has raised while it was asked for `what`. One of ours keeps its kind and retry; after any
/// other it is unknown whether the effect happened.
pub(crate) fn engine_error(py: Python<'_>, what: &str, exception: PyErr) -> Error {
    match ours(py, &exception) {
        Ok(Some(error)) => error.with_source(Raised { exception, is_ours: true }),
        Ok(None) | Err(_) => Error::new(ErrorKind::Provider, format!("the provider raised an exception in {what}"))
            .with_retry(Retry::Unknown)
            .with_source(Raised { exception, is_ours: false }),
    }
}

fn ours(py: Python<'_>, exception: &PyErr) -> PyResult<Option<Error>> {
    let value = exception.value(py);
    if !value.is_instance(&py.import("barman_snap.exceptions")?.getattr("Error")?)? {
        return Ok(None);
    }
    let kind: String = value.getattr("kind")?.extract()?;
    let kind = ErrorKind::ALL.into_iter().find(|each| each.as_str() == kind).unwrap_or(ErrorKind::Provider);
    let retry: String = value.getattr("retry")?.extract()?;
    let retry = match (retry.as_str(), value.getattr("retry_after")?.extract()?) {
        ("safe", _) => Retry::Safe,
        ("after", Some(after)) => Retry::After(after),
        ("never", _) => Retry::Never,
        _ => Retry::Unknown,
    };
    let mut error = Error::new(kind, value.str()?.extract::<String>()?).with_retry(retry);
    if let Some(hint) = value.getattr("hint")?.extract::<Option<String>>()? {
        error = error.with_hint(hint);
    }
    Ok(Some(error))
}
