//! PostgreSQL, protocol 3.0 and 3.2: one connection, top to bottom, is [`serve`].
//!
//! *Invariant:* nothing of a client's reaches the server but through the machine and the gate.

mod authenticate;
mod cancel;
mod database;
mod error;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod greeting;
mod machine;
mod message;
mod relay;
mod replication;
mod scram;
pub mod sql;
mod startup;
mod upstream;
mod value;
mod view;
mod wire;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::BufMut;
use tokio::{net::TcpStream, time::timeout};

use self::{
    authenticate::{LoginError, authenticate},
    cancel::{Issued, Running},
    database::{Database, DatabaseError, Shared, Snapshot},
    error::NativeError,
    frame::server,
    greeting::{Greeting, GreetingError, greet},
    machine::{Machine, Start},
    relay::{Session, relay},
    sql::{Reading, Replication},
    startup::{CancelKey, Startup, identity},
    upstream::{Upstream, UpstreamError},
    wire::Client,
};
use super::{Connection, HostError, Request, tls::TlsError};
use crate::{
    config::{ApplicationName, CredentialSource},
    gate::{Admission, Gate},
    limits::Place,
    masking::without_values,
    model::{self, Action, Boxed, Denial, Limit, Mode, Resource, Verdict},
    recording::{Event, SessionStart},
};

/// Serves one connection to its end. Whatever goes wrong is told to the client natively, and recorded.
#[must_use]
pub fn serve(socket: TcpStream, connection: Connection) -> Boxed<'static, ()> {
    Box::pin(session(socket, connection))
}

/// Carries out a cancel request, if its session is open in this process.
#[must_use]
pub fn aside(request: &Request) -> Boxed<'_, bool> {
    Box::pin(async move {
        cancel::cancel(request).await.unwrap_or_else(|error| {
            tracing::warn!(target = %request.target, %error, "a cancel request was not passed on");
            true
        })
    })
}

/// Why there was no session. What the client is told, and what is recorded.
struct Refusal {
    native: Box<NativeError>,
    denial: Box<Denial>,
    /// Whether it is for the operator to mend, and not about what the client wished.
    is_trouble: bool,
}

impl Refusal {
    fn new(native: NativeError, denial: Denial) -> Self {
        Self { native: Box::new(native), denial: Box::new(denial), is_trouble: false }
    }

    fn trouble(self, is_trouble: bool) -> Self {
        Self { is_trouble, ..self }
    }

    /// The client was asked for a password in vain.
    fn login(error: &LoginError, user: &str) -> Self {
        let is_trouble = matches!(error, LoginError::Host(_) | LoginError::Random(_));
        Self::new(error.native(user), Denial::closed(error.to_string())).trouble(is_trouble)
    }

    /// Which target it was about, if it is for the operator to mend.
    fn at(self, connection: &Connection) -> Self {
        if !self.is_trouble {
            return self;
        }
        let detail = format!("The target is \"{}\", at {}.", connection.target.name, connection.destination);
        Self { native: Box::new(self.native.detail(detail)), ..self }
    }
}

/// What is wrong, and what to do about it, in one text.
fn advised(what: &dyn std::fmt::Display, remedy: Option<&str>) -> String {
    match remedy {
        Some(remedy) => format!("{what}. {remedy}"),
        None => what.to_string(),
    }
}

/// What a login comes to: the session, its client, and what lets that ask for a statement's end.
struct Open {
    session: Box<Session>,
    client: Box<Client>,
    _key: Option<Issued>,
}

async fn session(socket: TcpStream, connection: Connection) {
    // Small messages go back and forth; waiting to fill a packet would only delay them, so a failure here is only slow.
    let _delayed = socket.set_nodelay(true);
    let connection = Arc::new(connection);
    // In memory of its own, so that a session does not hold for its whole time what only its login needs.
    if let Some(open) = Box::pin(open(socket, &connection)).await {
        connection.host.attempted(&connection.target.name, None);
        relay(open.session, open.client, &*connection.host).await;
    }
}

/// Up to a session; `None` once it is said and recorded why there is none.
async fn open(socket: TcpStream, connection: &Arc<Connection>) -> Option<Open> {
    let (mut client, mut startup) = match greet(connection, socket).await {
        Ok(Greeting::Session(client, startup)) => (client, startup),
        Ok(Greeting::Cancel(key)) => {
            cancel_requested(connection, &key).await;
            return None;
        }
        Err(error) => {
            not_greeted(connection, error).await;
            return None;
        }
    };
    let begun = match authenticate(connection, &mut client, &startup).await {
        Ok(()) => timeout(upstream::PATIENCE, begin(connection, &mut client, &mut startup))
            .await
            .unwrap_or_else(|_| Err(UpstreamError::Late.into())),
        Err(error) => Err(Refusal::login(&error, &startup.user)),
    };
    match begun {
        Ok((session, key)) => Some(Open { session, client, _key: key }),
        Err(refusal) => {
            if refusal.is_trouble {
                connection.host.attempted(&connection.target.name, Some(&refusal.denial.reason));
            }
            record_refusal(connection, &refusal.denial);
            farewell(*client, &refusal.native).await;
            None
        }
    }
}

