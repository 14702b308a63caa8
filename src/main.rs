//! The `tickhound` command: parses the arguments, runs the command, and turns its result into an exit code.

use std::process::ExitCode;

use clap::Parser;
use tickhound::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run_to_exit_code()
}
