//! What a table costs that every worker reads: loaded by each for itself, and preloaded.
//!
//! Counted as PSS, which gives each process its part of what it shares, over the master and its workers.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;

use axum::Router;
use clap::ValueEnum;
use farrier::prefork::{Bind, Launcher, LogLevel, ServerHooks, Settings, Worker, WorkerProcess};
use farrier::serve::BoxError;
use serde::Serialize;

use crate::report::{self, Error, Row};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// MiB of the table.
    #[arg(long, default_value_t = 256)]
    mib: usize,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    workers: u32,
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    variant: Variant,
    mib: usize,
    workers: usize,
}

/// Who loads the table.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Variant {
    /// Each worker for itself.
    Own,
    /// The master, before it forks.
    Preloaded,
}

/// MiB.
#[derive(Debug, Serialize)]
struct Measured {
    variant: Variant,
    table: usize,
    workers: u32,
    one_worker: f64,
    all_workers: f64,
    extra_worker: f64,
    /// Percent of the table.
    extra_of_table: f64,
}

/// A launcher that runs, of which each worker has read the table.
struct Server {
    master: Child,
    workers: Vec<u32>,
}

struct SayReady;

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let mut rows = Vec::new();
    for variant in [Variant::Own, Variant::Preloaded] {
        let one_worker = Server::start(variant, args.mib, 1)?.memory()?;
        let all_workers = Server::start(variant, args.mib, args.workers)?.memory()?;
        let extra_worker = (all_workers - one_worker) / f64::from(args.workers - 1);
        rows.push(Measured {
            variant,
            table: args.mib,
            workers: args.workers,
            one_worker,
            all_workers,
            extra_worker,
            extra_of_table: 100.0 * extra_worker / args.mib as f64,
        });
    }
    report::print(&rows, args.json.as_deref())
}

/// What `run` starts.
pub(crate) fn serve(args: &ServeArgs) -> ExitCode {
    static OWN: OnceLock<Vec<u64>> = OnceLock::new();
    let mut settings = Settings::default();
    settings.workers = args.workers;
    settings.bind = vec![Bind::Tcp("127.0.0.1".to_owned(), 0)];
    settings.loglevel = LogLevel::Error;
    let launcher = Launcher::new(settings).server_hooks(SayReady);
    let mib = args.mib;
    match args.variant {
        Variant::Own => launcher.run(async |_| app(OWN.get_or_init(|| table(mib)))),
        Variant::Preloaded => launcher
            .preload(move || Ok::<_, BoxError>(table(mib)))
            .run(async |_: Worker, table: &'static Vec<u64>| app(table)),
    }
}

fn table(mib: usize) -> Vec<u64> {
    (0..(mib << 20) as u64 / 8).collect()
}

/// Reads all of it first.
fn app(table: &[u64]) -> Result<Router, BoxError> {
    if table.iter().sum::<u64>() == 0 {
        return Err("an empty table".into());
    }
    Ok(Router::new())
}

impl ServerHooks for SayReady {
    fn worker_ready(&self, worker: &WorkerProcess) {
        report::say(&worker.pid.unwrap_or(0).to_string());
    }
}

impl Server {
    fn start(variant: Variant, mib: usize, workers: u32) -> Result<Self, Error> {
        let variant = variant.to_possible_value().ok_or("no name")?;
        let mut master = Command::new(std::env::current_exe()?)
            .args(["serve-table", variant.get_name(), &mib.to_string(), &workers.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(master.stdout.take().ok_or("no output")?).lines();
        let workers = said.take(workers as usize).map(|pid| Ok(pid?.parse()?));
        Ok(Self { workers: workers.collect::<Result<_, Error>>()?, master })
    }

    /// MiB of all its processes.
    fn memory(&self) -> Result<f64, Error> {
        let pids = self.workers.iter().copied().chain([self.master.id()]);
        pids.map(pss).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its workers leave when they see it.
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}

/// MiB of one process.
fn pss(pid: u32) -> Result<f64, Error> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = maps.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

impl Row for Measured {
    const HEADS: &'static [&'static str] = &[
        "the table is",
        "table, MiB",
        "1 worker",
        "all workers",
        "each further one",
        "% of the table",
    ];

    fn cells(&self) -> Vec<String> {
        let name = match self.variant {
            Variant::Own => "each worker's own",
            Variant::Preloaded => "preloaded",
        };
        let mib = |mib: f64| format!("{mib:.1}");
        vec![
            name.to_owned(),
            self.table.to_string(),
            mib(self.one_worker),
            format!("{} ({})", mib(self.all_workers), self.workers),
            mib(self.extra_worker),
            mib(self.extra_of_table),
        ]
    }
}
