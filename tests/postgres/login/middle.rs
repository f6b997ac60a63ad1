//! Somebody in the middle of a connection, and clients and servers that know TLS but no protocol.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use agent_tests::{Authority, Outcome};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
    StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const PATIENCE: Duration = Duration::from_secs(20);

/// What somebody in the middle does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Says that there is no TLS, and passes on in plaintext.
    NoTls,
    /// Ends TLS with a certificate of its own, and passes on within TLS.
    Terminate,
    /// The same, and takes the offer of channel binding out.
    TerminateAndStrip,
}

/// Stands before a server, and gives the place where.
pub fn stand_before(server: SocketAddr, attack: Attack) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let place = listener.local_addr().map_err(|error| error.to_string())?;
    let (cert, key) = Authority::new("Mallory")?.issue(&["127.0.0.1", "orders.test"])?;
    let own = Arc::new(server_config(&cert, &key)?);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let own = Arc::clone(&own);
            // A side that gives up is what is wanted.
            thread::spawn(move || drop(relay(client, server, attack, own)));
        }
    });
    Ok(place)
}

fn relay(mut client: TcpStream, server: SocketAddr, attack: Attack, own: Arc<ServerConfig>) -> Outcome {
    let io = |error: std::io::Error| error.to_string();
    client.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    let mut request = [0; 8];
    client.read_exact(&mut request).map_err(io)?;
    if attack == Attack::NoTls {
        client.write_all(b"N").map_err(io)?;
        let mut server = TcpStream::connect(server).map_err(io)?;
        return exchange(&mut client, &mut server, attack);
    }
    client.write_all(b"S").map_err(io)?;
    let connection = ServerConnection::new(own).map_err(|error| error.to_string())?;
    let mut client = StreamOwned::new(connection, client);
    let mut server = connect(server, true, Some("postgresql"))?;
    exchange(&mut client, &mut server, attack)
}

/// Passes messages on in turn, as a login goes: one side speaks, then the other.
fn exchange(client: &mut (impl Read + Write), server: &mut (impl Read + Write), attack: Attack) -> Outcome {
    const OFFER: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    let io = |error: std::io::Error| error.to_string();
    let mut buffer = [0; 16 << 10];
    loop {
        let count = client.read(&mut buffer).map_err(io)?;
        server.write_all(&buffer[..count]).map_err(io)?;
        let count = server.read(&mut buffer).map_err(io)?;
        if count == 0 {
            return Ok(());
        }
        if attack == Attack::TerminateAndStrip && buffer[..count].ends_with(OFFER) {
            client.write_all(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0").map_err(io)?;
        } else {
            client.write_all(&buffer[..count]).map_err(io)?;
        }
        client.flush().map_err(io)?;
    }
}

/// Connects with TLS, trusting anybody; `ask`: after an SSLRequest.
pub fn connect(server: SocketAddr, ask: bool, alpn: Option<&str>) -> Outcome<StreamOwned<ClientConnection, TcpStream>> {
    let io = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(server).map_err(io)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    if ask {
        stream.write_all(SSL_REQUEST).map_err(io)?;
        let mut answer = [0];
        stream.read_exact(&mut answer).map_err(io)?;
        if answer != *b"S" {
            return Err(format!("SSLRequest was answered with {answer:?}"));
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("orders.test").map_err(|error| error.to_string())?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    let mut tls = StreamOwned::new(connection, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).map_err(io)?;
    }
    Ok(tls)
}

/// A server that accepts TLS without a word about ALPN, and then closes.
pub fn without_alpn() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let place = listener.local_addr().map_err(|error| error.to_string())?;
    let (cert, key) = Authority::new("Somebody")?.issue(&["127.0.0.1"])?;
    let config = Arc::new(server_config(&cert, &key)?);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if let Ok(connection) = ServerConnection::new(Arc::clone(&config)) {
                let mut tls = StreamOwned::new(connection, client);
                let _closed = tls.read(&mut [0; 1024]);
            }
        }
    });
    Ok(place)
}

fn server_config(cert: &str, key: &str) -> Outcome<ServerConfig> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| error.to_string())?;
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(|error| error.to_string())?, key)
        .map_err(|error| error.to_string())
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
