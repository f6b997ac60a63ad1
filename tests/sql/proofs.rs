//! What is known about answers with respect to masked columns.
//!
//! `answer` is `clear`, `by-origin`, or `unproven` with a word of the reason; it is that of the text's last statement,
//! or of the first that is unproven. `unmask` names columns that the principal may see.

use std::error::Error;

use agent::{
    config::ColumnRule,
    model::Style,
    protocol::postgres::sql::{Answer, catalogue::Catalogue, classify, masks::Masking},
};

use crate::{
    Tally,
    corpus::entries,
    known::{DATABASE, Session, reading},
};

/// Masked columns: of a table by itself, of a parent, and of a partition.
const MASKED: [(&str, &str, Style); 7] = [
    ("customers", "ssn", Style::Last4),
    ("customers", "email", Style::Email),
    ("people", "passport", Style::Redact),
    ("events_2024", "card", Style::Hash),
    ("cards", "pin", Style::Redact),
    ("cards", "high", Style::Null),
    ("charges", "card", Style::Null),
];

/// Runs the cases. Returns how many there are.
pub fn run(tally: &mut Tally, catalogue: &Catalogue) -> Result<usize, Box<dyn Error>> {
    let masking = masking(catalogue)?;
    let mut all = entries(include_str!("corpus/proofs.sql"))?;
    all.extend(entries(include_str!("corpus/oracles.sql"))?);
    let count = all.len();
    for entry in all {
        let key = |wanted: &str| entry.keys.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        let unmask = key("unmask").unwrap_or_default();
        let masking = masking.without(&|column| unmask.split(' ').any(|name| name == column.column));
        let session = Session::new("SELECT ssn FROM public.customers", catalogue, &masking);
        let statement = classify(&entry.sql, &reading(None), catalogue, &masking, &session);
        let answers = || statement.parts.iter().map(|part| &part.answer);
        let answer = answers().find(|answer| matches!(answer, Answer::Unproven(_))).or_else(|| answers().next_back());
        let right = match (key("answer").unwrap_or_default(), answer) {
            ("clear", Some(Answer::Clear)) | ("by-origin", Some(Answer::ByOrigin)) => true,
            (expected, Some(Answer::Unproven(denial))) => {
                expected.strip_prefix("unproven ").is_some_and(|word| denial.reason.contains(word))
            }
            _ => false,
        };
        let problems = if right { Vec::new() } else { vec![format!("{answer:?}")] };
        tally.note(&format!("proofs: {}", entry.name), problems);
    }
    Ok(count)
}

/// What the configuration of these tests masks, with nothing unmasked.
pub fn masking(catalogue: &Catalogue) -> Result<Masking, Box<dyn Error>> {
    let rules: Vec<_> = MASKED
        .iter()
        .map(|(table, column, style)| ColumnRule {
            database: None,
            schema: "public".into(),
            table: (*table).into(),
            column: (*column).into(),
            class: "pii".into(),
            style: *style,
            line: 1,
        })
        .collect();
    Ok(Masking::new(&rules, DATABASE, catalogue)?)
}
