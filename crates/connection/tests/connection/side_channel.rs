//! The side channel on a server in memory: whom it outlives, and what a slow or absent server costs.

use std::future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use farrier_connection::{Interruption, SideChannel, SideConnection};
use futures_util::future::join_all;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};

use crate::{SECOND, settle};

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sessions: Vec<u32>,
    /// Side connections that are open, and how often one was tried.
    open: usize,
    opened: usize,
    opens: Answers,
    closes: Answers,
    /// Of a kill of session 1; the others' are answered at once.
    first_kill: Answers,
}

#[derive(Clone, Copy, Debug, Default)]
enum Answers {
    #[default]
    AtOnce,
    After(Duration),
    Never,
    Refuses,
}

struct Side(Server);

impl Server {
    fn with(sessions: impl IntoIterator<Item = u32>) -> Self {
        let server = Self::default();
        server.state().sessions = sessions.into_iter().collect();
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a state")
    }

    /// How many side connections are open, and how often one was tried.
    fn opened(&self) -> (usize, usize) {
        let state = self.state();
        (state.open, state.opened)
    }

    async fn answer(&self, how: Answers) -> io::Result<()> {
        match how {
            Answers::AtOnce => {}
            Answers::After(time) => sleep(time).await,
            Answers::Never => future::pending().await,
            Answers::Refuses => return Err(io::Error::other("too many connections")),
        }
        Ok(())
    }
}

impl SideConnection for Side {
    type Options = Server;
    type SessionId = u32;
    type ServerId = str;
    type Error = io::Error;

    async fn open(server: &Server) -> io::Result<Self> {
        let how = {
            let mut state = server.state();
            state.opened += 1;
            state.opens
        };
        server.answer(how).await?;
        server.state().open += 1;
        Ok(Self(server.clone()))
    }

    fn server(&self) -> Option<&str> {
        Some("a")
    }

    fn server_of(_: &u32) -> &str {
        "a"
    }

    async fn kill(&mut self, session: &u32) -> io::Result<bool> {
        if *session == 1 {
            let how = self.0.state().first_kill;
            self.0.answer(how).await?;
        }
        self.0.state().sessions.retain(|number| number != session);
        Ok(true)
    }

    async fn present(&mut self, sought: &[u32]) -> io::Result<Vec<u32>> {
        let state = self.0.state();
        Ok(sought.iter().copied().filter(|number| state.sessions.contains(number)).collect())
    }

    fn is_lost(_: &io::Error) -> bool {
        true
    }

    async fn close(self) -> io::Result<()> {
        let how = self.0.state().closes;
        self.0.answer(how).await
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.0.state().open -= 1;
    }
}

