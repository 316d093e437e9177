//! Looking at processes from outside, through `/proc`, and sending them signals.

use std::fs;
use std::path::Path;

use nix::sys::signal;
pub use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Sends `signal` to `pid`.
///
/// # Panics
///
/// When there is no such process.
#[track_caller]
pub fn kill(pid: u32, signal: Signal) {
    signal::kill(as_pid(pid), signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
}

/// Whether `pid` exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

/// The living children of `parent`, oldest first.
#[must_use]
pub fn children(parent: u32) -> Vec<u32> {
    let mut children: Vec<(u64, u32)> = all()
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, stat)| stat.parent == parent && stat.state != 'Z')
        .map(|(pid, stat)| (stat.started, pid))
        .collect();
    children.sort_unstable();
    children.into_iter().map(|(_, pid)| pid).collect()
}

/// The living processes whose working folder is `folder`.
#[must_use]
pub fn running_in(folder: &Path) -> Vec<u32> {
    let folder = folder.canonicalize().expect("a folder that exists");
    let lives_there = |&pid: &u32| {
        let there = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder);
        there && is_alive(pid)
    };
    all().filter(lives_there).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

struct Stat {
    state: char,
    parent: u32,
    /// In clock ticks since boot.
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, so look behind the last one.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        started: fields.nth(17)?.parse().ok()?,
    })
}

fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().expect("a pid fits an i32"))
}
