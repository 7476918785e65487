//! Reads typed values out of a TOML document, keeping where each came from, and collects every error instead of
//! stopping at the first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use toml_edit::{Item, TableLike, Value};

use super::diagnostic::{Diagnostic, Severity};
use super::reference::{self, Asked, Takes};

/// The text and what was found wrong with it so far.
pub(super) struct Findings<'t> {
    text: &'t str,
    found: RefCell<Vec<Diagnostic>>,
    errors: Cell<usize>,
    asked: RefCell<Asked>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: RefCell::default(), errors: Cell::new(0), asked: RefCell::default() }
    }

    pub(super) fn error(&self, span: Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.errors.set(self.errors.get() + 1);
        self.add(Severity::Error, span, key, message);
    }

    pub(super) fn warning(&self, span: Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.add(Severity::Warning, span, key, message);
    }

    fn add(
        &self,
        severity: Severity,
        span: Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.found.borrow_mut().push(Diagnostic::new(severity, self.text, span, key, message));
    }

    pub(super) fn errors(&self) -> usize {
        self.errors.get()
    }

    /// Every key that was asked for, and what it takes.
    pub(super) fn into_asked(self) -> Asked {
        self.asked.into_inner()
    }

    /// Everything found, in the order of the file.
    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|finding| (finding.line, finding.column));
        found
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// One table of the document. Keys that nobody asked for are reported by [`Section::finish`].
pub(super) struct Section<'a> {
    findings: &'a Findings<'a>,
    table: &'a dyn TableLike,
    path: String,
    /// Its name in the reference.
    schema: String,
    span: Range<usize>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn root(findings: &'a Findings<'a>, table: &'a dyn TableLike) -> Self {
        Self {
            findings,
            table,
            path: String::new(),
            schema: String::new(),
            span: 0..0,
            known: RefCell::default(),
        }
    }

    /// A table below this one, under `key`; `name`: of those whose names are the user's choice.
    fn below(
        &self,
        table: &'a dyn TableLike,
        key: &str,
        name: Option<&str>,
        span: Range<usize>,
    ) -> Section<'a> {
        let (path, schema) = match name {
            None => (self.path_of(key), join(&self.schema, key)),
            // This is the table of such tables.
            Some(name) => {
                (self.path_of(name), join(&self.schema, &reference::placeholder(&self.schema, name)))
            }
        };
        Section { findings: self.findings, table, path, schema, span, known: RefCell::default() }
    }

    /// Notes for the reference what a key takes.
    fn takes(&self, key: &'static str, precision: u8, kind: &'static str, which: impl FnOnce() -> String) {
        let mut asked = self.findings.asked.borrow_mut();
        let known = asked.entry((self.schema.clone(), key)).or_default();
        if known.as_ref().is_none_or(|known| known.precision < precision) {
            *known = Some(Takes { precision, kind, which: which() });
        }
    }

    /// Where the table stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The full name of a key of this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    pub(super) fn error(&self, span: Range<usize>, key: &str, message: impl Into<String>) {
        self.findings.error(span, self.path_of(key), message);
    }

    pub(super) fn warning(&self, span: Range<usize>, key: &str, message: impl Into<String>) {
        self.findings.warning(span, self.path_of(key), message);
    }

    /// Reports a key that must be there and is not.
    pub(super) fn missing(&self, key: &'static str, expected: &str) {
        self.ask(key);
        self.findings.error(
            self.span(),
            self.path.clone(),
            format!("`{key}` is missing (expected {expected})"),
        );
    }

    fn ask(&self, key: &'static str) {
        self.known.borrow_mut().insert(key);
        self.findings.asked.borrow_mut().entry((self.schema.clone(), key)).or_default();
    }

    fn item(&self, key: &'static str) -> Option<(&'a Item, Range<usize>)> {
        self.ask(key);
        let item = self.table.get(key).filter(|item| !item.is_none())?;
        let span = item.span().or_else(|| self.table.key(key).and_then(toml_edit::Key::span));
        Some((item, span.unwrap_or(self.span())))
    }

    fn value(&self, key: &'static str, expected: &str) -> Option<(&'a Value, Range<usize>)> {
        let (item, span) = self.item(key)?;
        match item.as_value() {
            Some(value) => Some((value, span)),
            None => {
                self.error(span, key, format!("is a table (expected {expected})"));
                None
            }
        }
    }

    /// The value if it is text, without a word about one that is not.
    pub(super) fn text(&self, key: &'static str) -> Option<&'a str> {
        self.table.get(key)?.as_str()
    }

    /// The texts of that key in the tables of `tables`, without a word about anything else.
    pub(super) fn texts_below(&self, tables: &str, key: &str) -> Vec<&'a str> {
        let tables = self.table.get(tables).and_then(Item::as_table_like).into_iter();
        let tables = tables.flat_map(TableLike::iter).filter_map(|(_, item)| item.as_table_like());
        tables.filter_map(|table| table.get(key)?.as_str()).collect()
    }

    /// The names of the tables of `tables`, likewise.
    pub(super) fn names_below(&self, tables: &str) -> Vec<String> {
        let tables = self.table.get(tables).and_then(Item::as_table_like).into_iter();
        tables.flat_map(TableLike::iter).map(|(name, _)| name.to_owned()).collect()
    }

    pub(super) fn string(&self, key: &'static str, expected: &str) -> Option<Spanned<&'a str>> {
        self.takes(key, 1, "text", || expected.to_owned());
        let (value, span) = self.value(key, expected)?;
        self.as_string(key, value, span, expected)
    }

    fn as_string(
        &self,
        key: &str,
        value: &'a Value,
        span: Range<usize>,
        expected: &str,
    ) -> Option<Spanned<&'a str>> {
        match value.as_str() {
            Some(text) => Some(Spanned { value: text, span }),
            None => {
                self.error(span, key, format!("is {} (expected {expected})", a_type(value)));
                None
            }
        }
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        self.takes(key, 9, "boolean", || "true or false".to_owned());
        let (value, span) = self.value(key, "true or false")?;
        if value.as_bool().is_none() {
            self.error(span, key, format!("is {} (expected true or false)", a_type(value)));
        }
        value.as_bool()
    }

    /// An integer within `range`.
    pub(super) fn integer(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<Spanned<i64>> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.takes(key, 9, "whole number", || whole(&range));
        let (value, span) = self.value(key, &expected)?;
        match value.as_integer() {
            Some(number) if range.contains(&number) => Some(Spanned { value: number, span }),
            Some(number) => {
                self.error(span, key, format!("is {number} (expected {expected})"));
                None
            }
            None => {
                self.error(span, key, format!("is {} (expected {expected})", a_type(value)));
                None
            }
        }
    }

    /// An integer within `range`, or a word in its place.
    pub(super) fn integer_or<T>(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<i64>,
        (word, meaning): (&str, T),
        make: impl FnOnce(i64) -> T,
    ) -> Option<T> {
        let expected = format!("a whole number from {} to {}, or \"{word}\"", range.start(), range.end());
        self.takes(key, 9, "whole number or text", || format!("{}, or \"{word}\"", whole(&range)));
        let (value, span) = self.value(key, &expected)?;
        match (value.as_integer(), value.as_str()) {
            (Some(number), _) if range.contains(&number) => Some(make(number)),
            (_, Some(text)) if text == word => Some(meaning),
            _ => {
                self.error(span, key, format!("is `{}` (expected {expected})", value.to_string().trim()));
                None
            }
        }
    }

    /// Yes or no, or an integer within `range`.
    pub(super) fn boolean_or_integer(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<Result<bool, i64>> {
        let expected = format!("true, false, or a whole number from {} to {}", range.start(), range.end());
        self.takes(key, 9, "boolean or whole number", || format!("true, false, or {}", whole(&range)));
        let (value, span) = self.value(key, &expected)?;
        match (value.as_bool(), value.as_integer()) {
            (Some(value), _) => Some(Ok(value)),
            (_, Some(number)) if range.contains(&number) => Some(Err(number)),
            _ => {
                self.error(span, key, format!("is `{}` (expected {expected})", value.to_string().trim()));
                None
            }
        }
    }

    /// A floating-point or whole number within `range`.
    pub(super) fn number(&self, key: &'static str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.takes(key, 9, "number", || format!("{} to {}", range.start(), range.end()));
        let (value, span) = self.value(key, &expected)?;
        let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        let number = number.filter(|n| range.contains(n));
        if number.is_none() {
            self.error(span, key, format!("is `{}` (expected {expected})", value.to_string().trim()));
        }
        number
    }

    /// A duration: whole seconds, or text such as `"30s"`, `"500ms"`, `"5m"`, `"1h"`.
    pub(super) fn duration(&self, key: &'static str) -> Option<Duration> {
        const EXPECTED: &str = "seconds, or text such as \"30s\", \"500ms\", \"5m\" or \"1h\"";
        self.takes(key, 5, "duration", || EXPECTED.to_owned());
        let (value, span) = self.value(key, EXPECTED)?;
        let duration = match value {
            Value::Integer(seconds) => u64::try_from(*seconds.value()).ok().map(Duration::from_secs),
            Value::String(text) => parse_duration(text.value()),
            _ => None,
        };
        if duration.is_none() {
            self.error(
                span,
                key,
                format!("`{}` is no duration (expected {EXPECTED})", value.to_string().trim()),
            );
        }
        duration
    }

    /// The same, within a range.
    pub(super) fn duration_within(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.takes(key, 9, "duration", || format!("{:?} to {:?}", range.start(), range.end()));
        let duration = self.duration(key)?;
        if !range.contains(&duration) {
            let (least, most) = (range.start(), range.end());
            let (_, span) = self.value(key, "")?;
            self.error(span, key, format!("is {duration:?} (expected {least:?} to {most:?})"));
        }
        Some(duration)
    }

    /// Text parsed into a `T`.
    pub(super) fn parsed<T>(&self, key: &'static str, expected: &str) -> Option<Spanned<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.takes(key, 4, "text", || expected.to_owned());
        let text = self.string(key, expected)?;
        self.parse(key, &text, expected)
    }

    fn parse<T>(&self, key: &str, text: &Spanned<&str>, expected: &str) -> Option<Spanned<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        match text.value.trim().parse() {
            Ok(value) => Some(Spanned { value, span: text.span.clone() }),
            Err(error) => {
                self.error(text.span.clone(), key, format!("{error} (expected {expected})"));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = quoted_list(&names);
        self.takes(key, 9, "text", || expected.clone());
        let text = self.string(key, &expected)?;
        match choices.iter().find(|(name, _)| *name == text.value) {
            Some((_, choice)) => Some(*choice),
            None => {
                let hint = nearest(text.value, &names).map(|name| format!(", did you mean \"{name}\"?"));
                let hint = hint.unwrap_or_default();
                self.error(
                    text.span,
                    key,
                    format!("\"{}\" is not known here{hint} (expected {expected})", text.value),
                );
                None
            }
        }
    }

    /// An array of texts; a single text is an array of one, and may hold several separated by commas, as in
    /// swanctl.conf. `None` if the key is absent.
    pub(super) fn strings(&self, key: &'static str, expected: &str) -> Option<Vec<Spanned<&'a str>>> {
        self.takes(key, 6, "list of texts", || expected.to_owned());
        let (value, span) = self.value(key, expected)?;
        match value {
            Value::String(text) => {
                let parts = text.value().split(',').map(str::trim);
                Some(parts.map(|value| Spanned { value, span: span.clone() }).collect())
            }
            Value::Array(array) => {
                let elements = array.iter().filter_map(|element| {
                    let span = element.span().unwrap_or(span.clone());
                    self.as_string(key, element, span, expected)
                });
                Some(elements.collect())
            }
            other => {
                self.error(span, key, format!("is {} (expected an array of {expected})", a_type(other)));
                None
            }
        }
    }

    /// A command line: an array of its words, or a text in which white space stands between them, which is then given too.
    pub(super) fn words(
        &self,
        key: &'static str,
        expected: &str,
    ) -> Option<Spanned<(Option<&'a str>, Vec<String>)>> {
        self.takes(key, 6, "text, or list of texts", || expected.to_owned());
        let (value, span) = self.value(key, expected)?;
        let value = match value {
            Value::Array(array) => {
                let element = |element| self.as_string(key, element, span.clone(), expected);
                (None, array.iter().filter_map(element).map(|word| word.value.to_owned()).collect())
            }
            text => {
                let text = self.as_string(key, text, span.clone(), expected)?.value;
                (Some(text), text.split_whitespace().map(str::to_owned).collect())
            }
        };
        Some(Spanned { value, span })
    }

    /// Whether the key is there, whatever its value.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.item(key).is_some()
    }

    /// An array of texts, each parsed; `None` as soon as one cannot be.
    pub(super) fn parsed_list<T>(&self, key: &'static str, expected: &str) -> Option<Vec<Spanned<T>>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let texts = self.strings(key, expected)?;
        // All of them are looked at before the list is given up.
        let parsed: Vec<Option<Spanned<T>>> =
            texts.iter().map(|text| self.parse(key, text, expected)).collect();
        parsed.into_iter().collect()
    }

    /// An array of whole numbers within `range`.
    pub(super) fn integers(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<Vec<Spanned<i64>>> {
        let expected = format!("an array of whole numbers from {} to {}", range.start(), range.end());
        self.takes(key, 9, "list of whole numbers", || whole(&range));
        let (value, span) = self.value(key, &expected)?;
        let Some(array) = value.as_array() else {
            self.error(span, key, format!("is {} (expected {expected})", a_type(value)));
            return None;
        };
        let mut numbers = Vec::new();
        for element in array {
            let span = element.span().unwrap_or(span.clone());
            match element.as_integer().filter(|number| range.contains(number)) {
                Some(value) => numbers.push(Spanned { value, span }),
                None => {
                    let found = element.to_string();
                    self.error(
                        span,
                        key,
                        format!("`{}` does not do here (expected {expected})", found.trim()),
                    );
                }
            }
        }
        Some(numbers)
    }

    /// A table, inline or not.
    pub(super) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        self.takes(key, 2, "table", String::new);
        let (item, span) = self.item(key)?;
        self.as_section(key, None, item, span)
    }

    fn as_section(
        &self,
        key: &str,
        name: Option<&str>,
        item: &'a Item,
        span: Range<usize>,
    ) -> Option<Section<'a>> {
        match item.as_table_like() {
            Some(table) => Some(self.below(table, key, name, span)),
            None => {
                self.error(span, key, format!("is {} (expected a table)", item.type_name()));
                None
            }
        }
    }

    /// A table of tables with names of the user's choice, e.g. `connections`.
    pub(super) fn named_sections(&self, key: &'static str) -> Vec<(String, Section<'a>)> {
        self.takes(key, 3, "tables", || "with names of your choice".to_owned());
        let Some(section) = self.section(key) else { return Vec::new() };
        let named = section.table.iter().filter_map(|(name, item)| {
            let span = section.table.key(name).and_then(toml_edit::Key::span);
            let span = span.or_else(|| item.span()).unwrap_or(section.span());
            Some((name.to_owned(), section.as_section(name, Some(name), item, span)?))
        });
        named.collect()
    }

    /// A table, an array of tables, or an array of inline tables: all of them.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        self.takes(key, 3, "tables", || "one, or an array of them".to_owned());
        let Some((item, span)) = self.item(key) else { return Vec::new() };
        if let Some(tables) = item.as_array_of_tables() {
            let section = |table: &'a toml_edit::Table| {
                self.below(table, key, None, table.span().unwrap_or(span.clone()))
            };
            return tables.iter().map(section).collect();
        }
        if let Some(array) = item.as_array() {
            let section = |value: &'a Value| {
                let span = value.span().unwrap_or(span.clone());
                match value.as_inline_table() {
                    Some(table) => Some(self.below(table, key, None, span)),
                    None => {
                        self.error(span, key, format!("is {} (expected a table)", a_type(value)));
                        None
                    }
                }
            };
            return array.iter().filter_map(section).collect();
        }
        self.as_section(key, None, item, span).into_iter().collect()
    }

    /// Reports every key that was not asked for: as swanctl's if it is in `later`, else with the nearest known one.
    pub(super) fn finish(&self, later: &[&str]) {
        let known = self.known.borrow();
        for (key, item) in self.table.iter() {
            // What the reference does not describe is not taken.
            if known.contains(key) && reference::describes(&self.schema, key) {
                continue;
            }
            let span = self.table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
            let span = span.unwrap_or(self.span());
            if later.contains(&key) {
                self.error(
                    span,
                    key,
                    "is an option of swanctl.conf that this version does not support; remove it",
                );
                continue;
            }
            let names: Vec<&str> = known.iter().copied().collect();
            let message = match nearest(key, &names) {
                Some(name) => format!("no such option, did you mean `{name}`?"),
                None => format!("no such option (known here: {})", names.join(", ")),
            };
            self.error(span, key, message);
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A range of whole numbers, in words where an end of it says nothing.
fn whole(range: &std::ops::RangeInclusive<i64>) -> String {
    match *range.end() {
        i64::MAX => format!("{} or more", range.start()),
        end => format!("{} to {end}", range.start()),
    }
}

/// The known word that `found` is probably a misspelling of.
pub(crate) fn nearest<'n>(found: &str, names: &[&'n str]) -> Option<&'n str> {
    let scored = names.iter().map(|name| (strsim::damerau_levenshtein(found, name), *name));
    scored.filter(|(distance, name)| *distance <= 1 + name.len() / 4).min().map(|(_, name)| name)
}

fn quoted_list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn a_type(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::InlineTable(_) => "a table",
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    match unit.trim() {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(86400).map(Duration::from_secs),
        _ => None,
    }
}
