//! The `respondo` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    respondo::cli::main()
}
