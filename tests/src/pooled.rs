//! PgBouncer, which stands before a server, and clients that only hold a session open: thousands of sessions for which no server needs a process each.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::{Authority, Cmd, Outcome, Postgres, Running, TempDir, free_port, wait_until};

/// PgBouncer runs as this user: it refuses to be root.
const USER: &str = "postgres";
const PATIENCE: Duration = Duration::from_secs(30);
/// Clients that it takes.
const CLIENTS: u32 = 30_000;

/// How many sessions of these a proxy can have at once, each of which takes two descriptors, where this process and what it starts
/// from now on may open as many files as the host lets them.
///
/// # Errors
/// The limit cannot be read or set.
pub fn at_most(wanted: usize) -> Outcome<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|error| error.to_string())?;
    let possible = usize::try_from(most.saturating_sub(400) / 2).unwrap_or(usize::MAX);
    if possible < wanted {
        println!("{possible} sessions instead of {wanted}: this host lets a process open {most} files");
    }
    Ok(possible.min(wanted))
}

/// A running PgBouncer, which asks its clients for no password, and speaks TLS with those that wish it.
#[derive(Debug)]
pub struct Pool {
    port: u16,
    process: Running,
    _files: TempDir,
}

impl Pool {
    /// Listens at these addresses, and hands out a few sessions of one server.
    ///
    /// # Errors
    /// It did not start.
    pub fn start(server: &Postgres, addresses: &[IpAddr]) -> Outcome<Self> {
        let socket = server.socket();
        let host = socket.parent().unwrap_or(Path::new("/")).display();
        let database = format!("host={host} port={} user=postgres", server.port());
        Self::listen(&database, addresses, "pool_mode = transaction\ndefault_pool_size = 4\nserver_reset_query =")
    }

    /// Listens at `address`, and has a session of the server at `host` for each client.
    ///
    /// # Errors
    /// As [`Pool::start`].
    pub fn sessions(host: IpAddr, port: u16, user: &str, password: &str, address: IpAddr) -> Outcome<Self> {
        let database = format!("host={host} port={port} user={user} password={password}");
        Self::listen(
            &database,
            &[address],
            "pool_mode = session\ndefault_pool_size = 100\nserver_reset_query = DISCARD ALL",
        )
    }

    fn listen(database: &str, addresses: &[IpAddr], pool: &str) -> Outcome<Self> {
        let files = TempDir::new().map_err(|error| format!("temporary directory: {error}"))?;
        let port = free_port(addresses)?;
        let listen: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let (certificate, key) = Authority::new("Pool")?.issue(&["localhost"])?;
        let write = |name, text| files.write(name, text, 0o644).map_err(|error| error.to_string());
        let (certificate, key) = (write("pool.crt", certificate)?, write("pool.key", key)?);
        let config = format!(
            "[databases]\n* = {database}\n\
             [pgbouncer]\nlisten_addr = {}\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n{pool}\n\
             max_client_conn = {CLIENTS}\nlog_connections = 0\nlog_disconnections = 0\n\
             ignore_startup_parameters = extra_float_digits,options\n\
             client_tls_sslmode = allow\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
            listen.join(", "),
            certificate.display(),
            key.display(),
        );
        let config = files.write("pgbouncer.ini", config, 0o644).map_err(|error| error.to_string())?;
        let process = Cmd::new("/usr/sbin/pgbouncer").args(["-u", USER]).arg(config).spawn()?;
        wait_until("PgBouncer listens", PATIENCE, || {
            addresses.iter().all(|address| TcpStream::connect((*address, port)).is_ok())
        })?;
        Ok(Self { port, process, _files: files })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Opens sessions as this process, and leaves them idle.
///
/// # Errors
/// One of them was refused.
pub fn sessions(to: SocketAddr, count: usize) -> Outcome<Vec<TcpStream>> {
    many(count, || {
        let mut socket = connected(to)?;
        log_in(&mut socket).map(|()| socket)
    })
}

/// The same with TLS, for which the server shows a certificate of `authority` (PEM) for its address.
///
/// # Errors
/// As [`sessions`]; not an authority.
pub fn encrypted(
    to: SocketAddr,
    authority: &str,
    count: usize,
) -> Outcome<Vec<StreamOwned<ClientConnection, TcpStream>>> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|error| error.to_string())?;
    roots.add(authority).map_err(|error| error.to_string())?;
    let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::from(to.ip());
    many(count, || {
        let mut socket = connected(to)?;
        socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).map_err(|error| error.to_string())?;
        let mut answer = [0];
        socket.read_exact(&mut answer).map_err(|error| error.to_string())?;
        if answer != *b"S" {
            return Err(format!("{to} does not speak TLS"));
        }
        let tls = ClientConnection::new(Arc::clone(&config), name.clone()).map_err(|error| error.to_string())?;
        let mut stream = StreamOwned::new(tls, socket);
        log_in(&mut stream).map(|()| stream)
    })
}

fn many<S>(count: usize, one: impl Fn() -> Outcome<S>) -> Outcome<Vec<S>> {
    (1..=count).map(|number| one().map_err(|error| format!("session {number} of {count}: {error}"))).collect()
}

/// Fails unless a session still answers a statement.
///
/// # Errors
/// It does not, or with an error.
pub fn answers(session: &mut TcpStream) -> Outcome {
    let statement = b"SELECT 1\0";
    let length = (statement.len() as u32 + 4).to_be_bytes();
    let message = [&b"Q"[..], &length, statement].concat();
    session.write_all(&message).map_err(|error| error.to_string())?;
    ready(session)
}

fn connected(to: SocketAddr) -> Outcome<TcpStream> {
    let socket = TcpStream::connect(to).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    Ok(socket)
}

fn log_in(stream: &mut (impl Read + Write)) -> Outcome {
    let parameters = b"\0\x03\0\0user\0app\0database\0postgres\0\0";
    let length = (parameters.len() as u32 + 4).to_be_bytes();
    stream.write_all(&[&length[..], parameters].concat()).map_err(|error| error.to_string())?;
    ready(stream)
}

/// Reads until the server waits for the next statement.
fn ready(socket: &mut impl Read) -> Outcome {
    loop {
        let mut head = [0; 5];
        socket.read_exact(&mut head).map_err(|error| error.to_string())?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length).saturating_sub(4) as usize;
        let mut body = vec![0; length.min(64 << 10)];
        socket.read_exact(&mut body).map_err(|error| error.to_string())?;
        match kind {
            b'Z' => return Ok(()),
            b'E' => return Err(String::from_utf8_lossy(&body).replace('\0', " ")),
            _ => {}
        }
    }
}
