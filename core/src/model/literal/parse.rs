//! Reading literals: one pass, no evaluation, bounded in every direction.
//!
//! The parser calls itself once per level of nesting, and [`Literal::MAX_DEPTH`] is checked before it does.

use std::collections::HashMap;

use super::Literal;
use crate::error::{Error, Result};

pub(super) fn parse(text: &str) -> Result<Literal> {
    if text.len() > Literal::MAX_BYTES {
        let limit = Literal::MAX_BYTES;
        return Err(Error::corrupt(format!("a Python literal of {} bytes is longer than {limit}", text.len())));
    }
    let mut parser = Parser { text, at: 0, depth: 0, values: 0 };
    parser.skip_space();
    let value = parser.value()?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(value),
        Some(c) => Err(parser.error(&format!("nothing may follow the value, but there is {c:?}"))),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    values: usize,
}

impl Parser<'_> {
    fn error(&self, what: &str) -> Error {
        Error::corrupt(format!("not a Python literal: {what} (byte {})", self.at))
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Goes past `expected` if it is what comes next.
    fn eat(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r' | '\x0C')) {
            self.at += 1;
        }
    }

    /// Goes past all characters that `wanted` wants and returns them.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &str {
        let from = self.at;
        while self.peek().is_some_and(&wanted) {
            self.next();
        }
        self.text.get(from..self.at).unwrap_or_default()
    }

    fn value(&mut self) -> Result<Literal> {
        self.values += 1;
        if self.values > Literal::MAX_VALUES {
            return Err(self.error(&format!("more than {} values", Literal::MAX_VALUES)));
        }
        match self.peek() {
            None => Err(self.error("the text ends where a value should be")),
            Some('[') => self.nested(|parser| parser.items(']').map(|(items, _)| Literal::List(items))),
            Some('(') => self.nested(Self::parenthesis),
            Some('{') => self.nested(Self::dict),
            Some('\'' | '"') => self.strings(),
            Some('+' | '-' | '.' | '0'..='9') => self.number(),
            Some(c) if c.is_ascii_alphabetic() || c == '_' => self.word(),
            Some(c) => Err(self.error(&format!("no value begins with {c:?}"))),
        }
    }

    /// Goes past the opening bracket and reads what it holds, one level deeper.
    fn nested(&mut self, content: impl FnOnce(&mut Self) -> Result<Literal>) -> Result<Literal> {
        if self.depth == Literal::MAX_DEPTH {
            return Err(self.error(&format!("nested deeper than {} levels", Literal::MAX_DEPTH)));
        }
        self.at += 1;
        self.depth += 1;
        let value = content(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// Items up to the closing bracket, and whether there was a comma.
    fn items(&mut self, close: char) -> Result<(Vec<Literal>, bool)> {
        let (mut items, mut comma) = (Vec::new(), false);
        loop {
            self.skip_space();
            if self.peek() == Some(close) {
                self.at += 1;
                return Ok((items, comma));
            }
            if !items.is_empty() && !std::mem::take(&mut comma) {
                return Err(self.error(&format!("expected ',' or {close:?}")));
            }
            items.push(self.value()?);
            self.skip_space();
            comma = self.eat(",");
        }
    }

    /// A tuple, or one value in parentheses.
    fn parenthesis(&mut self) -> Result<Literal> {
        let (mut items, comma) = self.items(')')?;
        match items.pop() {
            Some(only) if items.is_empty() && !comma => Ok(only),
            last => {
                items.extend(last);
                Ok(Literal::Tuple(items))
            }
        }
    }

    fn dict(&mut self) -> Result<Literal> {
        let mut entries: Vec<(Literal, Literal)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut comma = true;
        loop {
            self.skip_space();
            if self.eat("}") {
                return Ok(Literal::Dict(entries));
            }
            if !comma {
                return Err(self.error("expected ',' or '}'"));
            }
            let key = self.value()?;
            let Some(hash) = hash_key(&key) else {
                return Err(self.error(&format!("a {} cannot be a key", key.kind())));
            };
            self.skip_space();
            if !self.eat(":") {
                return Err(self.error("expected ':' after a key (sets are not taken)"));
            }
            self.skip_space();
            let value = self.value()?;
            // As in Python, a key that comes again keeps its place and takes the later value.
            match places.get(&hash).and_then(|place| entries.get_mut(*place)) {
                Some((_, old)) => *old = value,
                None => {
                    places.insert(hash, entries.len());
                    entries.push((key, value));
                }
            }
            self.skip_space();
            comma = self.eat(",");
        }
    }

    fn word(&mut self) -> Result<Literal> {
        let from = self.at;
        let word = self.take(|c| c.is_ascii_alphanumeric() || c == '_').to_owned();
        let quoted = matches!(self.peek(), Some('\'' | '"'));
        let value = match word.as_str() {
            "u" | "U" if quoted => {
                self.at = from;
                return self.strings();
            }
            "None" => Literal::None,
            "True" => Literal::Bool(true),
            "False" => Literal::Bool(false),
            "inf" => Literal::Float(f64::INFINITY),
            "nan" => Literal::Float(f64::NAN),
            "null" | "true" | "false" => {
                self.at = from;
                return Err(self.error(&format!("{word} is JSON, not Python")));
            }
            prefix => {
                self.at = from;
                let what = if quoted { "strings with this prefix are not taken" } else { "unknown name" };
                return Err(self.error(&format!("{what}: {prefix}")));
            }
        };
        Ok(value)
    }

    /// One string, or several that stand beside each other and are one.
    fn strings(&mut self) -> Result<Literal> {
        let mut text = String::new();
        loop {
            self.string(&mut text)?;
            self.skip_space();
            let next = self.rest().trim_start_matches(['u', 'U']);
            let prefix = self.rest().len() - next.len();
            if prefix > 1 || !next.starts_with(['\'', '"']) {
                return Ok(Literal::Str(text));
            }
        }
    }

    fn string(&mut self, text: &mut String) -> Result<()> {
        if matches!(self.peek(), Some('u' | 'U')) {
            self.at += 1;
        }
        let quote = if self.peek() == Some('"') { "\"" } else { "'" };
        let triple = quote.repeat(3);
        let (close, long) = if self.rest().starts_with(&triple) { (triple.as_str(), true) } else { (quote, false) };
        self.at += close.len();
        loop {
            if self.eat(close) {
                return Ok(());
            }
            match self.next() {
                Some('\\') => self.escape(text)?,
                Some('\n' | '\r') if !long => return Err(self.error("a line ends inside a string")),
                Some(c) => text.push(c),
                None => return Err(self.error("the text ends inside a string")),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, text: &mut String) -> Result<()> {
        let c = match self.next() {
            None => return Err(self.error("the text ends inside a string")),
            Some('\n') => return Ok(()),
            Some('a') => '\x07',
            Some('b') => '\x08',
            Some('f') => '\x0C',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\x0B',
            Some(c @ ('\\' | '\'' | '"')) => c,
            Some('x') => self.code(2)?,
            Some('u') => self.code(4)?,
            Some('U') => self.code(8)?,
            Some('N') => return Err(self.error("characters by name (\\N) are not taken")),
            Some(first @ '0'..='7') => self.octal(first)?,
            Some(other) => {
                // Python keeps the backslash of an escape that it does not know.
                text.push('\\');
                other
            }
        };
        text.push(c);
        Ok(())
    }

    /// A character by exactly that many hex digits.
    fn code(&mut self, digits: usize) -> Result<char> {
        let code = self
            .rest()
            .get(..digits)
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .ok_or_else(|| self.error(&format!("an escape without its {digits} hex digits")))?;
        let c = char::from_u32(code).ok_or_else(|| self.error(&format!("not a character: {code:#x}")))?;
        self.at += digits;
        Ok(c)
    }

    /// A character by one to three octal digits, of which the first is read already.
    fn octal(&mut self, first: char) -> Result<char> {
        let mut code = first.to_digit(8).unwrap_or(0);
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
            self.at += 1;
            code = code * 8 + digit;
        }
        char::from_u32(code).ok_or_else(|| self.error("not a character"))
    }

    fn number(&mut self) -> Result<Literal> {
        let negative = self.peek() == Some('-');
        if negative || self.peek() == Some('+') {
            self.at += 1;
            self.skip_space();
        }
        let sign = if negative { -1.0 } else { 1.0 };
        let start = self.at;
        let fail = |at: usize, what: &str| Error::corrupt(format!("not a Python literal: {what} (byte {at})"));
        if self.peek().is_some_and(char::is_alphabetic) {
            return match self.word() {
                Ok(Literal::Float(number)) => Ok(Literal::Float(number * sign)),
                _ => Err(fail(start, "a sign without a number")),
            };
        }
        let mut token = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')).to_owned();
        let radix_prefix = token.get(..2).map(str::to_ascii_lowercase);
        let radix = match radix_prefix.as_deref() {
            Some("0x") => Some(16),
            Some("0o") => Some(8),
            Some("0b") => Some(2),
            _ => None,
        };
        // The sign of an exponent ends the token; go on behind it.
        if radix.is_none() && token.ends_with(['e', 'E']) && matches!(self.peek(), Some('+' | '-')) {
            token.extend(self.next());
            token.push_str(self.take(|c| c.is_ascii_digit() || c == '_'));
        }
        let integer = match radix {
            Some(radix) => token.get(2..).and_then(|text| digits(text.strip_prefix('_').unwrap_or(text), radix)),
            None => digits(token.trim_end_matches(['l', 'L']), 10),
        };
        if let Some(digits) = integer {
            let leading_zero = radix.is_none() && digits.len() > 1 && digits.starts_with('0');
            if leading_zero && digits.bytes().any(|byte| byte != b'0') {
                return Err(fail(start, &format!("an integer with leading zeros: {}", shorten(&token))));
            }
            let signed = if negative { format!("-{digits}") } else { digits };
            return i128::from_str_radix(&signed, radix.unwrap_or(10))
                .map(Literal::Int)
                .map_err(|_| fail(start, &format!("an integer of more than 128 bits: {}", shorten(&token))));
        }
        float(&token)
            .map(|number| Literal::Float(number * sign))
            .ok_or_else(|| fail(start, &format!("not a number: {}", shorten(&token))))
    }
}

/// The digits without underscores, if that is what the text is: underscores may stand between digits only.
fn digits(text: &str, radix: u32) -> Option<String> {
    let mut previous = '_';
    for c in text.chars() {
        if !(c.is_digit(radix) || (c == '_' && previous != '_')) {
            return None;
        }
        previous = c;
    }
    (previous != '_').then(|| text.replace('_', ""))
}

/// A float as Python writes it; `str::parse` alone would also take words.
fn float(token: &str) -> Option<f64> {
    let (mantissa, exponent) = match token.find(['e', 'E']) {
        Some(at) => (token.get(..at)?, Some(token.get(at + 1..)?)),
        None => (token, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let part = |text: &str| if text.is_empty() { Some(String::new()) } else { digits(text, 10) };
    let (whole, fraction) = (part(whole)?, part(fraction)?);
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let exponent = match exponent {
        Some(text) => {
            let (sign, text) = match text.strip_prefix('-') {
                Some(rest) => ("-", rest),
                None => ("", text.strip_prefix('+').unwrap_or(text)),
            };
            format!("{sign}{}", digits(text, 10)?)
        }
        None => "0".to_owned(),
    };
    format!("{whole}.{fraction}e{exponent}").parse().ok()
}

/// The beginning of a token, for messages.
fn shorten(token: &str) -> String {
    token.chars().take(40).collect()
}

/// A text that is equal for keys that Python holds for equal (`1`, `1.0` and `True` are), or nothing if the value cannot
/// be a key. NaN equals itself here; no two are worth keeping.
pub(super) fn hash_key(key: &Literal) -> Option<String> {
    Some(match key {
        Literal::None => "n".to_owned(),
        Literal::Bool(value) => format!("i{}", i32::from(*value)),
        Literal::Int(number) => format!("i{number}"),
        Literal::Float(number) if number.fract() == 0.0 && number.abs() < 1e38 => format!("i{}", *number as i128),
        Literal::Float(number) => format!("f{}", number.to_bits()),
        Literal::Str(text) => format!("s{text}"),
        Literal::Tuple(items) => {
            let mut joined = String::from("t");
            for item in items {
                let part = hash_key(item)?;
                joined.push_str(&format!("{}:{part}", part.len()));
            }
            joined
        }
        Literal::List(_) | Literal::Dict(_) => return None,
    })
}
