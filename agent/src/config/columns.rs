//! `[target.columns]`: which columns are masked, and how.

use toml_edit::Item;

use crate::model::Style;

use super::{
    ColumnRule,
    section::{Section, Spanned},
};

/// Styles by the names that the configuration gives them.
const STYLES: &[(&str, Style)] = &[
    ("redact", Style::Redact),
    ("null", Style::Null),
    ("last4", Style::Last4),
    ("hash", Style::Hash),
    ("email", Style::Email),
    ("year", Style::Year),
    ("fixed", Style::Fixed),
];

/// Reads the columns of a target.
pub(super) fn read(target: &Section<'_>) -> Vec<ColumnRule> {
    let Some(section) = target.section("columns") else {
        return Vec::new();
    };
    let mut rules: Vec<ColumnRule> = Vec::new();
    for (name, item) in section.entries() {
        let span = item.span.clone();
        let Some(rule) = one(target, name, item) else {
            continue;
        };
        let same = |other: &&ColumnRule| {
            (&other.schema, &other.table, &other.column) == (&rule.schema, &rule.table, &rule.column)
                && (other.database == rule.database || other.database.is_none() || rule.database.is_none())
        };
        if let Some(other) = rules.iter().find(same) {
            let what = format!("column \"{name}\" of {} is masked already, in line {}", target.name, other.line);
            target.fault(&span, what, "leave one of the two: a column has one mask in a database");
        }
        rules.push(rule);
    }
    rules
}

fn one(target: &Section<'_>, name: &str, item: Spanned<&Item>) -> Option<ColumnRule> {
    if item.value.as_table_like().is_some_and(|table| table.is_dotted()) {
        let what = format!("a column of {} is not in quotes, so that its dots split it", target.name);
        target.fault(
            &item.span,
            what,
            "write \"database.schema.table.column\" = { class = \"pii\", mask = \"redact\" }",
        );
        return None;
    }
    let path = path(name);
    let line = target.report.line(&item.span);
    if let Err(problem) = &path {
        let what = format!("column \"{name}\" of {} {problem}", target.name);
        target.fault(&item.span, what, "write \"database.schema.table.column\", with * for any database");
    }
    let section = Section::of(target.report, format!("column \"{name}\" of {}", target.name), item)?;
    let class = section.required("class", "\"pii\"");
    if !section.has("mask") {
        section.missing("mask", "\"redact\"");
    }
    let style = section.choice("mask", STYLES);
    section.close();
    let (database, [schema, table, column]) = path.ok()?;
    Some(ColumnRule { database, schema, table, column, class: class?.value, style: style?, line })
}

/// Splits `database.schema.table.column`. A name with a dot in it is put in double quotes, with its own doubled.
pub(super) fn path(text: &str) -> Result<(Option<String>, [String; 3]), &'static str> {
    let parts = parts(text).ok_or("has a double quote that is not closed, or stands within a name")?;
    let Ok([database, schema, table, column]) = <[(String, bool); 4]>::try_from(parts) else {
        return Err("does not have four parts");
    };
    let any = |(name, quoted): &(String, bool)| name == "*" && !quoted;
    if [&schema, &table, &column].into_iter().any(any) {
        return Err("has a * that is not for the database");
    }
    if [&database, &schema, &table, &column].into_iter().any(|(name, _)| name.is_empty()) {
        return Err("has an empty part");
    }
    Ok(((!any(&database)).then_some(database.0), [schema.0, table.0, column.0]))
}

/// The parts of a path, and whether each was in double quotes.
fn parts(text: &str) -> Option<Vec<(String, bool)>> {
    let mut parts = vec![(String::new(), false)];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let (part, quoted) = parts.last_mut()?;
        match letter {
            '.' => parts.push((String::new(), false)),
            '"' if part.is_empty() && !*quoted => {
                *quoted = true;
                loop {
                    match letters.next()? {
                        '"' if letters.next_if_eq(&'"').is_some() => part.push('"'),
                        '"' => break,
                        other => part.push(other),
                    }
                }
                if letters.peek().is_some_and(|next| *next != '.') {
                    return None;
                }
            }
            '"' => return None,
            other => part.push(other),
        }
    }
    Some(parts)
}
