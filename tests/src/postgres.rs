//! Throwaway PostgreSQL servers.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{Authority, Cmd, Outcome, TempDir, free_port, undo::Guarded, users, wait_until};

/// Where Debian keeps the server's programs.
pub const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Its version.
const DEBIAN: u32 = 15;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the server's programs of another version are, as `cargo xtask setup` installed them.
fn programs(version: u32) -> Outcome<PathBuf> {
    if version == DEBIAN {
        return Ok(BIN.into());
    }
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let name = format!("tools/postgresql-{version}/bin");
    let found = this.ancestors().find_map(|dir| dir.join(&name).canonicalize().ok());
    found.ok_or_else(|| format!("PostgreSQL {version} is missing: cargo xtask setup"))
}

/// How the server asks for a password over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    Trust,
    /// In the clear.
    Cleartext,
    /// Hashed with MD5.
    Md5,
    /// By SCRAM-SHA-256.
    Scram,
    /// Not for a password, but for a client's certificate.
    Certificate,
}

impl Auth {
    fn method(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Cleartext => "password",
            Self::Md5 => "md5",
            Self::Scram => "scram-sha-256",
            Self::Certificate => "cert",
        }
    }
}

/// What a server shall be like.
#[derive(Debug)]
pub struct PostgresBuilder {
    version: u32,
    listen: Vec<IpAddr>,
    auth: Auth,
    tls: Option<(Authority, Vec<String>)>,
    tls_only: bool,
    clients: Option<String>,
    settings: Vec<String>,
    logins: Vec<(String, String)>,
}

impl PostgresBuilder {
    /// Is of this major version: 12, 15 or 18. Default: 15.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Listens at these addresses, all with the same port. Default: `127.0.0.1` and `::1`.
    #[must_use]
    pub fn listen(mut self, addresses: &[IpAddr]) -> Self {
        self.listen = addresses.to_vec();
        self
    }

    /// Asks for passwords this way over TCP. Default: [`Auth::Scram`].
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Offers TLS with a certificate for these names and addresses, from an authority of its own.
    ///
    /// # Errors
    /// The authority could not be made.
    pub fn tls(mut self, names: &[&str]) -> Outcome<Self> {
        let names = names.iter().map(ToString::to_string).collect();
        self.tls = Some((Authority::new("Test servers")?, names));
        Ok(self)
    }

    /// Refuses TCP connections without TLS.
    #[must_use]
    pub fn tls_only(mut self) -> Self {
        self.tls_only = true;
        self
    }

    /// Asks clients for a certificate in TLS, which it takes from this authority only.
    #[must_use]
    pub fn clients_of(mut self, authority: &Authority) -> Self {
        self.clients = Some(authority.pem().into());
        self
    }

    /// A line for `postgresql.conf`, such as `max_connections = 300`.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.into());
        self
    }

    /// Makes a role that may log in, without further rights.
    #[must_use]
    pub fn login(mut self, name: &str, password: &str) -> Self {
        self.logins.push((name.into(), password.into()));
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// A step failed; the server's log is in the text.
    pub fn start(self) -> Outcome<Postgres> {
        let owner = users::find("postgres")?.ok_or("there is no system user postgres: cargo xtask setup")?;
        let (uid, gid) = (owner.uid.as_raw(), owner.gid.as_raw());
        let dir = TempDir::new().map_err(|error| format!("temporary directory: {error}"))?;
        let io = |error: io::Error| format!("{}: {error}", dir.path().display());
        let sockets = dir.dir("sockets", 0o700, uid, gid).map_err(io)?;
        let data = dir.dir("data", 0o700, uid, gid).map_err(io)?;
        let programs = programs(self.version)?;
        Cmd::new(programs.join("initdb"))
            .args([
                "--no-sync",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--username=postgres",
                "--pgdata",
            ])
            .arg(&data)
            .user(uid, gid)
            .limit(PATIENCE * 2)
            .ok()?;
        let certificate = match &self.tls {
            Some((authority, names)) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let (cert, key) = authority.issue(&names)?;
                dir.write("ca.pem", authority.pem(), 0o644).map_err(io)?;
                let cert = dir.write("server.crt", cert, 0o644).map_err(io)?;
                let key = dir.write("data/server.key", key, 0o600).map_err(io)?;
                chown(&key, Some(uid), Some(gid)).map_err(io)?;
                Some((cert, key))
            }
            None => None,
        };
        dir.write("data/pg_hba.conf", self.hba(), 0o644).map_err(io)?;
        let port = free_port(&self.listen)?;
        if let Some(pem) = &self.clients {
            dir.write("clients.pem", pem, 0o644).map_err(io)?;
        }
        let conf = self.conf(port, &sockets, certificate.as_ref());
        dir.write("data/postgresql.conf", conf, 0o644).map_err(io)?;
        let process = serve(&programs, &dir, uid, gid).map_err(io)?;
        let mut server = Postgres { programs, process, dir, sockets, listen: self.listen, port, certificate, uid, gid };
        server.await_ready()?;
        if self.auth == Auth::Md5 {
            server.sql("postgres", "ALTER SYSTEM SET password_encryption = 'md5'; ")?;
            server.sql("postgres", "SELECT pg_reload_conf()")?;
        }
        for (name, password) in &self.logins {
            let encryption = if self.auth == Auth::Md5 { "md5" } else { "scram-sha-256" };
            server.sql(
                "postgres",
                &format!(
                    "SET password_encryption = '{encryption}'; CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'"
                ),
            )?;
        }
        Ok(server)
    }

    fn hba(&self) -> String {
        let tcp = if self.tls_only || self.auth == Auth::Certificate { "hostssl" } else { "host" };
        let method = self.auth.method();
        let of = |databases| format!("{tcp} {databases} all 0.0.0.0/0 {method}\n{tcp} {databases} all ::/0 {method}\n");
        format!("local all all trust\n{}{}", of("all"), of("replication"))
    }

    fn conf(&self, port: u16, sockets: &Path, certificate: Option<&(PathBuf, PathBuf)>) -> String {
        let listen: Vec<String> = self.listen.iter().map(ToString::to_string).collect();
        let mut lines = vec![
            format!("listen_addresses = '{}'", listen.join(",")),
            format!("port = {port}"),
            format!("unix_socket_directories = '{}'", sockets.display()),
            "max_connections = 100".into(),
            // The data is thrown away: durability would only cost time.
            "fsync = off".into(),
            "synchronous_commit = off".into(),
            "full_page_writes = off".into(),
            "log_statement = 'all'".into(),
            "log_connections = on".into(),
            "log_line_prefix = '%p %e %q%u@%d '".into(),
            "timezone = 'UTC'".into(),
            "log_timezone = 'UTC'".into(),
        ];
        if let Some((cert, key)) = certificate {
            lines.push("ssl = on".into());
            lines.push(format!("ssl_cert_file = '{}'", cert.display()));
            lines.push(format!("ssl_key_file = '{}'", key.display()));
        }
        if self.clients.is_some() {
            // Relative to the data.
            lines.push("ssl_ca_file = '../clients.pem'".into());
        }
        lines.extend(self.settings.iter().cloned());
        lines.join("\n") + "\n"
    }
}

