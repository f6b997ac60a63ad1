//! The target's Unix socket on this host, by every name that leads to it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Error},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{OpenOptionsExt as _, chroot, symlink},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{Ending::Refused, Families, Rights, Row};
use crate::{
    field::{Field, Stage, WORDS, patient},
    ground,
    sys::{self, Raw, Ring},
};

pub const ROWS: &[Row] = &[
    row("Unix socket: its path", |field| connect(field, &path())),
    row("Unix socket: a relative path", relative),
    row("Unix socket: a symbolic link to it", linked).renamed(),
    row("Unix socket: a symbolic link to its directory", directory_linked),
    row("Unix socket: a hard link to it", hard_linked).with(Rights::All).renamed(),
    row("Unix socket: its descriptor in /proc", by_descriptor).renamed(),
    row("Unix socket: its directory in /proc/PID/root", by_root),
    row("Unix socket: another mount of its directory", mounted).with(Rights::All),
    row("Unix socket: another root directory", rooted).with(Rights::All).renamed(),
    row("Unix socket: io_uring", by_ring),
    row("Unix socket: a socket made outside, inherited", inherited).with(Rights::Later),
    row("Unix socket: older socket", older).at(Stage::Early),
    row("Unix socket: while the agent is dead", |field| connect(field, &path())).at(Stage::Dead),
];

const fn row(name: &'static str, run: fn(&mut Field) -> io::Result<()>) -> Row {
    Row::new(name, Refused, run).only(Families::None)
}

/// Of the suite, which is this process's parent.
fn path() -> PathBuf {
    ground::unix_socket(std::os::unix::process::parent_id())
}

fn parts() -> io::Result<(PathBuf, PathBuf)> {
    let path = path();
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::other("not a path"));
    };
    Ok((directory.into(), name.into()))
}

fn socket() -> io::Result<OwnedFd> {
    patient(sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?)
}

fn connect(field: &mut Field, path: &Path) -> io::Result<()> {
    connect_with(field, socket()?, path)
}

fn connect_with(field: &mut Field, socket: OwnedFd, path: &Path) -> io::Result<()> {
    sys::connect(&socket, &Raw::unix(path))?;
    field.say(socket)
}

fn relative(field: &mut Field) -> io::Result<()> {
    let (directory, name) = parts()?;
    std::env::set_current_dir(directory)?;
    connect(field, &name)
}

fn linked(field: &mut Field) -> io::Result<()> {
    by_link(field, &path(), None)
}

fn directory_linked(field: &mut Field) -> io::Result<()> {
    let (directory, name) = parts()?;
    by_link(field, &directory, Some(&name))
}

/// By a link of this attempt's own, perhaps to a directory that the name is in.
fn by_link(field: &mut Field, to: &Path, name: Option<&Path>) -> io::Result<()> {
    let link = PathBuf::from(format!("/tmp/postern-bypass-link-{}", std::process::id()));
    symlink(to, &link)?;
    let outcome = connect(field, &name.map_or(link.clone(), |name| link.join(name)));
    fs::remove_file(&link)?;
    outcome
}

fn hard_linked(field: &mut Field) -> io::Result<()> {
    let (directory, _) = parts()?;
    let link = directory.join(format!("link-{}", std::process::id()));
    fs::hard_link(path(), &link)?;
    let outcome = connect(field, &link);
    fs::remove_file(&link)?;
    outcome
}

fn by_descriptor(field: &mut Field) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path())?;
    connect(field, Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

fn by_root(field: &mut Field) -> io::Result<()> {
    connect(field, Path::new(&format!("/proc/self/root{}", path().display())))
}

/// In a mount namespace of its own.
fn mounted(field: &mut Field) -> io::Result<()> {
    connect(field, &Path::new("/mnt").join(mount_directory()?))
}

/// As in a container that the directory of the server is mounted into.
fn rooted(field: &mut Field) -> io::Result<()> {
    let name = mount_directory()?;
    chroot("/mnt")?;
    std::env::set_current_dir("/")?;
    connect(field, &Path::new("/").join(name))
}

/// Mounts the directory at `/mnt`, and gives the socket's name in it.
fn mount_directory() -> io::Result<PathBuf> {
    let (directory, name) = parts()?;
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(&directory), "/mnt", none, MsFlags::MS_BIND, none)?;
    Ok(name)
}

fn by_ring(field: &mut Field) -> io::Result<()> {
    let socket = socket()?;
    sys::ring_connect(Ring::Async, &socket, &Raw::unix(&path()), WORDS)?;
    field.keep(socket);
    Ok(())
}

fn inherited(field: &mut Field) -> io::Result<()> {
    let socket = socket()?;
    field.enter_scope(false)?;
    connect_with(field, socket, &path())
}

fn older(field: &mut Field) -> io::Result<()> {
    let socket = socket()?;
    field.now()?;
    connect_with(field, socket, &path())
}