async fn cancel_requested(connection: &Connection, key: &CancelKey) {
    let request = Request {
        protocol: connection.target.protocol.clone(),
        target: connection.target.name.clone(),
        destination: connection.destination,
        body: key.body(),
    };
    let (target, principal) = (connection.target.name.clone(), Arc::clone(&connection.principal));
    // First: the target may take its time.
    record(connection, &Event::CancelRequested { target, principal });
    if !aside(&request).await {
        connection.host.elsewhere(request);
    }
}

/// From the client's wish to a server that is ready for its first statement.
async fn begin(
    connection: &Arc<Connection>,
    client: &mut Client,
    startup: &mut Startup,
) -> Result<(Box<Session>, Option<Issued>), Refusal> {
    let (mut gate, admission) = admit(connection)?;
    let (place, beyond) = enter(connection)?;
    let reading = Reading {
        target: connection.target.name.clone(),
        database: startup.database.clone(),
        search_path: None,
        replication: startup.replication,
    };
    permit_settings(&mut gate, startup, &reading)?;
    replication::permit_connection(&mut gate, &reading, !connection.target.columns.is_empty())?;

    let mut details = details(startup);
    if connection.target.application_name == ApplicationName::Identity {
        let own = startup.rename(identity(connection.principal.roles.first(), &connection.subject.session));
        details.extend(own.map(|own| ("application_name".to_owned(), own)));
    }
    let (upstream, user) =
        log_in(connection, &admission, startup, client).await.map_err(|refusal| refusal.at(connection))?;
    let Upstream { mut server, minor, greetings, key, encoding, conforming, server_is_utf8 } = upstream;
    let shared = Shared::of(&reading.target, connection.destination, &reading.database);
    let mut asides = Vec::new();
    let (snapshot, rules) = match reading.replication {
        // There is no database whose columns could be known.
        Some(Replication::Physical) => (Snapshot::nothing(), Vec::new()),
        logical => {
            let snapshot = shared.young(&mut server, &admission, logical.is_some(), &mut asides).await?;
            (snapshot, connection.target.columns.clone())
        }
    };
    let database = database::database(&reading);
    let view = Database::new(&shared, snapshot, &rules, reading.clone(), &mut gate).map_err(DatabaseError::from)?;
    replication::permit(&mut gate, &reading, &view)?;
    let running = |key| Running { connection: Arc::clone(connection), admission: admission.clone(), key };
    let running = key.map(running);
    let issued = match &running {
        Some(running) => Some(Issued::new(running.clone(), minor)?),
        None => None,
    };

    let session = &connection.subject.session;
    let started = SessionStart {
        session: session.clone(),
        principal: Arc::clone(&connection.principal),
        target: connection.target.name.clone(),
        protocol: connection.target.protocol.clone(),
        mode: connection.subject.mode,
        rules: admission.rules().to_vec(),
        client_tls: client.stream().tls(),
        server_tls: server.stream().tls(),
        upstream_user: user,
        client_user: startup.user.clone(),
        details,
    };
    gate.record(&Event::SessionStarted(Box::new(started)))?;
    if let Some(limit) = beyond {
        gate.record(&Event::LimitReached { session: session.clone(), operation: None, limit })?;
    }
    let machine = Machine::new(Start {
        admission: admission.clone(),
        mode: connection.subject.mode,
        session: session.as_str().into(),
        database,
        view: view.clone(),
        encoding,
        conforming,
        server_is_utf8,
        key: Arc::clone(&connection.masking_key),
        limits: Arc::new(connection.services.limits.statement()),
    });
    welcome(client, startup, minor, issued.as_ref().map(Issued::key));
    let taken = shared.newest().map_or_else(Instant::now, |(taken, _)| taken);
    let mut session = Box::new(Session {
        gate,
        admission,
        machine,
        server,
        running,
        cancelling: None,
        view,
        shared,
        taken,
        rules,
        reading,
        _place: place,
    });
    session.show(greetings.into_iter().chain(asides));
    Ok((session, issued))
}

