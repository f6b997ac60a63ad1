//! Running commands as other users, with a time limit.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{Outcome, undo::Guarded};

/// Time limit of a command that names none.
const LIMIT: Duration = Duration::from_secs(30);

/// How often the end of a process is looked for.
const PAUSE: Duration = Duration::from_millis(2);

/// A command: program, arguments, user, environment, standard input, time limit.
///
/// It starts in `/` with an environment of its own: `PATH`, `LANG`, and what [`env`](Self::env) adds. Without
/// [`user`](Self::user) it runs as root. The user needs no passwd entry.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    ids: Option<(u32, u32)>,
    input: Vec<u8>,
    limit: Duration,
}

impl Cmd {
    /// A command without arguments.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().into(),
            args: Vec::new(),
            envs: Vec::new(),
            ids: None,
            input: Vec::new(),
            limit: LIMIT,
        }
    }

    /// `psql` of PostgreSQL 15 without a startup file, tuples only and unaligned, stopping at the first error.
    #[must_use]
    pub fn psql(connection: &str, sql: &str) -> Self {
        Self::new("/usr/lib/postgresql/15/bin/psql").args([
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            connection,
            "-c",
            sql,
        ])
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Runs it as this user and group, without supplementary groups.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.ids = Some((uid, gid));
        self
    }

    /// What it reads from its standard input, which then ends.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Its time limit; 30 s without.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command as a shell would take it.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.envs {
            let _ = write!(line, "{}={} ", name.to_string_lossy(), quoted(value));
        }
        let program = Path::new(&self.program).file_name().unwrap_or(&self.program);
        line.push_str(&quoted(program));
        for arg in &self.args {
            line.push(' ');
            line.push_str(&quoted(arg));
        }
        line
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started, or takes longer than its limit. Any exit code is an answer, not an error.
    pub fn run(&self) -> Outcome<Finished> {
        let mut running = self.spawn()?;
        if let Some(mut stdin) = running.stdin.take() {
            let input = self.input.clone();
            // A thread, because the process may write before it has read all. It may also not read at all.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        running.finish(self.limit)
    }

    /// Runs it to its end, which must be a good one, and gives what it wrote to its standard output.
    ///
    /// # Errors
    /// As [`run`](Self::run), and any exit code but 0.
    pub fn ok(&self) -> Outcome<String> {
        let finished = self.run()?;
        if finished.success() { Ok(finished.stdout) } else { Err(format!("{}: {finished}", self.shown())) }
    }

    /// Starts it and leaves it running; its standard input stays open.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self) -> Outcome<Running> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().current_dir("/");
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some((uid, gid)) = self.ids {
            // As root, this drops the supplementary groups too.
            command.uid(uid).gid(gid);
        }
        let shown = self.shown();
        let mut guarded = Guarded::spawn(&mut command).map_err(|error| format!("{shown}: {error}"))?;
        let stdin = guarded.child.stdin.take();
        let stdout = guarded.child.stdout.take();
        let stderr = guarded.child.stderr.take().map(collect);
        Ok(Running { shown, guarded, stdin, stdout, lines: None, stderr })
    }
}

/// A running command. Its whole process group is killed on drop.
#[derive(Debug)]
pub struct Running {
    shown: String,
    guarded: Guarded,
    /// Its standard input; `None` once taken or closed.
    pub stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    lines: Option<mpsc::Receiver<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.guarded.pid()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It no longer reads.
    pub fn send(&mut self, line: &str) -> Outcome {
        let stdin = self.stdin.as_mut().ok_or("its standard input is closed")?;
        writeln!(stdin, "{line}").map_err(|error| format!("{}: {error}", self.shown))
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    /// No line came within `limit`, or the output has ended.
    pub fn line(&mut self, limit: Duration) -> Outcome<String> {
        if self.lines.is_none() {
            let stdout = self.stdout.take().ok_or("its standard output is taken")?;
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
            self.lines = Some(receiver);
        }
        let lines = self.lines.as_ref().ok_or("its standard output is taken")?;
        lines.recv_timeout(limit).map_err(|error| format!("{}: no line: {error}", self.shown))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.guarded.signal(signal);
    }

    /// Closes its standard input and waits for its end. Lines already taken with [`line`](Self::line) are not in the answer.
    ///
    /// # Errors
    /// It takes longer than `limit`; it is killed then.
    pub fn finish(mut self, limit: Duration) -> Outcome<Finished> {
        drop(self.stdin.take());
        let stdout = self.stdout.take().map(collect);
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.guarded.child.try_wait().map_err(|error| error.to_string())? {
                break Some(status);
            }
            if Instant::now() >= end {
                self.guarded.kill();
                break None;
            }
            thread::sleep(PAUSE);
        };
        let pid = self.pid();
        // What it has left in its group may hold the output open, and has as long as itself.
        let open = |thread: &Option<JoinHandle<String>>| thread.as_ref().is_some_and(|thread| !thread.is_finished());
        while open(&stdout) || open(&self.stderr) {
            if Instant::now() >= end {
                self.guarded.kill_rest();
                break;
            }
            thread::sleep(PAUSE);
        }
        let mut text = stdout.map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
        if let Some(lines) = &self.lines {
            while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        let stderr = self.stderr.take().map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
        match status {
            Some(status) => Ok(Finished { status, pid, stdout: text, stderr }),
            None => Err(format!("{}: took longer than {limit:?}\n{text}{stderr}", self.shown)),
        }
    }
}

/// How a command ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Which process it was.
    pub pid: u32,
    /// What it wrote; invalid UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Finished {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; `None` if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status.signal() {
            Some(signal) => write!(f, "ended by signal {signal}")?,
            None => write!(f, "exit code {}", self.status.code().unwrap_or(-1))?,
        }
        for text in [&self.stdout, &self.stderr] {
            if !text.is_empty() {
                write!(f, "\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else if word.contains('\'') && !word.contains(['"', '$', '`', '\\', '!']) {
        format!("\"{word}\"")
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
