//! The `strata` binary.

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    ExitCode::from(strata_cli::run(std::env::args_os(), &mut out, &mut err))
}
