//! Understood texts, kept for the next time.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Names, Reading, Statement, catalogue::Catalogue, classify, masks::Masking};

/// Texts kept in one generation. Two generations are kept, so this is between half of and all that a client with that
/// many statements profits from.
const ENTRIES: usize = 512;

/// Bytes of text kept in one generation. What is understood of a text takes a small multiple of it.
const BYTES: usize = 2 << 20;

/// Longer texts are not kept: they are loads of rows, and seldom come twice.
const LONGEST: usize = 16 << 10;

/// Everything that the understanding of a text depends on, but for the session's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    text: String,
    reading: Reading,
    catalogue: u64,
    hidden: Arc<BTreeSet<(u32, i16)>>,
}

#[derive(Debug, Default)]
struct Generation {
    statements: HashMap<Key, Arc<Statement>>,
    bytes: usize,
}

impl Generation {
    fn is_full(&self) -> bool {
        self.statements.len() >= ENTRIES || self.bytes >= BYTES
    }
}

/// A bounded cache of [`classify`], to be shared by the sessions of a target.
///
/// Texts whose meaning depends on the session's names (EXECUTE, FETCH) are not kept. A new catalogue or other hidden
/// columns make other keys; stale entries leave by age: when the younger of two generations is full it becomes the
/// older one, and the older one goes.
#[derive(Debug, Default)]
pub struct Cache {
    generations: Mutex<[Generation; 2]>,
}

impl Cache {
    /// As [`classify`].
    pub fn classify(
        &self,
        text: &str,
        reading: &Reading,
        catalogue: &Catalogue,
        masking: &Masking,
        names: &dyn Names,
    ) -> Arc<Statement> {
        if text.len() > LONGEST {
            return Arc::new(classify(text, reading, catalogue, masking, names));
        }
        let key = Key {
            text: text.into(),
            reading: reading.clone(),
            catalogue: catalogue.serial(),
            hidden: Arc::clone(masking.hidden()),
        };
        if let Some(statement) = self.find(&key) {
            return statement;
        }
        let statement = Arc::new(classify(text, reading, catalogue, masking, names));
        if !statement.looks_up_names {
            self.keep(key, Arc::clone(&statement));
        }
        statement
    }

    fn find(&self, key: &Key) -> Option<Arc<Statement>> {
        let statement = {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(statement) = generations[0].statements.get(key) {
                return Some(Arc::clone(statement));
            }
            let statement = generations[1].statements.remove(key)?;
            generations[1].bytes -= key.text.len();
            statement
        };
        self.keep(key.clone(), Arc::clone(&statement));
        Some(statement)
    }

    fn keep(&self, key: Key, statement: Arc<Statement>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations[0].is_full() {
            generations.swap(0, 1);
            generations[0] = Generation::default();
        }
        let young = &mut generations[0];
        let length = key.text.len();
        if young.statements.insert(key, statement).is_none() {
            young.bytes += length;
        }
    }
}
