//! A table of the TOML document on its way into the configuration: every key is asked for by name, and what was not asked
//! for is unknown.

use std::{
    cell::RefCell,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
};

use toml_edit::{Item, TableLike, Value};

use super::{
    fault::{Fault, listed, nearest},
    files::Files,
};

/// All that is wrong so far.
pub(super) struct Report<'a> {
    file: &'a Path,
    text: &'a str,
    /// Whether the files that the configuration names are looked at.
    pub(super) files: Files,
    faults: RefCell<Vec<Fault>>,
}

/// A place in the text, in bytes.
pub(super) type Span = Range<usize>;

/// A value and its place.
#[derive(Clone)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str, files: Files) -> Self {
        Self { file, text, files, faults: RefCell::new(Vec::new()) }
    }

    /// Adds a fault.
    pub(super) fn fault(&self, span: &Span, what: impl Into<String>, remedy: impl Into<String>) {
        self.faults.borrow_mut().push(Fault {
            file: self.file.to_owned(),
            line: self.line(span),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// How many faults there are so far.
    pub(super) fn count(&self) -> usize {
        self.faults.borrow().len()
    }

    /// Line of a place, from 1.
    pub(super) fn line(&self, span: &Span) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// All faults, by line.
    pub(super) fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| fault.line);
        faults
    }
}

