//! The listed Unix sockets of targets on this host, as the kernel side knows them: by the place of their files, or by name.
//!
//! A place is a file system and the names from its root. It does not change when the server is started again, with a new file
//! or a new directory, so that there is no moment in which the socket is not known. Where the kernel side sees no more than the
//! path that is asked for, it knows the last names of the listed paths, and the place of the host's root directory.
//! *Invariant:* a place that is still wanted is in the map all the time.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Component, Path, PathBuf},
};

use agent_common::{
    BY_NAME, CANARY, DESTINATION_OBSERVE, DESTINATION_TRIAL, Destination, LEDGER_UNRESOLVED, MAX_NAMES, NAME_BYTES,
    NO_NAMES, SocketPlace, fold_letter, fold_name,
};
use aya::maps::{HashMap, MapData, MapError};
use nix::unistd::mkdtemp;
use tracing::warn;

use super::{host::unescape, sys::Plain};
use crate::{config::Target, model::Mode};

/// The map; borrowed where it is tried.
pub(super) type Places<T = MapData> = HashMap<T, Plain<SocketPlace>, Plain<Destination>>;

/// What is left open of one that is known by name.
const BY_NAME_ONLY: &str = "this kernel refuses only its name, in any directory: a link of another name, its descriptor and \
                            another root directory lead to it; no user in scope should have the permission to write to it";

/// How the kernel side knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// By the place of their files, whatever path leads there.
    ByPlace,
    /// By the last name of the path.
    ByName,
    /// Not at all.
    Not,
}

/// The map, what it holds, and what it should hold.
pub(super) struct Sockets {
    map: Places,
    /// Nobody else writes it.
    present: BTreeMap<SocketPlace, Destination>,
    wanted: Vec<(PathBuf, Destination)>,
    known: Known,
    /// The self-test's own.
    canary: Option<PathBuf>,
}

impl Sockets {
    /// Of the configuration; the map may hold those of an earlier run.
    pub(super) fn new(map: Places, targets: &[Target], known: Known) -> Result<Self, MapError> {
        let mut present = BTreeMap::new();
        for entry in map.iter() {
            let (Plain(place), Plain(destination)) = entry?;
            present.insert(place, destination);
        }
        let of = |(index, target): (u32, &Target)| {
            let flags = if target.mode == Mode::Observe { DESTINATION_OBSERVE } else { 0 };
            let destination = Destination { target: index, flags, ledger: target.ledger() };
            target.sockets.iter().map(|path| (path.clone(), destination)).collect::<Vec<_>>()
        };
        let wanted = (0..).zip(targets).flat_map(of).collect();
        Ok(Self { map, present, wanted, known, canary: None })
    }

    /// Looks where the sockets are now: directories come and go, and file systems are mounted over them. Gives those that are not
    /// in the map, with the target and the reason.
    pub(super) fn look(&mut self) -> Vec<(u32, String)> {
        let (mut lost, mut wanted) = (Vec::new(), BTreeMap::new());
        let keys = |path: &Path| match self.known {
            Known::ByPlace => place(path).map(|place| vec![place]),
            // Of the path as it is listed, and as the server may have called it.
            Known::ByName => Ok(vec![last_name(path)?, last_name(&real(path)?)?]),
            Known::Not => Ok(Vec::new()),
        };
        let canary =
            self.canary.iter().map(|path| (path, Destination { target: CANARY, flags: 0, ledger: LEDGER_UNRESOLVED }));
        for (path, destination) in self.wanted.iter().map(|(path, destination)| (path, *destination)).chain(canary) {
            match keys(path) {
                // Of two targets whose sockets have one name, the one that refuses counts.
                Ok(keys) if destination.flags == 0 => wanted.extend(keys.into_iter().map(|key| (key, destination))),
                Ok(keys) => keys.into_iter().for_each(|key| _ = wanted.entry(key).or_insert(destination)),
                Err(error) => lost.push((destination.target, format!("{}: {error}", path.display()))),
            }
        }
        if self.known == Known::ByName {
            // Who has another root directory is left alone: all would be, if this one were not known.
            let root = Destination { target: CANARY, flags: 0, ledger: LEDGER_UNRESOLVED };
            match place(Path::new("/")) {
                Ok(place) => drop(wanted.insert(place, root)),
                Err(error) => {
                    lost.extend(self.wanted.iter().map(|(_, of)| (of.target, format!("the root directory: {error}"))))
                }
            }
        }
        for (place, destination) in &wanted {
            if self.present.get(place) != Some(destination) {
                match self.map.insert(Plain(*place), Plain(*destination), 0) {
                    Ok(()) => drop(self.present.insert(*place, *destination)),
                    Err(error) => lost.push((destination.target, error.to_string())),
                }
            }
        }
        // What could not be looked for may be where it was.
        if lost.is_empty() {
            let map = &mut self.map;
            self.present.retain(|place, _| wanted.contains_key(place) || map.remove(&Plain(*place)).is_err());
        }
        lost
    }

