//! One connection's whole story, top to bottom. Read this first.
//!
//! *Invariant:* nothing is read from a client before it is known which process it is, which target it meant, and which
//! protocol that target speaks; whatever cannot be found out is a refusal with a record of why.

mod attempts;
mod coverage;
pub mod daemon;
pub mod handover;
pub mod memory;
mod tested;
mod tidings;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_common::CANARY;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use zeroize::Zeroizing;

use self::coverage::{Accounted, InHand};
use crate::{
    config,
    config::{CredentialSource, Durability},
    credential::{self, MaskingKeys, Secret},
    gate::Services,
    identity, limits,
    model::{Boxed, Denial, Flow, Liveness, Principal, Process, Subject},
    policy::Reloadable,
    protocol::{self, Connection, Host, HostError, KeyPair, Login, ca::Authority},
    recording::{self, Append, Event, Recorder},
    target::{Change, Found, Keeper, Targets},
    warden::{Unidentified, Warden},
};

/// Bytes read from a file that the configuration names. Certificates and passwords are far smaller.
const FILE_LIMIT: u64 = 1 << 20;

/// A connect that was led to a listener before another took its place may arrive so much later: its first packet is sent again
/// after a second.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// So long are such connections accepted at most. Whoever owns a network namespace can send there what was led to nobody.
const AT_LATEST: Duration = Duration::from_secs(8);

/// What every session of this proxy shares.
pub struct Proxy {
    /// Asks the privileged process.
    pub warden: Warden,
    /// The targets and their addresses.
    pub targets: Targets,
    /// `[[role]]`
    pub roles: Vec<config::Role>,
    /// What is counted of them.
    pub limits: Arc<limits::Counts>,
    /// Decides.
    pub policy: Arc<Reloadable>,
    /// Knows whether a process still is what it was.
    pub liveness: Arc<dyn Liveness>,
    /// Records.
    pub log: Arc<Recorder>,
    /// The agent's own certificate authority.
    pub authority: Authority,
    /// Keys of the style `hash`.
    pub masking: MaskingKeys,
    /// The sessions that are open.
    pub open: daemon::Open,
    /// Another process may take this one's place.
    handover: handover::Handover,
    /// Whether names are followed here.
    following: watch::Sender<bool>,
    /// How the last attempts to begin a session ended.
    attempts: attempts::Attempts,
    /// What the last self-test found.
    tested: tested::Tested,
    /// What has become of all connects.
    ledger: Arc<coverage::Ledger>,
    /// Boot id of the host, and the epoch of the kernel side within it.
    epoch: String,
}

