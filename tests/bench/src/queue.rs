//! What a queue between two processes carries, beside Python's `multiprocessing.Queue` where Python is there.
//!
//! One process sends and another one receives: as fast as they can, and then one message at a time, there and back.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use axum::Router;
use farrier::prefork::{Bind, Launcher, LogLevel, Settings, Worker};
use farrier::serve::BoxError;
use farrier::shared::{Receiver, Sender, queue};
use serde::Serialize;

use crate::report::{self, Error, Row, thousands};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Messages that are sent as fast as they can be.
    #[arg(long, default_value_t = 500_000)]
    messages: u64,
    /// Messages that are sent one at a time.
    #[arg(long, default_value_t = 50_000)]
    round_trips: u64,
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    messages: u64,
    round_trips: u64,
}

/// A number, and whether it is to be sent back.
type Message = (u64, bool);

#[derive(Debug, Serialize)]
struct Measured {
    queue: &'static str,
    messages_per_second: f64,
    /// Microseconds.
    round_trip: f64,
}

/// The same in Python, as its documentation does it.
const PYTHON: &str = r#"
import multiprocessing, sys, time

def receive(there, back):
    while True:
        number, send_back = there.get()
        if send_back:
            back.put((number, False))

if __name__ == "__main__":
    messages, round_trips = int(sys.argv[1]), int(sys.argv[2])
    there, back = multiprocessing.Queue(), multiprocessing.Queue()
    multiprocessing.Process(target=receive, args=(there, back), daemon=True).start()
    there.put((0, True)); back.get()
    began = time.monotonic()
    for number in range(messages):
        there.put((number, number == messages - 1))
    back.get()
    rate = messages / (time.monotonic() - began)
    began = time.monotonic()
    for number in range(round_trips):
        there.put((number, True)); back.get()
    print(rate, (time.monotonic() - began) / round_trips * 1e6, flush=True)
"#;

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let numbers = [args.messages.to_string(), args.round_trips.to_string()];
    let mut own = Command::new(std::env::current_exe()?);
    own.arg("serve-queue").args(&numbers);
    let mut rows = vec![measure("farrier-shared", own)?];
    if Command::new("python3").arg("--version").output().is_ok() {
        let mut python = Command::new("python3");
        python.args(["-c", PYTHON]).args(&numbers);
        rows.push(measure("multiprocessing.Queue", python)?);
    }
    report::print(&rows, args.json.as_deref())
}

/// `rate micros`, as the first line of the program.
fn measure(queue: &'static str, mut program: Command) -> Result<Measured, Error> {
    let mut process = program.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    // Its other processes leave when they see it.
    process.kill()?;
    process.wait()?;
    let (rate, micros) = line.trim().split_once(' ').ok_or_else(|| format!("{queue}: {line}"))?;
    Ok(Measured { queue, messages_per_second: rate.parse()?, round_trip: micros.parse()? })
}

/// What `run` starts.
pub(crate) fn serve(args: &ServeArgs) -> ExitCode {
    let queues = queue::<Message>("there").and_then(|there| Ok((there, queue::<Message>("back")?)));
    let ((sender, inbox), (back, answers)) = match queues {
        Ok(queues) => queues,
        Err(error) => {
            report::complain(&error.into());
            return ExitCode::FAILURE;
        }
    };
    let mut settings = Settings::default();
    settings.bind = vec![Bind::Tcp("127.0.0.1".to_owned(), 0)];
    settings.loglevel = LogLevel::Error;
    let (messages, round_trips) = (args.messages, args.round_trips);
    Launcher::new(settings)
        .companion("receiver", move |_| receive(inbox.clone(), back.clone()))
        .run(async |_: Worker| send(&sender, answers.clone(), messages, round_trips).await)
}

#[expect(clippy::unused_async, reason = "what a companion's start is")]
async fn receive(
    mut inbox: Receiver<Message>,
    back: Sender<Message>,
) -> Result<impl Future<Output = ()>, BoxError> {
    Ok(async move {
        while let Ok((number, send_back)) = inbox.recv().await {
            if send_back && back.send(&(number, false)).await.is_err() {
                return;
            }
        }
    })
}

async fn send(
    sender: &Sender<Message>,
    mut answers: Receiver<Message>,
    messages: u64,
    round_trips: u64,
) -> Result<Router, BoxError> {
    sender.send(&(0, true)).await?;
    answers.recv().await?;
    let began = Instant::now();
    for number in 0..messages {
        sender.send(&(number, number == messages - 1)).await?;
    }
    answers.recv().await?;
    let rate = messages as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    for number in 0..round_trips {
        sender.send(&(number, true)).await?;
        answers.recv().await?;
    }
    let round_trip = began.elapsed().as_secs_f64() / round_trips as f64 * 1e6;
    report::say(&format!("{rate} {round_trip}"));
    Ok(Router::new())
}

impl Row for Measured {
    const HEADS: &'static [&'static str] =
        &["queue", "messages per second", "there and back, \u{b5}s"];

    fn cells(&self) -> Vec<String> {
        let round_trip = format!("{:.1}", self.round_trip);
        vec![self.queue.to_owned(), thousands(self.messages_per_second), round_trip]
    }
}
