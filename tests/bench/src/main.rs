//! farrier-bench: every figure that farrier's documents quote is measured here.
//!
//! `cargo run --release -p farrier-bench -- layers` counts what each layer adds to a request.
//!
//! Two commands are long checks, each on a MariaDB that it starts: `chaos` provokes the connection layer from
//! all sides and looks for a wrong answer, `outage` counts the requests that a database that goes away costs.
//! They end with 1 if something happened that must not.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

mod callgrind;
mod chaos;
mod http;
mod layers;
mod outage;
mod preload;
mod queue;
mod report;
mod service;
mod variables;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Debug, Parser)]
#[command(about = "Measures what farrier costs, and checks it under failures")]
enum Command {
    /// Hang-ups, killed sessions, restarts and pauses of the database, with every answer checked.
    Chaos(chaos::Args),
    /// Instructions per HTTP/1 request, with and without the look at what hyper would take.
    Http(callgrind::Args),
    /// Instructions and heap allocations per request of each layer, beside tower-http's.
    Layers(callgrind::Args),
    /// The database goes away under a steady load: by SIGTERM, SIGKILL and SIGSTOP.
    Outage(outage::Args),
    /// Memory per worker of a table that all read: each worker's own, and preloaded.
    Preload(preload::Args),
    /// Messages per second and latency of a queue between two processes, beside Python's.
    Queue(queue::Args),
    /// What it costs to add to a shared counter, beside an atomic of the process's own.
    Variables(variables::Args),
    /// Serves requests through one variant; what `layers` runs under callgrind.
    #[command(hide = true)]
    Serve(callgrind::ServeArgs<layers::Variant>),
    /// Serves requests over a socket; what `http` runs under callgrind.
    #[command(hide = true)]
    ServeHttp(callgrind::ServeArgs<http::Variant>),
    /// Runs a launcher; what `queue` looks at.
    #[command(hide = true)]
    ServeQueue(queue::ServeArgs),
    /// Runs a launcher; what `preload` looks at.
    #[command(hide = true)]
    ServeTable(preload::ServeArgs),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Chaos(args) => chaos::run(&args),
        Command::Layers(args) => layers::run(&args),
        Command::Outage(args) => outage::run(&args),
        Command::Serve(args) => layers::serve(&args),
        Command::Http(args) => http::run(&args),
        Command::ServeHttp(args) => http::serve(&args),
        Command::Preload(args) => preload::run(&args),
        Command::Queue(args) => queue::run(&args),
        Command::Variables(args) => variables::run(&args),
        Command::ServeQueue(args) => return queue::serve(&args),
        Command::ServeTable(args) => return preload::serve(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}
