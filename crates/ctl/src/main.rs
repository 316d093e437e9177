//! The operator's command for a running farrier master.
//!
//! It speaks to the master's control socket: one JSON object per line. The socket is named directly, or
//! by the pidfile beside which it lies, or by the settings file that the server was started with.
//!
//! Exit codes: 0, it is done; 1, it is not (no server there, not in time, a reload that failed); 2, wrong
//! usage.
#![forbid(unsafe_code)]

mod client;
mod locate;
mod table;

use std::env;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::client::{Client, Failure};
use crate::locate::Server;

const AFTER_HELP: &str = "\
The server is the one that the flags name, else the environment (FARRIER_CONTROL_SOCKET,
FARRIER_PIDFILE, FARRIER_CONFIG), else ./farrier.toml.

Exit codes: 0, it is done; 1, it is not; 2, wrong usage.";

/// Looks after a running farrier server.
#[derive(Debug, Parser)]
#[command(after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the server and its workers.
    Status {
        /// As one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stops the server and waits until it is gone.
    Stop {
        /// Cuts the requests in flight.
        #[arg(long)]
        quick: bool,
        /// Seconds to wait.
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
        timeout: Duration,
    },
    /// Reads the settings again, replaces the workers one by one, and waits until all are new or the reload
    /// has failed.
    Reload {
        /// Seconds to wait.
        #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
        timeout: Duration,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closed the pipe has seen enough.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told that standard error is closed.
            let _ = writeln!(io::stderr(), "farrierctl: error: {failure}");
            ExitCode::from(1)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let socket = locate::socket(&cli.server, |name| env::var_os(name))?;
    let mut client = Client::connect(&socket)?;
    let text = match cli.command {
        Command::Status { json: true } => client.ask(client::STATUS)?.line,
        Command::Status { json: false } => table::render(&client.ask(client::STATUS)?.status),
        Command::Stop { quick, timeout } => {
            let order = if quick { client::STOP_QUICK } else { client::STOP };
            let pid = client.ask(order)?.status.pid;
            client.wait_for_the_end(pid, timeout)?;
            format!("stopped: process {pid} is gone\n")
        }
        Command::Reload { timeout } => {
            let status = client.ask_for_a_reload(timeout)?.status;
            let workers = status.workers.iter().filter(|worker| worker.state == "ready").count();
            format!("reloaded: {workers} workers of generation {}\n", status.generation)
        }
    };
    io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=1e9).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "allowed is a number of seconds from 0 to 1000000000".to_owned())
}
