//! The status for people.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use crate::client::{Companion, Exit, Status, Worker};

const HEADINGS: [&str; 10] = [
    "SLOT",
    "PID",
    "GENERATION",
    "STATE",
    "BEAT",
    "CONNECTIONS",
    "REQUESTS",
    "IN FLIGHT",
    "UP",
    "OLDEST REQUEST",
];

/// The status as a few lines and a table.
pub(crate) fn render(status: &Status) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ready = status.workers.iter().filter(|worker| worker.state == "ready").count();
    let mut text = format!(
        "{} (farrier {}): {}, process {}, up {}, generation {}, {ready} of {} workers ready\n",
        status.name,
        status.version,
        status.state,
        status.pid,
        span(status.uptime),
        status.generation,
        status.target,
    );
    // Writing to a string does not fail.
    let _ = writeln!(text, "listening on {}\n", status.listeners.join(", "));
    let now = now.as_secs_f64();
    let workers = status.workers.iter().map(|worker| row(worker, now));
    let companions = status.companions.iter().map(|companion| companion_row(companion, now));
    let rows: Vec<_> = workers.chain(companions).collect();
    let widths: Vec<usize> = (0..HEADINGS.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([HEADINGS[column].len()]).max().unwrap_or(0)
        })
        .collect();
    for cells in std::iter::once(HEADINGS.map(str::to_owned)).chain(rows) {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let slots = status.slots.iter().filter_map(|slot| {
        line(&format!("slot {}", slot.slot), slot.retry_in, slot.failures, slot.last_exit.as_ref())
    });
    let companions = status.companions.iter().filter_map(|companion| {
        let Companion { name, retry_in, failures, last_exit, .. } = companion;
        line(name, *retry_in, *failures, last_exit.as_ref())
    });
    let mut exits = slots.chain(companions).peekable();
    if exits.peek().is_some() {
        text.push('\n');
    }
    text.extend(exits);
    text
}

/// What went wrong in a place, if anything did.
fn line(place: &str, retry_in: Option<f64>, failures: u64, exit: Option<&Exit>) -> Option<String> {
    let exit = exit?;
    let mut line = format!("{place}: ");
    if let Some(wait) = retry_in {
        let _ = write!(line, "next try in {} after {failures} failures; ", span(wait));
    }
    let _ = writeln!(line, "last exit {} ago: {}", span(exit.age), harmless(&exit.how));
    Some(line)
}

fn row(worker: &Worker, now: f64) -> [String; HEADINGS.len()] {
    let oldest = worker.oldest.as_ref().map_or_else(String::new, |oldest| {
        format!("{} ({})", harmless(&oldest.request), span(oldest.age))
    });
    [
        worker.slot.to_string(),
        worker.pid.to_string(),
        worker.generation.to_string(),
        worker.state.clone(),
        format!("{:.1} s", worker.beat_age),
        worker.connections.to_string(),
        worker.requests.to_string(),
        worker.in_flight.to_string(),
        span(now - worker.started),
        oldest,
    ]
}

/// It serves no requests, so there is nothing to count.
fn companion_row(companion: &Companion, now: f64) -> [String; HEADINGS.len()] {
    let mut row = [const { String::new() }; HEADINGS.len()];
    row[0].clone_from(&companion.name);
    match &companion.process {
        Some(process) => {
            row[1] = process.pid.to_string();
            row[2] = process.generation.to_string();
            row[3].clone_from(&process.state);
            row[4] = format!("{:.1} s", process.beat_age);
            row[8] = span(now - process.started);
        }
        None => "gone".clone_into(&mut row[3]),
    }
    row
}

/// What comes from a client or an app: nothing in it may move the cursor.
fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// A length of time in its two largest units.
fn span(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let whole = duration.as_secs();
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if whole < 10 => format!("{:.1} s", duration.as_secs_f64()),
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", whole % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (-1.0, "0.0 s"),
            (0.25, "0.2 s"),
            (59.0, "59 s"),
            (61.0, "1 min 1 s"),
            (3_661.0, "1 h 1 min"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_table_has_a_row_per_worker() {
        let line = r#"{"ok":true,"name":"app","version":"0.1.0","pid":7,"state":"running","uptime":3.5,
            "generation":2,"target":2,"listeners":["127.0.0.1:80"],"slots":[
            {"slot":0,"failures":0,"retry_in":null,"last_exit":null},
            {"slot":1,"failures":4,"retry_in":12.0,"last_exit":{"how":"exit status 3","age":2.0}}],"workers":[
            {"slot":0,"pid":8,"generation":2,"state":"ready","beat_age":0.1,"connections":3,"requests":12,"in_flight":1,
             "oldest":{"request":"GET /\u001b[2J","age":1.5},"started":0.0},
            {"slot":1,"pid":9,"generation":2,"state":"booting","beat_age":0.1,"connections":3,"requests":0,"in_flight":0,
             "oldest":null,"started":0.0}],"companions":[
            {"name":"cleaner","failures":0,"retry_in":null,"last_exit":null,"process":
             {"pid":10,"generation":2,"state":"ready","beat_age":0.1,"started":0.0}},
            {"name":"mailer","failures":2,"retry_in":1.0,"last_exit":{"how":"no server","age":2.0},"process":null}]}"#;
        let text = render(&serde_json::from_str(line).unwrap());
        assert!(text.contains("1 of 2 workers ready") && text.contains("127.0.0.1:80"), "{text}");
        assert!(text.contains("GET /[2J (1.5 s)"), "{text}");
        let exits: Vec<_> = text.lines().skip(9).collect();
        let slot = "slot 1: next try in 12 s after 4 failures; last exit 2.0 s ago: exit status 3";
        let companion =
            "mailer: next try in 1.0 s after 2 failures; last exit 2.0 s ago: no server";
        assert_eq!(exits, [slot, companion], "{text}");
        let companions: Vec<_> = text.lines().skip(6).take(2).collect();
        assert!(companions[0].starts_with("cleaner  10   2           ready"), "{text}");
        assert!(companions[1].starts_with("mailer") && companions[1].contains("gone"), "{text}");
    }
}
