//! What the reader sees. Colours only where they can be seen.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Prints the story. Knows which paths are abbreviated.
#[derive(Debug)]
pub(crate) struct Screen {
    colours: bool,
    shorts: Vec<(String, &'static str)>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours: wanted && std::io::stdout().is_terminal(), shorts: Vec::new() }
    }

    /// From now on, `path` is shown as `$name`; tells the reader so.
    pub(crate) fn shorten(&mut self, path: &std::path::Path, name: &'static str, meaning: &str) {
        let path = path.display().to_string();
        self.line(&format!("  {name}={path}  {}", self.dim(&format!("# {meaning}"))));
        self.shorts.push((path, name));
    }

    /// The abbreviations, as variables.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.shorts.iter().map(|(path, name)| (*name, path.as_str()))
    }

    /// A heading.
    pub(crate) fn title(&self, text: &str) {
        self.line("");
        self.line(&self.styled("1", text));
    }

    /// A sentence.
    pub(crate) fn say(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// A command that is about to be run.
    pub(crate) fn command(&self, line: &str) {
        self.line(&format!("  {}", self.styled("36", &format!("$ {}", self.short(line)))));
    }

    /// A line that a command has printed.
    pub(crate) fn output(&self, line: &str) {
        self.line(format!("    {}", self.short(line).replace('\t', "  ")).trim_end());
    }

    /// How long a command took, where that can be felt.
    pub(crate) fn took(&self, time: Duration) {
        if time < Duration::from_millis(100) {
            return;
        }
        self.line(&format!("    {}", self.dim(&format!("[{}]", seconds(time)))));
    }

    /// A claim that was checked.
    pub(crate) fn proven(&self, text: &str) {
        self.line(&format!("  {} {text}", self.styled("32", "✓")));
    }

    /// Why the demo did not show what it should.
    pub(crate) fn failed(&self, text: &str) {
        self.line("");
        self.line(&format!("{} {}", self.styled("31", "✗"), self.short(text)));
    }

    fn short(&self, text: &str) -> String {
        self.shorts.iter().fold(text.to_owned(), |text, (path, name)| text.replace(path, &format!("${name}")))
    }

    fn dim(&self, text: &str) -> String {
        self.styled("2", text)
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Each line at once, so that the reader can watch. A closed pipe is the reader's wish.
    fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

/// A time for people.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
