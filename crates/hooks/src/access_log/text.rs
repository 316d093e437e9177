//! Values as they may stand in a line: escaped, and decoded where they came encoded.

use std::fmt::Write as _;

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

#[cfg(test)]
mod tests {
    use super::*;

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
