//! The image that a kernel unpacks into memory: busybox, the agent, the suites, a few programs of this host with the libraries
//! that they all need, and the kernel's modules that are used.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Program, kernel::Kernel};
use crate::run::Outcome;

/// The first process.
const INIT: &str = include_str!("init.sh");

/// Programs of this host that suites start: the harness is undone by bash, interfaces and namespaces are made with ip.
const PROGRAMS: &[&str] = &["bash", "ip", "tc", "ss"];

/// Files of this host's configuration that the C library and ip read.
const FILES: &[&str] = &["/etc/protocols", "/etc/services", "/etc/iproute2/rt_dsfield", "/etc/iproute2/rt_tables"];

/// Modules that suites use, beside those that these depend on: a disk of memory, interfaces, traffic control, socket
/// diagnostics, protocols.
const MODULES: &[&str] = &[
    "loop",
    "veth",
    "dummy",
    "bridge",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "unix_diag",
    "af_packet_diag",
    "mptcp_diag",
    "sctp",
    "dccp_ipv4",
    "dccp_ipv6",
];

const PASSWD: &str = "\
root:x:0:0:root:/root:/usr/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost older\n::1 localhost ip6-localhost\n";

/// Writes the image for these suites.
///
/// # Errors
/// A program, library or module is missing, or the image cannot be written.
pub fn write(to: &Path, kernel: &Kernel, agent: &Path, suites: &[Program<'_>]) -> Outcome {
    let mut tree = Tree::default();
    for dir in ["proc", "sys", "dev", "tmp", "run", "root", "var", "usr/sbin"] {
        tree.dir(Path::new(dir));
    }
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        tree.add(link, Entry::Link(target.into()));
    }
    tree.add("usr/bin/sh", Entry::Link("busybox".into()));
    tree.add("var/run", Entry::Link("/run".into()));
    tree.add("init", Entry::File(INIT.into(), 0o755));
    let nsswitch = "hosts: files dns\n";
    let files =
        [("passwd", PASSWD), ("group", GROUP), ("hosts", HOSTS), ("nsswitch.conf", nsswitch), ("resolv.conf", "")];
    for (name, text) in files {
        tree.add(format!("etc/{name}"), Entry::File(text.into(), 0o644));
    }
    for file in FILES.iter().map(Path::new).filter(|file| file.is_file()) {
        tree.copy(file, file)?;
    }
    tree.program(&found("busybox")?, Path::new("/usr/bin/busybox"))?;
    for name in PROGRAMS {
        tree.program(&found(name)?, &Path::new("/usr/bin").join(name))?;
    }
    tree.program(agent, Path::new("/opt/postern/postern"))?;
    let mut list = String::new();
    for suite in suites {
        let place = Path::new("/opt/postern").join(suite.name);
        tree.program(&suite.file, &place)?;
        list.push_str(&format!("{} {}\n", suite.name, place.display()));
    }
    tree.add("suites", Entry::File(list.into(), 0o644));
    for (position, module) in modules(kernel)?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = format!("modules/{position:03}-{}", name.trim_end_matches(".xz"));
        tree.add(place, Entry::File(unpacked(module)?, 0o644));
    }
    let written = File::create(to).and_then(|file| tree.write(BufWriter::new(file)));
    written.map_err(|error| format!("{}: {error}", to.display()))
}

/// A program of this host, by name.
fn found(name: &str) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = places.map(|place| place.join(name)).filter(|file| file.is_file());
    files.next().ok_or_else(|| format!("this host has no program {name}"))
}

/// Libraries of a program, and its loader; none if it is static.
fn libraries(program: &Path) -> Outcome<Vec<PathBuf>> {
    // It fails for a static program.
    let listed = Command::new("ldd").arg(program).output().map_err(|error| format!("ldd: {error}"))?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let mut libraries = Vec::new();
    for line in listed.lines() {
        let place = line.rsplit_once("=> ").map_or(line, |(_, place)| place).trim();
        if place == "not found" {
            return Err(format!("{}: {}", program.display(), line.trim()));
        }
        let place = place.split(" (").next().unwrap_or(place);
        libraries.extend(place.starts_with('/').then(|| place.into()));
    }
    Ok(libraries)
}

/// Files of the [`MODULES`] and of what they depend on, each behind what it depends on. What is built in has none.
fn modules(kernel: &Kernel) -> Outcome<Vec<PathBuf>> {
    let read = |name: &str| {
        let file = kernel.modules.join(name);
        fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let files = needed(MODULES, &dependencies, &builtin);
    let files = files.map_err(|name| format!("{} has no module {name}", kernel.name))?;
    Ok(files.iter().map(|file| kernel.modules.join(file)).collect())
}

/// What to load for these modules, in order; or the name of one that there is not. Lines of `modules.dep` have a file, and
/// behind a colon all that it depends on, each before what that depends on itself.
fn needed<'a>(modules: &[&'a str], dependencies: &'a str, builtin: &str) -> Result<Vec<&'a str>, &'a str> {
    let mut files = Vec::new();
    for name in modules {
        let line = dependencies.lines().filter_map(|line| line.split_once(':')).find(|(file, _)| is_module(file, name));
        match line {
            Some((file, others)) => {
                for file in others.split_ascii_whitespace().rev().chain([file]) {
                    if !files.contains(&file) {
                        files.push(file);
                    }
                }
            }
            None if builtin.lines().any(|file| is_module(file, name)) => {}
            None => return Err(name),
        }
    }
    Ok(files)
}

