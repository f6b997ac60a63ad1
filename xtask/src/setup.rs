//! Installing whatever is missing. When nothing is, it takes one look at the package database and a few at files.
//!
//! What is not a package lies in directories that name its version and that all checkouts on the host share, so that only
//! the first has to build it. *Invariant:* one setup at a time changes anything.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use nix::unistd::Uid;

use crate::{
    run::{self, Outcome},
    servers, sources,
};

/// Debian packages that building and testing need, beside those of [`KERNEL_SIDE_PACKAGES`].
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "default-jre-headless",
    "dnsmasq-base",
    // A compiler for Java that needs no more than a runtime.
    "ecj",
    "gcc",
    "haproxy",
    "iproute2",
    "libc6-dev",
    // For libFuzzer.
    "libclang-rt-22-dev",
    "libclang-dev",
    "libpostgresql-jdbc-java",
    // Asking psycopg2's source distribution what it is needs pg_config.
    "libpq-dev",
    "llvm-22-dev",
    "make",
    "odbc-postgresql",
    "pgbouncer",
    "pkg-config",
    "postgresql-15",
    "postgresql-client-15",
    "procps",
    "python3-venv",
    // For systemd-analyze.
    "systemd",
    "unixodbc",
    "util-linux",
];

/// Packages that stand in for a nightly toolchain with `rust-src`.
const KERNEL_SIDE_PACKAGES: &[&str] = &["cargo-web", "rust-web-src", "rustc-web"];

/// Version of bpf-linker, and the LLVM that it is linked to.
const BPF_LINKER: &str = "0.13.0";
const LLVM: u32 = 22;

/// Python packages, pinned, for the tests' virtual environment.
const PYTHON_PACKAGES: &[&str] = &[
    "asyncpg==0.30.0",
    "pg8000==1.31.2",
    "psycopg2-binary==2.9.10",
    "psycopg[binary]==3.3.9",
    "pyodbc==5.2.0",
    "pytest==8.4.2",
    "pytz==2025.2",
    "scramp==1.4.5",
    "SQLAlchemy==2.0.43",
];

/// Python packages whose source distributions have tests, pinned as above: these are what the drivers' authors test with.
const PYTHON_SOURCES: &[&str] = &["asyncpg==0.30.0", "pg8000==1.31.2", "psycopg2==2.9.10"];

/// Packages for Node, pinned.
const NODE_PACKAGES: &[&str] = &["pg@8.16.3", "pg-copy-streams@7.0.0", "pg-cursor@2.15.3"];

/// In a directory of what was installed: an empty file that says that everything is in it.
pub const COMPLETE: &str = "complete";

/// The Python whose virtual environment it is.
const PYTHON: &str = "/usr/bin/python3";

/// What cargo-managed tools belong to the toolchain in use.
const COMPONENTS: &[&str] = &["clippy", "rustfmt"];

/// Where what is not a package is installed, unless [`TOOLS_VARIABLE`] names another directory.
const TOOLS: &str = "/var/cache/postern-xtask";
const TOOLS_VARIABLE: &str = "POSTERN_TOOLS";

/// Where what is not a package is installed, for all checkouts.
///
/// # Errors
/// [`TOOLS_VARIABLE`] is empty.
pub fn tools() -> Outcome<PathBuf> {
    let dir = std::env::var_os(TOOLS_VARIABLE).unwrap_or_else(|| TOOLS.into());
    std::path::absolute(&dir).map_err(|error| format!("{TOOLS_VARIABLE}: {error}"))
}

/// Directory of bpf-linker's own `bin`.
///
/// # Errors
/// [`TOOLS_VARIABLE`] is empty.
pub fn linker() -> Outcome<PathBuf> {
    Ok(tools()?.join(format!("bpf-linker-{BPF_LINKER}-llvm-{LLVM}")))
}

/// libFuzzer, without what counts for it: that is the compiler's part.
#[must_use]
pub fn libfuzzer() -> PathBuf {
    let file = format!("libclang_rt.fuzzer-{}.a", std::env::consts::ARCH);
    PathBuf::from(format!("/usr/lib/llvm-{LLVM}/lib/clang/{LLVM}/lib/linux")).join(file)
}

