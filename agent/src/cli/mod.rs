//! The command line: `postern NOUN VERB`. One file per subcommand; those that ask the agent do so over its control socket.
//!
//! Exit codes: 0 done, 1 refused or found wrong, 2 bad usage or configuration, 3 the agent is not there.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, parser::ValueSource};

mod audit;
mod ca;
mod check;
mod client;
mod completions;
mod coverage;
mod daemon;
mod doctor;
mod failure;
mod logging;
mod man;
mod output;
mod places;
mod policy;
mod restart;
mod selftest;
mod sessions;
mod status;
mod uninstall;

pub use self::failure::{Code, Failure};
use self::{output::Out, places::Places};

/// Where the configuration is unless it is said.
pub const CONFIG: &str = "/etc/postern/postern.toml";

/// Postern: least privilege for the subagents on this host.
#[derive(Debug, Parser)]
#[command(
    name = "postern",
    version,
    about = "Least privilege for the subagents on this host",
    long_about = "Least privilege for the subagents on this host: every connection from here to a protected target is bound \
                  to the process that opened it, decided by policy, masked and recorded.",
    after_help = "Examples:\n  \
                  postern check                      is the configuration right?\n  \
                  postern doctor                     is this host right for it?\n  \
                  postern run                        enforce it, in this terminal\n  \
                  postern status                     is it enforced?\n  \
                  postern coverage                   is every connection accounted for?\n  \
                  postern sessions list --since 1h   who did something in the last hour?\n  \
                  postern sessions show ID           what exactly?\n  \
                  postern audit verify               is the log what was written?\n\n\
                  Exit codes: 0 done, 1 refused or found wrong, 2 bad usage or configuration, 3 the agent is not there.",
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,
    /// Print JSON: times in UTC, nothing shortened or escaped for a terminal.
    #[arg(long, global = true)]
    pub json: bool,
    /// Whether the configuration file was named.
    #[arg(skip)]
    named: bool,
}

impl Global {
    /// Where the agent of this configuration is.
    ///
    /// # Errors
    /// The configuration cannot be read that far.
    pub fn places(&self) -> Result<Places, Failure> {
        Places::of(&self.config, self.named)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce the configuration: warden and proxy together, until SIGTERM or Ctrl-C.
    #[command(
        after_help = "The redirection stays when the agent ends: protected targets are then refused to everybody. \
                            `postern uninstall` removes it."
    )]
    Run(daemon::Options),
    /// The privileged half alone, as a service.
    #[command(after_help = "Usually started by systemd: postern-warden.service.")]
    Warden(daemon::Messages),
    /// The half that speaks the protocols, as a service.
    #[command(after_help = "Usually started by systemd: postern-proxy.service. It needs a running warden.")]
    Proxy(daemon::ProxyOptions),
    #[command(flatten)]
    Ask(Ask),
}

