//! Whether the process behind a flow is still the one that connected: one look at the process map.

use std::os::fd::OwnedFd;

use agent_common::ProcessEntry;
use aya::maps::{HashMap, Map, MapData, MapError};

use super::sys::Plain;
use crate::model::{self, Flow, Gone};

/// Answers from a read-only descriptor of the process map, which needs no privileges (kernel 5.19 and later).
#[derive(Debug)]
pub struct Liveness {
    processes: HashMap<MapData, u32, Plain<ProcessEntry>>,
}

impl Liveness {
    pub(super) fn new(process_map: OwnedFd) -> Result<Self, MapError> {
        let map = Map::from_map_data(MapData::from_fd(process_map)?)?;
        Ok(Self { processes: HashMap::try_from(map)? })
    }
}

impl model::Liveness for Liveness {
    fn check(&self, flow: &Flow) -> Result<(), Gone> {
        compare(self.processes.get(&flow.tgid, 0), flow)
    }
}

/// Compares what the process map says with what a flow carries.
pub(super) fn compare(found: Result<Plain<ProcessEntry>, MapError>, flow: &Flow) -> Result<(), Gone> {
    match found {
        Ok(Plain(entry)) if entry.generation != flow.generation => Err(Gone::Replaced),
        Ok(Plain(entry)) if entry.in_exec() || entry.sequence != flow.sequence => Err(Gone::Executed),
        Ok(_) => Ok(()),
        Err(MapError::KeyNotFound) => Err(Gone::Ended),
        Err(_) => Err(Gone::Unknown),
    }
}