/// The tests' virtual environment: its packages are compiled for one version of Python.
fn venv() -> Outcome<PathBuf> {
    let python = fs::canonicalize(PYTHON).map_err(|error| format!("{PYTHON}: {error}"))?;
    let python = python.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let words: Vec<&str> = PYTHON_PACKAGES.iter().flat_map(|name| name.split(['[', ']', '='])).collect();
    let packages: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    Ok(tools()?.join(format!("{python}-{}", packages.join("-"))))
}

/// Where the drivers' own tests are, and what they are the tests of.
fn python_sources() -> Outcome<PathBuf> {
    Ok(tools()?.join(format!("python-sources-{}", PYTHON_SOURCES.join("-").replace("==", "-"))))
}

/// Node's packages.
fn node_packages() -> Outcome<PathBuf> {
    Ok(tools()?.join(format!("node-{}", NODE_PACKAGES.join("-").replace('@', "-"))))
}

/// PostgreSQL's own regression tests.
fn regression_tests() -> Outcome<PathBuf> {
    Ok(tools()?.join("postgresql-15-regress"))
}

/// The compiler of the kernel side: it needs the source of the standard library, and an LLVM that bpf-linker can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// A nightly of rustup that has both; its directory.
    Rustup(PathBuf),
    /// Debian's own packages.
    Debian,
}

impl Toolchain {
    /// The one that applies.
    ///
    /// # Errors
    /// Neither is there, and Debian's cannot be installed here.
    pub fn find() -> Outcome<Self> {
        if let Some(sysroot) = nightly() {
            return Ok(Self::Rustup(sysroot));
        }
        if Path::new("/usr/bin/dpkg-query").exists() {
            return Ok(Self::Debian);
        }
        Err(format!(
            "the kernel side needs a compiler with the source of its library: rustup toolchain install nightly \
             --component rust-src (with LLVM up to {LLVM})"
        ))
    }

    /// Its cargo, which uses its rustc. A rustc of rustup in the environment would be another one.
    #[must_use]
    pub fn cargo(&self) -> Command {
        let bin = match self {
            Self::Rustup(sysroot) => sysroot.join("bin"),
            Self::Debian => "/usr/bin".into(),
        };
        let mut command = Command::new(bin.join("cargo"));
        for variable in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "CARGO"] {
            command.env_remove(variable);
        }
        command.env("RUSTC", bin.join("rustc"));
        command
    }
}

/// Directory of a nightly toolchain with the source of the library and a fitting LLVM.
fn nightly() -> Option<PathBuf> {
    let sysroot = run::output(Command::new("rustc").args(["+nightly", "--print", "sysroot"])).ok()?;
    let sysroot = PathBuf::from(sysroot.trim());
    let version = run::output(Command::new(sysroot.join("bin/rustc")).arg("-vV")).ok()?;
    let source = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    (source.is_file() && llvm_major(&version)? <= LLVM).then_some(sysroot)
}

fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// Installs whatever is missing.
///
/// # Errors
/// Something is missing and could not be installed.
pub fn setup() -> Outcome {
    let toolchain = Toolchain::find()?;
    if Missing::find(&toolchain)?.anything() {
        let start = Instant::now();
        let _lock = lock()?;
        // Another setup may just have ended: what is missing is looked for again.
        Missing::find(&toolchain)?.install(&toolchain)?;
        step(&format!("everything is there now ({} s)", start.elapsed().as_secs()));
    }
    link("venv", &venv()?)?;
    link("python-sources", &python_sources()?)?;
    link("node", &node_packages()?)?;
    link("regress", &regression_tests()?)?;
    servers::link_all()
}

/// What is not there.
struct Missing {
    packages: Vec<&'static str>,
    components: bool,
    linker: bool,
    python: bool,
    python_sources: bool,
    node: bool,
    regress: bool,
    servers: Vec<&'static str>,
}