    /// Looks where the sockets are now. Gives those that somebody in scope can connect to, whom not even permissions keep out, with
    /// the target and the reason.
    pub(super) fn open(&mut self, is_closed: impl Fn(&Path) -> bool) -> Vec<(u32, String)> {
        let mut open = self.look();
        let why = match self.known {
            Known::ByPlace => return open,
            Known::ByName => BY_NAME_ONLY,
            Known::Not => "this kernel does not refuse connections to it",
        };
        let left = self.wanted.iter().filter(|(path, _)| !is_closed(path));
        open.extend(left.map(|(path, destination)| (destination.target, format!("{}: {why}", path.display()))));
        open
    }

    /// Protects the self-test's socket; none once it is over. Gives what [`Sockets::look`] gives.
    pub(super) fn protect_canary(&mut self, path: Option<PathBuf>) -> Vec<(u32, String)> {
        self.canary = path;
        self.look()
    }

    /// How they are known.
    pub(super) fn known(&self) -> Known {
        self.known
    }
}

/// A listening socket to which only the kernel side keeps anybody from connecting; its directory goes with it.
pub(super) struct Momentary {
    /// Listens without waiting.
    pub listener: UnixListener,
    directory: PathBuf,
    path: PathBuf,
}

impl Momentary {
    /// Below a directory that everybody can search, under a name that nobody knows before, nor has, and where nobody else writes.
    /// A short name: that directory's may be as long as the path of a socket allows.
    pub(super) fn bind(below: &Path) -> io::Result<Self> {
        let directory = mkdtemp(&below.join("XXXXXX"))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o711))?;
        let random = directory.file_name().map_or(&[][..], |name| name.as_bytes());
        let path = directory.join(OsStr::from_bytes(&random[random.len().min(1)..]));
        let momentary = Self { listener: UnixListener::bind(&path)?, directory, path };
        fs::set_permissions(&momentary.path, fs::Permissions::from_mode(0o666))?;
        momentary.listener.set_nonblocking(true)?;
        Ok(momentary)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Momentary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            warn!(directory = %self.directory.display(), %error, "a socket's directory is left behind");
        }
    }
}

