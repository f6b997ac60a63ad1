//! Undoing things whatever happens.
//!
//! A small shell process, in a process group of its own, holds the list of what must be undone. It learns that this process
//! has ended by the end of its standard input, so that panics, SIGKILL and Ctrl-C are all alike. It also ends this
//! process when that hangs beyond a deadline: a host with stale redirections is worse than a failed test.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{Outcome, proc};

/// How long this process may take before it is taken for hanging; see [`deadline`].
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// `$1` is the pid of this process. Lines: `+ID COMMAND` registers, `-ID` forgets, `=SECONDS` moves the deadline.
const SCRIPT: &str = r#"
declare -A undo
deadline=$((SECONDS + $2))
while left=$((deadline - SECONDS)); ((left > 0)); do
    IFS= read -r -t "$left" line
    status=$?
    ((status > 128)) && continue
    ((status == 0)) || break
    id=${line%% *}
    case $line in
        +*) undo[${id#+}]=${line#* } ;;
        -*) unset "undo[${id#-}]" ;;
        =*) deadline=$((SECONDS + ${id#=})) ;;
    esac
done
((left > 0)) || kill -KILL "$1"
for id in $(printf '%s\n' "${!undo[@]}" | sort -rn); do
    bash -c "${undo[$id]}"
done
"#;

struct Watchdog {
    child: Child,
    list: Option<ChildStdin>,
    next: u64,
}

impl Watchdog {
    fn start() -> io::Result<Self> {
        let mut child = Command::new("bash")
            .args(["-c", SCRIPT, "undo", &std::process::id().to_string(), &DEADLINE.as_secs().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let list = child.stdin.take();
        Ok(Self { child, list, next: 1 })
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        match &mut self.list {
            Some(list) => writeln!(list, "{line}"),
            None => Err(io::Error::other("the list of what to undo is closed")),
        }
    }

    fn register(&mut self, command: &str) -> io::Result<u64> {
        debug_assert!(!command.contains('\n'), "one line of shell");
        let id = self.next;
        self.next += 1;
        self.say(&format!("+{id} {command}"))?;
        Ok(id)
    }
}

fn watchdog() -> MutexGuard<'static, Watchdog> {
    static WATCHDOG: OnceLock<Mutex<Watchdog>> = OnceLock::new();
    WATCHDOG
        .get_or_init(|| Mutex::new(Watchdog::start().expect("bash starts")))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Something to be undone by one line of shell: on drop, or by the watchdog.
#[derive(Debug)]
pub struct Undo {
    id: u64,
    command: String,
}

impl Undo {
    /// Registers `command`. Do so before doing what it undoes, so that no moment lies between: it must do no harm then.
    ///
    /// # Errors
    /// The watchdog is gone.
    pub fn new(command: impl Into<String>) -> io::Result<Self> {
        let command = command.into();
        let id = watchdog().register(&command)?;
        Ok(Self { id, command })
    }

    /// The same, and then does what is to be undone; a signal that arrives meanwhile waits until it is done.
    ///
    /// # Errors
    /// The watchdog is gone.
    pub fn of<T>(command: impl Into<String>, deed: impl FnOnce() -> T) -> io::Result<(Self, T)> {
        let command = command.into();
        let mut watchdog = watchdog();
        let id = watchdog.register(&command)?;
        Ok((Self { id, command }, deed()))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let mut watchdog = watchdog();
        let status =
            Command::new("bash").args(["-c", &self.command]).stdin(Stdio::null()).stdout(Stdio::null()).status();
        if let Err(error) = status {
            eprintln!("cannot undo: {}: {error}", self.command);
        }
        let _ = watchdog.say(&format!("-{}", self.id));
    }
}

/// A child process with a process group of its own: the whole group is killed on drop, or by the watchdog.
#[derive(Debug)]
pub struct Guarded {
    /// The process.
    pub child: Child,
    id: u64,
}

impl Guarded {
    /// Starts `command`. The watchdog knows of it before anything else can happen to this process.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut watchdog = watchdog();
        let child = command.process_group(0).spawn()?;
        let pid = child.id();
        let start = proc::start_ticks(pid).unwrap_or(0);
        // SIGQUIT first: it lets PostgreSQL free its shared memory. A group whose leader is another process by now is not ours.
        let id = watchdog.register(&format!(
            "s=$(sed 's/.*) //' /proc/{pid}/stat 2>/dev/null | cut -d' ' -f20); [ \"${{s:-{start}}}\" = {start} ] || exit 0; \
             kill -QUIT -- -{pid} 2>/dev/null; \
             for i in {{1..20}}; do grep -q VmRSS /proc/{pid}/status 2>/dev/null || break; sleep 0.1; done; \
             kill -KILL -- -{pid} 2>/dev/null"
        ))?;
        Ok(Self { child, id })
    }

    /// Process id, of the group too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process, not to its group.
    pub fn signal(&self, signal: Signal) {
        let _ = nix::sys::signal::kill(pid_of(&self.child), signal);
    }

    /// Kills the whole group and waits for the process.
    pub fn kill(&mut self) {
        // As long as the process is not waited for, its pid is still its own.
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = killpg(pid_of(&self.child), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }

    /// Kills what the process itself left in its group, if it has ended.
    pub fn kill_rest(&self) {
        let _ = killpg(pid_of(&self.child), Signal::SIGKILL);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
        self.kill_rest();
        let _ = watchdog().say(&format!("-{}", self.id));
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Moves the deadline: from now, this process may take `time` until it is taken for hanging.
pub fn deadline(time: Duration) {
    let _ = watchdog().say(&format!("={}", time.as_secs()));
}

/// From now on SIGINT, SIGTERM and SIGHUP undo everything and then end this process with code 130.
///
/// They are caught rather than blocked: a process that is started inherits what is blocked, but not what is caught.
///
/// # Errors
/// The signals cannot be caught.
pub fn on_signals() -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|e| e.to_string())?;
    let (term, int, hup) = {
        let _within = runtime.enter();
        let caught = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
        (caught(SignalKind::terminate())?, caught(SignalKind::interrupt())?, caught(SignalKind::hangup())?)
    };
    drop(watchdog());
    thread::spawn(move || {
        let (mut term, mut int, mut hup) = (term, int, hup);
        let name = runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
                _ = hup.recv() => "SIGHUP",
            }
        });
        // Held until the end: nothing new starts, nothing is undone twice.
        let mut watchdog = watchdog();
        eprintln!("{name}: cleaning up");
        watchdog.list = None;
        let _ = watchdog.child.wait();
        std::process::exit(130);
    });
    Ok(())
}
