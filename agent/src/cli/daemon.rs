//! `postern run`, `postern warden`, `postern proxy`: the agent itself.

use std::sync::Arc;

use clap::Args;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::SigSet,
};
use tokio::runtime::Runtime;

use super::{Failure, Global, logging};
use crate::{
    config::{Config, ConfigErrors, Files},
    protocol,
    recording::{OpenError, RecoveryError},
    session::{
        daemon::{self, ProxyError},
        handover::{Launch, Predecessor, TAKE_OVER},
        memory,
    },
    warden,
};

/// How the agent itself says what it does.
#[derive(Debug, Args)]
pub struct Messages {
    /// Form of the messages on standard error. POSTERN_LOG selects which: `debug`, `info,agent::warden=trace`, …
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: logging::Format,
}

/// Options of the agent itself.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    messages: Messages,
    /// End, instead of serving degraded, unless the self-test finds every path closed and all else is in order too.
    #[arg(long, value_enum, value_name = "STATE")]
    require: Option<State>,
}

/// Options of the proxy.
#[derive(Debug, Args)]
pub struct ProxyOptions {
    #[command(flatten)]
    options: Options,
    /// Take the place of the proxy that starts this one, with which it is connected by its standard input.
    #[arg(long, hide = true)]
    take_over: bool,
}

/// A state that the agent must be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum State {
    /// As `postern status` calls it.
    Enforcing,
}

/// Warden and proxy together.
///
/// # Errors
/// Why it ended.
pub fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    privileged(global, &options.messages, Some(warden::Spawn { must_enforce: options.require.is_some() }))
}

/// The privileged half.
///
/// # Errors
/// Why it ended.
pub fn warden(global: &Global, messages: &Messages) -> Result<(), Failure> {
    privileged(global, messages, None)
}

/// The half that speaks the protocols.
///
/// # Errors
/// Why it ended.
pub fn proxy(global: &Global, options: &ProxyOptions) -> Result<(), Failure> {
    if !options.take_over {
        return serve(global, &options.options, None);
    }
    let predecessor = Predecessor::of_this_process()
        .map_err(|error| Failure::wrong(format!("{TAKE_OVER} is for a proxy to start another with: {error}")))?;
    let predecessor = Arc::new(predecessor);
    let outcome = serve(global, &options.options, Some(Arc::clone(&predecessor)));
    if let Err(failure) = &outcome {
        predecessor.fail(&failure.to_string());
    }
    outcome
}

fn serve(global: &Global, options: &Options, predecessor: Option<Arc<Predecessor>>) -> Result<(), Failure> {
    memory::limit();
    logging::start(options.messages.log_format)?;
    // A warden that starts this process has signals blocked, which it inherits, and by which it is to be ended.
    SigSet::all().thread_unblock().map_err(|error| Failure::wrong(format!("signals cannot be taken: {error}")))?;
    // Two descriptors for each session; the limit that an interactive shell sets is for programs that cannot have many.
    if let Err(error) =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most))
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    // Before a new version can have been installed.
    let program = std::env::current_exe().map_err(|error| Failure::wrong(format!("/proc/self/exe: {error}")))?;
    let launch = Launch { program, arguments: std::env::args_os().skip(1).collect() };
    // The warden has looked at the files, some of which this process may not read.
    let config = load(global, Files::Skip)?;
    let runtime = Runtime::new().map_err(|error| Failure::wrong(format!("the proxy cannot start: {error}")))?;
    let state_dir = config.agent.state_dir.clone();
    let outcome = runtime.block_on(daemon::run(config, options.require.is_some(), launch, predecessor));
    // Not waiting for a name server that does not answer the C library.
    runtime.shutdown_background();
    outcome.map_err(|error| {
        let failure = Failure::wrong(error.to_string());
        match error {
            ProxyError::Log(OpenError::Recovery(RecoveryError::Scan(_) | RecoveryError::Shortened { .. })) => {
                let dir = state_dir.display();
                failure.with_remedy(format!(
                    "`postern audit verify --state-dir {dir}` names the record. To start with a new log, move the \
                     directory away: it is evidence."
                ))
            }
            _ => failure,
        }
    })
}

fn privileged(global: &Global, messages: &Messages, proxy: Option<warden::Spawn>) -> Result<(), Failure> {
    logging::start(messages.log_format)?;
    super::as_root("loading programs into the kernel")?;
    let config = load(global, Files::Check)?;
    // The policies belong to the proxy; but a set that it would refuse is better refused before anything is redirected.
    let checked = crate::policy::check(&config.agent.policies, protocol::FRAGMENTS);
    if !checked.passed() {
        return Err(Failure::usage(checked.to_string()));
    }
    warden::run(&config, proxy).map(drop).map_err(|error| Failure::wrong(error.to_string()))
}

fn load(global: &Global, files: Files) -> Result<Config, Failure> {
    let names: Vec<&str> = protocol::PROTOCOLS.iter().map(|(name, _)| *name).collect();
    Config::load(&global.config, &names, files).map_err(|errors: ConfigErrors| Failure::usage(errors.to_string()))
}
