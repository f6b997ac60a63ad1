//! What commands print: tables, times, amounts, and text that others wrote.
//!
//! *Invariant:* text that was recorded reaches a terminal only through [`clean`]: a statement could carry escape sequences
//! that rewrite what the auditor sees.

use std::{
    borrow::Cow,
    env,
    fmt::Write as _,
    io::{self, BufWriter, IsTerminal, StdoutLock, Write},
};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use serde::Serialize;

/// Blanks between two columns of a table.
const GAP: u16 = 2;
/// Columns of a terminal that does not say how many it has.
const DEFAULT_WIDTH: usize = 80;

/// Standard output.
pub struct Out {
    writer: BufWriter<StdoutLock<'static>>,
    /// Columns of the terminal; `None` if it is none.
    width: Option<usize>,
    colour: bool,
}

/// Colours, of which each has one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// As it should be.
    Good,
    /// Refused or broken.
    Bad,
    /// Worth a look.
    Warn,
    /// Less important.
    Dim,
}

impl Out {
    /// Standard output, with colours if it is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn new() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = terminal.then(|| Table::new().width().map_or(DEFAULT_WIDTH, usize::from));
        Self { writer: BufWriter::new(stdout.lock()), width, colour }
    }

    /// A line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.writer, "{}", text.as_ref())
    }

    /// A value as one JSON document on a line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.writer, value)?;
        writeln!(self.writer)
    }

    /// Text as it is, without a line's end.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn raw(&mut self, text: impl AsRef<[u8]>) -> io::Result<()> {
        self.writer.write_all(text.as_ref())
    }

    /// Brings everything out.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Text in a colour, where there are colours.
    #[must_use]
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => "32",
            Colour::Bad => "31",
            Colour::Warn => "33",
            Colour::Dim => "2",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A table in plain columns, within the width of a terminal. Cells are cleaned. The first column is never broken: an
    /// id is there to be copied.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header.to_vec());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell).into_owned()).collect::<Vec<_>>());
        }
        table.column_iter_mut().for_each(|column| _ = column.set_padding((0, GAP)));
        if self.width.is_some() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table
                .column_iter_mut()
                .take(1)
                .for_each(|column| _ = column.set_constraint(ColumnConstraint::ContentWidth));
        }
        self.line(table.trim_fmt())
    }

    /// Whether a table fits without broken cells. Without a terminal any does.
    #[must_use]
    pub fn fits(&self, header: &[&str], rows: &[Vec<String>]) -> bool {
        let Some(width) = self.width else { return true };
        let letters = |text: &str| clean(text).chars().count();
        let column = |(index, name): (usize, &&str)| {
            rows.iter().filter_map(|row| row.get(index)).map(|cell| letters(cell)).max().unwrap_or(0).max(letters(name))
        };
        let content: usize = header.iter().enumerate().map(column).sum();
        content + header.len().saturating_sub(1) * usize::from(GAP) <= width
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // A command that ends well has flushed, and has seen the error.
        let _ = self.flush();
    }
}

/// Text without anything that a terminal would act on, or that would not be seen: such characters are shown as escapes.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => clean.push_str("\\n"),
            '\r' => clean.push_str("\\r"),
            '\t' => clean.push_str("\\t"),
            _ if is_unsafe(character) => _ = write!(clean, "\\u{{{:x}}}", u32::from(character)),
            _ => clean.push(character),
        }
    }
    Cow::Owned(clean)
}

/// The lines of a text, each cleaned; tabs become blanks.
pub fn clean_lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| clean(&line.replace('\t', "    ")).into_owned())
}

/// Control characters, and those that reorder, hide or separate text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A time in the host's time zone, to the second.
#[must_use]
pub fn local(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// The same where there is little room: to the minute if it is of this year, else the date.
#[must_use]
pub fn local_short(time: Timestamp) -> String {
    let time = time.to_zoned(TimeZone::system());
    let is_of_this_year = time.year() == Zoned::now().year();
    time.strftime(if is_of_this_year { "%m-%d %H:%M" } else { "%Y-%m-%d" }).to_string()
}

/// A duration in a unit that fits.
#[must_use]
pub fn duration(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        60_000_000..3_600_000_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600_000_000..86_400_000_000 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// An amount of bytes in a unit that fits.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Microseconds from one time to another; 0 if the clock was set back between.
#[must_use]
pub fn micros_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_microsecond() - from.as_microsecond()).unwrap_or_default()
}

/// `1 row`, `2 rows`.
#[must_use]
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        let hostile = "a\x1b[2J\x1b]0;title\x07\u{9b}31m\r\n\u{202e}gnp.exe\u{200b}\x7f";
        let cleaned = clean(hostile);
        assert_eq!(cleaned, r"a\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\r\n\u{202e}gnp.exe\u{200b}\u{7f}");
        for code in 0..=0x0010_ffff {
            let Some(character) = char::from_u32(code) else { continue };
            assert!(!clean(&character.to_string()).chars().any(char::is_control), "{code:x}");
        }
        assert!(matches!(clean("SELECT 'grüße, 世界'"), Cow::Borrowed(_)));
        assert_eq!(clean_lines("a\tb\n\x1bc").collect::<Vec<_>>(), ["a    b", r"\u{1b}c"]);
    }

    #[test]
    fn amounts_have_units_that_fit() {
        let durations = [0, 999, 1_000, 1_234_567, 61_000_000, 3_660_000_000, 90_000_000_000].map(duration);
        assert_eq!(durations, ["0 us", "999 us", "1.0 ms", "1.2 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([0, 999, 1_500, 2_000_000].map(bytes), ["0 B", "999 B", "1.5 kB", "2.0 MB"]);
    }
}