impl Missing {
    fn find(toolchain: &Toolchain) -> Outcome<Self> {
        let kernel_side = if *toolchain == Toolchain::Debian { KERNEL_SIDE_PACKAGES } else { &[] };
        let mut packages = missing_packages(&[PACKAGES, kernel_side].concat())?;
        // Node comes from others than Debian, too, and then with npm in the same package.
        if !["node", "npm"].iter().all(|name| run::is_on_path(name)) {
            packages.extend(["nodejs", "npm"]);
        }
        let sysroot = run::output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let bin = Path::new(sysroot.trim()).join("bin");
        Ok(Self {
            // Python itself may be among the packages.
            python: packages.contains(&"python3-venv") || !venv()?.join(COMPLETE).is_file(),
            packages,
            components: !["cargo-clippy", "rustfmt"].iter().all(|name| bin.join(name).exists()),
            linker: !linker()?.join("bin/bpf-linker").is_file(),
            python_sources: !python_sources()?.join(COMPLETE).is_file(),
            node: !node_packages()?.join(COMPLETE).is_file(),
            regress: !regression_tests()?.is_dir(),
            servers: servers::missing()?,
        })
    }

    fn anything(&self) -> bool {
        !self.packages.is_empty()
            || self.components
            || self.linker
            || self.python
            || self.python_sources
            || self.node
            || self.regress
            || !self.servers.is_empty()
    }

    fn install(&self, toolchain: &Toolchain) -> Outcome {
        if !self.packages.is_empty() {
            install_packages(&self.packages)?;
        }
        if self.components {
            step("adding clippy and rustfmt");
            run::must(Command::new("rustup").args(["component", "add"]).args(COMPONENTS))?;
        }
        if self.linker {
            install_linker(toolchain)?;
        }
        if self.python {
            install_python()?;
        }
        if self.python_sources {
            install_python_sources()?;
        }
        if self.node {
            install_node()?;
        }
        if self.regress {
            sources::regression_tests(&regression_tests()?)?;
        }
        self.servers.iter().try_for_each(|version| servers::install(version))
    }
}

/// Waits until no other setup is changing anything; until the file is closed none begins.
///
/// # Errors
/// The directory of tools cannot be written to.
pub fn lock() -> Outcome<File> {
    let dir = tools()?;
    let open = || {
        fs::create_dir_all(&dir)?;
        File::create(dir.join("lock"))
    };
    let named = |error: io::Error| {
        format!("{}: {error}; {TOOLS_VARIABLE}=DIR names another directory for tools", dir.display())
    };
    let file = open().map_err(named)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            step("waiting for another setup");
            file.lock().map_err(named)?;
        }
        Err(TryLockError::Error(error)) => return Err(named(error)),
    }
    Ok(file)
}

/// Tells what is being done.
pub fn step(what: &str) {
    eprintln!("setup: {what}");
}

/// Which of these packages are not installed.
///
/// # Errors
/// The package database cannot be asked.
pub fn missing_packages<'a>(wanted: &[&'a str]) -> Outcome<Vec<&'a str>> {
    if !Path::new("/usr/bin/dpkg-query").exists() {
        // Another distribution: its packages have other names, so the builds themselves say what they miss.
        return Ok(Vec::new());
    }
    // It fails when one is unknown, and still lists the others.
    let listed = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(wanted)
        .output()
        .map_err(|error| format!("dpkg-query: {error}"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let installed: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(wanted.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// Installs packages.
///
/// # Errors
/// This is not root, or a package cannot be installed.
pub fn install_packages(missing: &[&str]) -> Outcome {
    let list = missing.join(" ");
    if !Uid::effective().is_root() {
        return Err(format!("packages are missing, and installing them needs root: apt-get install {list}"));
    }
    step(&format!("installing packages: {list}"));
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        // Another package manager may be at work.
        command.args(["-q", "-o", "DPkg::Lock::Timeout=600"]).args(words).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let _cluster = missing.contains(&"postgresql-15").then(NoCluster::new).transpose()?;
    let install: Vec<&str> =
        ["install", "--yes", "--no-install-recommends"].into_iter().chain(missing.iter().copied()).collect();
    // The lists of a new host are empty, and those of an old one are stale: then a second try, with new ones.
    if run::status(&mut apt(&install))?.success() {
        return Ok(());
    }
    step("refreshing the package lists");
    run::must(&mut apt(&["update"]))?;
    run::must(&mut apt(&install))
}

/// While it lives, installing PostgreSQL makes no cluster and so starts no server: only its programs are needed.
struct NoCluster(PathBuf);

impl NoCluster {
    fn new() -> Outcome<Self> {
        let dir = Path::new("/etc/postgresql-common/createcluster.d");
        let file = dir.join("postern-setup.conf");
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&file, "create_main_cluster = false\n"))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Self(file))
    }
}

