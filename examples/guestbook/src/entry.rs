//! An entry of the guestbook, and what is allowed in one.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// The longest author and message, in characters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) author: usize,
    pub(crate) message: usize,
}

pub(crate) const LIMITS: Limits = Limits { author: 80, message: 2_000 };

/// A stored entry.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) author: String,
    pub(crate) message: String,
    pub(crate) created: Created,
}

/// When an entry was made, in whole seconds since 1970; shown as RFC 3339.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Created(pub(crate) u64);

/// An entry that keeps to the limits and is not stored yet.
#[derive(Clone, Debug)]
pub(crate) struct NewEntry {
    pub(crate) author: String,
    pub(crate) message: String,
}

/// Why an entry was refused; its text says what is allowed.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// No text, or too much of it.
    Length { field: &'static str, limit: usize, length: usize },
    /// A character that nobody can see and some databases cannot keep.
    Control { field: &'static str },
}

impl NewEntry {
    /// Surrounding white space does not count, and line ends are a browser's `\r\n` or a program's `\n`.
    pub(crate) fn parse(author: &str, message: &str) -> Result<Self, Refused> {
        Ok(Self {
            author: field("author", author, LIMITS.author)?,
            message: field("message", message, LIMITS.message)?,
        })
    }

    pub(crate) fn stored(&self, id: u64, created: Created) -> Entry {
        Entry { id, author: self.author.clone(), message: self.message.clone(), created }
    }
}

fn field(field: &'static str, text: &str, limit: usize) -> Result<String, Refused> {
    let text = text.trim().replace("\r\n", "\n");
    let length = text.chars().count();
    if !(1..=limit).contains(&length) {
        return Err(Refused::Length { field, limit, length });
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Refused::Control { field });
    }
    Ok(text)
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { field, limit, length } => {
                write!(f, "{field} must have 1 to {limit} characters, not {length}")
            }
            Self::Control { field } => {
                write!(f, "{field} must not have control characters but line ends and tabs")
            }
        }
    }
}

impl Created {
    pub(crate) fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// For people: to the minute, in UTC.
    pub(crate) fn readable(self) -> String {
        let exact = self.to_string();
        let minute = exact.get(..16).unwrap_or(&exact);
        format!("{} UTC", minute.replace('T', " "))
    }
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_secs(self.0);
        humantime::format_rfc3339_seconds(time).fmt(f)
    }
}

impl Serialize for Created {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_inclusive_and_count_characters() {
        assert!(NewEntry::parse(&"é".repeat(80), "hello").is_ok());
        let refused = NewEntry::parse(&"é".repeat(81), "hello").unwrap_err();
        assert_eq!(refused.to_string(), "author must have 1 to 80 characters, not 81");
        let refused = NewEntry::parse("ann", " \r\n ").unwrap_err();
        assert_eq!(refused.to_string(), "message must have 1 to 2000 characters, not 0");
    }

    #[test]
    fn control_characters_are_refused() {
        assert!(NewEntry::parse("ann", "two\nlines and a\ttab").is_ok());
        let refused = NewEntry::parse("a\0n", "hello").unwrap_err();
        assert!(refused.to_string().starts_with("author must not have control characters"));
    }

    #[test]
    fn time_is_shown_as_rfc_3339() {
        assert_eq!(Created(1_795_000_000).to_string(), "2026-11-18T11:06:40Z");
        assert_eq!(Created(1_795_000_000).readable(), "2026-11-18 11:06 UTC");
    }
}
