//! Arguments as evidence: what a process was started with, without the secrets that people put there.

/// Words whose value, after `=` or `:`, is a secret.
const SECRET_WORDS: [&str; 6] = ["password", "passwd", "pwd", "secret", "token", "apikey"];

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// An argument without the values of `password=…` and the like, and without the password of a URI.
///
/// It is a courtesy and no boundary: who passes a secret in an argument has shown it to every process on the host.
#[must_use]
pub fn without_secrets(argument: &str) -> String {
    let mut shown = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some((start, end)) = next_secret(rest) {
        shown.push_str(&rest[..start]);
        shown.push_str(HIDDEN);
        rest = &rest[end..];
    }
    shown + rest
}

/// An argument without what may be a literal of a statement: for targets whose recorded statements lose theirs.
///
/// A name, a path or an option stays; of `name=value` the name stays; an argument that has a blank, a quote or a mark
/// of a statement in it (`psql -c "SELECT …"`, a script) is hidden whole. A bare word stays, whatever it is.
#[must_use]
pub fn without_literals(argument: &str) -> String {
    let (name, value) = argument.split_once('=').map_or((argument, None), |(name, value)| (name, Some(value)));
    if name.contains(|c: char| c.is_whitespace() || "'\"$;()<>".contains(c)) {
        return HIDDEN.to_owned();
    }
    match value {
        Some(value) if !value.is_empty() => format!("{name}={HIDDEN}"),
        _ => argument.to_owned(),
    }
}

/// Where the first secret is.
fn next_secret(text: &str) -> Option<(usize, usize)> {
    // ASCII letters only change case here, so that the positions stay.
    let lower = text.to_ascii_lowercase();
    let named = SECRET_WORDS.iter().filter_map(|word| {
        lower.match_indices(word).find_map(|(at, _)| {
            let after = at + word.len();
            let start = after + usize::from(lower[after..].starts_with(['=', ':']));
            (start > after).then(|| (start, value_end(text, start))).filter(|(start, end)| start < end)
        })
    });
    let in_uri = lower.match_indices("://").find_map(|(at, _)| {
        let authority = &text[at + 3..];
        let authority = &authority[..authority.find(['/', '?', '#', ' ']).unwrap_or(authority.len())];
        let userinfo = &authority[..authority.rfind('@')?];
        let start = at + 3 + userinfo.find(':')? + 1;
        let end = at + 3 + userinfo.len();
        (start < end && text[start..end] != *HIDDEN).then_some((start, end))
    });
    named.filter(|(start, end)| text[*start..*end] != *HIDDEN).chain(in_uri).min()
}

/// The end of a value: a quoted one's closing quote, else the next blank or `&`.
fn value_end(text: &str, start: usize) -> usize {
    let value = &text[start..];
    let end = match value.chars().next() {
        Some(quote @ ('\'' | '"')) => value[1..].find(quote).map_or(value.len(), |at| at + 2),
        _ => value.find([' ', '&', '\t', '\n']).unwrap_or(value.len()),
    };
    start + end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_stays() {
        for (argument, shown) in [
            ("host=db password=hunter2 user=x", "host=db password=*** user=x"),
            ("PGPASSWORD=hunter2", "PGPASSWORD=***"),
            ("password='two words' port=1", "password=*** port=1"),
            ("postgres://app:hunter2@db:5432/shop?sslmode=require", "postgres://app:***@db:5432/shop?sslmode=require"),
            ("postgres://app:p@ss@db/shop", "postgres://app:***@db/shop"),
            ("postgres://app@db/shop", "postgres://app@db/shop"),
            ("--token=abc --pwd:xyz", "--token=*** --pwd:***"),
            ("postgres://a:b@db/x?password=c&x=1", "postgres://a:***@db/x?password=***&x=1"),
            ("SELECT password FROM users", "SELECT password FROM users"),
            ("grüße password=ü", "grüße password=***"),
            ("password=", "password="),
        ] {
            assert_eq!(without_secrets(argument), shown);
        }
    }

    #[test]
    fn what_may_be_a_literal_is_hidden_and_names_stay() {
        for (argument, shown) in [
            ("/usr/bin/psql", "/usr/bin/psql"),
            ("-c", "-c"),
            ("SELECT 1", "***"),
            ("select'123-45-6789'", "***"),
            ("select$$x$$", "***"),
            ("select(1)", "***"),
            ("ssn=123-45-6789", "ssn=***"),
            ("--set=ssn=123-45-6789", "--set=***"),
            ("host=db dbname=shop", "host=***"),
            ("-Atq", "-Atq"),
            ("a\tb=c", "***"),
            ("x=", "x="),
        ] {
            assert_eq!(without_literals(argument), shown);
        }
    }
}
