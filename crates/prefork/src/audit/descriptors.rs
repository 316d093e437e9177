//! What the open descriptors of this process are, by what the kernel says of each.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use socket2::{Domain, SockAddr, SockRef, Type};

use crate::sys;

/// O_CLOEXEC as `/proc/self/fdinfo` shows it, in octal.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// A descriptor that no two processes can use side by side.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) number: RawFd,
    pub(super) kind: Kind,
    /// Whether this program made it. What it got from its parent has no close-on-exec, or it would be gone;
    /// the standard library and every sound C library set it.
    pub(super) is_own: bool,
}

/// What it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What each runtime has.
    Epoll,
    /// Another object of the kernel's: an eventfd, a timerfd.
    Object(String),
    /// A socket that is one end of a conversation, and who is at the other.
    Connection { family: &'static str, peer: Option<String> },
    /// A socket that is neither connected nor listening, or sees more than its own messages.
    Socket(&'static str),
}

/// The descriptors that children would fight over; `known` are the launcher's own.
///
/// # Errors
///
/// `/proc` cannot be read.
pub(super) fn not_shareable(known: &[RawFd]) -> io::Result<Vec<Descriptor>> {
    let standard: Vec<String> = (0..=2).filter_map(target).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A descriptor that is gone again was the listing's own.
        let Some(target) = target(number) else {
            continue;
        };
        // A copy of a standard stream is what a log writes to.
        if known.contains(&number) || standard.contains(&target) {
            continue;
        }
        if let Some(kind) = kind(number, &target) {
            found.push(Descriptor { number, kind, is_own: has_close_on_exec(number)? });
        }
    }
    found.sort_by_key(|descriptor| descriptor.number);
    Ok(found)
}

/// What `/proc` calls it: a path, or `socket:[4711]`, or `anon_inode:[eventpoll]`.
fn target(number: RawFd) -> Option<String> {
    let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// `None` if processes can share it.
fn kind(number: RawFd, target: &str) -> Option<Kind> {
    if target.starts_with("socket:") {
        return sys::with_descriptor(number, kind_of_socket);
    }
    // Files, folders, devices and pipes have other names: processes share those every day.
    let object = target.strip_prefix("anon_inode:")?.trim_matches(['[', ']']);
    match object {
        "eventpoll" => Some(Kind::Epoll),
        // They name something and have no state that a reader takes away.
        "pidfd" | "perf_event" => None,
        _ if object.starts_with("bpf") => None,
        _ => Some(Kind::Object(object.to_owned())),
    }
}

fn kind_of_socket(socket: BorrowedFd<'_>) -> Option<Kind> {
    let socket = SockRef::from(&socket);
    let family = match socket.domain() {
        Ok(Domain::IPV4 | Domain::IPV6) => "TCP",
        Ok(Domain::UNIX) => "Unix",
        Ok(Domain::VSOCK) => "vsock",
        _ => return Some(Kind::Socket("a socket that is neither IP nor Unix")),
    };
    match socket.r#type() {
        // Each message is whole and stands for itself: syslog, the journal, StatsD.
        Ok(Type::DGRAM) => return None,
        Ok(Type::STREAM | Type::SEQPACKET) => {}
        _ => return Some(Kind::Socket("a raw socket")),
    }
    if socket.is_listener().is_ok_and(|listens| listens) {
        return None;
    }
    Some(match socket.peer_addr() {
        Ok(peer) => Kind::Connection { family, peer: name(&peer) },
        Err(_) => Kind::Socket("a socket that is not connected and does not listen"),
    })
}

/// `None` for a Unix socket without a name, as the ends of a pair are.
fn name(peer: &SockAddr) -> Option<String> {
    if let Some(address) = peer.as_socket() {
        return Some(address.to_string());
    }
    if let Some(path) = peer.as_pathname() {
        return Some(path.display().to_string());
    }
    let name = peer.as_abstract_namespace()?;
    Some(format!("@{}", name.escape_ascii()))
}

fn has_close_on_exec(number: RawFd) -> io::Result<bool> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    let flags = flags.ok_or_else(|| io::Error::other("fdinfo without flags"))?;
    Ok(flags & CLOSE_ON_EXEC != 0)
}

/// `descriptor 5, a TCP connection to 127.0.0.1:3306`.
impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {}, ", self.number)?;
        match &self.kind {
            Kind::Epoll => f.write_str("an epoll"),
            Kind::Object(object) if object.starts_with(['a', 'e', 'i', 'o', 'u']) => {
                write!(f, "an {object}")
            }
            Kind::Object(object) => write!(f, "a {object}"),
            Kind::Connection { family, peer: Some(peer) } => {
                write!(f, "a {family} connection to {peer}")
            }
            Kind::Connection { family, peer: None } => {
                write!(f, "a {family} connection to a socket without a name")
            }
            Kind::Socket(what) => f.write_str(what),
        }
    }
}
