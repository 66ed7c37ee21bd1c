//! The `strata` binary.

use std::io;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: strata_cli::memory::Allocator = strata_cli::memory::Allocator;

fn main() -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    ExitCode::from(strata_cli::run(std::env::args_os(), &mut out, &mut err))
}
