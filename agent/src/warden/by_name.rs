//! The program at `connect` of Unix sockets, which aya can neither load nor attach: its instructions are taken out of the same
//! object, tied to the maps that aya has made for the others, and given to the kernel here.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use agent_common::Offsets;
use aya::{Ebpf, maps::Map, programs::ProgramError};
use aya_obj::{Object, generated::bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR};

use super::sys::{self, AttachType};

/// Its name in the object, and of its row.
pub(super) const NAME: &str = "connect_unix_by_name";

/// Loads it, with the maps of `kernel`, from which none was taken yet.
pub(super) fn load(object: &[u8], kernel: &Ebpf, offsets: &Offsets) -> Result<OwnedFd, ProgramError> {
    if [offsets.address, offsets.length, offsets.directories, offsets.root].contains(&0) {
        return Err(failed("this kernel does not tell programs what path is asked for"));
    }
    let mut object = Object::parse(object).map_err(failed)?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let definitions = std::mem::take(&mut object.maps);
    let maps: Vec<(&str, RawFd)> =
        kernel.maps().filter_map(|(name, map)| Some((name, descriptor(map)?.as_raw_fd()))).collect();
    let defined = maps.iter().filter_map(|(name, fd)| Some((*name, *fd, definitions.get(*name)?)));
    object.relocate_maps(defined, &sections).map_err(failed)?;
    object.relocate_calls(&sections).map_err(failed)?;
    let program = object.programs.get(NAME).ok_or_else(|| failed("it is not in the object"))?;
    let function = object.functions.get(&program.function_key()).ok_or_else(|| failed("it has no instructions"))?;
    let kind = BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
    sys::load_program(kind, AttachType::ConnectUnix, &function.instructions, &program.license)
        .map_err(ProgramError::IOError)
}

/// Of the kinds of maps that the object has.
fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(map)
        | Map::HashMap(map)
        | Map::LruHashMap(map)
        | Map::LpmTrie(map)
        | Map::RingBuf(map)
        | Map::SkStorage(map)
        | Map::PerfEventArray(map) => Some(map.fd().as_fd()),
        _ => None,
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}