/// Whether a file, compressed or not, is the module of this name.
fn is_module(file: &str, name: &str) -> bool {
    file.rsplit('/').next().and_then(|file| file.split_once(".ko")).is_some_and(|(base, _)| base == name)
}

/// A module as the kernel takes it, which may not know how it is compressed.
fn unpacked(module: &Path) -> Outcome<Vec<u8>> {
    if module.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(module).map_err(|error| format!("{}: {error}", module.display()));
    }
    let unpacked = Command::new("xz").args(["--decompress", "--stdout"]).arg(module).output();
    let unpacked = unpacked.map_err(|error| format!("xz: {error}"))?;
    if unpacked.status.success() { Ok(unpacked.stdout) } else { Err(format!("xz failed for {}", module.display())) }
}

/// Something in a directory.
enum Entry {
    Dir,
    Link(PathBuf),
    /// Contents and permissions.
    File(Vec<u8>, u32),
}

/// What the image unpacks to, by path from its root.
#[derive(Default)]
struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    fn add(&mut self, path: impl AsRef<Path>, entry: Entry) {
        if let Some(parent) = path.as_ref().parent() {
            self.dir(parent);
        }
        self.0.insert(path.as_ref().into(), entry);
    }

    fn dir(&mut self, path: &Path) {
        for dir in path.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            self.0.entry(dir.into()).or_insert(Entry::Dir);
        }
    }

    /// Copies a file of this host to an absolute path. Links on the way to it, such as `/lib`, are followed there as here.
    fn copy(&mut self, from: &Path, to: &Path) -> Outcome {
        let failed = |error: io::Error| format!("{}: {error}", from.display());
        let mode = fs::metadata(from).map_err(failed)?.permissions().mode();
        let path = to.strip_prefix("/").unwrap_or(to);
        let top = path.iter().next().map(PathBuf::from).unwrap_or_default();
        let path = match self.0.get(&top) {
            Some(Entry::Link(target)) => target.join(path.strip_prefix(&top).unwrap_or(path)),
            _ => path.into(),
        };
        self.add(path, Entry::File(fs::read(from).map_err(failed)?, mode & 0o777));
        Ok(())
    }

    /// Copies a program, and the libraries that it needs to where it looks for them.
    fn program(&mut self, from: &Path, to: &Path) -> Outcome {
        self.copy(from, to)?;
        for library in libraries(from)? {
            self.copy(&library, &library)?;
        }
        Ok(())
    }

    /// Writes an archive of the form that the kernel calls newc: for each entry a header of numbers in hexadecimal, the name,
    /// and the contents, both padded to four bytes.
    fn write(&self, mut to: impl Write) -> io::Result<()> {
        for (inode, (path, entry)) in self.0.iter().enumerate() {
            let (mode, contents): (u32, &[u8]) = match entry {
                Entry::Dir => (0o04_0755, &[]),
                Entry::Link(target) => (0o12_0777, target.as_os_str().as_encoded_bytes()),
                Entry::File(contents, mode) => (0o10_0000 | mode, contents),
            };
            member(&mut to, inode + 1, path.as_os_str().as_encoded_bytes(), mode, contents)?;
        }
        member(&mut to, 0, b"TRAILER!!!", 0, &[])?;
        to.flush()
    }
}

fn member(to: &mut impl Write, inode: usize, name: &[u8], mode: u32, contents: &[u8]) -> io::Result<()> {
    let size = u32::try_from(contents.len()).map_err(io::Error::other)?;
    // Owner and group are root, the time is the epoch, and device numbers do not count.
    let numbers = [inode as u32, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    write!(to, "070701")?;
    for number in numbers {
        write!(to, "{number:08X}")?;
    }
    to.write_all(name)?;
    // The header has 110 bytes; the name ends with a zero.
    to.write_all(&[0; 4][..1 + padding(110 + name.len() + 1)])?;
    to.write_all(contents)?;
    to.write_all(&[0; 4][..padding(contents.len())])
}

const fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_behind_what_they_depend_on() {
        let dependencies = "kernel/net/a.ko.xz: kernel/net/b.ko.xz kernel/net/c.ko.xz\n\
                            kernel/net/b.ko.xz: kernel/net/c.ko.xz\nkernel/net/c.ko.xz:\n";
        let needed = |modules| needed(modules, dependencies, "kernel/net/d.ko\n");
        assert_eq!(
            needed(&["b", "a", "d"]),
            Ok(vec!["kernel/net/c.ko.xz", "kernel/net/b.ko.xz", "kernel/net/a.ko.xz"])
        );
        assert_eq!(needed(&["c", "e"]), Err("e"));
    }

    #[test]
    fn an_image_has_its_entries_in_order_and_aligned() {
        let mut tree = Tree::default();
        tree.add("lib", Entry::Link("usr/lib".into()));
        tree.add("usr/lib/x", Entry::File(b"12345".into(), 0o644));
        let mut image = Vec::new();
        assert!(tree.write(&mut image).is_ok());
        let mut names = Vec::new();
        let mut at = 0;
        while at < image.len() {
            let field = |index: usize| {
                let digits = &image[at + 6 + 8 * index..][..8];
                usize::from_str_radix(&String::from_utf8_lossy(digits), 16).unwrap_or(usize::MAX)
            };
            assert_eq!(&image[at..at + 6], b"070701");
            let (size, name) = (field(6), field(11));
            names.push(String::from_utf8_lossy(&image[at + 110..][..name - 1]).into_owned());
            at += 110 + name + padding(110 + name);
            at += size + padding(size);
        }
        assert_eq!(names, ["lib", "usr", "usr/lib", "usr/lib/x", "TRAILER!!!"]);
    }
}
