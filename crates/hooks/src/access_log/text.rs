//! Values as they may stand in a line: escaped, decoded, dated.

use std::fmt::Write as _;
use std::time::Duration;

/// Writes `value` so that it can neither end its quotes nor its line.
pub(super) fn escape(value: &[u8], line: &mut String) {
    for &byte in value {
        match byte {
            b'"' | b'\\' => line.extend(['\\', char::from(byte)]),
            b' '..=b'~' => line.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => _ = write!(line, "\\x{byte:02x}"),
        }
    }
}

/// The user of an `Authorization: Basic` header (RFC 7617).
pub(super) fn basic_user(authorization: &[u8]) -> Option<Vec<u8>> {
    let (scheme, credentials) = authorization.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = base64(credentials.trim_ascii())?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    Some(decoded[..colon].to_vec()).filter(|user| !user.is_empty())
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
    let mut decoded = Vec::with_capacity(end);
    let (mut bits, mut held) = (0_u32, 0);
    for &byte in &text[..end] {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            decoded.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(decoded)
}

/// A moment in UTC.
pub(super) struct Date {
    pub(super) year: u64,
    /// 1 to 12.
    pub(super) month: u64,
    pub(super) day: u64,
    pub(super) hour: u64,
    pub(super) minute: u64,
    pub(super) second: u64,
    pub(super) micros: u32,
}

// === impl Date ===

impl Date {
    /// From the time since 1970 (the calendar counted in eras of 400 years that begin in March).
    pub(super) fn of(since_1970: Duration) -> Self {
        let seconds = since_1970.as_secs();
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            hour: seconds / 3_600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            micros: since_1970.subsec_micros(),
        }
    }

    pub(super) fn month_name(&self) -> &'static str {
        const NAMES: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        NAMES[(self.month as usize - 1) % 12]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let date = |seconds| {
            let Date { year, month, day, hour, minute, second, .. } =
                Date::of(Duration::from_secs(seconds));
            (year, month, day, hour, minute, second)
        };
        assert_eq!(date(0), (1970, 1, 1, 0, 0, 0));
        assert_eq!(date(951_782_400), (2000, 2, 29, 0, 0, 0));
        assert_eq!(date(1_709_251_199), (2024, 2, 29, 23, 59, 59));
        assert_eq!(date(1_767_225_599), (2025, 12, 31, 23, 59, 59));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 0, 0, 0));
    }

    #[test]
    fn users() {
        let user = |header: &str| {
            basic_user(header.as_bytes()).map(|user| String::from_utf8(user).expect("text"))
        };
        assert_eq!(user("Basic YnJ1Y2U6d2F5bmU="), Some("bruce".to_owned()));
        assert_eq!(user("basic  YTo="), Some("a".to_owned()));
        for none in
            ["", "Basic", "Basic !!!", "Basic YQ==", "Basic OmE=", "Bearer YTpi", "Bäsic YTpi"]
        {
            assert_eq!(user(none), None, "{none}");
        }
    }

    #[test]
    fn no_value_forges_a_line() {
        let mut line = String::new();
        escape(b"a\"b\\c\r\n\x1b[0m\t\x7f\xc3\xa4 ~", &mut line);
        assert_eq!(line, r#"a\"b\\c\x0d\x0a\x1b[0m\x09\x7f\xc3\xa4 ~"#);
    }
}
