//! The server as the oracle: a role with exactly the privileges that correspond to the requests of a text can run it,
//! and a role that lacks any one of them cannot.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::atomic::{AtomicUsize, Ordering},
};

use agent::model::Request;
use tokio_postgres::{Client, error::SqlState};

use crate::{corpus::Case, server::Server};

static ROLES: AtomicUsize = AtomicUsize::new(0);

/// Takes from PUBLIC what the cases grant: functions of `pg_catalog` are everyone's by default.
pub async fn prepare(admin: &Client, cases: &[Case]) -> Result<(), Box<dyn Error>> {
    let calls: BTreeSet<String> = cases
        .iter()
        .filter(|case| case.ungrantable.is_none())
        .flat_map(|case| &case.needs)
        .filter(|need| need.action == "sql:call")
        .map(|need| quoted(need).join("."))
        .collect();
    for function in calls {
        for overload in overloads(admin, &function).await? {
            admin.batch_execute(&format!("REVOKE ALL ON ROUTINE {overload} FROM PUBLIC")).await?;
        }
    }
    Ok(())
}

/// Runs the text of a case with its privileges, and without each. Returns what is wrong.
pub async fn ask(server: &Server, admin: &Client, case: &Case) -> Result<Vec<String>, Box<dyn Error>> {
    let role = format!("subject_{}", ROLES.fetch_add(1, Ordering::Relaxed));
    let mut privileges = BTreeSet::new();
    for need in &case.needs {
        privileges.extend(privilege(admin, need).await?);
    }
    admin.batch_execute(&format!("CREATE ROLE {role}")).await?;
    for privilege in &privileges {
        admin.batch_execute(&format!("GRANT {privilege} TO {role}")).await?;
    }
    let mut problems = Vec::new();
    if let Err(error) = attempt(server, &role, case).await? {
        problems.push(format!("with all its privileges the server says: {}", said(&error)));
    }
    for privilege in &privileges {
        admin.batch_execute(&format!("REVOKE {privilege} FROM {role}")).await?;
        match attempt(server, &role, case).await? {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
            Err(error) => problems.push(format!("without {privilege} the server says: {}", said(&error))),
            Ok(()) => problems.push(format!("the server does not ask for {privilege}")),
        }
        admin.batch_execute(&format!("GRANT {privilege} TO {role}")).await?;
    }
    admin.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await?;
    Ok(problems)
}

fn said(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |error| format!("{} ({})", error.message(), error.code().code()))
}

/// Runs a text as a role, on a connection of its own, and undoes what it did.
async fn attempt(
    server: &Server,
    role: &str,
    case: &Case,
) -> Result<Result<(), tokio_postgres::Error>, Box<dyn Error>> {
    let actor = server.connect().await?;
    let path = case.path.as_ref().map_or_else(|| "public, sales".to_owned(), |path| path.join(", "));
    actor.batch_execute(&format!("SET search_path = {path}; SET SESSION AUTHORIZATION {role}")).await?;
    actor.batch_execute("BEGIN").await?;
    Ok(if case.sql.starts_with("COPY") {
        copy(&actor, &case.sql).await
    } else {
        actor.simple_query(&case.sql).await.map(drop)
    })
}

async fn copy(actor: &Client, sql: &str) -> Result<(), tokio_postgres::Error> {
    if sql.contains("STDIN") {
        let sink = actor.copy_in::<_, bytes::Bytes>(sql).await?;
        let mut sink = std::pin::pin!(sink);
        sink.as_mut().finish().await.map(drop)
    } else {
        actor.copy_out(sql).await.map(drop)
    }
}

/// The privileges that correspond to a request, for GRANT.
async fn privilege(admin: &Client, need: &Request) -> Result<Vec<String>, Box<dyn Error>> {
    let levels = need.resource.levels();
    let name = quoted(need).join(".");
    let on_table = |privilege: &str| vec![format!("{privilege} ON {name}")];
    Ok(match (need.action.as_str(), need.resource.kind()) {
        ("sql:select", "Table") => on_table("SELECT"),
        ("sql:insert", "Table") => on_table("INSERT"),
        ("sql:update" | "sql:lock", "Table") => on_table("UPDATE"),
        ("sql:delete", "Table") => on_table("DELETE"),
        ("sql:truncate", "Table") => on_table("TRUNCATE"),
        ("sql:create", "Schema") if levels.last().is_some_and(|level| level.name == "pg_temp") => {
            vec!["TEMPORARY ON DATABASE postgres".into()]
        }
        ("sql:create", "Schema") => vec![format!("CREATE ON SCHEMA {name}")],
        ("sql:create", "Database") => vec!["CREATE ON DATABASE postgres".into()],
        ("sql:call", "Function") => {
            let overloads = overloads(admin, &name).await?;
            vec![format!("EXECUTE ON ROUTINE {}", overloads.join(", "))]
        }
        // The server has no privilege for these: what the statement reads and writes is asked for beside them.
        ("sql:basics" | "sql:copy_in" | "sql:copy_out" | "sql:merge", _) => Vec::new(),
        (action, kind) => return Err(format!("{action} on a {kind} cannot be granted: say why in the case").into()),
    })
}

/// Every function of a name, with its arguments, for GRANT.
async fn overloads(admin: &Client, function: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let query = "SELECT p.oid::regprocedure::text FROM pg_proc p \
                 WHERE p.pronamespace::regnamespace::text || '.' || p.proname = $1";
    let rows = admin.query(query, &[&function.replace('"', "")]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The names of a resource below its database.
fn quoted(need: &Request) -> Vec<String> {
    need.resource.levels().iter().skip(2).map(|level| format!("\"{}\"", level.name)).collect()
}
