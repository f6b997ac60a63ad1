//! Where the records of this process go: into its log, or to the process that the log was handed over to.
//!
//! *Invariant:* there is one writer of a log. Whoever appends while it changes hands waits until one of the two has it.

use std::{
    mem,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::{Duration, Instant},
};

use super::{
    Append, AppendError, Event, OpenError,
    frame::Kind,
    log::{Log, Options, append},
};

/// How long whoever reads the log may keep it from being handed over.
const READERS: Duration = Duration::from_secs(5);

/// The process that has the log instead of this one.
pub trait Keeper: Send + Sync {
    /// Has a record appended: an event of this program's, as JSON, of which nothing but the kind is looked at.
    ///
    /// # Errors
    /// It is not in the log for certain.
    fn append(&self, kind: Kind, body: &[u8], durable: bool) -> Result<u64, AppendError>;
}

/// See the module.
pub struct Recorder {
    options: Options,
    place: RwLock<Place>,
}

enum Place {
    /// In this process.
    Here(Arc<Log>),
    /// The same, but nobody may begin to read it.
    Leaving(Arc<Log>),
    /// In another process.
    There(Arc<dyn Keeper>),
    /// Nowhere, and why.
    Nowhere(String),
}

/// The log was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// It is somewhere else already.
    #[error("this process does not have the log")]
    Elsewhere,
    /// Somebody reads it.
    #[error("the log is being read; try again when that is done")]
    BeingRead,
    /// The other process did not take it, and this one goes on with it.
    #[error("{0}")]
    NotTaken(String),
    /// The other process did not take it, and this one could not open it again.
    #[error("{0}; and the log cannot be opened again: {1}")]
    Lost(String, OpenError),
}

impl Recorder {
    /// Opens the log.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let log = Log::open(options.clone())?;
        Ok(Self { options, place: RwLock::new(Place::Here(Arc::new(log))) })
    }

    /// The log, to be read, as long as this process has it.
    #[must_use]
    pub fn log(&self) -> Option<Arc<Log>> {
        match &*self.read() {
            Place::Here(log) => Some(Arc::clone(log)),
            _ => None,
        }
    }

    /// The last record that is on disk for certain; `None` while nobody can tell. Of a log that another process has, every record
    /// counts that it has taken.
    #[must_use]
    pub fn durable(&self) -> Option<u64> {
        match &*self.read() {
            Place::Here(log) | Place::Leaving(log) => Some(log.durable()),
            Place::There(_) => Some(u64::MAX),
            Place::Nowhere(_) => None,
        }
    }

    /// This, with every append waiting until the record is on disk.
    #[must_use]
    pub fn strict(self: &Arc<Self>) -> Arc<dyn Append> {
        Arc::new(Strict(Arc::clone(self)))
    }

    /// Appends what another process of this program has made of an event.
    ///
    /// # Errors
    /// The record is not in the log.
    pub fn append_body(&self, kind: Kind, body: &[u8], durable: bool) -> Result<u64, AppendError> {
        match &*self.read() {
            Place::Here(log) | Place::Leaving(log) => log.append_body(kind, body, durable),
            Place::There(keeper) => keeper.append(kind, body, durable),
            Place::Nowhere(reason) => Err(AppendError(reason.clone())),
        }
    }

    /// Closes the log and has `take` called, which returns once process `to` has it. Whoever appends meanwhile waits. If it is
    /// not taken, it is opened again.
    ///
    /// # Errors
    /// [`HandOverError`]
    pub fn hand_over(
        &self,
        to: u32,
        take: impl FnOnce() -> Result<Arc<dyn Keeper>, String>,
    ) -> Result<(), HandOverError> {
        self.have_readers_leave()?;
        let mut place = self.write();
        let log = match mem::replace(&mut *place, Place::Nowhere("the log is being handed over".into())) {
            Place::Leaving(log) => match Arc::try_unwrap(log) {
                Ok(log) => log,
                Err(log) => {
                    *place = Place::Here(log);
                    return Err(HandOverError::BeingRead);
                }
            },
            other => {
                *place = other;
                return Err(HandOverError::Elsewhere);
            }
        };
        let closed = log.close_with(&Event::LogHandedOver { to }).map_err(|error| error.to_string());
        // The store lets go of its files when it is dropped.
        drop(log);
        let reason = match closed.and_then(|()| take()) {
            Ok(keeper) => {
                *place = Place::There(keeper);
                return Ok(());
            }
            Err(reason) => reason,
        };
        match Log::open(self.options.clone()) {
            Ok(log) => {
                *place = Place::Here(Arc::new(log));
                Err(HandOverError::NotTaken(reason))
            }
            Err(error) => {
                *place = Place::Nowhere(error.to_string());
                Err(HandOverError::Lost(reason, error))
            }
        }
    }

    /// Records the end and closes the log, if this process has it. Appends fail from now on.
    ///
    /// # Errors
    /// As [`Log::close`].
    pub fn close(&self) -> Result<(), AppendError> {
        match mem::replace(&mut *self.write(), Place::Nowhere("the log is closed".into())) {
            Place::Here(log) | Place::Leaving(log) => log.close(),
            Place::There(_) | Place::Nowhere(_) => Ok(()),
        }
    }

    /// Lets nobody begin to read, and waits until nobody does any more; appends go on.
    fn have_readers_leave(&self) -> Result<(), HandOverError> {
        {
            let mut place = self.write();
            *place = match mem::replace(&mut *place, Place::Nowhere(String::new())) {
                Place::Here(log) => Place::Leaving(log),
                other => {
                    *place = other;
                    return Err(HandOverError::Elsewhere);
                }
            };
        }
        let deadline = Instant::now() + READERS;
        loop {
            match &*self.read() {
                Place::Leaving(log) if Arc::strong_count(log) > 1 => {}
                _ => return Ok(()),
            }
            if Instant::now() > deadline {
                let mut place = self.write();
                *place = match mem::replace(&mut *place, Place::Nowhere(String::new())) {
                    Place::Leaving(log) => Place::Here(log),
                    other => other,
                };
                return Err(HandOverError::BeingRead);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A place is replaced whole, so that a poisoned one is whole too.
    fn read(&self) -> RwLockReadGuard<'_, Place> {
        self.place.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Place> {
        self.place.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Append for Recorder {
    fn append(&self, event: &Event) -> Result<u64, AppendError> {
        append(event, &|kind, body| self.append_body(kind, body, false))
    }
}

/// See [`Recorder::strict`].
struct Strict(Arc<Recorder>);

impl Append for Strict {
    fn append(&self, event: &Event) -> Result<u64, AppendError> {
        append(event, &|kind, body| self.0.append_body(kind, body, true))
    }
}
