//! A throwaway PostgreSQL server.

use std::{
    error::Error,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User},
};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// Where Debian puts the server's programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// How long the server may take to accept connections.
const STARTUP: Duration = Duration::from_secs(30);

/// Names the socket; the server listens on no TCP port.
const PORT: u16 = 5432;

/// A server in a temporary directory, reached by a Unix socket there. It stops, and its files go, when this is dropped.
pub struct Server {
    child: Child,
    directory: TempDir,
}

impl Server {
    /// Starts one, as the system user `postgres` if this is root.
    pub fn start() -> Result<Self, Box<dyn Error>> {
        let directory = tempfile::Builder::new().prefix("postern-sql-").tempdir()?;
        let data = directory.path().join("data");
        let user = nix::unistd::geteuid().is_root().then(|| User::from_name("postgres")).transpose()?.flatten();
        if let Some(user) = &user {
            chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        let program = |name: &str| {
            let mut command = Command::new(Path::new(PROGRAMS).join(name));
            command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Some(user) = &user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            command
        };
        let made = program("initdb")
            .arg("--pgdata")
            .arg(&data)
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"])
            .status()?;
        if !made.success() {
            return Err("initdb failed".into());
        }
        let child = program("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "autovacuum=off", "-p", &PORT.to_string()])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", directory.path().display()))
            .spawn()?;
        let server = Self { child, directory };
        let socket = server.sockets().join(format!(".s.PGSQL.{PORT}"));
        let deadline = Instant::now() + STARTUP;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if Instant::now() > deadline {
                return Err("the server does not start".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Directory of its socket.
    pub fn sockets(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// A connection of its superuser.
    pub async fn connect(&self) -> Result<Client, Box<dyn Error>> {
        let deadline = Instant::now() + STARTUP;
        loop {
            let mut config = tokio_postgres::Config::new();
            config.host_path(self.sockets()).port(PORT).user("postgres").dbname("postgres");
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return Ok(client);
                }
                // It accepts connections before it lets anyone in.
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// `psql` as its superuser.
    pub fn psql(&self) -> Command {
        let mut command = Command::new(Path::new(PROGRAMS).join("psql"));
        command
            .arg("--no-psqlrc")
            .arg("--host")
            .arg(self.sockets())
            .args(["--port", &PORT.to_string(), "--username=postgres", "--dbname=postgres"])
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A fast shutdown, so that its own children end as well.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let _ = self.child.wait();
    }
}
