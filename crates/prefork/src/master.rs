//! The master: it carries out what the arbiter decides and tells it what happened.
//!
//! One thread, no runtime, and one place where it waits: [`Master::wait`].

mod reload;
mod status;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{self, getpid};

use self::words::Ending;
use crate::arbiter::{
    Action, Arbiter, Event, Limits, Order, Phase, Pid, Stage, Strike, Verdict, Why,
};
use crate::audit::{audit, close_inherited};
use crate::board::{Board, Seat};
use crate::control::{Command, Control, Reply};
use crate::ends;
use crate::pidfile::Pidfile;
use crate::poll::poll_until;
use crate::report::Report;
use crate::settings::Settings;
use crate::signals::{self, Signals};
use crate::sockets::MasterListener;
use crate::sys::{self, Forked};
use crate::worker::{self, Prepare, Seed};
use crate::{log, stdout};

/// The process that holds the sockets and keeps the workers on their feet.
pub(crate) struct Master<'a> {
    name: String,
    pid: unistd::Pid,
    began: Instant,
    arbiter: Arbiter,
    /// The settings of each generation that may still be started.
    generations: BTreeMap<u64, Arc<Settings>>,
    /// What was just read again, until the arbiter has given it a generation.
    reread: Option<Settings>,
    /// How the last reload went; `None` before the first is over.
    last_reload: Option<Result<(), String>>,
    /// By slot how its last worker ended that nobody had told to, and when.
    exits: BTreeMap<usize, (String, Instant)>,
    board: Arc<Board>,
    listeners: Vec<MasterListener>,
    /// When to look at the listeners' queues again; `None` until the server stops.
    closing: Option<Instant>,
    /// The listeners' addresses, also when they are closed.
    addresses: Vec<String>,
    pidfile: Option<Pidfile>,
    /// `None` in a child.
    own: Option<Own>,
    children: BTreeMap<Pid, Child>,
    preparing: Option<Pid>,
    prepare: Option<Prepare>,
    body: &'a dyn Fn(Seed) -> i32,
}

/// Descriptors that no child may keep.
struct Own {
    signals: Signals,
    control: Option<Control>,
    /// The end of a pipe that each worker gets a copy of, to watch.
    alive: OwnedFd,
    /// The other end; held, never written: it closes when the master dies.
    _held: OwnedFd,
}

/// A worker process.
struct Child {
    slot: usize,
    generation: u64,
    seat: Seat,
    started: SystemTime,
    /// Where it says that it is ready, or why it will not be; `None` once it did.
    report: Option<OwnedFd>,
    /// Why its app could not be started.
    failure: Option<String>,
}

impl<'a> Master<'a> {
    /// Takes what a master holds: signals, pidfile, sockets. Nothing is forked yet.
    ///
    /// # Errors
    ///
    /// In one line what is missing; what was made before is removed again.
    pub(crate) fn new(
        name: &str,
        settings: Settings,
        prepare: Option<Prepare>,
        body: &'a dyn Fn(Seed) -> i32,
    ) -> Result<(Self, Vec<Action>), Box<dyn std::error::Error>> {
        // First, so that a stop that comes early is not lost.
        let signals = Signals::of_master()?;
        let pid = getpid();
        let board = Arc::new(Board::new()?);
        let (alive, held) = unistd::pipe2(OFlag::O_CLOEXEC)?;
        let pidfile = match &settings.pidfile {
            Some(path) => Some(Pidfile::write(path, pid.as_raw())?),
            None => None,
        };
        if let (Some(pidfile), None) = (&settings.pidfile, settings.control_path()) {
            let pidfile = pidfile.display();
            tracing::warn!(
                "no control socket: {pidfile}.sock is too long for one; control_socket sets another path"
            );
        }
        let sockets =
            settings.control_path().map(|path| Control::bind(&path)).transpose().and_then(
                |control| match MasterListener::bind_all(&settings.bind, settings.backlog) {
                    Ok(listeners) => Ok((control, listeners)),
                    Err(error) => {
                        control.iter().for_each(Control::remove_file);
                        Err(error)
                    }
                },
            );
        let (control, listeners) = match sockets {
            Ok(sockets) => sockets,
            Err(error) => {
                pidfile.iter().for_each(Pidfile::remove);
                return Err(error.into());
            }
        };
        let now = Instant::now();
        let (arbiter, actions) = Arbiter::start(Limits::of(&settings), prepare.is_some(), now);
        let generation = arbiter.generation();
        let master = Self {
            name: name.to_owned(),
            pid,
            began: now,
            arbiter,
            generations: BTreeMap::from([(generation, Arc::new(settings))]),
            reread: None,
            last_reload: None,
            exits: BTreeMap::new(),
            board,
            addresses: listeners.iter().map(MasterListener::to_string).collect(),
            listeners,
            closing: None,
            pidfile,
            own: Some(Own { signals, control, alive, _held: held }),
            children: BTreeMap::new(),
            preparing: None,
            prepare,
            body,
        };
        Ok((master, actions))
    }

