//! Where fields lie in the kernel's own structures, by the description of its types (BTF) that the kernel gives.
//!
//! The kernel side is compiled without knowing the kernel that it will run on; what little it reads of these structures, it
//! reads at the places that are found here.

use std::{fs, io};

use agent_common::Offsets;

/// The description.
const FILE: &str = "/sys/kernel/btf/vmlinux";

/// Kinds of types: `BTF_KIND_*`
mod kind {
    pub(super) const INTEGER: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const PROTOTYPE: u32 = 13;
    pub(super) const VARIABLE: u32 = 14;
    pub(super) const SECTION: u32 = 15;
    pub(super) const TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// Size of what all types begin with, and of a member.
const HEAD: usize = 12;
const MEMBER: usize = 12;

/// Structures in structures that are looked into.
const DEPTH: usize = 8;

/// What the kernel side has to know of this kernel; `None` if the kernel has no such fields.
pub(super) fn offsets() -> io::Result<Option<Offsets>> {
    let bytes = fs::read(FILE)?;
    let Some(types) = Types::parse(&bytes) else { return Err(io::ErrorKind::InvalidData.into()) };
    let find = || {
        Some(Offsets {
            dentry: types.offset("unix_sock", &["path", "dentry"])?,
            parent: types.offset("dentry", &["d_parent"])?,
            name: types.offset("dentry", &["d_name", "name"])?,
            file_system: types.offset("dentry", &["d_sb"])?,
            device: types.offset("super_block", &["s_dev"])?,
            // Zero where there is none: what needs these is not loaded then.
            address: types.offset("bpf_sock_addr_kern", &["uaddr"]).unwrap_or(0),
            length: types.offset("bpf_sock_addr_kern", &["uaddrlen"]).unwrap_or(0),
            directories: types.offset("task_struct", &["fs"]).unwrap_or(0),
            root: types.offset("fs_struct", &["root", "dentry"]).unwrap_or(0),
        })
    };
    Ok(find())
}

/// The types by their number, and their names.
struct Types<'a> {
    /// Of each type, from the first on; there is none with number 0.
    all: Vec<&'a [u8]>,
    names: &'a [u8],
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        // struct btf_header: magic, version, flags, its size, then begin and size of types and of names.
        let at = |index: usize| word(bytes, index * 4).map(|word| word as usize);
        if word(bytes, 0)? & 0xffff != 0xeb9f {
            return None;
        }
        let (header, types, names) = (at(1)?, (at(2)?, at(3)?), (at(4)?, at(5)?));
        let part = |(begin, size): (usize, usize)| bytes.get(header + begin..)?.get(..size);
        let (mut rest, names) = (part(types)?, part(names)?);
        let mut all = Vec::new();
        while !rest.is_empty() {
            let (kind, count) = kind_and_count(rest)?;
            let more = match kind {
                kind::INTEGER | kind::VARIABLE | kind::TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::SECTION | kind::ENUM64 => MEMBER * count,
                kind::ENUM | kind::PROTOTYPE => 8 * count,
                _ => 0,
            };
            all.push(rest.get(..HEAD + more)?);
            rest = &rest[HEAD + more..];
        }
        Some(Self { all, names })
    }

    /// In bytes from the beginning of a structure; each field but the first is one of the field before it.
    fn offset(&self, structure: &str, fields: &[&str]) -> Option<u32> {
        let is_it = |of: &&&[u8]| {
            matches!(kind_and_count(of), Some((kind::STRUCT, _)))
                && word(of, 0).is_some_and(|name| self.name(name) == Some(structure.as_bytes()))
        };
        let mut of = *self.all.iter().find(is_it)?;
        let mut bits = 0;
        for field in fields {
            let (offset, kind) = self.field(of, field.as_bytes(), DEPTH)?;
            bits += offset;
            of = self.plain(kind)?;
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// A field's offset in bits, and the number of its type. Members without a name lend theirs to what has them.
    fn field(&self, of: &[u8], field: &[u8], depth: usize) -> Option<(u32, u32)> {
        let (kind, _) = kind_and_count(of)?;
        if !matches!(kind, kind::STRUCT | kind::UNION) || depth == 0 {
            return None;
        }
        // With bit fields, the highest byte of an offset is a size.
        let mask = if word(of, 4)? >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        of[HEAD..].chunks_exact(MEMBER).find_map(|member| {
            let (name, kind, offset) = (word(member, 0)?, word(member, 4)?, word(member, 8)? & mask);
            match self.name(name)? {
                [] => self.field(self.plain(kind)?, field, depth - 1).map(|(inner, kind)| (offset + inner, kind)),
                name if name == field => Some((offset, kind)),
                _ => None,
            }
        })
    }

    /// A type without other names for it and what qualifies it.
    fn plain(&self, mut number: u32) -> Option<&'a [u8]> {
        for _ in 0..DEPTH {
            let found = *self.all.get((number as usize).checked_sub(1)?)?;
            match kind_and_count(found)?.0 {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST => number = word(found, 8)?,
                _ => return Some(found),
            }
        }
        None
    }

    fn name(&self, at: u32) -> Option<&'a [u8]> {
        self.names.get(at as usize..)?.split(|byte| *byte == 0).next()
    }
}

fn kind_and_count(of: &[u8]) -> Option<(u32, usize)> {
    let info = word(of, 4)?;
    Some((info >> 24 & 0x1f, (info & 0xffff) as usize))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_the_fields() {
        let found = offsets().unwrap().unwrap();
        assert!(found.address > 0 && found.directories > 0 && found.root > 0, "{found:?}");
        // None of them comes first in its structure, and no two of one structure are the same.
        assert!(found.dentry > 0 && found.name > 0 && found.device > 0, "{found:?}");
        assert!(found.parent != found.name && found.parent != found.file_system, "{found:?}");
    }

    #[test]
    fn fields_are_found_through_structures_without_a_name() {
        let mut names = vec![0];
        let mut name = |text: &str| {
            let at = names.len() as u32;
            names.extend(text.as_bytes());
            names.push(0);
            at
        };
        let (outer, inner, first, second) = (name("outer"), name("inner"), name("first"), name("second"));
        let head = |name: u32, kind: u32, count: u32, last: u32| vec![name, kind << 24 | count, last];
        let types = [
            // 1: an integer; 2: struct inner { int first; int second }; 3: union { struct inner inner };
            // 4: struct outer { int first; union { … } }
            [head(0, 1, 0, 4), vec![0]].concat(),
            [head(inner, 4, 2, 8), vec![first, 1, 0, second, 1, 32]].concat(),
            [head(0, 5, 1, 8), vec![inner, 2, 0]].concat(),
            [head(outer, 4, 2, 12), vec![first, 1, 0, 0, 3, 32]].concat(),
        ]
        .concat();
        let size = types.len() as u32 * 4;
        let header = [0x1_eb9f, 24, 0, size, size, names.len() as u32];
        let mut bytes: Vec<u8> = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(names);
        let types = Types::parse(&bytes).unwrap();
        assert_eq!(types.offset("outer", &["inner", "second"]), Some(8));
        assert_eq!(types.offset("outer", &["inner"]), Some(4));
        assert_eq!(types.offset("outer", &["second"]), None);
        assert_eq!(types.offset("nothing", &["first"]), None);
        assert!(Types::parse(&bytes[..40]).is_none());
    }
}
