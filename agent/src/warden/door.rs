//! What the warden offers: its socket, for the proxy alone, and the files that it opens.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind};

use super::host::AgentUser;
use crate::config::{Config, CredentialSource, Placeholder, PlaceholderPassword};

/// Files that the configuration names and the proxy needs but may not be able to read.
pub(super) fn files(config: &Config) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for target in &config.targets {
        files.extend(target.tls.ca.clone());
        let credentials = match &target.credential {
            CredentialSource::Agent(credentials) => credentials.as_slice(),
            CredentialSource::Client => &[],
        };
        files.extend(credentials.iter().filter_map(|credential| credential.password_file.clone()));
        let certificates = credentials.iter().filter_map(|credential| credential.certificate.as_ref());
        for certificate in certificates.chain(&target.serve.certificate) {
            files.extend([certificate.cert.clone(), certificate.key.clone()]);
        }
        if let Some(Placeholder { password: PlaceholderPassword::File(file), .. }) = &target.serve.password {
            files.insert(file.clone());
        }
    }
    files
}

/// Listens at the warden's socket.
pub(super) fn listen(path: &Path, user: AgentUser) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Nobody can connect before `listen`, and nobody but root can replace the name in this directory.
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    chown(path, Some(0), Some(user.gid.as_raw()))?;
    socket::listen(&listener, Backlog::new(8)?)?;
    Ok(listener)
}