    /// Runs until no process is left.
    pub(crate) fn run(mut self, first: Vec<Action>) -> Verdict {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "{} starts", self.name);
        for address in &self.addresses {
            tracing::info!("listening on {address}");
        }
        self.act(first);
        let verdict = loop {
            match self.arbiter.phase() {
                Phase::Stopped(verdict) => break verdict,
                Phase::Stopping { .. } => {
                    self.close_listeners();
                    self.no_reload("the server stops");
                }
                Phase::Preparing { .. } | Phase::Starting | Phase::Running => {}
            }
            self.wait();
            // Beats before the tick that judges them, and the tick before anything else that judges.
            self.take_beats();
            self.feed(Event::Tick);
            self.take_reports();
            self.take_signals();
            self.take_commands();
        };
        self.close_listeners();
        self.no_reload("the server does not run");
        if let Some(Own { control: Some(control), .. }) = &self.own {
            control.remove_file();
        }
        self.pidfile.iter().for_each(Pidfile::remove);
        verdict
    }

    /// The one wait.
    fn wait(&self) {
        let mut deadline = self
            .arbiter
            .deadline()
            .into_iter()
            .chain(self.closing.filter(|_| !self.listeners.is_empty()))
            .min();
        let mut watched = Vec::new();
        if let Some(own) = &self.own {
            watched.push(PollFd::new(own.signals.as_fd(), PollFlags::POLLIN));
            if let Some(control) = &own.control {
                watched.extend(control.interests().map(|(fd, flags)| PollFd::new(fd, flags)));
                deadline = deadline.into_iter().chain(control.deadline()).min();
            }
        }
        let reports = self.children.values().filter_map(|child| child.report.as_ref());
        watched.extend(reports.map(|report| PollFd::new(report.as_fd(), PollFlags::POLLIN)));
        poll_until(&mut watched, deadline);
    }

    fn feed(&mut self, event: Event) {
        let actions = self.arbiter.handle(event, Instant::now());
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let Some(event) = self.carry_out(action) else {
                continue;
            };
            actions.extend(self.arbiter.handle(event, Instant::now()));
            if let Some(settings) = self.reread.take() {
                self.generations.entry(self.arbiter.generation()).or_insert(Arc::new(settings));
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Prepare => Some(self.fork_prepare()),
            Action::Spawn { slot, generation } => Some(match self.spawn(slot, generation) {
                Ok(pid) => {
                    tracing::info!(worker = pid, slot, generation, "booting worker");
                    Event::Spawned { pid, slot, generation }
                }
                Err(error) => {
                    let how = format!("no worker could be forked: {error}");
                    tracing::error!(slot, generation, "{how}");
                    self.note_exit(slot, how);
                    Event::SpawnFailed { slot }
                }
            }),
            Action::Testify { pid, silent } => {
                self.testify(pid, silent);
                None
            }
            Action::Signal { pid, signal, why } => {
                if why == Why::Stop {
                    // First: what the workers then find in the queues is all that will ever be there.
                    self.close_listeners();
                }
                if let Some(child) = self.children.get(&pid) {
                    self.board.dismiss(child.seat);
                    if matches!(why, Why::BootTimeout | Why::Hung) {
                        self.note_exit(child.slot, why.to_string());
                    }
                }
                strike(pid, signal, why);
                None
            }
            Action::Reread => Some(Event::Reread(self.reload_begins())),
            Action::Revert { generation, slot } => {
                self.generations.remove(&generation);
                let reason = self.exits.get(&slot).map_or("unknown", |(how, _)| how);
                let why = format!(
                    "the reload failed: its first worker did not become ready: {reason}; the old workers stay"
                );
                tracing::error!(generation, "{why}");
                self.reload_ends(Err(why));
                None
            }
            Action::Reloaded { generation } => {
                tracing::info!(generation, "the reload is over: every worker is new");
                self.reload_ends(Ok(()));
                None
            }
            Action::Proven { generation } => {
                self.generations.retain(|known, _| *known >= generation);
                if generation > 1 {
                    tracing::info!(generation, "the first worker of the new generation is ready");
                }
                None
            }
        }
    }

    fn fork(&self) -> Result<Forked, Box<dyn std::error::Error>> {
        let own = self.own.iter().flat_map(Own::not_shareable);
        let audit = audit(&own.map(|own| own.as_raw_fd()).collect::<Vec<_>>())?;
        // A child would write again what is still in the buffer.
        stdout::settle();
        let forked = sys::fork(audit.single_threaded)?;
        if let Forked::Child = forked {
            if let Err(error) = close_inherited(&audit.inherited) {
                tracing::error!(%error, "a worker keeps what it inherited from this program's parent");
            }
        }
        Ok(forked)
    }

    fn fork_prepare(&mut self) -> Event {
        let Some(work) = self.prepare.take() else {
            return Event::Unprepared;
        };
        match self.fork() {
            Ok(Forked::Child) => {
                let master = self.pid;
                self.give_up_what_is_the_masters();
                worker::end_with(|| worker::prepare(master, work))
            }
            Ok(Forked::Parent(pid)) => {
                tracing::info!(process = pid.as_raw(), "preparing");
                self.preparing = Some(pid.as_raw());
                Event::Preparing(pid.as_raw())
            }
            Err(error) => {
                tracing::error!("the preparing process could not be forked: {error}");
                Event::Unprepared
            }
        }
    }

    fn spawn(&mut self, slot: usize, generation: u64) -> Result<Pid, Box<dyn std::error::Error>> {
        let settings = self.generations.get(&generation).ok_or("its settings are void")?;
        let settings = Arc::clone(settings);
        let own = self.own.as_ref().ok_or("a child does not fork workers")?;
        let alive = own.alive.try_clone()?;
        let (reader, report) = unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let seat = self.board.take().ok_or("the board is full")?;
        match self.fork() {
            Ok(Forked::Child) => {
                drop(reader);
                let listeners = mem::take(&mut self.listeners);
                self.give_up_what_is_the_masters();
                let seed = Seed {
                    slot,
                    generation,
                    master: self.pid,
                    board: Arc::clone(&self.board),
                    seat,
                    settings,
                    listeners,
                    report,
                    alive,
                };
                worker::end_with(|| (self.body)(seed))
            }
            Ok(Forked::Parent(pid)) => {
                let pid = pid.as_raw();
                self.board.occupy(seat, pid);
                let started = SystemTime::now();
                let child =
                    Child { slot, generation, seat, started, report: Some(reader), failure: None };
                self.children.insert(pid, child);
                Ok(pid)
            }
            Err(error) => {
                self.board.free(seat);
                Err(error)
            }
        }
    }

    /// In a child: closes what only the master may hold. No file is removed.
    fn give_up_what_is_the_masters(&mut self) {
        drop(self.own.take());
        // The file stays; its lock is the master's.
        self.pidfile = None;
        self.children.clear();
        self.listeners.clear();
        log::forget_losses();
    }

    fn take_beats(&mut self) {
        let now = Instant::now();
        for (&pid, child) in &self.children {
            let at = self.board.read(child.seat).beat;
            self.arbiter.handle(Event::Beat { pid, at }, now);
        }
    }

    fn take_reports(&mut self) {
        let waiting: Vec<Pid> = self
            .children
            .iter()
            .filter(|(_, child)| child.report.is_some())
            .map(|(&pid, _)| pid)
            .collect();
        for pid in waiting {
            self.take_report(pid);
        }
    }

    fn take_report(&mut self, pid: Pid) {
        let Some(child) = self.children.get_mut(&pid) else {
            return;
        };
        let Some(report) = &child.report else {
            return;
        };
        let mut said = [0; Report::LONGEST];
        match unistd::read(report, &mut said).map(|length| Report::of(&said[..length])) {
            Ok(None) => child.report = None,
            Ok(Some(Report::Failure(why))) => {
                child.report = None;
                child.failure = Some(why);
            }
            Ok(Some(Report::Ready)) => {
                child.report = None;
                tracing::info!(
                    worker = pid,
                    slot = child.slot,
                    generation = child.generation,
                    "worker ready"
                );
                self.feed(Event::Ready(pid));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(worker = pid, %error, "a worker's report could not be read");
                child.report = None;
            }
        }
    }

    fn take_signals(&mut self) {
        while let Some(came) = self.own.as_ref().and_then(|own| own.signals.next()) {
            let (signal, order) = match came {
                Ok(Signal::SIGCHLD) => {
                    self.reap();
                    continue;
                }
                Ok(signal @ Signal::SIGTERM) => (signal, Order::Stop { quick: false }),
                Ok(signal @ (Signal::SIGINT | Signal::SIGQUIT)) => {
                    (signal, Order::Stop { quick: true })
                }
                Ok(signal @ Signal::SIGHUP) => (signal, Order::Reload),
                Ok(signal @ Signal::SIGTTIN) => (signal, Order::More),
                Ok(signal @ Signal::SIGTTOU) => (signal, Order::Fewer),
                // A terminal sends it whenever its size changes; gunicorn too ignores it unless it is a daemon.
                Ok(Signal::SIGWINCH) => {
                    tracing::debug!("SIGWINCH is ignored");
                    continue;
                }
                stray => {
                    signals::note_stray(stray);
                    continue;
                }
            };
            tracing::info!("handling signal {signal}");
            self.feed(Event::Order(order));
        }
    }

    /// One SIGCHLD may stand for many deaths.
    fn reap(&mut self) {
        loop {
            match sys::reap() {
                Ok(Some((pid, status))) => self.bury(pid, Ending::of(status)),
                Ok(None) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waitpid failed");
                    return;
                }
            }
        }
    }

    fn bury(&mut self, pid: Pid, ending: Ending) {
        if self.preparing == Some(pid) {
            self.preparing = None;
            if !ending.is_success() {
                tracing::error!(process = pid, "the preparation did not succeed: {ending}");
            }
        }
        // It may have reported and died between two turns.
        self.take_report(pid);
        if let Some(child) = self.children.remove(&pid) {
            self.write_obituary(pid, &child, ending);
            self.board.free(child.seat);
            let stage = self.arbiter.worker(pid).map(|(_, _, stage)| stage);
            if matches!(stage, Some(Stage::Booting { .. } | Stage::Ready)) {
                let how = child.failure.unwrap_or_else(|| ending.to_string());
                self.note_exit(child.slot, how);
            }
        } else {
            tracing::debug!(process = pid, "reaped a process that is no worker: {ending}");
        }
        self.feed(Event::Gone { pid, success: ending.is_success() });
    }

    fn note_exit(&mut self, slot: usize, how: String) {
        self.exits.insert(slot, (how, Instant::now()));
    }

    fn take_commands(&mut self) {
        let Some(mut control) = self.own.as_mut().and_then(|own| own.control.take()) else {
            return;
        };
        let mut orders = Vec::new();
        control.turn(Instant::now(), |command| self.answer(command, &mut orders));
        // Back in its place before an order may fork.
        if let Some(own) = &mut self.own {
            own.control = Some(control);
        }
        for order in orders {
            self.feed(Event::Order(order));
        }
    }

    fn answer(&self, command: Command, orders: &mut Vec<Order>) -> Reply {
        match command {
            Command::Status => Reply::ok(self.status()),
            Command::Stop { quick } => {
                tracing::info!(quick, "ordered to stop");
                orders.push(Order::Stop { quick });
                Reply::until_the_end(self.status())
            }
            Command::Reload => {
                tracing::info!("ordered to reload");
                orders.push(Order::Reload);
                Reply::AfterReload
            }
        }
    }

    /// The server stops: at first nobody new gets into the queues, and the workers serve who is there
    /// already; an empty queue is closed, so that who comes later is refused at once, also when a
    /// worker hangs and would keep the address open.
    fn close_listeners(&mut self) {
        let now = Instant::now();
        match self.closing {
            None => self.listeners.iter().for_each(MasterListener::take_nobody_new),
            Some(look) if now >= look => MasterListener::close_empty(&mut self.listeners),
            Some(_) => return,
        }
        self.closing = Some(now + ends::MASTER_LOOKS);
    }
}

impl Own {
    /// What an audit would find; children drop it all with [`Own`].
    fn not_shareable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let control = self.control.iter().flat_map(Control::interests);
        control.map(|(fd, _)| fd).chain([self.signals.as_fd()])
    }
}

/// Sends a signal to a process that this master has not reaped, so the pid is still its own.
fn strike(pid: Pid, strike: Strike, why: Why) {
    let signal = match strike {
        Strike::Term => Signal::SIGTERM,
        Strike::Quit => Signal::SIGQUIT,
        Strike::Abort => Signal::SIGABRT,
        Strike::Kill => Signal::SIGKILL,
    };
    match strike {
        Strike::Term | Strike::Quit => tracing::debug!(process = pid, "{signal}: {why}"),
        Strike::Abort | Strike::Kill => tracing::warn!(process = pid, "{signal}: {why}"),
    }
    match kill(unistd::Pid::from_raw(pid), signal) {
        // Dead and not yet reaped counts as there; gone altogether it cannot be.
        Ok(()) => {}
        Err(error) => tracing::error!(process = pid, %error, "{signal} could not be sent"),
    }
}