/// Commands that print something and end.
#[derive(Debug, Subcommand)]
enum Ask {
    /// Check the configuration and the policies, and report everything that is wrong.
    #[command(after_help = "Examples:\n  \
                            postern check                              what would start\n  \
                            postern check --config ./new.toml          before it is installed\n\n\
                            Exit code 0: the agent would start with it; 2: it would not. Warnings are of what is \
                            allowed and has no effect, such as a policy for a role that nobody has.")]
    Check,
    /// Tell what this kernel has and lacks, and what of this host is in the way.
    #[command(after_help = "Examples:\n  \
                            postern doctor\n  \
                            postern doctor --json | jq '.features[] | {name, state, lost}'\n\n\
                            It needs root, loads the programs to see whether the kernel takes them, and puts none in \
                            force. Features that only some kernels have are listed with what is lost without them.\n\n\
                            Exit code 0: nothing is missing; 1: something is, and the agent would not start or not \
                            cover everything.")]
    Doctor,
    /// Tell how the agent, its targets and its log are.
    #[command(after_help = "Examples:\n  \
                            postern status\n  \
                            postern status --json | jq .counters\n\n\
                            Exit code 0: enforcing; 1: degraded, with the reasons; 3: the agent is not there, and \
                            protected targets are refused to everybody.")]
    Status,
    /// Start the agent's proxy anew, from the program and the configuration as they are now, and refuse nobody meanwhile.
    #[command(after_help = "Examples:\n  \
                            postern check && postern restart   take a changed configuration, or an updated program\n  \
                            postern status                     how many sessions are still where they began?\n\n\
                            New connections go to the new process from one moment to the next. Sessions that are open go on \
                            in the old one, under the settings with which they began but for the policies, until they end \
                            or `drain` in [agent] is over. The warden stays as it is: if a target's name, address, sockets \
                            or mode has changed, or [intercept], this is refused, and both have to be started anew, which \
                            ends all sessions.\n\n\
                            Exit code 0: the new process serves; 1: the old one goes on, with the reason; 3: the agent is \
                            not there.")]
    Restart,
    /// Try every path to the targets from a process in scope, and tell how each went.
    #[command(after_help = "Examples:\n  \
                            postern selftest\n  \
                            postern selftest --json | jq '.[] | select(.outcome.outcome == \"reached\")'\n\n\
                            The attempts go to an address of the agent's own, never to a target. The agent makes the same \
                            test when it starts.\n\n\
                            Exit code 0: every path is redirected or refused; 1: one is open, or could not be tried; 3: the \
                            agent is not there.")]
    Selftest,
    /// Tell what has become of every connect to a target: of those that the kernel counted, which are in the log.
    #[command(after_help = "Examples:\n  \
                            postern coverage\n  \
                            postern coverage --json | jq '.rows[] | select(.unexplained != 0)'\n\n\
                            The counts begin when the kernel side is installed, go on when the agent is restarted, and begin \
                            anew when the host is. The agent reconciles them every minute, and when it ends.\n\n\
                            Exit code 0: every redirected connect is accounted for; 1: some are not; 3: the agent is not \
                            there.")]
    Coverage,
    /// Make the attempts of the self-test. The warden starts this.
    #[command(hide = true)]
    Attempts(selftest::Options),
    /// List, show and replay sessions.
    #[command(subcommand)]
    Sessions(sessions::Command),
    /// Prove that the log is what was written, and list what it says of the agent itself.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Check, test and reload policies.
    #[command(subcommand)]
    Policy(policy::Command),
    /// The agent's own certificate authority.
    #[command(subcommand)]
    Ca(ca::Command),
    /// Remove the redirection from the kernel. Configuration and log stay.
    #[command(after_help = "Example:\n  systemctl disable --now postern-proxy postern-warden && postern uninstall\n\n\
                            The agent must not be running. Afterwards connections go to their destinations directly.")]
    Uninstall,
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  postern completions bash > /usr/share/bash-completion/completions/postern")]
    Completions(completions::Options),
    /// Print the manual page, or write one for each command into a directory.
    #[command(after_help = "Examples:\n  postern man | man -l -\n  postern man /usr/share/man/man1")]
    Man(man::Options),
}

/// Refuses whoever is not root, before that shows as a file that cannot be read.
///
/// # Errors
/// It is not root who asks.
fn as_root(what: &str) -> Result<(), Failure> {
    match nix::unistd::geteuid() {
        uid if uid.is_root() => Ok(()),
        uid => Err(Failure::wrong(format!("{what} needs root, and this is uid {uid}")).with_remedy("Run it as root.")),
    }
}

/// Reads the arguments. Help, the version and wrong usage end the process here.
#[must_use]
pub fn parse() -> Cli {
    use clap::{CommandFactory, FromArgMatches};
    let mut matches = Cli::command().get_matches();
    let named = matches.value_source("config") == Some(ValueSource::CommandLine);
    match Cli::from_arg_matches_mut(&mut matches) {
        Ok(mut cli) => {
            cli.global.named = named;
            cli
        }
        Err(error) => error.exit(),
    }
}

/// Does what was asked.
///
/// # Errors
/// Why not, with the exit code.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let command = match command {
        Command::Run(options) => return daemon::run(&global, &options),
        Command::Warden(options) => return daemon::warden(&global, &options),
        Command::Proxy(options) => return daemon::proxy(&global, &options),
        Command::Ask(command) => command,
    };
    let out = &mut Out::new();
    match command {
        Ask::Check => check::run(&global, out),
        Ask::Doctor => doctor::run(&global, out),
        Ask::Status => status::run(&global, out),
        Ask::Restart => restart::run(&global, out),
        Ask::Selftest => selftest::run(&global, out),
        Ask::Coverage => coverage::run(&global, out),
        Ask::Attempts(options) => selftest::attempt(&options, out),
        Ask::Sessions(command) => sessions::run(&global, &command, out),
        Ask::Audit(command) => audit::run(&global, &command, out),
        Ask::Policy(command) => policy::run(&global, &command, out),
        Ask::Ca(command) => ca::run(&global, &command, out),
        Ask::Uninstall => uninstall::run(&global, out),
        Ask::Completions(options) => completions::run(&options, out),
        Ask::Man(options) => man::run(&options, out),
    }?;
    Ok(out.flush()?)
}