impl Proxy {
    /// Accepts connections until the task is dropped, or another process listens in this one's place and what was on its way here
    /// has arrived. One connection's fault never ends another's.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut succeeded = self.handover.succeeded();
        loop {
            tokio::select! {
                accepted = listener.accept() => self.accepted(accepted).await,
                () = is(&mut succeeded, true) => break,
            }
        }
        let late = Instant::now() + AT_LATEST;
        while Instant::now() < late
            && let Ok(accepted) = timeout(ON_ITS_WAY, listener.accept()).await
        {
            self.accepted(accepted).await;
        }
    }

    async fn accepted(self: &Arc<Self>, accepted: std::io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((client, _)) => drop(tokio::spawn(Arc::clone(self).connection(client))),
            Err(error) => {
                // Out of descriptors, usually: the connections that are open will give some back.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// One connection, from accept to close.
    async fn connection(self: Arc<Self>, client: TcpStream) {
        let _counted = self.open.count();
        // Which process? The kernel noted it when the process connected; the warden read the process's facts between two
        // equal readings of its entry.
        let (flow, process) = match self.warden.identify(client.as_fd()).await {
            Ok(identified) => identified,
            Err(Unidentified { flow, reason }) => {
                let denial = Denial::closed(reason.to_string());
                let Some(flow) = flow else { return self.refuse(&client, None, Who::Nobody, &denial) };
                if flow.target == CANARY {
                    // The self-test's own: led here, as it must be.
                    return;
                }
                let connect = self.ledger.take(&flow);
                let found = self.targets.find(&flow).ok();
                let who = Who::Noted(flow, &connect);
                return self.refuse(&client, found.as_ref().map(|found| &*found.target), who, &denial);
            }
        };

        // From here until its outcome is recorded, it is this session's to account for.
        let connect = Arc::new(self.ledger.take(&flow));

        // Where to? The original destination decides, not what the client says later.
        let found = self.targets.find(&flow);

        // On whose behalf? The configuration assigns roles by those facts.
        let principal = Arc::new(self.principal(flow, process, found.as_ref().ok().map(|found| &*found.target)));

        let Found { target, name } = match found {
            Ok(found) => found,
            Err(denial) => return self.refuse(&client, None, Who::Proven(principal, &connect), &denial),
        };
        let Some(serve) = protocol::protocol(&target.protocol) else {
            let denial = Denial::closed(format!("this version does not speak {}", target.protocol));
            return self.refuse(&client, Some(&target), Who::Proven(principal, &connect), &denial);
        };

        // From here on the protocol tells the story; see `protocol/postgres/mod.rs`.
        let subject = Subject {
            session: recording::session_id(),
            principal: Arc::clone(&principal),
            target: target.name.clone(),
            mode: target.mode,
        };
        let services = self.services(&target, &principal, &connect);
        let connection = Connection {
            subject: subject.clone(),
            destination: principal.flow.destination,
            named: name,
            masking_key: self.masking.of(&target.name),
            services: services.clone(),
            host: Arc::clone(&self) as Arc<dyn Host>,
            principal: Arc::clone(&principal),
            target,
        };
        let serving = tokio::spawn(serve(client, connection));
        let _noted = self.open.note(&subject, serving.abort_handle());
        if let Err(error) = serving.await
            && error.is_panic()
        {
            tracing::error!(session = subject.session, "a session panicked; the others go on");
        }
        if !connect.is_recorded() {
            let denial = Denial::closed("the connection ended before a session began");
            record_refusal(&*services.log, Some(subject.target), Who::Proven(principal, &connect), &denial);
        }
    }

    fn services(&self, target: &config::Target, principal: &Principal, connect: &Arc<InHand>) -> Services {
        let log: Arc<dyn Append> = match target.durability {
            Durability::Strict => self.log.strict(),
            Durability::Batched => Arc::clone(&self.log) as Arc<dyn Append>,
        };
        Services {
            policy: Arc::clone(&self.policy) as Arc<dyn crate::model::Decide>,
            liveness: Arc::clone(&self.liveness),
            log: Arc::new(Accounted { log, connect: Arc::clone(connect) }),
            limits: self.limits.of(&principal.roles),
        }
    }

    /// Who it is, as it is decided on and recorded.
    fn principal(&self, flow: Flow, mut process: Process, target: Option<&config::Target>) -> Principal {
        // A statement can be an argument: it is not recorded more openly than the statement itself will be.
        let literals_may_stay = target.is_some_and(|target| target.columns.is_empty());
        for argument in &mut process.argv {
            *argument = identity::without_secrets(argument);
            if !literals_may_stay {
                *argument = identity::without_literals(argument);
            }
        }
        Principal { roles: identity::roles(&self.roles, &process), flow, process }
    }

    /// Resets a connection that never became a session, and says why in the log.
    fn refuse(&self, client: &TcpStream, target: Option<&config::Target>, who: Who<'_>, denial: &Denial) {
        let target = target.map(|target| target.name.clone());
        tracing::info!(target = target.as_deref().unwrap_or("?"), reason = denial.reason, "connection refused");
        record_refusal(&*self.log, target, who, denial);
        // Zero linger: the client sees a reset at once instead of an orderly end.
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        if let Err(error) = setsockopt(client, sockopt::Linger, &linger) {
            tracing::debug!(%error, "cannot set linger");
        }
    }
}

fn record_refusal(log: &dyn Append, target: Option<String>, who: Who<'_>, denial: &Denial) {
    let (principal, flow, connect) = match who {
        Who::Nobody => (None, None, None),
        Who::Noted(flow, connect) => (None, Some(flow), Some(connect)),
        Who::Proven(principal, connect) => (Some(principal), None, Some(connect)),
    };
    let Denial { reason, rule, limit, .. } = denial.clone();
    match log.append(&Event::ConnectionRefused { target, principal, flow, reason, rule, limit }) {
        Ok(sequence) => connect.into_iter().for_each(|connect| connect.recorded(sequence)),
        Err(error) => tracing::error!(%error, "a refusal could not be recorded"),
    }
}

/// How far it was found out who connected, when a connection is refused.
enum Who<'a> {
    /// The kernel noted nothing.
    Nobody,
    /// The kernel noted a process, which could not be proven to be still the one that connected.
    Noted(Box<Flow>, &'a InHand),
    /// That very process.
    Proven(Arc<Principal>, &'a InHand),
}

impl Host for Proxy {
    fn mark<'a>(&'a self, socket: std::os::fd::BorrowedFd<'a>) -> Boxed<'a, Result<(), HostError>> {
        Box::pin(async move { self.warden.mark(socket).await.map_err(|error| HostError(error.to_string())) })
    }

    fn read<'a>(&'a self, path: &'a Path) -> Boxed<'a, Result<Zeroizing<Vec<u8>>, HostError>> {
        Box::pin(async move {
            let file = self.warden.open(path).await.map_err(|error| HostError(error.to_string()))?;
            read_bounded(file).map_err(|error| HostError(format!("{}: {error}", path.display())))
        })
    }

    fn login<'a>(
        &'a self,
        target: &'a config::Target,
        principal: &'a Principal,
    ) -> Boxed<'a, Result<Login, HostError>> {
        Box::pin(async move {
            let CredentialSource::Agent(credentials) = &target.credential else {
                return Err(HostError(format!("the agent has no login of its own for {}", target.name)));
            };
            let chosen =
                credential::choose(credentials, &principal.roles).map_err(|denial| HostError(denial.reason))?;
            let password = match &chosen.password_file {
                Some(path) => {
                    let bytes = self.read(path).await?;
                    let secret =
                        Secret::from_file(bytes).map_err(|error| HostError(format!("{}: {error}", path.display())))?;
                    Some(secret.into_bytes())
                }
                None => None,
            };
            let certificate = match &chosen.certificate {
                Some(files) => {
                    Some(KeyPair { chain: self.read(&files.cert).await?, key: self.read(&files.key).await? })
                }
                None => None,
            };
            Ok(Login { user: chosen.user.clone(), password, certificate })
        })
    }

    fn certificate<'a>(
        &'a self,
        target: &'a config::Target,
        destination: IpAddr,
    ) -> Boxed<'a, Result<(String, Zeroizing<String>), HostError>> {
        Box::pin(async move { self.authority.issue(target, destination).map_err(|error| HostError(error.to_string())) })
    }

    fn attempted(&self, target: &str, trouble: Option<&str>) {
        self.attempts.note(target, trouble);
    }

    fn elsewhere(&self, request: protocol::Request) {
        self.handover.predecessors().ask(&request);
    }

    fn ending(&self) -> Boxed<'_, &'static str> {
        Box::pin(self.handover.ending())
    }
}

