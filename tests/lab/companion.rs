//! Companions that write down that they are there, and a queue to the first of them.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use farrier::prefork::Companion;
use farrier::prelude::*;
use farrier::shared::{self, Receiver, SendError, Sender};
use nix::fcntl::{Flock, FlockArg};
use tokio::time;

const TICK: Duration = Duration::from_millis(50);

/// A companion's file, and what is beside it: `.queue` has a line for each message that was received, `.lock` is locked by
/// who runs, and `.fail`, `.hang` and `.stay`, while they are there, say what the companion does.
#[derive(Clone, Debug)]
struct Place(PathBuf);

/// Adds a companion for each file, and the queue to the first of them.
pub(crate) fn add(
    mut launcher: Launcher,
    files: Vec<PathBuf>,
) -> Result<(Launcher, Option<Queue>), BoxError> {
    let mut queue = None;
    for (number, file) in files.into_iter().enumerate() {
        let place = Place(std::path::absolute(file)?);
        let inbox = if number == 0 {
            let (sender, receiver) = shared::queue("messages")?;
            queue = Some(Queue { sender, place: place.clone() });
            Some(receiver)
        } else {
            None
        };
        launcher = launcher.companion(format!("companion-{number}"), move |companion| {
            run(companion, place.clone(), inbox.clone())
        });
    }
    Ok((launcher, queue))
}

/// What a worker has of it.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: Sender<String>,
    place: Place,
}

/// `POST /queue` sends its body to the companion, `GET /queue` answers how many messages that has received.
pub(crate) fn routes(queue: Queue) -> Router {
    Router::new().route("/queue", post(send).get(received)).with_state(queue)
}

async fn send(State(queue): State<Queue>, message: String) -> Result<(), (StatusCode, String)> {
    queue.sender.send(&message).await.map_err(|error| match error {
        SendError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        error => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    })
}

async fn received(State(queue): State<Queue>) -> String {
    let lines = std::fs::read_to_string(queue.place.beside("queue")).unwrap_or_default();
    lines.lines().count().to_string()
}

#[expect(clippy::unused_async, reason = "a companion may have to wait before it has started")]
async fn run(
    companion: Companion,
    place: Place,
    mut inbox: Option<Receiver<String>>,
) -> Result<impl Future<Output = ()>, BoxError> {
    if place.beside("fail").exists() {
        return Err("the file said so".into());
    }
    let lock = Flock::lock(File::create(place.beside("lock"))?, FlockArg::LockExclusiveNonblock);
    let lock = lock.map_err(|(_, error)| format!("it runs twice: {error}"))?;
    let last = place.clone();
    companion.before_exit(async move { last.note("", &format!("{} exit", std::process::id())) });
    Ok(async move {
        let _lock = lock;
        let drain = companion.drain();
        let mut ticks = time::interval(TICK);
        let mut tick = 0_u64;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    place.note("", &format!("{} {tick}", std::process::id()));
                    tick += 1;
                    place.hang();
                }
                message = next(&mut inbox) => match message {
                    Ok(message) => place.note("queue", &message),
                    Err(error) => tracing::error!(%error, "no message"),
                },
                () = drain.started(), if !place.beside("stay").exists() => break,
            }
        }
        // What the workers have left.
        while let Some(Ok(message)) = inbox.as_mut().map(Receiver::try_recv) {
            place.note("queue", &message);
        }
        place.note("", &format!("{} left", std::process::id()));
    })
}

async fn next(inbox: &mut Option<Receiver<String>>) -> Result<String, BoxError> {
    match inbox {
        Some(inbox) => Ok(inbox.recv().await?),
        None => Ok(std::future::pending::<Result<String, Infallible>>().await?),
    }
}

impl Place {
    fn beside(&self, end: &str) -> PathBuf {
        if end.is_empty() { self.0.clone() } else { self.0.with_extension(end) }
    }

    fn note(&self, end: &str, line: &str) {
        if let Err(error) = append(&self.beside(end), line) {
            tracing::error!(%error, "a line is lost");
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a companion that blocks its runtime is provoked"
    )]
    fn hang(&self) {
        while self.beside("hang").exists() {
            std::thread::sleep(TICK);
        }
    }
}

/// One write is one line.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let file = File::options().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
}
