//! One line of a PostgreSQL configuration file, read as PostgreSQL reads it.
//!
//! Pure, and about bytes: such a file has no encoding (a `log_line_prefix` is in that of the database), and what is not
//! understood must come out as it went in. The grammar is that of `guc-file.l` (the same from 13 to 18; manual, "Setting
//! Parameters"): a name, an optional equal sign, a value that may be quoted, a comment. A line that PostgreSQL would refuse
//! is [`Line::Other`]: refusing it is PostgreSQL's affair.

use crate::restore::settings::conf_quoted_bytes;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::restore) enum Line {
    /// A parameter, in lower case, and its value without quotes.
    Setting {
        /// The parameter.
        name: String,
        /// The value.
        value: Vec<u8>,
    },
    /// A directive that reads other files.
    Include {
        /// Which one.
        kind: Include,
        /// The file or directory.
        path: Vec<u8>,
    },
    /// A comment, an empty line, or what PostgreSQL would refuse.
    Other,
}

/// The directives that read other files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::restore) enum Include {
    /// `include`
    File,
    /// `include_if_exists`
    IfExists,
    /// `include_dir`
    Directory,
}

impl Include {
    /// The word of the directive.
    pub(in crate::restore) const fn word(self) -> &'static str {
        match self {
            Self::File => "include",
            Self::IfExists => "include_if_exists",
            Self::Directory => "include_dir",
        }
    }
}

/// Reads one line, with or without its end.
pub(in crate::restore) fn read(line: &[u8]) -> Line {
    let Some((name, rest)) = name(skip_blanks(line)) else { return Line::Other };
    let rest = skip_blanks(rest);
    let rest = skip_blanks(rest.strip_prefix(b"=").unwrap_or(rest));
    let Some((value, rest)) = value(rest) else { return Line::Other };
    if !matches!(skip_blanks(rest).first(), None | Some(b'#' | b'\n')) {
        return Line::Other;
    }
    match name.as_str() {
        "include" => Line::Include { kind: Include::File, path: value },
        "include_if_exists" => Line::Include { kind: Include::IfExists, path: value },
        "include_dir" => Line::Include { kind: Include::Directory, path: value },
        _ => Line::Setting { name, value },
    }
}

/// A line that sets `name` to `value`, with its end.
pub(in crate::restore) fn write(name: &str, value: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b" = ", &conf_quoted_bytes(value), b"\n"].concat()
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r')).count();
    &text[blanks..]
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// A name, with its prefix if it is a parameter of an extension.
fn name(text: &[u8]) -> Option<(String, &[u8])> {
    let part = |text: &[u8]| text.iter().take_while(|byte| is_letter(**byte) || byte.is_ascii_digit()).count();
    let mut end = part(text);
    if end == 0 || !is_letter(text[0]) {
        return None;
    }
    while text.get(end) == Some(&b'.') && text.get(end + 1).is_some_and(|byte| is_letter(*byte)) {
        end += 1 + part(&text[end + 1..]);
    }
    Some((String::from_utf8_lossy(&text[..end]).to_ascii_lowercase(), &text[end..]))
}

/// A value: in quotes, or a word or number without.
fn value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    if text.first() == Some(&b'\'') {
        return quoted(&text[1..]);
    }
    let plain = |byte: &u8| is_letter(*byte) || byte.is_ascii_digit() || b"-+._:/".contains(byte);
    let end = text.iter().take_while(|byte| plain(byte)).count();
    (end > 0).then(|| (text[..end].to_vec(), &text[end..]))
}

/// The rest of a quoted value. `''` is a quote, and a backslash has the meaning that it has in C.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut at = 0;
    loop {
        match (*text.get(at)?, text.get(at + 1).copied()) {
            (b'\n', _) => return None,
            (b'\'', Some(b'\'')) => {
                value.push(b'\'');
                at += 2;
            }
            (b'\'', _) => return Some((value, &text[at + 1..])),
            (b'\\', Some(next)) => {
                let octal: Vec<_> =
                    text[at + 1..].iter().take(3).take_while(|byte| (b'0'..b'8').contains(byte)).collect();
                if octal.is_empty() {
                    value.push(match next {
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'\n' => return None,
                        other => other,
                    });
                    at += 2;
                } else {
                    let number = octal.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(**digit - b'0'));
                    value.push(number.to_le_bytes()[0]);
                    at += 1 + octal.len();
                }
            }
            (byte, _) => {
                value.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &[u8]) -> Line {
        Line::Setting { name: name.into(), value: value.into() }
    }

    #[test]
    fn lines_are_read_as_postgresql_reads_them() {
        for (line, wanted) in [
            (&b"port = 5432\n"[..], setting("port", b"5432")),
            (b"Port 5432 # comment", setting("port", b"5432")),
            (b"\tlog_line_prefix='\xe9 %m '\r\n", setting("log_line_prefix", b"\xe9 %m ")),
            (b"hba_file = '/etc/it''s \\'here\\\\'", setting("hba_file", b"/etc/it's 'here\\")),
            (b"a.b = 'x\\101\\n'", setting("a.b", b"xA\n")),
            (b"work_mem=-1", setting("work_mem", b"-1")),
            (b"x = on#comment", setting("x", b"on")),
            (b"x = ''", setting("x", b"")),
            (b"INCLUDE_DIR 'conf.d'", Line::Include { kind: Include::Directory, path: b"conf.d".to_vec() }),
            (b"include = 'x'", Line::Include { kind: Include::File, path: b"x".to_vec() }),
            (b"include_if_exists 'x'", Line::Include { kind: Include::IfExists, path: b"x".to_vec() }),
        ] {
            assert_eq!(read(line), wanted, "{}", String::from_utf8_lossy(line));
        }
        for line in
            ["", "# x = 1", "x", "x =", "x = 'open", "x = 'a' b", "= 3", "x = a b", "5 = 3", "x = 'a\nb'", "\0\0\0"]
        {
            assert_eq!(read(line.as_bytes()), Line::Other, "{line:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for value in [&b""[..], b"/a b", b"it's", b"\\x\n\t", b"\xe9\xff", b"#=", b"\\101"] {
            assert_eq!(read(&write("x", value)), setting("x", value), "{value:?}");
        }
    }
}
