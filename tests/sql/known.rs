//! What the classifier is given in these tests.

use std::{error::Error, sync::Arc};

use agent::protocol::postgres::sql::{
    Names, Reading, Statement,
    catalogue::{Catalogue, QUERIES, Row},
    classify,
    masks::Masking,
};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Name of the target in resources.
pub const TARGET: &str = "shop";

/// Name of the database.
pub const DATABASE: &str = "postgres";

/// A snapshot of the server's catalogue, read under a search path that has nothing of `pg_catalog` first.
pub async fn catalogue(client: &Client) -> Result<Catalogue, Box<dyn Error>> {
    client.batch_execute("SET search_path = audit, pg_temp, pg_catalog").await?;
    let mut answers = Vec::new();
    for query in QUERIES {
        let mut rows: Vec<Row> = Vec::new();
        for message in client.simple_query(query).await? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect());
            }
        }
        answers.push(rows);
    }
    client.batch_execute("RESET search_path").await?;
    Ok(Catalogue::build(answers)?)
}

/// How texts are read, with this search path if it is known.
pub fn reading(search_path: Option<Vec<String>>) -> Reading {
    Reading { target: TARGET.into(), database: DATABASE.into(), search_path, replication: None }
}

/// A session that knows `known_statement` and `known_cursor`.
pub struct Session(Vec<Arc<Statement>>);

impl Session {
    /// `text` is what both names stand for.
    pub fn new(text: &str, catalogue: &Catalogue, masking: &Masking) -> Self {
        struct Nothing;
        impl Names for Nothing {
            fn prepared(&self, _: &str) -> Vec<Arc<Statement>> {
                Vec::new()
            }
            fn cursor(&self, _: &str) -> Vec<Arc<Statement>> {
                Vec::new()
            }
        }
        Self(vec![Arc::new(classify(text, &reading(None), catalogue, masking, &Nothing))])
    }
}

impl Names for Session {
    fn prepared(&self, name: &str) -> Vec<Arc<Statement>> {
        if name == "known_statement" { self.0.clone() } else { Vec::new() }
    }

    fn cursor(&self, name: &str) -> Vec<Arc<Statement>> {
        if name == "known_cursor" { self.0.clone() } else { Vec::new() }
    }
}
