//! Suites on older kernels: Debian's own, in a machine that qemu emulates in software, so that no host's support is needed.
//!
//! The machine has no disk. All that the suites need is in an [`image`] that the [`kernel`] unpacks into memory.
//! *Invariant:* the machine ends with this command: with the last suite, at a time limit, or when it is told to.

mod image;
mod kernel;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::run::{self, Outcome};

pub use kernel::{Release, setup};

/// How long a machine may run; software emulation takes ten to twenty times as long as the processor itself.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// The same at full size.
const FULL_LIMIT: Duration = Duration::from_secs(2 * 3600);

/// What `timeout` exits with when the time is over.
const TIME_OVER: i32 = 124;

/// Memory of the machine. The image is in it twice while it is unpacked.
const MEMORY: &str = "3G";

/// Lines of the kernel's own messages that are shown when the machine ends before its suites do.
const LAST_MESSAGES: usize = 30;

/// Something that a machine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A suite begins.
    Begins(&'a str),
    /// A line of the suite that runs.
    Line(&'a str),
    /// It has ended with this status.
    Ends(&'a str, i32),
}

/// A program of the host's own that shall run on an older kernel.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    /// Name of the suite.
    pub name: &'a str,
    /// Its test program.
    pub file: PathBuf,
}

/// Boots a kernel, runs the suites one after the other, and passes on what the machine says. Gives the reason if the machine
/// ended before the last suite did.
///
/// # Errors
/// The machine cannot be made or started, or this process was told to end.
pub fn run(
    release: Release,
    agent: &Path,
    suites: &[Program<'_>],
    full: Option<&str>,
    mut hear: impl FnMut(Said<'_>),
) -> Outcome<Option<String>> {
    let kernel = kernel::installed(release)?.ok_or_else(|| format!("the kernel {release} is not there"))?;
    let dir = run::target().join("older").join(release.to_string());
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let (image, messages) = (dir.join("image"), dir.join("messages"));
    image::write(&image, &kernel, agent, suites)?;
    println!("{}, in software emulation", kernel.name);

    let mut running = suites.len();
    let status = run::lines(&mut machine(&kernel, &image, &messages, full), |line| {
        let said = said(line.trim_end_matches('\r'));
        running = running.saturating_sub(usize::from(matches!(said, Said::Ends(..))));
        hear(said);
    })?;
    if running == 0 {
        return Ok(None);
    }
    let why = if status.code() == Some(TIME_OVER) { "its time was over".into() } else { format!("it ended: {status}") };
    Ok(Some(format!("{why}; the kernel's last messages, of {}:\n{}", messages.display(), last_messages(&messages))))
}

/// The machine, with its second serial port as standard output. It ends at the time limit, and whenever this process does.
fn machine(kernel: &kernel::Kernel, image: &Path, messages: &Path, full: Option<&str>) -> Command {
    let limit = if full.is_some() { FULL_LIMIT } else { LIMIT };
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", &limit.as_secs().to_string()]);
    command.args(["setpriv", "--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    command.args(["-machine", "q35,accel=tcg", "-cpu", "max,la57=off", "-smp", "2", "-m", MEMORY]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
    // What the kernel does not know of `name=value` becomes the first process's environment.
    let full = full.map(|variable| format!(" {variable}=1")).unwrap_or_default();
    command.args(["-append", &format!("console=ttyS0 panic=-1 mitigations=off rdinit=/init{full}")]);
    command.arg("-serial").arg(format!("file:{}", messages.display())).args(["-serial", "stdio"]);
    command.stdin(Stdio::null());
    command
}

fn said(line: &str) -> Said<'_> {
    if let Some(name) = line.strip_prefix("@begin ") {
        return Said::Begins(name);
    }
    let end = line.strip_prefix("@end ").and_then(|rest| rest.rsplit_once(' '));
    match end.and_then(|(name, status)| Some((name, status.parse().ok()?))) {
        Some((name, status)) => Said::Ends(name, status),
        None => Said::Line(line),
    }
}

fn last_messages(file: &Path) -> String {
    let text = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_MESSAGES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_is_told_apart() {
        assert_eq!(said("@begin kernel"), Said::Begins("kernel"));
        assert_eq!(said("@end kernel 1"), Said::Ends("kernel", 1));
        for line in ["@end kernel", "@end kernel x", "ok - a case", ""] {
            assert_eq!(said(line), Said::Line(line));
        }
    }
}
