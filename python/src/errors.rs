//! From an error of the engine to the exception of its kind. The classes are in `barman_snap/exceptions.py`.

use barman_snap::{Error, Retry};
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
    Ok(PyErr::from_value(class.call((error.chain(),), Some(&fields))?))
}
