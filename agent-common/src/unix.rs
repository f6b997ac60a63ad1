//! Records of listed Unix sockets: where they lie, and where the programs read that.

/// Key of the map of listed Unix sockets: where the file of a listening socket lies, whoever leads there by which name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketPlace {
    /// Number of the file system, as the kernel has it: twenty bits for the minor number. Or [`BY_NAME`].
    pub device: u32,
    /// Zero.
    pub pad: u32,
    /// Names of the file and of its directories up to the root of the file system, folded by [`fold_name`].
    pub path: u64,
}

/// [`SocketPlace::path`] before the first name.
pub const NO_NAMES: u64 = 0xcbf2_9ce4_8422_2325;
/// Bytes of a name on a listed path, with the zero behind it; the rest are zeroes.
pub const NAME_BYTES: usize = 112;
/// Names on a listed path.
pub const MAX_NAMES: usize = 16;

/// Folds the name of a file, then of its directory, and so on, into a number. Who could make two paths meet is whoever makes the
/// directories of the target's server.
#[must_use]
pub const fn fold_name(path: u64, name: &[u64; NAME_BYTES / 8]) -> u64 {
    let mut path = path;
    let mut at = 0;
    while at < name.len() {
        path = (path ^ name[at]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        path ^= path >> 29;
        at += 1;
    }
    path
}

/// [`SocketPlace::device`] of a name by itself, wherever the file is: no file system has this number.
pub const BY_NAME: u32 = 0;
/// Bytes of a path in the address of a Unix socket.
pub const MAX_UNIX_PATH: usize = 108;

/// Folds the next letter of a name by itself into [`SocketPlace::path`], which begins with [`NO_NAMES`].
#[must_use]
pub const fn fold_letter(name: u64, letter: u8) -> u64 {
    (name ^ letter as u64).wrapping_mul(0x0100_0000_01b3)
}

/// Where the programs find what they read of the kernel's own structures: offsets, which differ from kernel to kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `unix_sock.path.dentry`
    pub dentry: u32,
    /// `dentry.d_parent`
    pub parent: u32,
    /// `dentry.d_name.name`
    pub name: u32,
    /// `dentry.d_sb`
    pub file_system: u32,
    /// `super_block.s_dev`
    pub device: u32,
    /// `bpf_sock_addr_kern.uaddr`
    pub address: u32,
    /// `bpf_sock_addr_kern.uaddrlen`
    pub length: u32,
    /// `task_struct.fs`
    pub directories: u32,
    /// `fs_struct.root.dentry`
    pub root: u32,
}

/// Unix sockets of targets on this host.
pub const MAX_SOCKETS: u32 = 1024;
