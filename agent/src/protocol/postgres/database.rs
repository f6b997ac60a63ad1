//! The database of a session: snapshots of its catalogue, shared by the sessions of a target, and what of it is hidden.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes};
use sha2::{Digest, Sha256};

use super::{
    frame::{Fields, Frame, client, server},
    message::{put_string, write, write_bare, write_named, write_parse, write_query},
    sql::{
        Cache, Names, Reading, Statement,
        catalogue::{Catalogue, CatalogueError, QUERIES, Row},
        masks::{MaskedColumn, Masking, MaskingError},
    },
    upstream::{UpstreamError, refusal},
    view::View,
    wire::Server,
};
use crate::{
    config::ColumnRule,
    gate::{Admission, Gate},
    masking::Cover,
    model::{Action, Fact, Request, Resource, Verdict},
};

/// A session neither begins nor goes on with a snapshot older than this: others may change the catalogue past the agent.
pub const OLDEST: Duration = Duration::from_secs(60);

/// Databases whose snapshots are kept. Clients choose names of databases, but only those that the server has come to here.
const DATABASES: usize = 256;

/// Bytes of a catalogue that are read: a hundred thousand tables with their columns take less.
const LARGEST: usize = 512 << 20;

/// Texts up to this length are understood at once. Longer ones may take seconds, and a hundred megabytes: one after the
/// other, on a thread that nothing else waits for.
const SHORT: usize = 16 << 10;

/// Held while a long text is understood.
static LONG: Mutex<()> = Mutex::new(());

/// Name of the statement and portal that read the catalogue. The unnamed ones are the client's.
const NAME: &str = "postern catalogue";

/// What sessions of one database share.
#[derive(Default)]
pub struct Shared {
    snapshot: Mutex<Option<(Instant, Arc<Snapshot>)>>,
    /// Held while a session reads the catalogue, so that many that begin at once read it once.
    reading: tokio::sync::Mutex<()>,
    cache: Cache,
}

/// A catalogue, and a digest of what it was made of.
#[derive(Debug)]
pub struct Snapshot {
    /// The catalogue.
    pub catalogue: Catalogue,
    digest: [u8; 32],
}

/// Target, address and database.
type Key = (String, SocketAddr, String);

impl Snapshot {
    /// That of a connection without a database.
    #[must_use]
    pub fn nothing() -> Arc<Self> {
        Arc::new(Self { catalogue: Catalogue::default(), digest: [0; 32] })
    }
}

static SHARED: LazyLock<Mutex<HashMap<Key, Arc<Shared>>>> = LazyLock::new(Mutex::default);

/// Why a catalogue is of no use.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The connection, or the server refused a query.
    #[error("the catalogue cannot be read: {0}")]
    Upstream(#[from] UpstreamError),
    /// The answers make no catalogue.
    #[error("the catalogue cannot be understood: {0}")]
    Catalogue(#[from] CatalogueError),
    /// It is no catalogue any more.
    #[error("the catalogue is larger than {} MiB", LARGEST >> 20)]
    TooLarge,
    /// A masked column does not exist.
    #[error("{0}")]
    Masking(#[from] MaskingError),
}

impl Shared {
    /// What the sessions of a database share.
    #[must_use]
    pub fn of(target: &str, destination: SocketAddr, database: &str) -> Arc<Self> {
        let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.to_owned(), destination, database.to_owned());
        if all.len() >= DATABASES && !all.contains_key(&key) {
            // Sessions keep what they have; others read anew.
            all.clear();
        }
        Arc::clone(all.entry(key).or_default())
    }

    /// The newest snapshot and when it was read, if there is one that is not known to be stale.
    #[must_use]
    pub fn newest(&self) -> Option<(Instant, Arc<Snapshot>)> {
        self.kept().clone()
    }

    /// A snapshot that is young enough, read over its own connection if there is none. What else the
    /// server said meanwhile is added to `asides`.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub async fn young(
        &self,
        server: &mut Server,
        admission: &Admission,
        simple: bool,
        asides: &mut Vec<Frame>,
    ) -> Result<Arc<Snapshot>, DatabaseError> {
        let _reading = self.reading.lock().await;
        let young = self.kept().as_ref().filter(|(taken, _)| taken.elapsed() < OLDEST).map(|(_, it)| Arc::clone(it));
        if let Some(snapshot) = young {
            return Ok(snapshot);
        }
        let old = self.newest().map(|(_, snapshot)| snapshot);
        let snapshot = read(server, admission, (true, simple), old.as_ref(), asides).await?;
        self.keep(&snapshot);
        Ok(snapshot)
    }

    /// A new snapshot, read over the connection of a session that is not within a transaction.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub async fn refresh(
        &self,
        server: &mut Server,
        admission: &Admission,
        simple: bool,
        old: &Arc<Snapshot>,
        asides: &mut Vec<Frame>,
    ) -> Result<Arc<Snapshot>, DatabaseError> {
        // One after the other, so that the newest is the one that was read last.
        let _reading = self.reading.lock().await;
        let snapshot = read(server, admission, (true, simple), Some(old), asides).await?;
        self.keep(&snapshot);
        Ok(snapshot)
    }

    /// Makes a snapshot the newest.
    fn keep(&self, snapshot: &Arc<Snapshot>) {
        *self.kept() = Some((Instant::now(), Arc::clone(snapshot)));
    }

    /// The newest snapshot is stale.
    pub fn forget(&self) {
        *self.kept() = None;
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Arc<Snapshot>)>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the catalogue over a connection that is quiet. `alone`: no transaction is open, so that one of its own makes the
/// answers fit together; within the client's, it must be seen as that sees it. `simple`: over a replication connection, which
/// has no extended protocol. If it is as in `old`, that is the answer.
///
/// # Errors
/// [`DatabaseError`]
pub async fn read(
    server: &mut Server,
    admission: &Admission,
    (alone, simple): (bool, bool),
    old: Option<&Arc<Snapshot>>,
    asides: &mut Vec<Frame>,
) -> Result<Arc<Snapshot>, DatabaseError> {
    let frame = if alone { &ALONE } else { &WITHIN };
    let texts: Vec<&str> = [frame.before, QUERIES, frame.after].concat();
    for _ in 1..TRIES {
        match ask(server, admission, &texts, simple, asides).await {
            // The client may just have asked to cancel what it did before: that was not this.
            Err(DatabaseError::Upstream(UpstreamError::Session { code, .. })) if code == CANCELED => {
                ask(server, admission, frame.undo, simple, asides).await?;
            }
            asked => return snapshot(asked?, frame.before.len(), old),
        }
    }
    snapshot(ask(server, admission, &texts, simple, asides).await?, frame.before.len(), old)
}

