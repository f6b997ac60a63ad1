//! The `postern` program: arguments, one subcommand, an exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use agent::cli;

fn main() -> ExitCode {
    match cli::run(cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody can be told, the exit code still tells.
            let _ = io::stderr().write_all(failure.to_string().as_bytes());
            failure.exit_code()
        }
    }
}
