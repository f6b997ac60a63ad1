//! The session once both sides are ready: bytes into the machine, its steps carried out.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::time::{sleep_until, timeout};

use super::{
    cancel::Running,
    database::{self, Database, Shared, Snapshot},
    error::{self, NativeError},
    frame::{Frame, client},
    machine::{Ask, Close, Machine, Question, Step},
    message::{ready_for_query, write_bare},
    replication,
    sql::{Reading, Replication},
    upstream::UpstreamError,
    wire::{Client, Gone, Server, exchange},
};
use crate::{
    config::ColumnRule,
    gate::{Admission, Gate, Permit},
    limits::Place,
    masking::without_values,
    model::{Boxed, Denial, Verdict},
    protocol::Host,
    recording::Event,
};

/// How long a side may take to accept what is outstanding when the session ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long reading the catalogue may take.
const CATALOGUE: Duration = Duration::from_secs(60);

/// All that a session consists of, but for the client.
pub struct Session {
    /// Decides and records.
    pub gate: Gate,
    /// Leave for messages that carry no operation.
    pub admission: Admission,
    /// The protocol.
    pub machine: Machine,
    /// The connection to the server.
    pub server: Server,
    /// To have the server cancel what it does; `None` if it gave no key.
    pub running: Option<Running>,
    /// The request to cancel, while it is under way; whether it was made.
    pub cancelling: Option<Boxed<'static, bool>>,
    /// The database as the machine sees it.
    pub view: Arc<Database>,
    /// What is shared with other sessions.
    pub shared: Arc<Shared>,
    /// When the view's catalogue was read.
    pub taken: Instant,
    /// Columns that are masked.
    pub rules: Vec<ColumnRule>,
    /// How texts are read.
    pub reading: Reading,
    /// Its place among the sessions of its roles.
    pub _place: Place,
}

/// Why a step could not be carried out.
struct Failed {
    native: NativeError,
    reason: String,
}

/// Runs a session to its end, and records that.
pub async fn relay(mut session: Box<Session>, mut client: Box<Client>, host: &dyn Host) {
    let started = Instant::now();
    let mut ending = host.ending();
    let mut epoch = session.gate.epoch();
    let mut ready = Some(ready_for_query(b'I'));
    let reason = loop {
        match session.steps(&mut client).await {
            // Ready, once what the server said at its login is passed on.
            Ok(None) => ready.take().into_iter().for_each(|ready| client.send(&without_values(ready))),
            Ok(Some(close)) => break describe(&close),
            Err(Failed { native, reason }) => {
                session.tell(&mut client, &native);
                break reason;
            }
        }
        let listen = session.machine.wants_client();
        let exchanged = tokio::select! {
            exchanged = exchange(&mut client, &mut session.server, listen) => exchanged,
            done = ended(&mut session.cancelling) => {
                session.machine.cancelled(done, Instant::now());
                Ok(())
            }
            () = reached(session.machine.deadline()) => Ok(()),
            why = &mut ending => {
                let error = NativeError::fatal(error::SHUTDOWN, format!("terminating connection: Postern: {why}"));
                session.tell(&mut client, &error.hint("Connect again."));
                session.terminate();
                break why.to_owned();
            }
        };
        session.gate.waited();
        if let Err(gone) = exchanged {
            match gone {
                Gone::ClientEnded => session.machine.client_ended(),
                Gone::Client => {
                    session.terminate();
                    break "the client is gone".to_owned();
                }
                Gone::Server => {
                    let error = NativeError::fatal(error::CONNECTION_FAILURE, "the target closed the connection");
                    session.tell(&mut client, &error);
                    break "the target is gone".to_owned();
                }
            }
        }
        if let Err(Failed { native, reason }) = session.keep_up(&mut epoch) {
            session.tell(&mut client, &native);
            break reason;
        }
        session.machine.push_server(session.server.incoming());
        session.machine.push_client(client.incoming());
    };
    let _late = timeout(FAREWELL, client.flush()).await;
    let _late = timeout(FAREWELL, session.server.flush()).await;
    client.shutdown().await;
    session.server.shutdown().await;
    session.ended(&client, started, reason);
}

