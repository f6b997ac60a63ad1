//! The client program: this very binary, copied and started as another user.

use std::{
    io::{self, BufRead, Write},
    process::ExitCode,
};

use tokio::task::JoinHandle;
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
    let open = runtime.block_on(async {
        let mut tasks = Vec::new();
        for n in 0..connections {
            let host = destinations[n % destinations.len()].clone();
            let nonce = format!("nonce-{pid}-{n}");
            let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            // Written down before the connect.
            println!("{nonce}\t{pid}\t{uid}\t{exe}\t{shown}");
            tasks.push(tokio::spawn(async move { one(&host, port, &nonce).await.map_err(|e| format!("{host}: {e}")) }));
        }
        let mut open = Vec::new();
        for task in tasks {
            open.push(task.await.map_err(|error| error.to_string())??);
        }
        Ok::<_, String>(open)
    })?;
    // They stay open until all clients have theirs.
    println!("open");
    io::stdout().flush().map_err(|error| error.to_string())?;
    io::stdin().lock().read_line(&mut String::new()).map_err(|error| error.to_string())?;
    runtime.block_on(async {
        for (client, driver) in open {
            drop(client);
            driver.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

type Open = (tokio_postgres::Client, JoinHandle<Result<(), tokio_postgres::Error>>);

async fn one(host: &str, port: u16, nonce: &str) -> Result<Open, String> {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).dbname("postgres").user("somebody");
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.map_err(|error| format!("{error}: {:?}", error.as_db_error()))?;
    let driver = tokio::spawn(connection);
    client.simple_query(&format!("SELECT '{nonce}'")).await.map_err(|error| error.to_string())?;
    Ok((client, driver))
}
