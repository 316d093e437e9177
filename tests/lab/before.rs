//! What `main` has open when the launcher comes, or a preload leaves behind, and should not.

use std::any::Any;
use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use clap::ValueEnum;
use farrier::prelude::BoxError;
use farrier::shared::Mutex;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::AF_NETLINK;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Builder;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Before {
    /// A TCP connection, as a blocking client has one.
    Connection,
    /// Both ends of a pair of Unix sockets.
    Pair,
    /// A TCP socket that is not connected to anybody.
    Unconnected,
    /// A socket to the kernel.
    Netlink,
    Epoll,
    Eventfd,
    Signalfd,
    Timerfd,
    Inotify,
    /// A runtime with one thread.
    Runtime,
    /// A runtime with threads of its own.
    Runtimes,
    /// A lock of farrier-shared.
    Lock,
    /// A thread that is just beginning.
    Thread,
    /// A TCP connection without close-on-exec, as a careless parent leaves one.
    Inherited,
    /// Nothing, but it has printed half a line.
    Output,
    /// Nothing, but an exit handler of the C library is registered, which appends its pid to the file `at-exit`.
    ExitHandler,
    /// Files, pipes, listening and datagram sockets, and a thread that has ended.
    Harmless,
}

/// Opens it; it is open for as long as what this returns lives.
#[expect(clippy::print_stdout, reason = "what it is about")]
pub(crate) fn open(what: Before) -> Result<Box<dyn Any>, BoxError> {
    Ok(match what {
        Before::Connection => Box::new(connect()?),
        Before::Pair => Box::new(UnixStream::pair()?),
        Before::Unconnected => Box::new(Socket::new(Domain::IPV4, Type::STREAM, None)?),
        Before::Netlink => Box::new(Socket::new(Domain::from(AF_NETLINK), Type::RAW, None)?),
        Before::Epoll => Box::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?),
        Before::Signalfd => {
            Box::new(SignalFd::with_flags(&SigSet::empty(), SfdFlags::SFD_CLOEXEC)?)
        }
        Before::Eventfd => Box::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?),
        Before::Timerfd => {
            Box::new(TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?)
        }
        Before::Inotify => Box::new(Inotify::init(InitFlags::IN_CLOEXEC)?),
        Before::Runtime => Box::new(Builder::new_current_thread().enable_all().build()?),
        Before::Runtimes => {
            Box::new(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
        }
        Before::Lock => Box::new(Mutex::named("held too early")?.try_lock()?),
        Before::Thread => {
            let (release, released) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::Builder::new().name("reporter".into());
            thread.spawn(move || released.recv())?;
            Box::new(release)
        }
        Before::Inherited => {
            let (listener, near) = connect()?;
            fcntl(&near, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Box::new((listener, near))
        }
        Before::Output => {
            print!("without a line's end");
            Box::new(())
        }
        Before::ExitHandler => {
            Box::new(shutdown_hooks::add_shutdown_hook(at_exit).then_some(()).ok_or("no room")?)
        }
        Before::Harmless => {
            std::thread::spawn(|| ()).join().map_err(|_| "the thread panicked")?;
            let datagrams = UdpSocket::bind("127.0.0.1:0")?;
            datagrams.connect(datagrams.local_addr()?)?;
            Box::new((File::open("/dev/null")?, std::io::pipe()?, connect()?.0, datagrams))
        }
    })
}

extern "C" fn at_exit() {
    let file = File::options().append(true).create(true).open("at-exit");
    // Nobody is there any more to be told.
    let _ = file.and_then(|mut file| writeln!(file, "{}", std::process::id()));
}

/// A connection whose other end waits in the queue of a listener.
fn connect() -> Result<(TcpListener, TcpStream), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    Ok((listener, near))
}
