//! Which statements leave something behind in the session.

use std::borrow::Cow;
use std::sync::Arc;

use mysql_async::prelude::StatementLike;

/// A statement whose text can be seen, so that it is known whether it changes the session.
///
/// Strings of all kinds, and statements from
/// [`MySqlConnection::prep`](crate::MySqlConnection::prep).
pub trait Statement: StatementLike {
    /// Whether running it may leave something behind that only a reset removes.
    fn alters_session(&self) -> bool;
}

/// Statements that read, write or make tables, or begin and end transactions, which the server
/// reports. Not `DROP`, which may take the current database away.
const PLAIN: [&[u8]; 21] = [
    b"SELECT",
    b"INSERT",
    b"UPDATE",
    b"DELETE",
    b"REPLACE",
    b"WITH",
    b"VALUES",
    b"DO",
    b"SHOW",
    b"EXPLAIN",
    b"DESCRIBE",
    b"DESC",
    b"CREATE",
    b"ALTER",
    b"TRUNCATE",
    b"BEGIN",
    b"START",
    b"COMMIT",
    b"ROLLBACK",
    b"SAVEPOINT",
    b"RELEASE",
];

/// What makes even those suspect: temporary tables, named locks, comments that the server executes.
const SUSPECT: [&[u8]; 3] = [b"TEMPORARY", b"GET_LOCK", b"/*!"];

/// Whether the text may leave something behind: decided by what is surely harmless.
///
/// Harmless is one of [`PLAIN`] with nothing [`SUSPECT`], no user variable and no second statement.
/// What a stored function does is not seen.
pub(crate) fn alters_session(sql: &[u8]) -> bool {
    let sql = sql.trim_ascii();
    let sql = sql.strip_suffix(b";").unwrap_or(sql);
    let word = sql.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(sql.len());
    let plain = PLAIN.iter().any(|plain| sql[..word].eq_ignore_ascii_case(plain));
    !plain
        || sql.iter().any(|byte| matches!(byte, b'@' | b';'))
        || SUSPECT.iter().any(|suspect| {
            sql.windows(suspect.len()).any(|part| part.eq_ignore_ascii_case(suspect))
        })
}

// === impl Statement ===

macro_rules! by_text {
    ($($text:ty),* $(,)?) => {$(
        impl Statement for $text {
            fn alters_session(&self) -> bool {
                alters_session(self.as_ref())
            }
        }
    )*};
}

by_text!(&[u8], Vec<u8>, Box<[u8]>, Arc<[u8]>, Cow<'_, [u8]>);

macro_rules! by_str {
    ($($text:ty),* $(,)?) => {$(
        impl Statement for $text {
            fn alters_session(&self) -> bool {
                alters_session(self.as_bytes())
            }
        }
    )*};
}

by_str!(&str, String, Box<str>, Arc<str>, Cow<'_, str>);

/// It was seen when it was prepared.
impl Statement for mysql_async::Statement {
    fn alters_session(&self) -> bool {
        false
    }
}

impl<T: Statement + Clone> Statement for &T {
    fn alters_session(&self) -> bool {
        T::alters_session(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_statements_leave_nothing_behind() {
        for sql in [
            "SELECT 1",
            "  select id from t where id = ?;\n",
            "INSERT INTO t VALUES (?)",
            "CREATE TABLE t (id INT)",
            "BEGIN",
            "START TRANSACTION READ ONLY",
            "with x as (select 1) select * from x",
        ] {
            assert!(!alters_session(sql.as_bytes()), "{sql}");
        }
    }

    #[test]
    fn everything_else_may() {
        for sql in [
            "SET @x = 1",
            "SELECT @x := 1",
            "SELECT 1 INTO @x",
            "USE other",
            "SELECT 1; SET autocommit = 0",
            "SELECT get_lock('a', 1)",
            "SELECT /*!40101 @x := */ 1",
            "CREATE TEMPORARY TABLE t (id INT)",
            "LOCK TABLES t READ",
            "CALL p()",
            "DROP DATABASE shop",
            "PREPARE s FROM 'SELECT 1'",
            "/* why */ SELECT 1",
            "",
        ] {
            assert!(alters_session(sql.as_bytes()), "{sql}");
        }
    }
}
