//! Drivers for Rust, within this process.

use std::fmt::Write as _;

use ::sqlx::{Column as _, Connection as _, Executor as _, Row as _, TypeInfo as _};
use agent_tests::Outcome;
use tokio_postgres::{NoTls, types::Type};

use crate::world::{DATABASE, World, same_lines};

const TYPES: &str = "SELECT 1::int2 AS a, 2::int4 AS b, 3::int8 AS c, 1.5::float4 AS d, 2.5::float8 AS e, true AS f, 'x'::text AS g, \
                     '\\x00ff'::bytea AS h, ARRAY[1, NULL, 3] AS i, ARRAY['a', 'b,c'] AS j, NULL::int AS k";

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

pub fn tokio_postgres(world: &World) -> Outcome {
    world.reset()?;
    let runtime = runtime()?;
    let [direct, through] = world.ports().map(|port| runtime.block_on(with_tokio_postgres(port)));
    same_lines(
        &direct.map_err(|error| format!("directly: {error}"))?,
        &through.map_err(|error| format!("through the agent: {error}"))?,
    )
}

async fn with_tokio_postgres(port: u16) -> Result<String, tokio_postgres::Error> {
    let dsn = format!("host=127.0.0.1 port={port} dbname={DATABASE} user=postgres");
    let (mut client, connection) = tokio_postgres::connect(&dsn, NoTls).await?;
    tokio::spawn(connection);
    let mut seen = String::new();
    let row = client.query_one(TYPES, &[]).await?;
    let columns: Vec<String> =
        row.columns().iter().map(|column| format!("{}:{}", column.name(), column.type_())).collect();
    let values = (row.get::<_, i16>(0), row.get::<_, i32>(1), row.get::<_, i64>(2), row.get::<_, f32>(3));
    let more = (row.get::<_, f64>(4), row.get::<_, bool>(5), row.get::<_, String>(6), row.get::<_, Vec<u8>>(7));
    let rest = (row.get::<_, Vec<Option<i32>>>(8), row.get::<_, Vec<String>>(9), row.get::<_, Option<i32>>(10));
    let _ = writeln!(seen, "types {columns:?} {values:?} {more:?} {rest:?}");
    let statement = client.prepare_typed("SELECT name FROM items WHERE id = $1", &[Type::INT4]).await?;
    for id in [1, 2, 3, 1] {
        let _ =
            writeln!(seen, "prepared {:?}", client.query_one(&statement, &[&id]).await?.get::<_, Option<String>>(0));
    }
    // Without waiting: they go as one pipeline.
    let (one, two, three) = tokio::join!(
        client.query_one("SELECT $1::int4 + 1", &[&1_i32]),
        client.query_one("SELECT 1 / $1::int4", &[&0_i32]),
        client.query_one("SELECT $1::text", &[&"after"]),
    );
    let _ = writeln!(
        seen,
        "pipeline {:?} {:?} {:?}",
        one?.get::<_, i32>(0),
        two.err().and_then(|e| e.code().cloned()),
        three?.get::<_, &str>(0)
    );
    let mut transaction = client.transaction().await?;
    transaction.execute("INSERT INTO work VALUES (1, 'gone')", &[]).await?;
    let savepoint = transaction.savepoint("here").await?;
    let error = savepoint.execute("INSERT INTO work VALUES (1, 'twice')", &[]).await.err();
    let _ = writeln!(seen, "error {:?}", error.as_ref().and_then(tokio_postgres::Error::as_db_error));
    savepoint.rollback().await?;
    let portal = transaction.bind("SELECT id FROM many ORDER BY id", &[]).await?;
    let mut portions = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 900).await?;
        if rows.is_empty() {
            break;
        }
        portions.push(rows.len());
    }
    let _ = writeln!(seen, "portion {portions:?}");
    transaction.rollback().await?;
    let _ = writeln!(
        seen,
        "simple {:?}",
        client.simple_query("SELECT 1 AS a; SELECT name FROM items ORDER BY id; TRUNCATE work").await?
    );
    Ok(seen)
}

pub fn sqlx(world: &World) -> Outcome {
    world.reset()?;
    let runtime = runtime()?;
    let [direct, through] = world.ports().map(|port| runtime.block_on(with_sqlx(port)));
    same_lines(
        &direct.map_err(|error| format!("directly: {error}"))?,
        &through.map_err(|error| format!("through the agent: {error}"))?,
    )
}

async fn with_sqlx(port: u16) -> Result<String, ::sqlx::Error> {
    let url = format!("postgres://postgres@127.0.0.1:{port}/{DATABASE}?sslmode=disable");
    let mut conn = ::sqlx::PgConnection::connect(&url).await?;
    let mut seen = String::new();
    let row = conn.fetch_one(TYPES).await?;
    let columns: Vec<String> =
        row.columns().iter().map(|column| format!("{}:{}", column.name(), column.type_info().name())).collect();
    let values = (row.get::<i16, _>(0), row.get::<i64, _>(2), row.get::<f64, _>(4), row.get::<Vec<u8>, _>(7));
    let _ = writeln!(seen, "types {columns:?} {values:?} {:?}", row.get::<Vec<Option<i32>>, _>(8));
    for id in [1, 2, 3, 1] {
        let name: Option<String> =
            ::sqlx::query_scalar("SELECT name FROM items WHERE id = $1").bind(id).fetch_one(&mut conn).await?;
        let _ = writeln!(seen, "prepared {name:?}");
    }
    let described = conn.describe("SELECT id, name, price FROM items WHERE id = $1").await?;
    let _ = writeln!(seen, "describe {:?} {:?}", described.columns().len(), described.nullable);
    let mut transaction = conn.begin().await?;
    ::sqlx::query("INSERT INTO work VALUES ($1, $2)").bind(1).bind("gone").execute(&mut *transaction).await?;
    let mut inner = transaction.begin().await?;
    let error = ::sqlx::query("INSERT INTO work VALUES (1, 'twice')").execute(&mut *inner).await.err();
    let code = error.as_ref().and_then(|error| error.as_database_error()?.code().map(|code| code.into_owned()));
    let _ = writeln!(seen, "error {code:?}");
    inner.rollback().await?;
    let kept: i64 = ::sqlx::query_scalar("SELECT count(*) FROM work").fetch_one(&mut *transaction).await?;
    let _ = writeln!(seen, "savepoint {kept}");
    transaction.rollback().await?;
    let many = ::sqlx::query("SELECT * FROM many ORDER BY id").fetch_all(&mut conn).await?;
    let _ = writeln!(seen, "portion {}", many.iter().map(|row| row.get::<String, _>(1).len()).sum::<usize>());
    let mut copy = conn.copy_in_raw("COPY work FROM STDIN").await?;
    copy.send(&b"1\tone\n2\ttwo\n"[..]).await?;
    let _ = writeln!(seen, "copy {}", copy.finish().await?);
    conn.execute("TRUNCATE work").await?;
    conn.close().await?;
    Ok(seen)
}
