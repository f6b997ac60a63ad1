//! Running other programs, so that a signal to this one reaches them and they can clean up.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

/// An error is a text for whoever runs the command.
pub type Outcome<T = ()> = Result<T, String>;

/// Pid of the program that is running; 0 if none is.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Whether this process was told to end: nothing else is to be started then.
static TOLD_TO_END: AtomicBool = AtomicBool::new(false);

/// Takes SIGINT and SIGTERM: they are passed on to the program that is running, whose end is then waited for.
///
/// They are caught rather than blocked: a program that is started inherits what is blocked, but not what is caught.
///
/// # Errors
/// The signals cannot be caught.
pub fn prepare() -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|e| e.to_string())?;
    let (mut int, mut term) = {
        let _within = runtime.enter();
        let caught = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
        (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let signal = tokio::select! {
                    _ = int.recv() => Signal::SIGINT,
                    _ = term.recv() => Signal::SIGTERM,
                };
                TOLD_TO_END.store(true, Ordering::SeqCst);
                match RUNNING.load(Ordering::SeqCst) {
                    0 => std::process::exit(130),
                    pid => drop(kill(Pid::from_raw(pid), signal)),
                }
            }
        });
    });
    Ok(())
}

/// The workspace's directory.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The target directory.
#[must_use]
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| dir.into()),
        None => root().join("target"),
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started.
pub fn status(command: &mut Command) -> Outcome<ExitStatus> {
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", name(command)))?;
    RUNNING.store(child.id().cast_signed(), Ordering::SeqCst);
    let status = child.wait();
    RUNNING.store(0, Ordering::SeqCst);
    let status = status.map_err(|error| format!("{}: {error}", name(command)))?;
    // A program that ended by a signal or as one does so (130) was told to: nothing else is to be started then.
    if status.code().is_none_or(|code| code == 130) {
        return Err(format!("{} was ended: {status}", name(command)));
    }
    Ok(status)
}

/// Runs a command, which must succeed.
///
/// # Errors
/// It cannot be started, or fails.
pub fn must(command: &mut Command) -> Outcome {
    let status = status(command)?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", shown(command))) }
}

/// Runs a command, passes each line of its standard output to `line`, and gives its status.
///
/// # Errors
/// It cannot be started, or this process was told to end meanwhile.
pub fn lines(command: &mut Command, mut line: impl FnMut(&str)) -> Outcome<ExitStatus> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{}: {error}", name(command)))?;
    RUNNING.store(child.id().cast_signed(), Ordering::SeqCst);
    if let Some(stdout) = child.stdout.take() {
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            line(&text);
        }
    }
    let status = child.wait();
    RUNNING.store(0, Ordering::SeqCst);
    if TOLD_TO_END.load(Ordering::SeqCst) {
        return Err(format!("{} was ended", name(command)));
    }
    status.map_err(|error| format!("{}: {error}", name(command)))
}

/// Whether there is a program of this name.
#[must_use]
pub fn is_on_path(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// The standard output of a command, which must succeed; its standard error is not shown.
///
/// # Errors
/// It cannot be started, or fails.
pub fn output(command: &mut Command) -> Outcome<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{}: {error}", name(command)))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{} failed: {}", shown(command), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Runs one of the workspace's own programs and gives its exit code.
///
/// # Errors
/// It cannot be started.
pub fn program(command: &mut Command) -> Outcome<ExitCode> {
    let status = status(command.current_dir(root()))?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    format!("{} {}", name(command), words.join(" "))
}
