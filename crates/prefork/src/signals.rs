//! Signals as events, read from a descriptor in a poll: blocked ones in the master, handled ones in a worker.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use signal_hook::flag;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::sys;

/// gunicorn's vocabulary. A worker reads the same ones, and all other [`STRAYS`], so that none sent to the
/// whole process group ends it.
const ORDERS: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
];

/// Those of them that order to stop.
const STOPS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// What else would end a process that does not expect it; an app that does has its own handlers.
const STRAYS: [Signal; 7] = [
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
];

/// Those that stay as they are in the master: faults of its own code, job control (TTIN and TTOU are
/// orders), and what is ignored anyway.
const LEFT_ALONE: [Signal; 11] = [
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGPIPE,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGURG,
];

/// A signal that came: one with a name, or the number of a real-time one.
pub(crate) type Came = Result<Signal, i32>;

/// The signals that the master takes as events.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

/// The signals that a worker takes as events.
///
/// None is blocked, but those of a terminal where there is one: the app's own children would inherit that,
/// and its own handlers never run. A handler writes to a socket instead, and the app's come beside it.
#[derive(Debug)]
pub(crate) struct WorkerSignals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// All that could end it: the orders, the deaths of children, and what it only logs.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor.
    pub(crate) fn of_master() -> nix::Result<Self> {
        let set = block_all()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&set, flags).map(Self)
    }

    /// After code of the program's that may have changed what this process hears.
    ///
    /// # Errors
    ///
    /// None that the kernel documents for these calls.
    #[expect(clippy::unused_self, reason = "only who has them can take them again")]
    pub(crate) fn take_again(&self) -> nix::Result<()> {
        block_all().map(drop)
    }

    /// The next signal that is waiting.
    pub(crate) fn next(&self) -> Option<Came> {
        loop {
            match self.0.read_signal() {
                Ok(Some(info)) => {
                    let number = i32::try_from(info.ssi_signo).ok()?;
                    return Some(Signal::try_from(number).map_err(|_| number));
                }
                Err(Errno::EINTR) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// Blocks what a master reads from its descriptor.
fn block_all() -> nix::Result<SigSet> {
    let mut set = SigSet::all();
    LEFT_ALONE.into_iter().for_each(|signal| set.remove(signal));
    // Who started the master may have ignored it, and that is inherited: children would vanish without a word.
    sys::default_action(Signal::SIGCHLD)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
    Ok(set)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl WorkerSignals {
    /// Not SIGCHLD: children of a worker are the app's.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor.
    pub(crate) fn take() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let named = ORDERS.into_iter().chain(STRAYS).chain([Signal::SIGABRT]);
        let named = named.map(|signal| signal as i32);
        let all = named.chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, all)?;
        // On a terminal a line of the log, from the background, would bring the whole group a SIGTTOU.
        let mut blocked = SigSet::empty();
        if io::stderr().is_terminal() {
            blocked.add(Signal::SIGTTIN);
            blocked.add(Signal::SIGTTOU);
        }
        // Those that came since the fork come now: the mask was the master's until here.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?;
        Ok(Self(delivery))
    }

    /// The signals that are waiting.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = Came> {
        self.0.pending().map(|number| Signal::try_from(number).map_err(|_| number))
    }
}

impl AsFd for WorkerSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}

/// Dies of a signal as if there were no handler for it.
pub(crate) fn die_of(signal: Signal) {
    // It fails for signals only that the kernel does not know.
    let _ = signal_hook::low_level::emulate_default_handler(signal as i32);
}

/// For a process that is no worker: the orders to stop end it, and nothing else does that goes to the whole group.
/// What it starts has the signals that a shell would give.
///
/// # Errors
///
/// None that the kernel documents for these calls.
pub(crate) fn obey_only_stop() -> io::Result<()> {
    for signal in ORDERS.into_iter().chain(STRAYS).filter(|signal| !STOPS.contains(signal)) {
        // A handler, since who ignores a signal passes that on.
        flag::register(signal as i32, Arc::default())?;
    }
    for signal in STOPS {
        // What the program has changed in the master.
        sys::default_action(signal)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// While it is there, an order to stop ends this process at once, with status 0: it has nothing yet to leave in order.
/// Also as process 1, which the kernel spares signals that it has no handler for.
pub(crate) struct StopsAtOnce(());

impl StopsAtOnce {
    /// # Errors
    ///
    /// None that the kernel documents for these signals.
    pub(crate) fn new() -> nix::Result<Self> {
        // signal-hook would take them for ever, and keep later handlers of its own from being set.
        STOPS.into_iter().try_for_each(sys::exit_on)?;
        Ok(Self(()))
    }
}

impl Drop for StopsAtOnce {
    fn drop(&mut self) {
        for signal in STOPS {
            // It has worked before.
            let _ = sys::default_action(signal);
        }
    }
}

/// Whether a signal is one of gunicorn's vocabulary.
pub(crate) fn is_order(signal: Signal) -> bool {
    ORDERS.contains(&signal)
}

/// Says what becomes of a signal that the launcher has no use for.
pub(crate) fn note_stray(came: Came) {
    match came {
        Ok(signal) => tracing::warn!("{signal} is not supported and ignored"),
        Err(number) => tracing::warn!("signal {number} is not supported and ignored"),
    }
}
