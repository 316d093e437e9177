//! The listening sockets: made and held by the master, shared by every worker.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};
use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};

use crate::ends;
use crate::poll::pause;
use crate::settings::Bind;

/// Drops the packet that begins a TCP connection (SYN without ACK) and no other: classic BPF, which on a TCP
/// socket sees the packet from the TCP header on.
const NO_SYN: [SockFilter; 5] = [
    // Load the byte of the flags; keep SYN and ACK; is it SYN alone? Drop; else take all of it.
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// The pause between two tries at a taken address.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// A listening socket as the master has it, and a worker for the time after the master.
#[derive(Debug)]
pub(crate) enum MasterListener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// A copy of a listening socket for a worker's runtime.
#[derive(Debug)]
pub(crate) enum WorkerListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The file of a Unix socket that this process, or its master, bound.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may have put its own socket in this place since.
    identity: (u64, u64),
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub(crate) struct BindError {
    key: &'static str,
    bind: Bind,
    error: io::Error,
}

impl MasterListener {
    /// Binds every address.
    ///
    /// # Errors
    ///
    /// The first that cannot be bound; the files of those before it are removed again.
    pub(crate) fn bind_all(binds: &[Bind], backlog: u32) -> Result<Vec<Self>, BindError> {
        let mut listeners: Vec<Self> = Vec::new();
        for bind in binds {
            match Self::bind_soon(bind, backlog) {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    listeners.iter().for_each(Self::remove_file);
                    return Err(BindError { key: "bind", bind: bind.clone(), error });
                }
            }
        }
        Ok(listeners)
    }

    /// The workers of a master that was killed let go of its addresses within a second.
    fn bind_soon(bind: &Bind, backlog: u32) -> io::Result<Self> {
        let last = Instant::now() + ends::ADDRESS_TAKEN;
        loop {
            match Self::bind(bind, backlog) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < last => {
                    pause(BETWEEN_TRIES);
                }
                bound => return bound,
            }
        }
    }

    fn bind(bind: &Bind, backlog: u32) -> io::Result<Self> {
        match bind {
            Bind::Tcp(host, port) => {
                let listener = bind_tcp(host, *port, backlog)?;
                let address = listener.local_addr()?;
                Ok(Self::Tcp(listener, address))
            }
            Bind::Unix(path) => {
                let (listener, file) = bind_unix(path, backlog, None)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// Another descriptor of the same socket.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub(crate) fn share(&self) -> io::Result<WorkerListener> {
        Ok(match self {
            Self::Tcp(listener, _) => WorkerListener::Tcp(listener.try_clone()?),
            Self::Unix(listener, _) => WorkerListener::Unix(listener.try_clone()?),
        })
    }

    /// Lets in nobody who has not begun to connect; the queue stays, for all who share the socket.
    ///
    /// Who tries gets no answer at first and asks again after a second: by then he is refused, or finds
    /// the next server on this address.
    pub(crate) fn take_nobody_new(&self) {
        match self {
            Self::Tcp(listener, _) => drop_syn(listener),
            Self::Unix(_, file) => file.remove(),
        }
    }

    /// The same in a worker, on TCP only: the place of a Unix socket's file may be another master's at any moment,
    /// and who connects by the old one waits in its queue until that is closed.
    pub(crate) fn take_nobody_new_as_orphan(&self) {
        if let Self::Tcp(listener, _) = self {
            drop_syn(listener);
        }
    }

    /// Whether somebody waits to be accepted.
    pub(crate) fn has_queue(&self) -> bool {
        let fd = match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        };
        let mut watched = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Closes those in whose queues nobody waits, and keeps the others.
    pub(crate) fn close_empty(listeners: &mut Vec<Self>) {
        listeners.retain(|listener| {
            let is_queued = listener.has_queue();
            if !is_queued {
                listener.close_for_all();
            }
            is_queued
        });
    }

    /// Closes the socket, also for those who share it.
    pub(crate) fn close_for_all(&self) {
        let socket = match self {
            Self::Tcp(listener, _) => SockRef::from(listener),
            Self::Unix(listener, _) => SockRef::from(listener),
        };
        if let Err(error) = socket.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "a listener stays open until the last worker is gone");
        }
        if let Self::Unix(listener, _) = self {
            // This queue outlasts the shutdown: who is in it would wait for the last worker's end.
            while listener.accept().is_ok() {}
        }
    }

    /// Removes the socket's file, if it has one and it is still this one.
    pub(crate) fn remove_file(&self) {
        if let Self::Unix(_, file) = self {
            file.remove();
        }
    }
}

fn drop_syn(listener: &TcpListener) {
    if let Err(error) = SockRef::from(listener).attach_filter(&NO_SYN) {
        // Then who comes in the last moment is not told apart from who came before.
        tracing::debug!(%error, "a listener takes connections until it is closed");
    }
}

/// The address that clients connect to: the port is the real one.
impl fmt::Display for MasterListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, address) => address.fmt(f),
            Self::Unix(_, file) => write!(f, "unix:{}", file.path.display()),
        }
    }
}

