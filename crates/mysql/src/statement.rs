//! Which statements leave something behind in the session.

use std::borrow::Cow;
use std::sync::Arc;

use farrier_connection::{Alteration, PlainStatements, Syntax};
use mysql_async::prelude::StatementLike;

/// A statement whose text can be seen, so that it is known whether it changes the session.
///
/// Strings of all kinds, and statements from
/// [`MySqlConnection::prep`](crate::MySqlConnection::prep).
pub trait Statement: StatementLike {
    /// What running it may leave behind in the session.
    fn alteration(&self) -> Alteration;
}

/// Statements that read, write or make tables. Not any `DROP`, which may take the current database away;
/// nor temporary tables, locks that belong to the session, and what `LASTVAL` tells.
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
        "DROP TABLE",
        "DROP VIEW",
        "DROP INDEX",
    ],
    &[
        "TEMPORARY",
        "GET_LOCK",
        "NEXTVAL",
        // `NEXT VALUE FOR`.
        "NEXT",
        "SETVAL",
    ],
)
// An `OR REPLACE` takes the current one away, too.
.if_made(&["DATABASE", "SCHEMA"])
// What is not in a reset's reach: locks of a service, `SET profiling` and `SET RESOURCE GROUP`.
.lasting(&["SERVICE_GET_*", "VERSION_TOKENS_LOCK_*"])
.lasting_unless_plain(&["PROFILING", "RESOURCE"]);

/// Those that begin and end transactions, which the server reports; not a `COMMIT RELEASE`, after which it
/// hangs up.
const TRANSACTION: PlainStatements = PlainStatements::new(
    Syntax::MySql,
    &["BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"],
    &["RELEASE"],
);

pub(crate) fn alteration(sql: &[u8]) -> Alteration {
    if TRANSACTION.contains(sql) { Alteration::Nothing } else { PLAIN.alteration(sql) }
}

macro_rules! by_text {
    ($($text:ty),* $(,)?) => {$(
        impl Statement for $text {
            fn alteration(&self) -> Alteration {
                alteration(self.as_ref())
            }
        }
    )*};
}

by_text!(&[u8], Vec<u8>, Box<[u8]>, Arc<[u8]>, Cow<'_, [u8]>);

macro_rules! by_str {
    ($($text:ty),* $(,)?) => {$(
        impl Statement for $text {
            fn alteration(&self) -> Alteration {
                alteration(self.as_bytes())
            }
        }
    )*};
}

by_str!(&str, String, Box<str>, Arc<str>, Cow<'_, str>);

/// It was seen when it was prepared.
impl Statement for mysql_async::Statement {
    fn alteration(&self) -> Alteration {
        Alteration::Nothing
    }
}

impl<T: Statement + Clone> Statement for &T {
    fn alteration(&self) -> Alteration {
        T::alteration(self)
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
            "SELECT @@version, DATABASE()",
            "SELECT LAST_INSERT_ID()",
            "SELECT `release`, release FROM versions",
            "DROP TABLE IF EXISTS t",
            "COMMIT AND CHAIN",
        ] {
            assert_eq!(alteration(sql.as_bytes()), Alteration::Nothing, "{sql}");
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
            "CREATE OR REPLACE DATABASE shop",
            "SELECT NEXT VALUE FOR s",
            "PREPARE s FROM 'SELECT 1'",
            "ROLLBACK AND NO CHAIN RELEASE",
            "SET ROLE a",
            "",
        ] {
            assert_eq!(alteration(sql.as_bytes()), Alteration::Resettable, "{sql}");
        }
        for sql in [
            "SET RESOURCE GROUP a",
            "SET profiling = 1",
            "SELECT service_get_read_locks('a', 'b', 1)",
        ] {
            assert_eq!(alteration(sql.as_bytes()), Alteration::Lasting, "{sql}");
        }
    }
}
