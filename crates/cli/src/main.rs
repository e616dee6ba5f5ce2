//! The `giemsa` command: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    giemsa_cli::main()
}
