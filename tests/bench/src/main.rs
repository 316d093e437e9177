//! farrier-bench: every figure that farrier's documents quote is measured here.
//!
//! `cargo run --release -p farrier-bench -- layers` counts what each layer adds to a request.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

mod layers;
mod report;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Debug, Parser)]
#[command(about = "Measures what farrier costs")]
enum Command {
    /// Instructions and heap allocations per request of each layer, beside tower-http's.
    Layers(layers::Args),
    /// Serves requests through one variant; what `layers` runs under callgrind.
    #[command(hide = true)]
    Serve(layers::ServeArgs),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Layers(args) => layers::run(&args),
        Command::Serve(args) => layers::serve(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}