fn serve(programs: &Path, dir: &TempDir, uid: u32, gid: u32) -> io::Result<Guarded> {
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let mut command = Command::new(programs.join("postgres"));
    command.arg("-D").arg(dir.join("data")).env_clear().env("LANG", "C.UTF-8").current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).uid(uid).gid(gid);
    Guarded::spawn(&mut command)
}

/// A running server with the superuser `postgres`, stopped and removed on drop.
///
/// It writes every statement into its [`log`](Self::log), each line after pid and SQLSTATE.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    process: Guarded,
    dir: TempDir,
    sockets: PathBuf,
    listen: Vec<IpAddr>,
    port: u16,
    certificate: Option<(PathBuf, PathBuf)>,
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// A server as most tests need it.
    #[must_use]
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder {
            version: DEBIAN,
            listen: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            auth: Auth::Scram,
            tls: None,
            tls_only: false,
            clients: None,
            settings: Vec::new(),
            logins: Vec::new(),
        }
    }

    /// Its TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listen.iter().map(|address| SocketAddr::new(*address, self.port)).collect()
    }

    /// Pid of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its Unix socket, which only root and the system user `postgres` can reach, without a password.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.sockets.join(format!(".s.PGSQL.{}", self.port))
    }

    /// Certificate (PEM) of its authority, if it offers TLS.
    #[must_use]
    pub fn ca(&self) -> Option<PathBuf> {
        self.certificate.as_ref().map(|_| self.dir.join("ca.pem"))
    }

    /// Its own certificate and key (PEM), if it offers TLS. Only root and `postgres` can read the key.
    #[must_use]
    pub fn certificate(&self) -> Option<(&Path, &Path)> {
        self.certificate.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()))
    }

    /// Has it present another certificate and key (PEM) from now on.
    ///
    /// # Errors
    /// It does not take them.
    pub fn present(&self, cert: &str, key: &str) -> Outcome {
        let written = |error: io::Error| error.to_string();
        self.dir.write("server.crt", cert, 0o644).map_err(written)?;
        let key = self.dir.write("data/server.key", key, 0o600).map_err(written)?;
        chown(&key, Some(self.uid), Some(self.gid)).map_err(written)?;
        let loaded = || self.sql("postgres", "SELECT pg_conf_load_time()");
        let before = loaded()?;
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        wait_until("the certificate is read", PATIENCE, || loaded().is_ok_and(|now| now != before))
    }

    /// Runs SQL as the superuser through the Unix socket, and gives the rows, unaligned and separated by `|`.
    ///
    /// # Errors
    /// The server refused it.
    pub fn sql(&self, database: &str, text: &str) -> Outcome<String> {
        self.admin(database).input(text).ok().map(|rows| rows.trim_end().to_owned())
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Stops the server, which cuts its connections, and waits for its end.
    pub fn stop(&mut self) {
        self.process.signal(Signal::SIGINT);
        let ended = wait_until("the server has ended", PATIENCE, || {
            self.process.child.try_wait().is_ok_and(|status| status.is_some())
        });
        if ended.is_err() {
            self.process.kill();
        }
    }

    /// Starts it again, at the same port.
    ///
    /// # Errors
    /// It did not answer in time.
    pub fn start_again(&mut self) -> Outcome {
        self.stop();
        self.process = serve(&self.programs, &self.dir, self.uid, self.gid).map_err(|error| error.to_string())?;
        self.await_ready()
    }

    fn admin(&self, database: &str) -> Cmd {
        Cmd::new(format!("{BIN}/psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-f", "-"])
            .arg("-h")
            .arg(&self.sockets)
            .args(["-p", &self.port.to_string(), "-d", database])
    }

    fn await_ready(&mut self) -> Outcome {
        let probe = self.admin("postgres").input("SELECT 1");
        let process = &mut self.process;
        let mut ended = false;
        wait_until("PostgreSQL answers", PATIENCE, || {
            ended = process.child.try_wait().is_ok_and(|status| status.is_some());
            ended || probe.ok().is_ok()
        })
        .and_then(|()| if ended { Err("PostgreSQL ended".into()) } else { Ok(()) })
        .map_err(|error| format!("{error}\n{}", self.log()))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}
