//! What a database in memory is brought back to, as it cannot be opened anew.

use std::fmt::Write;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Error, Row};

/// The pragmas that belong to a connection and can be read. The process' are not among them, nor those
/// that are the database's own, such as `user_version`.
const PRAGMAS: [&str; 30] = [
    "analysis_limit",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "cell_size_check",
    "checkpoint_fullfsync",
    "count_changes",
    "defer_foreign_keys",
    "empty_result_callbacks",
    "foreign_keys",
    "full_column_names",
    "fullfsync",
    "ignore_check_constraints",
    "journal_mode",
    "journal_size_limit",
    "legacy_alter_table",
    "max_page_count",
    "query_only",
    "read_uncommitted",
    "recursive_triggers",
    "reverse_unordered_selects",
    "secure_delete",
    "short_column_names",
    "synchronous",
    "temp_store",
    "threads",
    "trusted_schema",
    "wal_autocheckpoint",
    "writable_schema",
];

/// Other files, as statements that detach them.
const ATTACHED: &str = "SELECT format('DETACH \"%w\"', name) FROM pragma_database_list \
    WHERE name NOT IN ('main', 'temp')";

/// A connection's settings as they were after the connect, as statements that bring them back.
#[derive(Clone, Debug)]
pub(super) struct Settings(String);

impl Settings {
    pub(super) async fn of(connection: &mut SqliteConnection) -> Result<Self, Error> {
        // Another store for temporary objects drops those that there are.
        let mut restore = "PRAGMA temp_store = 1;PRAGMA temp_store = 2;".to_owned();
        for pragma in PRAGMAS {
            let sql = AssertSqlSafe(format!("PRAGMA {pragma}"));
            // Not every SQLite is built with each.
            if let Some(row) = sqlx::query(sql).fetch_optional(&mut *connection).await? {
                let value: String = row.try_get_unchecked(0)?;
                let _ = write!(restore, "PRAGMA {pragma} = {value};");
            }
        }
        // The one that cannot be read.
        let sensitive: bool =
            sqlx::query_scalar("SELECT 'a' NOT LIKE 'A'").fetch_one(connection).await?;
        let _ = write!(restore, "PRAGMA case_sensitive_like = {sensitive};");
        Ok(Self(restore))
    }

    /// Brings them back, and removes temporary objects and attached files.
    pub(super) async fn restore(&self, connection: &mut SqliteConnection) -> Result<(), Error> {
        sqlx::raw_sql(AssertSqlSafe(self.0.as_str())).execute(&mut *connection).await?;
        let attached: Vec<String> =
            sqlx::query_scalar(ATTACHED).fetch_all(&mut *connection).await?;
        for detach in attached {
            sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut *connection).await?;
        }
        Ok(())
    }
}