/// Whether a program that is attached is asked by the kernel, and knows a listed socket: a connection to this
/// one, made for it, is refused.
pub(super) fn trial(map: &mut Places<&mut MapData>, below: &Path) -> io::Result<()> {
    let socket = Momentary::bind(below)?;
    let place = place(socket.path())?;
    let destination = Destination { target: CANARY, flags: DESTINATION_TRIAL, ledger: LEDGER_UNRESOLVED };
    map.insert(Plain(place), Plain(destination), 0).map_err(io::Error::other)?;
    let tried = UnixStream::connect(socket.path());
    map.remove(&Plain(place)).map_err(io::Error::other)?;
    match tried {
        Ok(_) => Err(io::Error::other("the kernel does not ask the program (`bpf` is not among its `lsm=`)")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Where a socket's file is, or will be once its directories are made.
fn place(path: &Path) -> io::Result<SocketPlace> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    place_in(&real(path)?, &mounts)
}

/// A socket's name without its directory.
fn last_name(path: &Path) -> io::Result<SocketPlace> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folded = name.as_bytes().iter().fold(NO_NAMES, |folded, letter| fold_letter(folded, *letter));
    Ok(SocketPlace { device: BY_NAME, pad: 0, path: folded })
}

/// A path without symbolic links, as far as it exists.
fn real(path: &Path) -> io::Result<PathBuf> {
    for existing in path.ancestors() {
        match fs::canonicalize(existing) {
            Ok(real) => return Ok(real.join(path.strip_prefix(existing).unwrap_or(Path::new("")))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// By the last of the mounts that are nearest to the path. Lines of `mountinfo` have the file system's number, and which of its
/// directories is mounted where, in fields 3 to 5.
fn place_in(path: &Path, mounts: &str) -> io::Result<SocketPlace> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (device, root, point) = (fields.next()?, fields.next()?, PathBuf::from(unescape(fields.next()?)));
        let (major, minor) = device.split_once(':')?;
        let device = major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?;
        path.starts_with(&point).then_some((point, PathBuf::from(unescape(root)), device))
    };
    let found = mounts.lines().filter_map(mount).max_by_key(|(point, ..)| point.components().count());
    let (point, root, device) = found.ok_or(io::ErrorKind::NotFound)?;
    let inner = root.join(path.strip_prefix(point).unwrap_or(Path::new("")));
    let mut names = NO_NAMES;
    let mut count = 0;
    for component in inner.components().rev() {
        let Component::Normal(name) = component else { continue };
        names = fold_name(names, &words(name.as_bytes())?);
        count += 1;
    }
    if count > MAX_NAMES {
        return Err(io::Error::other(format!("more than {MAX_NAMES} directories deep")));
    }
    Ok(SocketPlace { device, pad: 0, path: names })
}

/// A name as the kernel side reads it.
fn words(name: &[u8]) -> io::Result<[u64; NAME_BYTES / 8]> {
    if name.len() >= NAME_BYTES {
        return Err(io::Error::other(format!("a directory's name has {NAME_BYTES} bytes or more")));
    }
    let mut words = [0; NAME_BYTES / 8];
    for (word, bytes) in words.iter_mut().zip(name.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const MOUNTS: &str = "\
        21 1 254:0 / / rw - ext4 /dev/vda rw\n\
        22 21 0:24 / /run rw - tmpfs tmpfs rw\n\
        23 21 254:0 /var/lib/x /mnt/a\\040b rw - ext4 /dev/vda rw\n\
        24 22 0:31 / /run rw - tmpfs tmpfs rw\n";

    fn at(path: &str) -> SocketPlace {
        place_in(Path::new(path), MOUNTS).unwrap()
    }

    #[test]
    fn the_place_is_the_same_by_every_mount() {
        assert_eq!(at("/mnt/a b/s"), at("/var/lib/x/s"));
        assert_ne!(at("/mnt/a b/s"), at("/mnt/s"));
        assert_eq!(at("/run/db/s").device, 31);
        assert_eq!(at("/runner/db/s").device, 254 << 20);
        assert_ne!(at("/run/ab/c"), at("/run/a/bc"));
        assert_ne!(at("/run/a/b"), at("/run/b/a"));
    }

    #[test]
    fn what_the_kernel_side_could_not_follow_has_no_place() {
        assert!(place_in(Path::new(&"/x".repeat(MAX_NAMES)), MOUNTS).is_ok());
        assert!(place_in(Path::new(&"/x".repeat(MAX_NAMES + 1)), MOUNTS).is_err());
        assert!(place_in(Path::new(&format!("/{}", "x".repeat(NAME_BYTES))), MOUNTS).is_err());
        assert!(place_in(Path::new("relative"), MOUNTS).is_err());
    }

    #[test]
    fn links_are_followed_as_far_as_there_are_directories() {
        let top = tempfile::tempdir().unwrap();
        let real_top = top.path().canonicalize().unwrap();
        fs::create_dir(real_top.join("real")).unwrap();
        symlink("real", real_top.join("link")).unwrap();
        assert_eq!(real(&top.path().join("link/later/s")).unwrap(), real_top.join("real/later/s"));
        assert!(place(&top.path().join("link/later/s")).is_ok());
    }
}