/// What else the record of a session's beginning says.
fn details(startup: &Startup) -> BTreeMap<String, String> {
    let replication = startup.replication.map(|replication| ("replication".to_owned(), replication.name().to_owned()));
    replication.into_iter().chain([("database".to_owned(), startup.database.clone())]).collect()
}

/// Decides whether there may be a session at all.
fn admit(connection: &Connection) -> Result<(Gate, Admission), Refusal> {
    let resource = Resource::target(&connection.target.name);
    let connect = Action { requests: [model::Request::new("connect", resource)].into(), facts: BTreeMap::new() };
    Ok(Gate::admit(connection.services.clone(), connection.subject.clone(), &connect)?)
}

/// Counts the session, if its roles have room for one more; else, where nothing is enforced, with what would have kept it out.
fn enter(connection: &Connection) -> Result<(Place, Option<Limit>), Refusal> {
    match (connection.services.limits.enter(), connection.subject.mode) {
        ((_, Some(limit)), Mode::Enforce) => Err(Denial::from(limit).into()),
        (entered, _) => Ok(entered),
    }
}

/// Decides every setting of the StartupMessage as if it came by SET.
fn permit_settings(gate: &mut Gate, startup: &Startup, reading: &Reading) -> Result<(), Refusal> {
    for (name, value) in &startup.settings {
        if let Verdict::Deny(denial) = gate.verdict(&sql::setting(name, Some(value), reading))
            && gate.subject().mode == Mode::Enforce
        {
            let reason = format!("setting {name} when connecting: {}", denial.reason);
            return Err(Denial { reason, ..denial }.into());
        }
    }
    Ok(())
}

/// Logs in at the target; with the name that was logged in.
async fn log_in(
    connection: &Connection,
    admission: &Admission,
    startup: &Startup,
    client: &mut Client,
) -> Result<(Upstream, String), Refusal> {
    let Connection { host, target, principal, .. } = connection;
    if matches!(target.credential, CredentialSource::Client) {
        let server = upstream::open(connection, admission, None).await?;
        return Ok((upstream::relay_login(server, admission, startup, client).await?, startup.user.clone()));
    }
    let login = host.login(target, principal).await?;
    let server = upstream::open(connection, admission, Some(&login)).await?;
    Ok((upstream::login(server, admission, startup, target, &login).await?, login.user))
}

/// Lets the client in.
fn welcome(client: &mut Client, startup: &Startup, minor: u16, key: Option<&CancelKey>) {
    if let Some(negotiation) = startup.negotiation(minor) {
        client.send(&negotiation);
    }
    client.send(&without_values(message::write(server::AUTHENTICATION, |body| body.put_u32(0))));
    if let Some(key) = key {
        client.send(&without_values(key.announce()));
    }
}

async fn not_greeted(connection: &Connection, error: GreetingError) {
    match error {
        GreetingError::Left => {}
        GreetingError::Startup(client, error) => {
            record_refusal(connection, &Denial::closed(error.to_string()));
            farewell(*client, &error.native()).await;
        }
        GreetingError::Failed(failure) => {
            record_refusal(connection, &Denial::closed(advised(&failure, failure.remedy())));
        }
    }
}

async fn farewell(mut client: Client, error: &NativeError) {
    client.send(&error.encode());
    // A client that is gone needs not be told.
    let _gone = client.flush().await;
    client.shutdown().await;
}

fn record_refusal(connection: &Connection, denial: &Denial) {
    let event = Event::ConnectionRefused {
        target: Some(connection.target.name.clone()),
        principal: Some(Arc::clone(&connection.principal)),
        flow: None,
        reason: denial.reason.clone(),
        rule: denial.rule.clone(),
        limit: denial.limit.clone(),
    };
    record(connection, &event);
}

fn record(connection: &Connection, event: &Event) {
    if let Err(error) = connection.services.log.append(event) {
        tracing::error!(target = %connection.target.name, %error, "what became of a connection is not in the log");
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::new(NativeError::denied(&denial).and_end(), denial)
    }
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        let denial = Denial::closed(advised(&error, error.remedy()));
        Self::new(error.native(), denial).trouble(!error.is_about_the_client())
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        UpstreamError::from(error).into()
    }
}

impl From<TlsError> for Refusal {
    fn from(error: TlsError) -> Self {
        UpstreamError::from(error).into()
    }
}

impl From<DatabaseError> for Refusal {
    fn from(error: DatabaseError) -> Self {
        let reason = error.to_string();
        let native = NativeError::fatal(error::CONFIGURATION, format!("Postern: {reason}"));
        Self::new(native, Denial::closed(reason)).trouble(true)
    }
}