/// What is put around the queries, and what is done instead of its end after a failure.
struct Around {
    before: &'static [&'static str],
    after: &'static [&'static str],
    undo: &'static [&'static str],
}

/// The client may have set a timeout that is meant for its own statements.
const NO_TIMEOUT: &str = "SET LOCAL statement_timeout = 0";

const ALONE: Around = Around {
    before: &["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", NO_TIMEOUT],
    after: &["COMMIT"],
    undo: &["ROLLBACK"],
};

/// What fails here must not fail the client's transaction.
const WITHIN: Around = Around {
    before: &["SAVEPOINT \"postern catalogue\"", NO_TIMEOUT],
    after: &["ROLLBACK TO SAVEPOINT \"postern catalogue\"", "RELEASE SAVEPOINT \"postern catalogue\""],
    undo: &["ROLLBACK TO SAVEPOINT \"postern catalogue\"", "RELEASE SAVEPOINT \"postern catalogue\""],
};

/// How often the catalogue is read while it is cancelled.
const TRIES: usize = 4;

/// `query_canceled`
const CANCELED: &str = "57014";

/// The snapshot that these answers make: those after the first `before`.
fn snapshot(
    mut answers: Vec<Vec<Row>>,
    before: usize,
    old: Option<&Arc<Snapshot>>,
) -> Result<Arc<Snapshot>, DatabaseError> {
    let answers: Vec<Vec<Row>> = answers.drain(before..).take(QUERIES.len()).collect();
    let mut digest = Sha256::new();
    for answer in &answers {
        for value in answer.iter().flatten() {
            let value = value.as_deref();
            digest.update(value.map_or(u64::MAX, |value| value.len() as u64).to_le_bytes());
            digest.update(value.unwrap_or_default());
        }
        digest.update([0]);
    }
    let digest: [u8; 32] = digest.finalize().into();
    match old {
        Some(old) if old.digest == digest => Ok(Arc::clone(old)),
        _ => Ok(Arc::new(Snapshot { catalogue: Catalogue::build(answers)?, digest })),
    }
}

/// Asks the server for the answers of these texts.
async fn ask(
    server: &mut Server,
    admission: &Admission,
    texts: &[&str],
    simple: bool,
    asides: &mut Vec<Frame>,
) -> Result<Vec<Vec<Row>>, DatabaseError> {
    if !simple {
        // What failed in its midst has left them.
        for kind in [b'P', b'S'] {
            server.send(&admission.housekeeping(write_named(client::CLOSE, kind, NAME.as_bytes())));
        }
    }
    for text in texts {
        if simple {
            server.send(&admission.housekeeping(write_query(text)));
        } else {
            run(text).into_iter().for_each(|message| server.send(&admission.housekeeping(message)));
        }
    }
    // A Query each, or one Sync, is answered with ReadyForQuery.
    let mut unready = if simple { texts.len() } else { 1 };
    if !simple {
        server.send(&admission.housekeeping(write_bare(client::SYNC)));
    }
    let mut answers: Vec<Vec<Row>> = Vec::with_capacity(texts.len());
    let (mut rows, mut size) = (Vec::new(), 0);
    let mut failure = None;
    loop {
        let frame = server.receive().await.map_err(UpstreamError::from)?;
        match frame.kind {
            server::DATA_ROW => {
                size += frame.bytes.len();
                if size > LARGEST {
                    return Err(DatabaseError::TooLarge);
                }
                rows.push(row(frame.body()).map_err(UpstreamError::from)?);
            }
            server::COMMAND_COMPLETE => answers.push(std::mem::take(&mut rows)),
            server::PARSE_COMPLETE | server::BIND_COMPLETE | server::CLOSE_COMPLETE | server::ROW_DESCRIPTION => {}
            server::ERROR_RESPONSE => {
                failure.get_or_insert_with(|| refusal(&frame));
                rows.clear();
            }
            server::READY_FOR_QUERY if unready == 1 => break,
            server::READY_FOR_QUERY => unready -= 1,
            server::NOTICE_RESPONSE | server::PARAMETER_STATUS | server::NOTIFICATION_RESPONSE => asides.push(frame),
            _ => return Err(UpstreamError::Protocol.into()),
        }
    }
    match failure {
        Some(failure) => Err(failure.into()),
        None if answers.len() == texts.len() => Ok(answers),
        None => Err(UpstreamError::Protocol.into()),
    }
}

