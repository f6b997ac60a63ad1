//! Debian's kernels: fetched as packages and unpacked among the other tools, never installed on this host.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;

use crate::{
    run::{self, Outcome},
    setup,
};

/// What booting a kernel needs, beside the kernels themselves.
const PACKAGES: &[&str] = &["busybox-static", "kmod", "qemu-system-x86", "xz-utils"];

/// In a kernel's directory: an empty file that says that everything is in it.
const COMPLETE: &str = "complete";

/// The releases that Postern is tested on, beside that of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// The oldest that Postern runs on.
    #[value(name = "6.1")]
    V6_1,
    /// With what came since, and without what the newest has.
    #[value(name = "6.12")]
    V6_12,
}

impl Release {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

/// A kernel that is there.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name of its package.
    pub name: String,
    /// What is booted.
    pub image: PathBuf,
    /// The directory with its modules, `modules.dep` and `modules.builtin`.
    pub modules: PathBuf,
}

/// The newest kernel of a release among the tools, if one is there.
///
/// # Errors
/// Its directory is not as it was left.
pub fn installed(release: Release) -> Outcome<Option<Kernel>> {
    let Ok(entries) = fs::read_dir(setup::tools()?) else { return Ok(None) };
    let names = entries.flatten().filter(|entry| entry.path().join(COMPLETE).is_file());
    let names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let Some(name) = newest(release, names.iter().map(String::as_str)) else { return Ok(None) };
    let dir = setup::tools()?.join(name);
    let (image, modules) = (only(&dir.join("boot"), "vmlinuz-")?, only(&dir.join("lib/modules"), "")?);
    Ok(Some(Kernel { name: name.into(), image, modules }))
}

/// Installs what booting these kernels needs.
///
/// # Errors
/// Something is missing and could not be installed.
pub fn setup(releases: &[Release]) -> Outcome {
    if !setup::missing_packages(PACKAGES)?.is_empty() || missing(releases)?.next().is_some() {
        let _lock = setup::lock()?;
        let packages = setup::missing_packages(PACKAGES)?;
        if !packages.is_empty() {
            setup::install_packages(&packages)?;
        }
        for release in missing(releases)? {
            fetch(release)?;
        }
    }
    Ok(())
}

fn missing(releases: &[Release]) -> Outcome<impl Iterator<Item = Release>> {
    let found: Outcome<Vec<_>> =
        releases.iter().map(|release| Ok((*release, installed(*release)?.is_some()))).collect();
    Ok(found?.into_iter().filter(|(_, there)| !there).map(|(release, _)| release))
}

fn fetch(release: Release) -> Outcome {
    let known = || run::output(Command::new("apt-cache").args(["pkgnames", &format!("linux-image-{release}.")]));
    let mut names = known()?;
    if newest(release, names.lines()).is_none() {
        setup::step("refreshing the package lists");
        run::must(Command::new("apt-get").args(["-q", "update"]))?;
        names = known()?;
    }
    let name = newest(release, names.lines())
        .ok_or_else(|| format!("no package source of this host has a cloud kernel {release} (Debian 12 has one)"))?;
    let dir = setup::tools()?.join(name);
    setup::step(&format!("fetching the kernel {name} into {}", dir.display()));
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("lib")).map_err(failed)?;
    // As root, for the directory is root's.
    run::must(
        Command::new("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download", name]).current_dir(&dir),
    )?;
    let package = only(&dir, &format!("{name}_"))?;
    run::must(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&dir))?;
    fs::remove_file(&package).map_err(failed)?;
    // Newer packages have their modules below /usr.
    if dir.join("usr/lib/modules").is_dir() {
        fs::rename(dir.join("usr/lib/modules"), dir.join("lib/modules")).map_err(failed)?;
    }
    let modules = only(&dir.join("lib/modules"), "")?;
    // What installing the package would do: `modules.dep`.
    let version = modules.file_name().unwrap_or_default();
    run::must(Command::new("/sbin/depmod").arg("--basedir").arg(&dir).arg(version))?;
    fs::write(dir.join(COMPLETE), "").map_err(failed)
}

/// The only entry of a directory that begins so.
fn only(dir: &Path, begin: &str) -> Outcome<PathBuf> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let begins = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(begin);
    let found: Vec<PathBuf> = entries.flatten().filter(begins).map(|entry| entry.path()).collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(format!(
            "{} has {} entries {begin}*; remove it, and it will be fetched again",
            dir.display(),
            found.len()
        )),
    }
}

/// The newest of the packages that are cloud kernels of a release: `linux-image-6.1.0-56-cloud-amd64`,
/// `linux-image-6.12.117+deb12-cloud-amd64`. Theirs are the smallest packages, and have what a server's kernel has.
fn newest<'a>(release: Release, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let version = |name: &str| {
        let version = name.strip_prefix(&format!("linux-image-{release}."))?.strip_suffix("-cloud-amd64")?;
        let numbers = version.split(|letter: char| !letter.is_ascii_digit()).filter_map(|number| number.parse().ok());
        Some(numbers.collect::<Vec<u32>>())
    };
    names.filter_map(|name| Some((version(name)?, name))).max().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_a_release_is_chosen_by_number() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-dbg",
            "linux-image-6.1.0-57-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ];
        assert_eq!(newest(Release::V6_1, names.into_iter()), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest(Release::V6_12, names.into_iter()), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(Release::V6_12, names[..5].iter().copied()), None);
    }
}