impl Session {
    /// Has messages of the server, from before the machine began, shown to the client as the machine shows such.
    pub fn show(&mut self, frames: impl IntoIterator<Item = Frame>) {
        for frame in frames {
            self.machine.push_server(&mut BytesMut::from(&frame.bytes[..]));
        }
    }

    /// Tells the client why the session ends.
    fn tell(&self, client: &mut Client, error: &NativeError) {
        if let Some(words) = self.machine.last_words(error) {
            client.send(&words);
        }
    }

    /// Tells the server that it does.
    fn terminate(&mut self) {
        if self.machine.may_terminate() {
            self.server.send(&self.admission.housekeeping(write_bare(client::TERMINATE)));
        }
    }

    /// Carries out all steps that the machine has.
    async fn steps(&mut self, client: &mut Client) -> Result<Option<Close>, Failed> {
        let mut now = Instant::now();
        while let Some(step) = self.machine.next(now) {
            match step {
                Step::ToServer(released) => self.server.send(&released),
                Step::ToClient(message) => client.send(&message),
                Step::Decide(question) => self.decide(question, now),
                Step::Recheck(epoch) => {
                    let verdict = self.gate.recheck(epoch);
                    self.machine.rechecked(verdict);
                }
                Step::Cancel => {
                    let running = self.running.clone();
                    self.cancelling = Some(Box::pin(async move {
                        match running {
                            Some(running) => running.cancel().await.inspect_err(not_cancelled).is_ok(),
                            None => false,
                        }
                    }));
                }
                Step::Record(event) => self.gate.record(&event).map_err(unrecorded)?,
                Step::Stale => self.shared.forget(),
                Step::RefreshCatalogue { anew } => {
                    // The client may be waiting for what came before.
                    client.flush().await.map_err(|_| gone())?;
                    // Seldom, so its room is not held meanwhile.
                    Box::pin(self.refresh(anew)).await?;
                    self.gate.waited();
                    now = Instant::now();
                }
                Step::Close(close) => return Ok(Some(close)),
            }
        }
        Ok(None)
    }

    fn decide(&mut self, Question { held, ask }: Question, now: Instant) {
        let verdict = match ask {
            Ask::Decide(None) => self.gate.decide(&held),
            Ask::Foresee(None) => self.gate.foresee(&held),
            Ask::Refuse(denial) => self.gate.refuse(&held, denial),
            // What the policies say goes before what we cannot prove.
            Ask::Decide(Some(unproven)) | Ask::Foresee(Some(unproven)) => self.object(&held, unproven),
        };
        let verdict = verdict.map_err(explained);
        let epoch = self.gate.epoch();
        self.machine.decided(held, verdict, epoch, now);
    }

    fn object(&mut self, held: &crate::gate::Held, unproven: Denial) -> Result<Permit, Denial> {
        let denial = match self.gate.verdict(held.action()) {
            Verdict::Deny(denial) => denial,
            Verdict::Permit { .. } => unproven,
        };
        self.gate.refuse(held, denial)
    }

    /// Reads the catalogue over the session's own connection: so it is seen as the session's transaction sees it.
    async fn refresh(&mut self, anew: bool) -> Result<(), Failed> {
        if self.reading.replication == Some(Replication::Physical) {
            self.machine.refreshed(self.view.clone());
            return Ok(());
        }
        let alone = !self.machine.in_transaction();
        let simple = self.reading.replication.is_some();
        let mut asides = Vec::new();
        let old = Arc::clone(self.view.snapshot());
        let (server, admission) = (&mut self.server, &self.admission);
        let reading = async {
            if alone && !anew {
                self.shared.young(server, admission, simple, &mut asides).await
            } else if alone {
                self.shared.refresh(server, admission, simple, &old, &mut asides).await
            } else {
                database::read(server, admission, (false, simple), Some(&old), &mut asides).await
            }
        };
        let snapshot = timeout(CATALOGUE, reading).await.map_err(unreadable)?.map_err(unreadable)?;
        let shared = self.shared.newest().filter(|(_, newest)| Arc::ptr_eq(newest, &snapshot));
        self.taken = shared.map_or_else(Instant::now, |(taken, _)| taken);
        if !Arc::ptr_eq(&snapshot, &old) {
            self.look(snapshot)?;
        }
        self.machine.refreshed(self.view.clone());
        self.show(asides);
        Ok(())
    }