/// The messages that run a text once and leave nothing behind.
fn run(text: &str) -> [Bytes; 5] {
    let bind = write(client::BIND, |body| {
        put_string(body, NAME.as_bytes());
        put_string(body, NAME.as_bytes());
        // No parameters; all results as text.
        body.put_bytes(0, 6);
    });
    let execute = write(client::EXECUTE, |body| {
        put_string(body, NAME.as_bytes());
        body.put_u32(0);
    });
    let close = |kind| write_named(client::CLOSE, kind, NAME.as_bytes());
    [write_parse(NAME, text), bind, execute, close(b'P'), close(b'S')]
}

fn row(body: &[u8]) -> Result<Row, super::frame::Malformed> {
    let mut fields = Fields::new(body);
    let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
    let row = fields.list(4, |fields| fields.value().map(text))?;
    fields.end()?;
    Ok(row)
}

/// The database as one session sees it.
pub struct Database {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    reading: Reading,
    /// Everything that is masked, hidden.
    masked: Masking,
    /// With what `unmask` permits shown.
    hidden: Masking,
}

impl Database {
    /// The view of a session: what the policies permit it to unmask is not hidden.
    ///
    /// # Errors
    /// [`MaskingError`]: the target must be closed.
    pub fn new(
        shared: &Arc<Shared>,
        snapshot: Arc<Snapshot>,
        rules: &[ColumnRule],
        reading: Reading,
        gate: &mut Gate,
    ) -> Result<Arc<Self>, MaskingError> {
        let masked = Masking::new(rules, &reading.database, &snapshot.catalogue)?;
        let mut seen = BTreeSet::new();
        for column in masked.columns() {
            if let Verdict::Permit { .. } = gate.verdict(&unmask(&reading, column)) {
                seen.insert((column.oid, column.attribute));
            }
        }
        let hidden = masked.without(&|column| seen.contains(&(column.oid, column.attribute)));
        Ok(Arc::new(Self { shared: Arc::clone(shared), snapshot, reading, masked, hidden }))
    }

    /// The snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

/// What must be permitted to see a column as it is.
fn unmask(reading: &Reading, column: &MaskedColumn) -> Action {
    let resource =
        database(reading).child("Schema", &column.schema).child("Table", &column.table).child("Column", &column.column);
    Action {
        requests: [Request::new("unmask", resource)].into(),
        facts: [("resource.class", Fact::Text(column.class.clone()))].into(),
    }
}

/// The database as a resource of policies.
#[must_use]
pub fn database(reading: &Reading) -> Resource {
    Resource::target(&reading.target).child("Database", &reading.database)
}

impl View for Database {
    fn classify(&self, text: &str, names: &dyn Names) -> Arc<Statement> {
        let classify =
            || self.shared.cache.classify(text, &self.reading, &self.snapshot.catalogue, &self.hidden, names);
        if text.len() <= SHORT {
            return classify();
        }
        tokio::task::block_in_place(|| {
            let _turn = LONG.lock().unwrap_or_else(PoisonError::into_inner);
            classify()
        })
    }

    fn call(&self, function: u32, arguments: usize) -> Option<String> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let function = self.snapshot.catalogue.function(function)?;
        let parameters: Vec<String> = (1..=arguments).map(|number| format!("${number}")).collect();
        Some(format!("SELECT {}.{}({})", quoted(&function.schema), quoted(&function.name), parameters.join(", ")))
    }

    fn cover(&self, table: u32, attribute: i16) -> Option<Cover> {
        self.hidden.cover(table, attribute, &self.snapshot.catalogue)
    }

    fn cover_in_log(&self, table: u32, attribute: i16) -> Option<Cover> {
        self.masked.cover(table, attribute, &self.snapshot.catalogue)
    }

    fn hides(&self) -> bool {
        self.hidden.hides()
    }

    fn masks(&self) -> bool {
        self.masked.masks()
    }
}
