//! Which statements leave something behind in the session.

use std::borrow::Cow;
use std::sync::Arc;

use farrier_connection::{PlainStatements, Syntax};
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
/// reports. Not `DROP`, which may take the current database away; nor temporary tables, locks that
/// belong to the session, and a `COMMIT RELEASE`, after which the server hangs up.
const PLAIN: PlainStatements = PlainStatements::new(
    Syntax::MySql,
    &[
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "REPLACE",
        "WITH",
        "VALUES",
        "DO",
        "SHOW",
        "EXPLAIN",
        "DESCRIBE",
        "DESC",
        "CREATE",
        "ALTER",
        "TRUNCATE",
        "BEGIN",
        "START",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
    ],
    &["TEMPORARY", "GET_LOCK", "SERVICE_GET_*", "VERSION_TOKENS_LOCK_*", "RELEASE"],
);

pub(crate) fn alters_session(sql: &[u8]) -> bool {
    !PLAIN.contains(sql)
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
            "RELEASE SAVEPOINT s",
            "with x as (select 1) select * from x",
            "/* why */ SELECT 1",
            "(SELECT 1)",
            "SELECT id FROM users WHERE mail = 'ann@example.com' AND note <> ';'",
            "SELECT @@version",
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
            "ROLLBACK AND NO CHAIN RELEASE",
            "",
        ] {
            assert!(alters_session(sql.as_bytes()), "{sql}");
        }
    }
}
