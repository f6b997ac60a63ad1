//! Protocol 3.0 and 3.2, and servers from the oldest that is supported to the newest.

use agent_tests::{Auth, Outcome, Postgres, Python, Suite};

use super::{SESSION, script};
use crate::{
    cases::{expect, fails, holds},
    proxy::{Builder, Proxy},
    server_of,
};

pub fn cases<'a>(mut suite: Suite<'a>, python: &'a Python) -> Suite<'a> {
    for version in [12, 15, 18] {
        suite = suite
            .case(format!("PostgreSQL {version}: an ordinary session, protocol 3.0 and the newest"), move || {
                ordinary(python, version)
            });
    }
    suite
}

/// A connection string for the server itself.
pub fn direct(server: &Postgres) -> String {
    format!("host=127.0.0.1 port={} dbname=shop user=app password='upstream secret' sslmode=disable", server.port())
}

fn ordinary(python: &Python, version: u32) -> Outcome {
    let server = server_of(Auth::Scram, version)?;
    let proxy = Builder::new(&server).start()?;
    for (asked, spoken) in [("3.0", "30000"), ("latest", if version < 18 { "30000" } else { "30002" })] {
        let with = |dsn: &str| script(python, SESSION, &format!("{dsn} max_protocol_version={asked}"));
        let (without, through) = (with(&direct(&server))?, with(&proxy.dsn(""))?);
        expect(&through, &without)?;
        holds(&through, &format!("protocol {spoken}"))?;
        holds(&through, "cancelled 57014 True")?;
    }
    // A client that insists on 3.2 gets what the server has.
    let insists =
        |dsn: &str| script(python, SESSION, &format!("{dsn} min_protocol_version=3.2 max_protocol_version=latest"));
    if version < 18 {
        let (without, through) = (insists(&direct(&server)), insists(&proxy.dsn("")));
        for error in [without, through] {
            holds(&error.err().unwrap_or_default(), "protocol version")?;
        }
    } else {
        insists(&proxy.dsn(""))?;
    }
    refused_alike(&proxy)
}

/// What the server refuses at login is told in its words.
fn refused_alike(proxy: &Proxy) -> Outcome {
    let missing = agent_tests::Cmd::psql(&proxy.dsn("dbname=nowhere"), "SELECT 1").run()?;
    holds(&missing.stderr, "database \"nowhere\" does not exist")?;
    holds(&fails(proxy, "SELECT no_such_column FROM products")?, "column \"no_such_column\" does not exist")
}