fn channel(server: &Server) -> SideChannel<Side> {
    SideChannel::new(server.clone())
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn is_killed(channel: &SideChannel<Side>, session: u32) {
    let killed = timeout(SECOND, channel.kill(&session)).await.expect("a quick answer");
    assert_eq!(killed.expect("no error"), Interruption::Gone);
}

#[tokio::test(start_paused = true)]
async fn one_connection_serves_all_and_stays_for_five_seconds() {
    let server = Server::with(1..=50);
    let channel = channel(&server);
    join_all((1..=40).map(|session| is_killed(&channel, session))).await;
    assert_eq!(server.state().sessions.len(), 10);
    sleep(4_900 * MS).await;
    is_killed(&channel, 41).await;
    sleep(4_900 * MS).await;
    assert_eq!(server.opened(), (1, 1));
    sleep(200 * MS).await;
    assert_eq!(server.state().open, 0);
    is_killed(&channel, 42).await;
    channel.close().await;
    assert_eq!(server.opened(), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_slow_kill_is_in_nobodys_way() {
    let server = Server::with(1..=9);
    server.state().first_kill = Answers::After(2 * SECOND);
    let channel = Arc::new(channel(&server));
    let slow = tokio::spawn({
        let channel = Arc::clone(&channel);
        async move { channel.kill(&1).await }
    });
    settle().await;
    let start = Instant::now();
    join_all((2..=9).map(|session| is_killed(&channel, session))).await;
    assert!(start.elapsed() < 150 * MS, "{:?}", start.elapsed());
    assert_eq!(slow.await.unwrap().unwrap(), Interruption::Gone);
    sleep(10 * MS).await;
    // The second has ended.
    assert_eq!(server.opened(), (1, 2));
}

/// Kills a session as a pool does: again and again.
async fn kill_at_last(channel: &SideChannel<Side>, session: u32) {
    while !matches!(timeout(2 * SECOND, channel.kill(&session)).await, Ok(Ok(_))) {
        sleep(100 * MS).await;
    }
}

/// Those who wait share an attempt to connect, so that many do not make a storm.
#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_or_hangs_is_asked_slowly_and_is_soon_well_again() {
    for (opens, most) in [(Answers::Refuses, 30), (Answers::Never, 6)] {
        let server = Server::with(1..=40);
        server.state().opens = opens;
        let channel = channel(&server);
        let all = join_all((1..=40).map(|session| kill_at_last(&channel, session)));
        let well = async {
            sleep(10 * SECOND).await;
            let (_, tried) = server.opened();
            assert!((5..=most).contains(&tried), "{opens:?}: {tried}");
            server.state().opens = Answers::AtOnce;
            Instant::now()
        };
        let (_, well) = tokio::join!(all, well);
        assert!(well.elapsed() < 3 * SECOND, "{opens:?}: {:?}", well.elapsed());
    }
}

/// The first has its connection, and goes on.
#[tokio::test(start_paused = true)]
async fn a_second_connection_that_is_refused_costs_the_others_nothing() {
    let server = Server::with(1..=4);
    server.state().first_kill = Answers::After(SECOND);
    let channel = Arc::new(channel(&server));
    let kill = |session: u32| {
        let channel = Arc::clone(&channel);
        tokio::spawn(async move { channel.kill(&session).await })
    };
    let slow = kill(1);
    settle().await;
    server.state().opens = Answers::Refuses;
    let next = [kill(2), kill(3)];
    assert_eq!(slow.await.unwrap().unwrap(), Interruption::Gone);
    // One was told of the refusal, and asks again; the other was left to the first.
    let refused = join_all(next).await.into_iter().filter(|next| matches!(next, Ok(Err(_))));
    assert_eq!(refused.count(), 1);
    is_killed(&channel, 2).await;
    is_killed(&channel, 3).await;
    assert_eq!(server.opened(), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_cannot_be_closed_is_dropped_after_a_while() {
    let server = Server::with(1..=4);
    server.state().closes = Answers::Never;
    let channel = channel(&server);
    is_killed(&channel, 1).await;
    let start = Instant::now();
    channel.close().await;
    assert_eq!((start.elapsed(), server.state().open), (3 * SECOND, 0));
}

/// As a pool does that has no connections left on the first one.
#[test]
fn on_another_runtime_the_channel_begins_anew() {
    let server = Server::with(1..=3);
    let channel = channel(&server);
    let (first, second) = (runtime(), runtime());
    first.block_on(is_killed(&channel, 1));
    // The first is kept, and not driven.
    second.block_on(is_killed(&channel, 2));
    // What stayed open there is closed when it goes on.
    first.block_on(settle());
    assert_eq!(server.state().open, 1);
    second.block_on(channel.close());
    assert_eq!(server.state().open, 0);
    first.block_on(is_killed(&channel, 3));
    // Nobody drives the first, so nobody waits for it.
    second.block_on(async { timeout(SECOND, channel.close()).await }).expect("it is over");
    first.block_on(settle());
    assert_eq!(server.state().open, 0);
}

#[test]
fn a_runtime_that_ends_midway_leaves_nothing_behind() {
    let server = Server::with(1..=2);
    server.state().first_kill = Answers::Never;
    let channel = channel(&server);
    let first = runtime();
    first.block_on(async { timeout(10 * MS, channel.kill(&1)).await.unwrap_err() });
    drop(first);
    assert_eq!(server.state().open, 0);
    server.state().first_kill = Answers::AtOnce;
    runtime().block_on(async {
        is_killed(&channel, 1).await;
        is_killed(&channel, 2).await;
    });
}

#[tokio::test(start_paused = true)]
async fn its_connection_goes_with_the_channel() {
    let server = Server::with(1..=2);
    let channel = channel(&server);
    is_killed(&channel, 1).await;
    assert_eq!(server.state().open, 1);
    drop(channel);
    settle().await;
    assert_eq!(server.state().open, 0);
}
