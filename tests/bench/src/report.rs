//! What was measured, as a Markdown table for people and as JSON for programs.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a report is what this program prints"
)]

use std::fs;
use std::path::Path;

use serde::Serialize;

/// An error, with the text that a person needs.
pub(crate) type Error = Box<dyn std::error::Error>;

/// A measurement that is one row of a table.
pub(crate) trait Row: Serialize {
    /// The column heads; the first column is text, the others are numbers.
    const HEADS: &'static [&'static str];

    /// The cells, in the order of the heads.
    fn cells(&self) -> Vec<String>;
}

/// Prints `rows` as Markdown, and writes them as JSON if a path is given.
pub(crate) fn print<R: Row>(rows: &[R], json: Option<&Path>) -> Result<(), Error> {
    println!("| {} |", R::HEADS.join(" | "));
    println!("|---|{}", "---:|".repeat(R::HEADS.len() - 1));
    for row in rows {
        println!("| {} |", row.cells().join(" | "));
    }
    if let Some(path) = json {
        fs::write(path, serde_json::to_string_pretty(rows)?)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// One line for the program that started this one.
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// One clear line on what went wrong.
pub(crate) fn complain(error: &Error) {
    eprintln!("farrier-bench: {error}");
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    let sign = if number <= -0.5 { "-" } else { "" };
    format!("{sign}{}", groups.join(","))
}