impl Drop for NoCluster {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn install_linker(toolchain: &Toolchain) -> Outcome {
    let root = linker()?;
    step(&format!("building bpf-linker {BPF_LINKER} (some minutes) in {}", root.display()));
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    let mut command = toolchain.cargo();
    command
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{LLVM}"))
        .arg("--root")
        .arg(&root)
        .env("PATH", "/usr/bin:/bin")
        .env("RUSTFLAGS", format!("-L native={prefix}/lib"))
        .env("LLVM_PREFIX", prefix)
        .env("CARGO_TARGET_DIR", root.join("build"));
    run::must(&mut command)?;
    let _ = fs::remove_dir_all(root.join("build"));
    Ok(())
}

fn install_python() -> Outcome {
    let venv = venv()?;
    step(&format!("installing {} in {}", PYTHON_PACKAGES.join(" "), venv.display()));
    let _ = fs::remove_dir_all(&venv);
    run::must(Command::new(PYTHON).args(["-m", "venv"]).arg(&venv))?;
    run::must(Command::new(venv.join("bin/pip")).args(["install", "--quiet"]).args(PYTHON_PACKAGES))?;
    complete(&venv)
}

fn install_python_sources() -> Outcome {
    let dir = python_sources()?;
    step(&format!("unpacking the sources of {} in {}", PYTHON_SOURCES.join(" "), dir.display()));
    begin(&dir)?;
    let mut download = Command::new(venv()?.join("bin/pip"));
    // By name, because what builds them would be built from source as well.
    let names: Vec<&str> = PYTHON_SOURCES.iter().filter_map(|package| package.split("==").next()).collect();
    download.args(["download", "--quiet", "--no-deps", "--no-binary", &names.join(","), "--dest"]).arg(&dir);
    run::must(download.args(PYTHON_SOURCES))?;
    for package in PYTHON_SOURCES {
        let archive = dir.join(format!("{}.tar.gz", package.replace("==", "-")));
        run::must(Command::new("tar").args(["--extract", "--file"]).arg(&archive).arg("--directory").arg(&dir))?;
        let name = package.split("==").next().unwrap_or(package);
        let named = |error: io::Error| format!("{}: {error}", archive.display());
        fs::rename(dir.join(package.replace("==", "-")), dir.join(name)).map_err(named)?;
        fs::remove_file(&archive).map_err(named)?;
    }
    complete(&dir)
}

fn install_node() -> Outcome {
    let dir = node_packages()?;
    step(&format!("installing {} in {}", NODE_PACKAGES.join(" "), dir.display()));
    begin(&dir)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&dir);
    run::must(npm.args(NODE_PACKAGES).current_dir(&dir))?;
    complete(&dir)
}

/// A directory with nothing of an earlier try in it.
pub fn begin(dir: &Path) -> Outcome {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// Says that all of a directory is there.
///
/// # Errors
/// It cannot be written to.
pub fn complete(dir: &Path) -> Outcome {
    fs::write(dir.join(COMPLETE), "").map_err(|error| format!("{}: {error}", dir.display()))
}

/// The tests find what all checkouts share by links beside themselves, in `target/tools`, however they are started.
pub fn link(name: &str, to: &Path) -> Outcome {
    let link = run::target().join("tools").join(name);
    if fs::read_link(&link).is_ok_and(|there| there == to) {
        return Ok(());
    }
    // Made aside and moved into place, because another setup may be doing the same.
    let aside = link.with_file_name(format!("{name}.{}", std::process::id()));
    let replace = || {
        fs::create_dir_all(run::target().join("tools"))?;
        if link.is_dir() && !link.is_symlink() {
            fs::remove_dir_all(&link)?;
        }
        symlink(to, &aside)?;
        fs::rename(&aside, &link)
    };
    replace().map_err(|error| format!("{}: {error}", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_are_found() {
        let wanted = ["dpkg", "postern-is-no-such-package"];
        assert_eq!(missing_packages(&wanted), Ok(vec!["postern-is-no-such-package"]));
    }

    #[test]
    fn the_llvm_of_a_compiler_is_read() {
        assert_eq!(llvm_major("rustc 1.97.0-nightly\nhost: x\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.97.0"), None);
    }
}
