//! PostgreSQL's own regression tests, from the source package of Debian's PostgreSQL.
//!
//! They are unpacked beside the other tools, never committed. Their functions in C are compiled here: no binary package has
//! them.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    run::{self, Outcome},
    setup::step,
};

/// Major version of the PostgreSQL that the tests run.
const MAJOR: u32 = 15;

/// Where apt is told of archives.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"];

/// What the tests in C of the server's own modules are named; Debian packages them, unlike `regress.so`.
const MODULES: [&str; 2] = ["autoinc.so", "refint.so"];

/// Unpacks and compiles the regression tests into `dir`: `sql`, `data`, `parallel_schedule` and `lib`.
///
/// # Errors
/// Something cannot be downloaded, unpacked or compiled.
pub fn regression_tests(dir: &Path) -> Outcome {
    step(&format!("unpacking PostgreSQL's regression tests in {}", dir.display()));
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    let work = dir.with_extension("unpacking");
    for old in [dir, &work] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    fs::create_dir_all(&work).map_err(failed)?;
    let (archive, headers) = (source(&work)?, headers(&work)?);
    let (tests, lib) = (work.join("tests"), work.join("tests/lib"));
    fs::create_dir_all(&lib).map_err(failed)?;
    run::must(
        Command::new("tar")
            .args(["--extract", "--strip-components=4", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(&tests)
            .args(["--wildcards", "*/src/test/regress"]),
    )?;
    run::must(
        Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
            .arg(lib.join("regress.so"))
            .arg("-I")
            .arg(headers)
            .arg(tests.join("regress.c")),
    )?;
    for module in MODULES {
        symlink(Path::new(&format!("/usr/lib/postgresql/{MAJOR}/lib")).join(module), lib.join(module))
            .map_err(failed)?;
    }
    fs::rename(&tests, dir).and_then(|()| fs::remove_dir_all(&work)).map_err(failed)
}

/// The source archive of the installed server, or of the newest that the archives still have: their indexes may name one that
/// has not arrived, and drop the installed one.
fn source(work: &Path) -> Outcome<PathBuf> {
    let lists = work.join("lists");
    fs::create_dir_all(lists.join("partial")).map_err(|error| format!("{}: {error}", lists.display()))?;
    let sources = work.join("src.list");
    fs::create_dir(&sources).map_err(|error| format!("{}: {error}", sources.display()))?;
    let mut found = 0;
    for place in SOURCES.map(Path::new) {
        let files = if place.is_dir() {
            let entries = fs::read_dir(place).map_err(|error| format!("{}: {error}", place.display()))?;
            entries.flatten().map(|entry| entry.path()).collect()
        } else {
            vec![place.to_owned()]
        };
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "list" || end == "sources")) {
            let Ok(text) = fs::read_to_string(file) else { continue };
            let to = sources.join(file.file_name().unwrap_or_default());
            fs::write(&to, of_sources(&text)).map_err(|error| format!("{}: {error}", to.display()))?;
            found += 1;
        }
    }
    if found == 0 {
        return Err("the regression tests are in Debian's source package, and this host names no archive".into());
    }
    let apt = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        command.args(["-q", "-o", "Dir::Etc::SourceList=/dev/null", "-o", "APT::Sandbox::User=root", "-o"]);
        command.arg(option("Dir::Etc::SourceParts", &sources)).arg("-o").arg(option("Dir::State::Lists", &lists));
        command.args(words).current_dir(work);
        command
    };
    run::must(&mut apt("apt-get", &["update"]))?;
    let package = format!("postgresql-{MAJOR}");
    let installed =
        run::output(Command::new("dpkg-query").args(["--show", "--showformat", "${source:Version}", &package]))?;
    let listed = run::output(&mut apt("apt-cache", &["showsrc", "--only-source", &package]))?;
    let known = listed.lines().filter_map(|line| line.strip_prefix("Version: ").map(str::to_owned));
    let mut versions: Vec<String> = known.filter(|version| *version != installed).collect();
    versions.insert(0, installed);
    for version in &versions {
        let wanted = format!("{package}={version}");
        if run::status(&mut apt("apt-get", &["source", "--download-only", "--tar-only", &wanted]))?.success() {
            let entries = fs::read_dir(work).map_err(|error| format!("{}: {error}", work.display()))?;
            let mut archives = entries.flatten().map(|entry| entry.path());
            return archives
                .find(|file| file.to_string_lossy().contains(".orig.tar."))
                .ok_or_else(|| format!("apt-get source {wanted} brought no .orig.tar"));
        }
    }
    Err(format!("no archive has the source of {package}, in any of the versions {}", versions.join(", ")))
}

/// The server's headers. They are unpacked and not installed: their package depends on whole compilers.
fn headers(work: &Path) -> Outcome<PathBuf> {
    let package = format!("postgresql-server-dev-{MAJOR}");
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", "APT::Sandbox::User=root", "download", &package]).current_dir(work);
        run::status(&mut command)
    };
    // The lists of a new host are empty, and those of an old one are stale.
    if !download()?.success() {
        run::must(Command::new("apt-get").args(["-q", "update"]))?;
        if !download()?.success() {
            return Err(format!("apt-get download {package} failed"));
        }
    }
    let entries = fs::read_dir(work).map_err(|error| format!("{}: {error}", work.display()))?;
    let archive = entries.flatten().map(|entry| entry.path()).find(|file| file.extension().is_some_and(|e| e == "deb"));
    let archive = archive.ok_or_else(|| format!("apt-get download {package} brought no .deb"))?;
    let to = work.join("headers");
    run::must(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&to))?;
    Ok(to.join(format!("usr/include/postgresql/{MAJOR}/server")))
}

/// What names archives of binary packages, naming those of their sources.
fn of_sources(text: &str) -> String {
    let line = |line: &str| match (line.strip_prefix("deb "), line.strip_prefix("Types:")) {
        (Some(rest), _) => format!("deb-src {rest}\n"),
        (_, Some(_)) => "Types: deb-src\n".to_owned(),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::of_sources;

    #[test]
    fn archives_of_sources_are_beside_those_of_packages() {
        assert_eq!(of_sources("deb http://a b main\n# deb c"), "deb-src http://a b main\n# deb c\n");
        assert_eq!(of_sources("Types: deb\nURIs: http://a\n"), "Types: deb-src\nURIs: http://a\n");
    }
}