/// A table.
pub(super) struct Section<'a> {
    pub(super) report: &'a Report<'a>,
    /// How messages call it.
    pub(super) name: String,
    pub(super) span: Span,
    table: &'a dyn TableLike,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(report: &'a Report<'a>, name: impl Into<String>, table: &'a dyn TableLike, span: Span) -> Self {
        Self { report, name: name.into(), span, table, asked: RefCell::new(Vec::new()) }
    }

    /// The whole document.
    pub(super) fn root(report: &'a Report<'a>, table: &'a dyn TableLike) -> Self {
        Self::new(report, "the file", table, 0..0)
    }

    /// A value that is to be a table.
    pub(super) fn of(report: &'a Report<'a>, name: impl Into<String>, item: Spanned<&'a Item>) -> Option<Self> {
        let name = name.into();
        if let Some(table) = item.value.as_table_like() {
            return Some(Self::new(report, name, table, item.span));
        }
        let found = item.value.type_name();
        report.fault(&item.span, format!("{name} is a table, not {found}"), "write { key = \"value\", … }");
        None
    }

    /// Adds a fault at a place of this section.
    pub(super) fn fault(&self, span: &Span, what: impl Into<String>, remedy: impl Into<String>) {
        self.report.fault(span, what, remedy);
    }

    /// What stands under a key; its place is that of the key.
    pub(super) fn item(&self, key: &'static str) -> Option<Spanned<&'a Item>> {
        self.asked.borrow_mut().push(key);
        let (name, item) = self.table.get_key_value(key)?;
        let span = name.span().or_else(|| item.span()).unwrap_or_else(|| self.span.clone());
        Some(Spanned { value: item, span })
    }

    /// All keys and what stands under them, for a table whose keys are data.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Spanned<&'a Item>)> {
        self.table.iter().map(|(name, item)| {
            let span = self.table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
            (name, Spanned { value: item, span: span.unwrap_or_else(|| self.span.clone()) })
        })
    }

    /// A table under a key.
    pub(super) fn section(&self, key: &'static str) -> Option<Self> {
        self.item(key).and_then(|item| Self::of(self.report, format!("{key} in {}", self.name), item))
    }

    /// A text under a key. An empty one is a fault.
    pub(super) fn text(&self, key: &'static str) -> Option<Spanned<String>> {
        let item = self.item(key)?;
        match item.value.as_str() {
            Some("") => {
                self.fault(&item.span, format!("{key} in {} is empty", self.name), "give it a value, or remove it");
                None
            }
            Some(text) => Some(Spanned { value: text.to_owned(), span: item.span }),
            None => {
                let found = item.value.type_name();
                let what = format!("{key} in {} is a string, not {found}", self.name);
                self.fault(&item.span, what, format!("write {key} = \"…\""));
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required(&self, key: &'static str, example: &str) -> Option<Spanned<String>> {
        if !self.has(key) {
            self.missing(key, example);
        }
        self.text(key)
    }

    /// Says that a key is missing.
    pub(super) fn missing(&self, key: &'static str, example: &str) {
        self.asked.borrow_mut().push(key);
        self.fault(&self.span, format!("{key} is missing in {}", self.name), format!("add {key} = {example}"));
    }

    /// An absolute path under a key.
    pub(super) fn path(&self, key: &'static str) -> Option<Spanned<PathBuf>> {
        let text = self.text(key)?;
        self.absolute(key, text)
    }

    /// The same, of a text.
    pub(super) fn absolute(&self, key: &str, text: Spanned<String>) -> Option<Spanned<PathBuf>> {
        let path = PathBuf::from(text.value);
        if path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir) {
            return Some(Spanned { value: path, span: text.span });
        }
        let what = format!("{key} in {} is not an absolute path: \"{}\"", self.name, path.display());
        self.fault(&text.span, what, "write the whole path, beginning with / and without \"..\"");
        None
    }

    /// A number of seconds under a key.
    pub(super) fn seconds(&self, key: &'static str, allowed: RangeInclusive<u64>) -> Option<u64> {
        self.number(key, "of seconds ", allowed)
    }

    /// A number under a key, `of` something.
    pub(super) fn number(&self, key: &'static str, of: &str, allowed: RangeInclusive<u64>) -> Option<u64> {
        let item = self.item(key)?;
        let number = item.value.as_integer().and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| allowed.contains(number));
        if number.is_none() {
            let (least, most) = allowed.into_inner();
            let what = format!("{key} in {} is not a number {of}from {least} to {most}", self.name);
            self.fault(&item.span, what, format!("write {key} = {most}, or less, without quotes"));
        }
        number
    }

    /// One of some words under a key.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = choices.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let words = || choices.iter().map(|(word, _)| *word);
            self.unknown_word(key, &text, words);
        }
        found
    }

    /// Says that a word is none of those that are known.
    pub(super) fn unknown_word<'w, I: Iterator<Item = &'w str>>(
        &self,
        key: &str,
        word: &Spanned<String>,
        known: impl Fn() -> I,
    ) {
        let what = format!("unknown {key} \"{}\" in {}", word.value, self.name);
        let remedy = match nearest(&word.value, known()) {
            Some(nearest) => format!("did you mean \"{nearest}\"? Known: {}", listed(known())),
            None => format!("use one of {}", listed(known())),
        };
        self.fault(&word.span, what, remedy);
    }

    /// A list of texts under a key; one text is a list of one.
    pub(super) fn texts(&self, key: &'static str, example: &str) -> Vec<Spanned<String>> {
        let Some(item) = self.item(key) else {
            return Vec::new();
        };
        let wrong = |span: &Span, found: &str| {
            let what = format!("{key} in {} is a list of strings, not {found}", self.name);
            self.fault(span, what, format!("write {key} = {example}"));
        };
        if item.value.as_str().is_some() {
            wrong(&item.span, "string");
            return Vec::new();
        }
        let Some(array) = item.value.as_array() else {
            wrong(&item.span, item.value.type_name());
            return Vec::new();
        };
        let mut texts = Vec::new();
        for value in array {
            let span = value.span().unwrap_or_else(|| item.span.clone());
            match value.as_str() {
                Some(text) => texts.push(Spanned { value: text.to_owned(), span }),
                None => wrong(&span, value.type_name()),
            }
        }
        texts
    }

    /// The tables under a key: a list of inline tables, or `[[key]]` repeated. `None` if the key is not there, or is
    /// something else, which is reported.
    pub(super) fn sections(&self, key: &'static str, called: &str) -> Option<Vec<Self>> {
        let item = self.item(key)?;
        let mut sections = Vec::new();
        if let Some(tables) = item.value.as_array_of_tables() {
            for table in tables {
                let span = table.span().unwrap_or_else(|| item.span.clone());
                sections.push(Self::new(self.report, called, table, span));
            }
            return Some(sections);
        }
        let Some(array) = item.value.as_array() else {
            let found = item.value.type_name();
            let remedy =
                if item.value.is_table() { format!("write [[{key}]]") } else { format!("write {key} = [{{ … }}]") };
            self.fault(&item.span, format!("{key} in {} is a list of tables, not {found}", self.name), remedy);
            return None;
        };
        for value in array {
            let span = value.span().unwrap_or_else(|| item.span.clone());
            match value {
                Value::InlineTable(table) => sections.push(Self::new(self.report, called, table, span)),
                _ => {
                    let what = format!("{called} is a table, not {}", value.type_name());
                    self.fault(&span, what, "write { key = \"value\", … }");
                }
            }
        }
        Some(sections)
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether an empty list is under a key; its place.
    pub(super) fn empty_list(&self, key: &'static str) -> Option<Span> {
        let item = self.item(key)?;
        item.value.as_array().is_some_and(toml_edit::Array::is_empty).then_some(item.span)
    }

    /// Reports the keys that were not asked for.
    pub(super) fn close(self) {
        let asked = self.asked.borrow();
        for (key, item) in self.entries().filter(|(key, _)| !asked.contains(key)) {
            let mut known: Vec<&str> = asked.clone();
            known.sort_unstable();
            known.dedup();
            let remedy = match nearest(key, known.iter().copied()) {
                Some(nearest) => format!("did you mean \"{nearest}\"?"),
                None => format!("remove it; known here are {}", listed(known)),
            };
            self.fault(&item.span, format!("unknown key \"{key}\" in {}", self.name), remedy);
        }
    }
}
