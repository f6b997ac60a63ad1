//! Unmodified drivers: psycopg, asyncpg, and a Rust client.

use agent_tests::{Outcome, Python, Suite};
use tokio_postgres::{NoTls, SimpleQueryMessage, error::SqlState};

use crate::world::{READER, WRITER, World, ensure};

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite
        .case("psycopg: parameters, server-side statements, binary, masked", || {
            script(world, READER, include_str!("psycopg_reader.py"))
        })
        .case("psycopg: transactions, pipelines and denials inside them", || {
            script(world, WRITER, include_str!("psycopg_writer.py"))
        })
        .case("asyncpg: prepared statements, types, cursors, masked", || {
            script(world, READER, include_str!("asyncpg_reader.py"))
        })
        .case("a Rust client: types, statements, transactions, masked", || runtime()?.block_on(rust_reader(world)))
        .case("a Rust client: a denial is an SQLSTATE and the connection goes on", || {
            runtime()?.block_on(rust_denial(world))
        })
        .case("a Rust client: cancelling", || runtime()?.block_on(rust_cancel(world)))
}

fn script(world: &World, uid: u32, text: &str) -> Outcome {
    let seen = Python::new()?.script(text).arg(world.dsn("sslmode=disable")).user(uid, uid).run()?;
    ensure(seen.success() && seen.stdout.trim_end().ends_with("done"), || seen.to_string())
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|e| e.to_string())
}

async fn connect(world: &World) -> Outcome<tokio_postgres::Client> {
    let (client, connection) =
        tokio_postgres::connect(&world.dsn("sslmode=disable"), NoTls).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(client)
}

async fn rust_reader(world: &World) -> Outcome {
    let text = |error: tokio_postgres::Error| format!("{error}: {:?}", error.as_db_error());
    let mut client = connect(world).await?;
    let statement = client.prepare("SELECT id, name, ssn, email, born IS NULL FROM customers WHERE id = $1").await;
    // `born` is masked, so an expression over it is refused even where it looks harmless.
    ensure(statement.is_err(), || "an expression over a masked column was let through".into())?;
    let statement = client.prepare("SELECT id, name, ssn, email FROM customers WHERE id = $1").await.map_err(text)?;
    for (id, ssn) in [(1, Some("***1120")), (2, Some("***9999")), (3, None)] {
        let row = client.query_one(&statement, &[&id]).await.map_err(text)?;
        let seen: Option<String> = row.get(2);
        ensure(seen.as_deref() == ssn, || format!("customer {id}: {seen:?}"))?;
    }
    let transaction = client.transaction().await.map_err(text)?;
    let portal = transaction.bind("SELECT id, ssn FROM customers ORDER BY id", &[]).await.map_err(text)?;
    let first = transaction.query_portal(&portal, 2).await.map_err(text)?;
    let rest = transaction.query_portal(&portal, 2).await.map_err(text)?;
    ensure(first.len() == 2 && rest.len() == 1, || format!("{} and {} rows", first.len(), rest.len()))?;
    ensure(first[1].get::<_, &str>(1) == "***9999", || "a portal's row is not masked".into())?;
    transaction.commit().await.map_err(text)?;
    let messages = client.simple_query("SELECT 1; SELECT ssn FROM customers WHERE id = 2").await.map_err(text)?;
    let seen: Vec<&str> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    ensure(seen == ["1", "***9999"], || format!("{seen:?}"))
}

async fn rust_denial(world: &World) -> Outcome {
    let client = connect(world).await?;
    let denied = client.execute("DELETE FROM orders WHERE id = $1", &[&1_i32]).await;
    let error = denied.err().ok_or("a DELETE was let through")?;
    ensure(error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE), || format!("{error:?}"))?;
    ensure(error.as_db_error().is_some_and(|error| error.hint().is_some()), || "no hint".into())?;
    let row = client.query_one("SELECT count(*) FROM orders WHERE id = 1", &[]).await.map_err(|e| e.to_string())?;
    ensure(row.get::<_, i64>(0) == 1, || "it ran".into())
}

async fn rust_cancel(world: &World) -> Outcome {
    let client = connect(world).await?;
    let token = client.cancel_token();
    let joins: String = (b'b'..=b'z').map(|letter| format!(", orders {}", letter as char)).collect();
    let long = format!("SELECT count(*) FROM orders a{joins}");
    let (ran, sent) = tokio::join!(client.query(&long, &[]), async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        token.cancel_query(NoTls).await
    });
    sent.map_err(|error| error.to_string())?;
    let error = ran.err().ok_or("it was not cancelled")?;
    ensure(error.code() == Some(&SqlState::QUERY_CANCELED), || format!("{error:?}"))
}
