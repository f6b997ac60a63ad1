//! The files that a configuration names: whether they can be read, and whether secrets are kept from others.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::{Uid, User, geteuid};

use super::section::{Report, Span};

/// Certificates and keys are small; beyond this it is something else.
const MAX_PEM: u64 = 1 << 20;

/// The remedy for a file of the wrong kind, or none.
const OTHER_FILE: &str = "correct the path, or put a readable file there";
/// The remedy for a file that whoever checks may not read.
pub(super) const AS_ROOT: &str = "run this as root, as the warden does";

/// Whether the files that a configuration names are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// They are opened and their modes are checked: in the warden, and for a check.
    Check,
    /// They are not: in the proxy, which may not read secrets, and which starts only after the warden has checked.
    Skip,
}

/// A certificate file.
pub(super) fn certificate(report: &Report<'_>, what: &str, path: &Path, span: &Span) {
    if report.files == Files::Check {
        pem(report, what, path, span, &["-----BEGIN CERTIFICATE-----"], "certificate");
    }
}

/// A file with a private key.
pub(super) fn key(report: &Report<'_>, what: &str, path: &Path, span: &Span, user: Option<&str>) {
    if report.files == Files::Check && kept(report, what, path, span, user) {
        pem(report, what, path, span, &["-----BEGIN", "PRIVATE KEY-----"], "private key");
    }
}

/// A file with a password.
pub(super) fn password(report: &Report<'_>, what: &str, path: &Path, span: &Span, user: Option<&str>) {
    if report.files == Files::Check
        && kept(report, what, path, span, user)
        && fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0)
    {
        report.fault(span, format!("{what} {} is empty", path.display()), "put the password into it");
    }
}

/// The directory of policies.
pub(super) fn directory(report: &Report<'_>, what: &str, path: &Path, span: &Span) {
    if report.files == Files::Check
        && let Err(error) = fs::read_dir(path)
    {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => AS_ROOT.to_owned(),
            _ => format!("make the directory {} and put *.cedar files into it", path.display()),
        };
        report.fault(span, format!("{what} {} cannot be read: {error}", path.display()), remedy);
    }
}

/// Opens a file without waiting (a pipe would make it wait) and says what is wrong with it.
fn open(report: &Report<'_>, what: &str, path: &Path, span: &Span) -> Option<(File, fs::Metadata)> {
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let (refused, remedy) = match opened.and_then(|file| file.metadata().map(|metadata| (file, metadata))) {
        Ok((file, metadata)) if metadata.is_file() => return Some((file, metadata)),
        Ok(_) => ("it is not a file".to_owned(), OTHER_FILE),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (error.to_string(), AS_ROOT),
        Err(error) => (error.to_string(), OTHER_FILE),
    };
    report.fault(span, format!("{what} {} cannot be read: {refused}", path.display()), remedy);
    None
}

/// A secret must be a file of root, of the agent's user, or of whoever checks, that nobody else has any right to.
fn kept(report: &Report<'_>, what: &str, path: &Path, span: &Span, user: Option<&str>) -> bool {
    let Some((_, metadata)) = open(report, what, path, span) else {
        return false;
    };
    let shown = path.display();
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let what = format!("{what} {shown} is open to others: its mode is {mode:04o}");
        report.fault(span, what, format!("chmod 0600 {shown}"));
    }
    let owner = Uid::from_raw(metadata.uid());
    let ours = owner.is_root() || owner == geteuid() || user.and_then(uid) == Some(owner);
    if !ours {
        let what = format!("{what} {shown} belongs to another user: its owner is {owner}");
        report.fault(span, what, format!("chown root {shown}"));
    }
    true
}

/// The uid of a user given by name or number.
fn uid(user: &str) -> Option<Uid> {
    match user.parse() {
        Ok(number) => Some(Uid::from_raw(number)),
        Err(_) => User::from_name(user).ok().flatten().map(|user| user.uid),
    }
}

/// A PEM file that has the given marks.
fn pem(report: &Report<'_>, what: &str, path: &Path, span: &Span, marks: &[&str], of: &str) {
    let Some((file, _)) = open(report, what, path, span) else {
        return;
    };
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let read = file.take(MAX_PEM).read_to_end(&mut bytes);
    let has = |mark: &&str| bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
    match read {
        Ok(_) if marks.iter().all(has) => {}
        Ok(_) => report.fault(
            span,
            format!("{what} {} holds no {of} in PEM form", path.display()),
            format!("put a {of} there, which begins with -----BEGIN"),
        ),
        Err(error) => report.fault(span, format!("{what} {} cannot be read: {error}", path.display()), OTHER_FILE),
    }
}
