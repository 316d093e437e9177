//! The connection policy as flags.

use std::str::FromStr;
use std::time::Duration;

use farrier::connection::Policy;

/// One flag for each field of [`Policy`]; what is not given keeps its default.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection policy")]
pub(crate) struct PolicyArgs {
    /// Server sessions at most.
    #[arg(long)]
    max_connections: Option<usize>,
    /// Seconds that a connection may live, or `none`.
    #[arg(long)]
    max_age: Option<Limit>,
    /// Part of max-age by which a connection may have to go sooner, 0 to 1.
    #[arg(long)]
    max_age_jitter: Option<f64>,
    /// Seconds that a connection may lie unused, or `none`.
    #[arg(long)]
    idle_timeout: Option<Limit>,
    /// Check a connection that an earlier request used.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    health_checks: Option<bool>,
    /// Seconds since its last use in which a connection is not checked.
    #[arg(long)]
    health_check_bypass: Option<Seconds>,
    /// Seconds that a request waits for its connection.
    #[arg(long)]
    acquire_timeout: Option<Seconds>,
    /// Seconds that an attempt to connect may take.
    #[arg(long)]
    connect_timeout: Option<Seconds>,
    /// Seconds that a statement may take, or `none`.
    #[arg(long)]
    statement_timeout: Option<Limit>,
    /// Seconds that a health check may take.
    #[arg(long)]
    check_timeout: Option<Seconds>,
    /// Seconds that a rollback or a reset may take.
    #[arg(long)]
    reset_timeout: Option<Seconds>,
    /// Seconds that closing may take.
    #[arg(long)]
    close_timeout: Option<Seconds>,
    /// Requests that may wait for a connection.
    #[arg(long)]
    max_waiting: Option<usize>,
    /// Connections that may be in the making at once.
    #[arg(long)]
    max_connecting: Option<usize>,
    /// End cancelled sessions at the server.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    kill_cancelled: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Seconds(Duration);

#[derive(Clone, Copy, Debug)]
struct Limit(Option<Duration>);

impl PolicyArgs {
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        let seconds = |given: Option<Seconds>, default| given.map_or(default, |Seconds(time)| time);
        let limit = |given: Option<Limit>, default| given.map_or(default, |Limit(time)| time);
        policy.max_connections = self.max_connections.unwrap_or(policy.max_connections);
        policy.max_age = limit(self.max_age, policy.max_age);
        policy.max_age_jitter = self.max_age_jitter.unwrap_or(policy.max_age_jitter);
        policy.idle_timeout = limit(self.idle_timeout, policy.idle_timeout);
        policy.health_checks = self.health_checks.unwrap_or(policy.health_checks);
        policy.health_check_bypass = seconds(self.health_check_bypass, policy.health_check_bypass);
        policy.acquire_timeout = seconds(self.acquire_timeout, policy.acquire_timeout);
        policy.connect_timeout = seconds(self.connect_timeout, policy.connect_timeout);
        policy.statement_timeout = limit(self.statement_timeout, policy.statement_timeout);
        policy.check_timeout = seconds(self.check_timeout, policy.check_timeout);
        policy.reset_timeout = seconds(self.reset_timeout, policy.reset_timeout);
        policy.close_timeout = seconds(self.close_timeout, policy.close_timeout);
        policy.max_waiting = self.max_waiting.unwrap_or(policy.max_waiting);
        policy.max_connecting = self.max_connecting.unwrap_or(policy.max_connecting);
        policy.kill_cancelled = self.kill_cancelled.unwrap_or(policy.kill_cancelled);
        policy
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        time.map(Self).ok_or_else(|| "seconds as a number, 0 or more, are allowed".to_owned())
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse().map(|Seconds(time)| Self(Some(time)))
    }
}
