//! What is said on standard error where there is no log.

use std::io::Write;

use crate::log::sink::Sink;

/// Says in one line on standard error why a program does not start; nobody waits for who does not read it.
pub(crate) fn complain(name: &str, what: &str) {
    let mut line = format!("{name}: error: ");
    for c in what.chars() {
        // A path or a value may have any character.
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push('\n');
    // Nobody is left to be told that standard error is closed.
    if let Ok(stderr) = Sink::stderr() {
        let _ = (&stderr).write_all(line.as_bytes());
    }
}
