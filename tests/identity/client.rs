//! The client program: this very binary, copied and started as another user.

use std::{
    io::{self, BufRead, Write},
    process::ExitCode,
    sync::Arc,
};

use tokio_postgres::NoTls;

/// First argument of a client.
pub const MARK: &str = "client-of-the-identity-suite";

/// Runs as a client if the arguments say so.
pub fn main() -> Option<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mark, port, connections, destinations @ ..] = &args[..] else { return None };
    if mark != MARK {
        return None;
    }
    Some(match run(port, connections, destinations) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}

fn run(port: &str, connections: &str, destinations: &[String]) -> Result<(), String> {
    let port: u16 = port.parse().map_err(|error| format!("{port}: {error}"))?;
    let connections: usize = connections.parse().map_err(|error| format!("{connections}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    println!("ready");
    io::stdout().flush().map_err(|error| error.to_string())?;
    io::stdin().lock().read_line(&mut String::new()).map_err(|error| error.to_string())?;
    let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
    let uid = nix::unistd::getuid();
    let pid = std::process::id();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for n in 0..connections {
            let host = destinations[n % destinations.len()].clone();
            let nonce = Arc::new(format!("nonce-{pid}-{n}"));
            let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            // Written down before the connect.
            println!("{nonce}\t{pid}\t{uid}\t{exe}\t{shown}");
            tasks.push(tokio::spawn(async move { one(&host, port, &nonce).await.map_err(|e| format!("{host}: {e}")) }));
        }
        for task in tasks {
            task.await.map_err(|error| error.to_string())??;
        }
        Ok(())
    })
}

async fn one(host: &str, port: u16, nonce: &str) -> Result<(), String> {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).dbname("postgres").user("somebody");
    let (client, connection) =
        config.connect(NoTls).await.map_err(|error| format!("{error}: {:?}", error.as_db_error()))?;
    let driver = tokio::spawn(connection);
    client.simple_query(&format!("SELECT '{nonce}'")).await.map_err(|error| error.to_string())?;
    drop(client);
    driver.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