fn bind_tcp(host: &str, port: u16, backlog: u32) -> io::Result<TcpListener> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    // A name such as localhost often has both; IPv4 is what gunicorn would take.
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let address = *address.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "no such host"))?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    // The flag belongs to the open socket, which all processes share: nobody may ever clear it.
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Binds a Unix socket in the place of a stale one; `mode` as the umask leaves it if `None`.
///
/// # Errors
///
/// A file in this place that is no socket, or a socket that somebody still listens on.
pub(crate) fn bind_unix(
    path: &Path,
    backlog: u32,
    mode: Option<u32>,
) -> io::Result<(UnixListener, SocketFile)> {
    clear_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    let before = mode.map(|_| {
        // Private from the first moment on: a mode set after the bind would come too late.
        umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR)
    });
    let bound = socket.bind(&address);
    before.map(umask);
    bound?;
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
    let open = mode
        .map_or(Ok(()), |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .and_then(|()| socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)));
    match open {
        Ok(()) => Ok((socket.into(), file)),
        Err(error) => {
            file.remove();
            Err(error)
        }
    }
}

/// Removes a socket that nobody listens on.
fn clear_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    // Without waiting: the queue of a server that hangs is full.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Gone by itself, or of another kind of socket: bind will tell.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens on it")),
    }
}

impl SocketFile {
    pub(crate) fn remove(&self) {
        match fs::symlink_metadata(&self.path) {
            Ok(metadata) if (metadata.dev(), metadata.ino()) == self.identity => {
                if let Err(error) = fs::remove_file(&self.path) {
                    tracing::warn!(path = %self.path.display(), %error, "the socket's file stays behind");
                }
            }
            // Gone, or somebody else's by now.
            _ => {}
        }
    }
}

impl BindError {
    pub(crate) fn control(path: &Path, error: io::Error) -> Self {
        Self { key: "control_socket", bind: Bind::Unix(path.to_owned()), error }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, bind, error } = self;
        write!(
            f,
            "{key} = \"{bind}\": cannot listen there: {error}; allowed is a free address of this machine"
        )
    }
}

impl std::error::Error for BindError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(text: &str) -> Result<Vec<MasterListener>, BindError> {
        MasterListener::bind_all(&[Bind::parse(text).unwrap()], 16)
    }

    #[test]
    fn port_zero_becomes_a_real_one() {
        let listeners = bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = listeners[0].to_string().parse().unwrap();
        assert_ne!(address.port(), 0);
        std::net::TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_taken_port_is_named() {
        let listeners = bind("127.0.0.1:0").unwrap();
        let taken = listeners[0].to_string();
        let refused = bind(&taken).unwrap_err().to_string();
        assert!(refused.contains(&taken) && refused.contains("bind"), "{refused}");
    }

    /// Behaviour L10.
    #[test]
    fn who_waits_is_kept_and_who_comes_later_is_refused() {
        use std::io::{Read, Write};
        use std::net::TcpStream;

        for text in ["127.0.0.1:0", "[::1]:0"] {
            let listener = bind(text).unwrap().remove(0);
            let address = listener.to_string().parse().unwrap();
            let WorkerListener::Tcp(shared) = listener.share().unwrap() else { panic!("TCP") };
            assert!(!listener.has_queue());
            let mut early = TcpStream::connect(address).unwrap();
            listener.take_nobody_new();
            assert!(listener.has_queue());
            let late = TcpStream::connect_timeout(&address, Duration::from_millis(100));
            assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut, "no answer");

            let (mut accepted, _) = shared.accept().unwrap();
            accepted.set_nonblocking(false).unwrap();
            early.write_all(b"ping").unwrap();
            let mut got = [0; 4];
            accepted.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"ping");

            assert!(!listener.has_queue());
            listener.close_for_all();
            // Somebody still holds a copy.
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            drop(shared);
        }
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let text = format!("unix:{}", path.display());
        let first = bind(&text).unwrap();
        assert!(bind(&text).unwrap_err().to_string().contains("another process"));
        drop(first);
        assert!(path.exists(), "closing does not remove it");
        bind(&text).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        bind(&format!("unix:{}", path.display())).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn only_the_own_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let own = bind(&format!("unix:{}", path.display())).unwrap();
        fs::remove_file(&path).unwrap();
        // Another process took the place; the inode is not reused while the first socket is open.
        let _other = UnixListener::bind(&path).unwrap();
        own[0].remove_file();
        assert!(path.exists());
    }

    #[test]
    fn the_files_of_a_failed_start_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let binds = [Bind::Unix(path.clone()), Bind::Unix(folder.path().join("nowhere/s"))];
        MasterListener::bind_all(&binds, 16).unwrap_err();
        assert!(!path.exists());
    }

    #[test]
    fn a_private_socket_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_listener, _file) = bind_unix(&path, 16, Some(0o600)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
