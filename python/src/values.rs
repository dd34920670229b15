//! Python values that are not plain: paths as text, times, and JSON.

use std::path::PathBuf;

use barman_snap::Error;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors::exception;

/// A path, `str` or `os.PathLike`, as text.
pub(crate) fn path_text(py: Python<'_>, name: &str, path: PathBuf) -> PyResult<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| exception(py, &Error::invalid(format!("{name} is not UTF-8: {}", path.display()))))
}

/// A time: text as the engine reads it, or a `datetime`, whose text that is.
pub(crate) fn time_text(time: Option<&Bound<'_, PyAny>>) -> PyResult<Option<String>> {
    time.map(|time| match time.hasattr("isoformat")? {
        true => time.call_method1("isoformat", (" ",))?.extract(),
        false => time.extract(),
    })
    .transpose()
}

/// One of the words that the engine knows for an option.
pub(crate) fn word<T: DeserializeOwned>(py: Python<'_>, option: &str, text: &str) -> PyResult<T> {
    serde_json::from_value(text.into())
        .map_err(|error| exception(py, &Error::invalid(format!("not a good {option}: {text:?}")).with_source(error)))
}

/// What the engine serializes, as Python's own `json` reads it.
pub(crate) fn python(py: Python<'_>, value: &impl Serialize) -> PyResult<Py<PyAny>> {
    let text = serde_json::to_string(value)
        .map_err(|error| exception(py, &Error::internal("cannot write JSON").with_source(error)))?;
    Ok(py.import("json")?.call_method1("loads", (text,))?.unbind())
}

/// The same for a value that is a JSON object.
pub(crate) fn python_dict(py: Python<'_>, value: &impl Serialize) -> PyResult<Py<PyDict>> {
    Ok(python(py, value)?.into_bound(py).cast_into::<PyDict>()?.unbind())
}
