//! Which statements leave something behind in the session.

/// What an engine is sure of.
pub(crate) struct Plain {
    /// First words of statements that only read and write tables.
    pub(crate) first_words: &'static [&'static str],
    /// What makes even those suspect, in capitals.
    pub(crate) unless: &'static [&'static str],
}

// === impl Plain ===

impl Plain {
    /// Whether `sql` may leave something behind: decided by what is surely harmless.
    pub(crate) fn alters_session(&self, sql: &str) -> bool {
        let sql = sql.trim();
        let sql = sql.strip_suffix(';').unwrap_or(sql).as_bytes();
        let word = sql.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(sql.len());
        let is_first = |word: &str, text: &[u8]| text.eq_ignore_ascii_case(word.as_bytes());
        !self.first_words.iter().any(|plain| is_first(plain, &sql[..word]))
            || sql.contains(&b';')
            || self.unless.iter().any(|suspect| {
                sql.windows(suspect.len()).any(|part| part.eq_ignore_ascii_case(suspect.as_bytes()))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Plain = Plain { first_words: &["SELECT", "CREATE"], unless: &["TEMP"] };

    #[test]
    fn only_what_is_surely_harmless_is_plain() {
        for sql in ["SELECT 1", "  select 1; \n", "CREATE TABLE t (id INT)"] {
            assert!(!PLAIN.alters_session(sql), "{sql}");
        }
        for sql in
            ["BEGIN", "CREATE temp TABLE t (id INT)", "SELECT 1; BEGIN", "PRAGMA x", "", "SELECTED"]
        {
            assert!(PLAIN.alters_session(sql), "{sql}");
        }
    }
}
