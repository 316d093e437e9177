//! What farrier must know of each of sqlx's databases.

use std::fmt;

use farrier_connection::{Alteration, ErrorClass};
use sqlx::{Database, Error};

/// What farrier must know of one of sqlx's databases.
///
/// It is there for sqlx's `Sqlite` and `Postgres`, as far as their features are on.
pub trait Engine: Database {
    /// What names a session at the server.
    type SessionId: fmt::Display + fmt::Debug + Send + Sync + 'static;

    /// What a use that is not seen may leave behind in the session.
    const UNSEEN: Alteration;

    /// What a statement may leave behind in the session, such as a setting or a transaction.
    fn alteration(sql: &str) -> Alteration;

    /// Whether a statement begins a transaction and does nothing else.
    fn begins_transaction(sql: &str) -> bool;

    /// Whether an earlier error has aborted the open transaction, without ending it.
    #[doc(hidden)]
    fn is_aborted(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        let _ = connection;
        async { Ok(false) }
    }

    /// Whether an error of this statement may be one with which the database ends the transaction.
    #[doc(hidden)]
    #[must_use]
    fn may_roll_back(sql: &str) -> bool {
        let _ = sql;
        false
    }

    /// Whether the database ends the transaction in which this error comes.
    #[doc(hidden)]
    #[must_use]
    fn rolls_back(error: &Error) -> bool {
        let _ = error;
        false
    }

    /// What an error says about the connection.
    fn classify(error: &Error) -> ErrorClass;

    /// Whether an error says that statements which were prepared before must be prepared anew.
    #[must_use]
    fn outdates_statements(error: &Error) -> bool {
        let _ = error;
        false
    }
}