    /// Other sessions may have read the catalogue, the operator may have changed the policies, and the process that copies may be
    /// another by now.
    fn keep_up(&mut self, epoch: &mut u64) -> Result<(), Failed> {
        if self.machine.takes_data() {
            self.gate.is_present().map_err(unrecorded)?;
        }
        // Within a transaction the catalogue is what that sees.
        let apart = self.machine.in_transaction() || self.reading.replication == Some(Replication::Physical);
        let newest = if apart { None } else { self.shared.newest() };
        if let Some((taken, _)) = newest.as_ref().filter(|(taken, _)| *taken > self.taken) {
            self.taken = *taken;
        }
        if self.taken.elapsed() > database::OLDEST {
            self.machine.outdated();
        }
        let newest = newest.map(|(_, newest)| newest).filter(|newest| !Arc::ptr_eq(newest, self.view.snapshot()));
        let now = self.gate.epoch();
        if newest.is_none() && now == *epoch {
            return Ok(());
        }
        *epoch = now;
        self.look(newest.unwrap_or_else(|| Arc::clone(self.view.snapshot())))?;
        self.machine.look(self.view.clone());
        // A stream goes on by itself, so this cannot wait for the client's next statement.
        replication::permit(&mut self.gate, &self.reading, &self.view).map_err(unrecorded)
    }

    fn look(&mut self, snapshot: Arc<Snapshot>) -> Result<(), Failed> {
        let reading = self.reading.clone();
        self.view = Database::new(&self.shared, snapshot, &self.rules, reading, &mut self.gate).map_err(unreadable)?;
        Ok(())
    }

    fn ended(&mut self, client: &Client, started: Instant, reason: String) {
        for event in self.machine.abandon(Instant::now()) {
            self.record_late(&event);
        }
        let (operations, denied) = self.gate.counts();
        let (bytes_in, bytes_out) = client.traffic();
        let event = Event::SessionEnded {
            session: self.gate.subject().session.clone(),
            bytes_in,
            bytes_out,
            operations,
            denied,
            micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            reason,
        };
        self.record_late(&event);
    }

    /// Records what cannot be undone any more.
    fn record_late(&self, event: &Event) {
        if let Err(denial) = self.gate.record(event) {
            tracing::error!(session = %self.gate.subject().session, %denial, "the end of a session is not in the log");
        }
    }
}

/// Waits until a request to cancel has ended, and says whether it was made.
async fn ended(cancelling: &mut Option<Boxed<'static, bool>>) -> bool {
    let Some(request) = cancelling else { return pending().await };
    let done = request.await;
    *cancelling = None;
    done
}

fn not_cancelled(error: &UpstreamError) {
    tracing::warn!(%error, "a statement beyond a limit could not be cancelled");
}

/// Waits until a time, if there is one.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}

/// Says to the client what `sql:opaque` is, since most often its own slip is behind that.
fn explained(denial: Denial) -> Denial {
    match &denial.hint {
        Some(hint) if hint.contains("sql:opaque") => {
            let what =
                "That is whatever is not understood: a syntax error, a DO block, SQL that Postern does not know.";
            let hint = format!("{hint} {what}");
            denial.with_hint(hint)
        }
        _ => denial,
    }
}

fn describe(close: &Close) -> String {
    match close {
        Close::Terminated => "the client ended the session".into(),
        Close::Left => "the client is gone".into(),
        Close::Client(what) | Close::Agent(what) => (*what).into(),
        Close::Server(what) => format!("the target cannot be followed: {what}"),
        Close::Ended(code) => format!("the target ended the session (SQLSTATE {code})"),
    }
}

fn unrecorded(denial: Denial) -> Failed {
    Failed { reason: denial.reason.clone(), native: NativeError::denied(&denial).and_end() }
}

fn unreadable(error: impl std::fmt::Display) -> Failed {
    let reason = error.to_string();
    Failed { native: NativeError::fatal(error::CONFIGURATION, format!("Postern: {reason}")), reason }
}

fn gone() -> Failed {
    unreadable("the client is gone")
}
