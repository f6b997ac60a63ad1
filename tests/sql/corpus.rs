//! Cases of the corpus: how they are written down, and what they are compared with.
//!
//! A case begins with `-- case: NAME`, goes on with lines `-- KEY: VALUE`, and ends with its text.
//!
//! - `needs`: the requests, separated by commas: an action without `sql:`, and what it is on: nothing (the database),
//!   `schema.*`, `schema.table`, `schema.function()`
//! - `facts`: `unbounded` (no `has_where`), `statements N`, or one of `tables`, `functions`, `settings` with names
//! - `path`: the search path, where it is known
//! - `ungrantable`: why no role of the server can be granted exactly this

use std::{collections::BTreeSet, error::Error};

use agent::{
    model::{Fact, Request, Resource},
    protocol::postgres::sql::{catalogue::Catalogue, classify, masks::Masking},
};

use crate::known::{DATABASE, Session, TARGET, reading};

/// A text with what it must ask for.
#[derive(Debug)]
pub struct Case {
    /// File and name.
    pub name: String,
    /// The text.
    pub sql: String,
    /// What it must ask for.
    pub needs: BTreeSet<Request>,
    /// Search path, if it is known.
    pub path: Option<Vec<String>>,
    /// Why the server cannot be the oracle.
    pub ungrantable: Option<String>,
    facts: Vec<String>,
}

/// A case as it is written down: keys and values, and the text.
pub struct Entry<'a> {
    /// Name of the case.
    pub name: &'a str,
    /// Keys and values in order.
    pub keys: Vec<(&'a str, &'a str)>,
    /// The text.
    pub sql: String,
}

/// Reads cases.
pub fn entries(text: &str) -> Result<Vec<Entry<'_>>, Box<dyn Error>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for line in text.lines() {
        let entry = entries.last_mut().filter(|entry| entry.sql.is_empty());
        if let Some(name) = line.strip_prefix("-- case: ") {
            entries.push(Entry { name, keys: Vec::new(), sql: String::new() });
        } else if let (Some(entry), Some(key)) = (entry, line.strip_prefix("-- ")) {
            entry.keys.push(key.split_once(": ").ok_or_else(|| format!("not a key: {line}"))?);
        } else if let Some(entry) = entries.last_mut() {
            entry.sql.push_str(line);
            entry.sql.push('\n');
        }
    }
    for entry in &mut entries {
        entry.sql.truncate(entry.sql.trim_end().len());
        if entry.sql.is_empty() {
            return Err(format!("{} has no text", entry.name).into());
        }
    }
    Ok(entries)
}

impl Case {
    /// Reads a file of the corpus.
    pub fn parse(file: &str, text: &str) -> Result<Vec<Self>, Box<dyn Error>> {
        entries(text)?
            .into_iter()
            .map(|entry| {
                let mut case = Self {
                    name: format!("{file}: {}", entry.name),
                    sql: entry.sql,
                    needs: BTreeSet::new(),
                    path: None,
                    ungrantable: None,
                    facts: Vec::new(),
                };
                for (key, value) in entry.keys {
                    match key {
                        "needs" => case.needs = value.split(", ").map(request).collect::<Result<_, _>>()?,
                        "facts" => case.facts.push(value.into()),
                        "path" => case.path = Some(value.split(", ").map(str::to_owned).collect()),
                        "ungrantable" => case.ungrantable = Some(value.into()),
                        _ => return Err(format!("{}: unknown key {key}", case.name).into()),
                    }
                }
                Ok(case)
            })
            .collect()
    }

    /// Classifies the text. Returns what is different.
    pub fn compare(&self, catalogue: &Catalogue) -> Vec<String> {
        let masking = Masking::default();
        let session = Session::new("SELECT id FROM public.orders", catalogue, &masking);
        let statement = classify(&self.sql, &reading(self.path.clone()), catalogue, &masking, &session);
        let mut problems = Vec::new();
        for request in self.needs.difference(&statement.action.requests) {
            problems.push(format!("does not ask for {} on {}", request.action, request.resource));
        }
        for request in statement.action.requests.difference(&self.needs) {
            problems.push(format!("asks for {} on {}", request.action, request.resource));
        }
        let facts = &statement.action.facts;
        let unbounded = self.facts.iter().any(|fact| fact == "unbounded");
        if facts.get("has_where") != Some(&Fact::Bool(!unbounded)) {
            problems.push(format!("has_where is {:?}", facts.get("has_where")));
        }
        for fact in self.facts.iter().filter(|fact| *fact != "unbounded") {
            let mut words = fact.split(' ');
            let name = words.next().unwrap_or_default();
            let right = match facts.get(name) {
                Some(Fact::Long(count)) => words.next() == Some(&count.to_string()),
                Some(Fact::Set(set)) => *set == words.map(str::to_owned).collect(),
                _ => false,
            };
            if !right {
                problems.push(format!("{name} is {:?}", facts.get(name)));
            }
        }
        problems
    }
}

/// `select public.orders`
fn request(text: &str) -> Result<Request, Box<dyn Error>> {
    let (action, on) = text.split_once(' ').unwrap_or((text, ""));
    let database = Resource::target(TARGET).child("Database", DATABASE);
    let resource = match on.split_once('.') {
        None if on.is_empty() => database,
        None => return Err(format!("no resource: {text}").into()),
        Some((schema, "*")) => database.child("Schema", schema),
        Some((schema, name)) => {
            let schema = database.child("Schema", schema);
            match name.strip_suffix("()") {
                Some(function) => schema.child("Function", function),
                None => schema.child("Table", name.trim_matches('"')),
            }
        }
    };
    Ok(Request::new(&format!("sql:{action}"), resource))
}