impl Keeper for Proxy {
    fn protect<'a>(&'a self, target: u32, entry: u32, addresses: &'a [IpAddr]) -> Boxed<'a, Result<(), String>> {
        Box::pin(async move { self.warden.protect(target, entry, addresses).await.map_err(|error| error.to_string()) })
    }

    fn open(&self) -> BTreeSet<SocketAddr> {
        let mut open = self.open.map(|subject| subject.principal.flow.destination);
        open.extend(self.handover.predecessors().destinations());
        open.into_iter().collect()
    }

    fn changed(&self, change: Change) {
        let event = match change {
            Change::Failed { name, targets, reason, kept } => Event::NameFailed { name, targets, reason, kept },
            Change::Restored { name, targets, addresses } => Event::NameRestored { name, targets, addresses },
        };
        if let Err(error) = self.log.append(&event) {
            tracing::error!(%error, "a change of a name could not be recorded");
        }
    }
}

/// Waits until what is watched has a value.
async fn is(watched: &mut watch::Receiver<bool>, value: bool) {
    // Nobody waits longer than the sender lives: it is the proxy's.
    let _ = watched.wait_for(|is| *is == value).await;
}

fn read_bounded(file: std::os::fd::OwnedFd) -> std::io::Result<Zeroizing<Vec<u8>>> {
    use std::io::Read as _;
    let mut bytes = Zeroizing::new(Vec::new());
    std::fs::File::from(file).take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(std::io::Error::other(format!("is larger than {FILE_LIMIT} bytes")));
    }
    Ok(bytes)
}
