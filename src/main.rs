//! The `tickhound` command: parses the arguments, runs the command, and turns its result into an exit code.

use std::process::ExitCode;

use tickhound::cli::Cli;

fn main() -> ExitCode {
    match Cli::from_arguments() {
        Ok(cli) => cli.run_to_exit_code(),
        Err(error) => tickhound::cli::print_usage_error(&error),
    }
}
