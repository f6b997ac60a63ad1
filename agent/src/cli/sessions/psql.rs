//! An answer in the form that psql gives it.

use crate::cli::output::clean;

/// A table with a header, `|` between columns, and NULL as nothing. Values are cleaned.
#[must_use]
pub fn table(columns: &[String], rows: &[Vec<Option<String>>]) -> String {
    let cell = |value: &Option<String>| value.as_deref().map(|value| clean(value).into_owned()).unwrap_or_default();
    let header: Vec<String> = columns.iter().map(|column| clean(column).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(header.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let count = rows.iter().map(Vec::len).max().unwrap_or_default().max(header.len());
    let widths: Vec<usize> = (0..count).map(width).collect();

    let mut text = String::new();
    let titles: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(column, width)| format!(" {:^width$} ", header.get(column).map_or("", String::as_str)))
        .collect();
    push(&mut text, &titles.join("|"));
    push(&mut text, &widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+"));
    for row in &rows {
        let cells: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| format!(" {:<width$} ", row.get(column).map_or("", String::as_str)))
            .collect();
        push(&mut text, &cells.join("|"));
    }
    text
}

fn push(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_as_in_psql_and_stays_one_line_a_row() {
        let rows = vec![vec![Some("1".into()), None], vec![Some("22".into()), Some("a\nb\x1b[31m".into())]];
        let expected = " id |      name     \n----+----------------\n 1  |\n 22 | a\\nb\\u{1b}[31m\n";
        let expected: String = expected.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        assert_eq!(table(&["id".into(), "name".into()], &rows), expected);
        assert_eq!(table(&[], &[]), "\n\n");
    }
}
