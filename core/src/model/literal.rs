//! Python literals: the values inside `backup.info`.
//!
//! Barman stores structured values as the `repr` of Python objects and reads them back with a parser for literals. This
//! is that syntax and nothing more: no names, no calls, no arithmetic; nothing is ever evaluated.
//!
//! * Reading ([`Literal::parse`]) takes whatever Python would take as a literal of these types, within bounds on bytes,
//!   depth and number of values, so that no text can exhaust the stack or the memory.
//! * Writing (`Display`) gives exactly what Python's `repr` gives, because catalogs are compared byte by byte.
//!
//! The invariant: `parse(x.to_string()) == x` for every [storable](Literal::check_storable) value.

mod parse;
mod repr;

use serde_json::Value;

use crate::error::{Error, Result};

/// A Python literal.
///
/// Text is Unicode without lone surrogates; integers have 128 bits. What lies beyond is refused when reading.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `None`
    None,
    /// `True` or `False`
    Bool(bool),
    /// An integer
    Int(i128),
    /// A float
    Float(f64),
    /// A string
    Str(String),
    /// `[a, b]`
    List(Vec<Literal>),
    /// `(a, b)`
    Tuple(Vec<Literal>),
    /// `{'a': b}`, in the order of writing
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    /// The longest text that is read: 16 MiB.
    pub const MAX_BYTES: usize = 16 << 20;
    /// How deep lists, tuples and dicts may lie in each other.
    pub const MAX_DEPTH: usize = 64;
    /// How many values one text may hold, all levels counted. Keeps the memory within about 64 MiB.
    pub const MAX_VALUES: usize = 1_000_000;

    /// Reads a literal.
    ///
    /// Strings may be single-, double- or triple-quoted, have a `u` prefix and stand beside each other; every escape but
    /// `\N{…}` is known. Lone surrogates, `b''`, `r''`, `f''`, sets, complex numbers and names (so also JSON's `null`,
    /// `true`, `false`) are refused. Beyond Python 3, the long integers of Python 2 (`16384L`) and `inf` and `nan`, which
    /// `repr` writes but Python does not read back, are taken.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), with the byte at which it went wrong.
    pub fn parse(text: &str) -> Result<Self> {
        parse::parse(text)
    }

    /// A dict with these keys, in this order.
    pub fn dict<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Dict(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// True for `None`.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is an integer (a bool is none).
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The number, if this is a float or an integer.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            Self::Int(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// The truth value, if this is a bool.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The items, if this is a list or a tuple.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The entries, if this is a dict.
    pub fn as_dict(&self) -> Option<&[(Self, Self)]> {
        match self {
            Self::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value under a string key, if this is a dict that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_dict()?.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Sets the value under a string key: in its old place, or at the end.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if this is not a dict.
    pub fn insert(&mut self, key: &str, value: impl Into<Self>) -> Result<()> {
        let Self::Dict(entries) = self else {
            return Err(Error::invalid(format!("cannot set {key:?} in a Python {}", self.kind())));
        };
        let value = value.into();
        match entries.iter_mut().find(|(name, _)| name.as_str() == Some(key)) {
            Some((_, old)) => *old = value,
            None => entries.push((key.into(), value)),
        }
        Ok(())
    }

    /// Takes a string key out of a dict.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let Self::Dict(entries) = self else { return None };
        let at = entries.iter().position(|(name, _)| name.as_str() == Some(key))?;
        Some(entries.remove(at).1)
    }

    /// The name that Python has for the type, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
        }
    }

    /// Refuses what a stock reader, or ours, could not read back: infinite floats and NaN (Python writes them but does
    /// not read them), keys that Python cannot hash, and too much depth.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput).
    pub fn check_storable(&self) -> Result<()> {
        self.check_level(0)
    }

    fn check_level(&self, depth: usize) -> Result<()> {
        if depth > Self::MAX_DEPTH {
            return Err(Error::invalid(format!("a value is nested deeper than {} levels", Self::MAX_DEPTH)));
        }
        match self {
            Self::Float(number) if !number.is_finite() => {
                Err(Error::invalid(format!("a number that no reader takes back: {number}")))
            }
            Self::List(items) | Self::Tuple(items) => items.iter().try_for_each(|item| item.check_level(depth + 1)),
            Self::Dict(entries) => entries.iter().try_for_each(|(key, value)| {
                if parse::hash_key(key).is_none() {
                    return Err(Error::invalid(format!("a Python {} cannot be a key", key.kind())));
                }
                key.check_level(depth + 1)?;
                value.check_level(depth + 1)
            }),
            _ => Ok(()),
        }
    }
}

/// JSON as Python would hold it: objects become dicts, arrays lists.
impl From<Value> for Literal {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::None,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => match number.as_i128() {
                Some(integer) => Self::Int(integer),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::Str(text),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(entries) => {
                Self::Dict(entries.into_iter().map(|(key, value)| (Self::Str(key), value.into())).collect())
            }
        }
    }
}

/// As Python's `json.dumps` writes it: tuples become arrays, keys become text. What JSON cannot say becomes the nearest
/// that it can: an integer of more than 64 bits a float, an infinite float or NaN `null`, a tuple as a key its `repr`.
impl From<&Literal> for Value {
    fn from(literal: &Literal) -> Self {
        match literal {
            Literal::None => Self::Null,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => (*number as f64).into(),
            },
            Literal::Float(number) => (*number).into(),
            Literal::Str(text) => text.as_str().into(),
            Literal::List(items) | Literal::Tuple(items) => Self::Array(items.iter().map(Self::from).collect()),
            Literal::Dict(entries) => {
                Self::Object(entries.iter().map(|(key, value)| (json_key(key), value.into())).collect())
            }
        }
    }
}

fn json_key(key: &Literal) -> String {
    match key {
        Literal::None => "null".to_owned(),
        Literal::Bool(value) => value.to_string(),
        Literal::Str(text) => text.clone(),
        other => other.to_string(),
    }
}

impl From<&str> for Literal {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<String> for Literal {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

impl From<bool> for Literal {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Literal {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

macro_rules! from_integers {
    ($($integer:ty),*) => {
        $(impl From<$integer> for Literal {
            fn from(number: $integer) -> Self {
                Self::Int(number.into())
            }
        })*
    };
}
from_integers!(u32, i32, u64, i64);

impl<T: Into<Literal>> From<Option<T>> for Literal {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}
