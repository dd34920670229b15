//! Python literals: the values inside `backup.info`.

/// A Python literal.
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
