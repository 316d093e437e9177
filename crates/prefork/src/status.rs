//! What `status` answers, as JSON.

use serde::Serialize;

/// The server.
#[derive(Debug, Serialize)]
pub(crate) struct Status<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) pid: i32,
    /// preparing, starting, running, reloading, or stopping.
    pub(crate) state: &'a str,
    /// Seconds.
    pub(crate) uptime: f64,
    pub(crate) generation: u64,
    /// How many workers there should be.
    pub(crate) target: usize,
    pub(crate) listeners: &'a [String],
    pub(crate) workers: Vec<WorkerStatus>,
}

/// One worker process.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerStatus {
    pub(crate) slot: usize,
    pub(crate) pid: i32,
    pub(crate) generation: u64,
    /// booting, ready, draining, hung, or killed.
    pub(crate) state: &'static str,
    /// Seconds since the last heartbeat.
    pub(crate) beat_age: f64,
    /// Requests that began.
    pub(crate) requests: u64,
    pub(crate) in_flight: u64,
    pub(crate) oldest: Option<OldestRequest>,
    /// Seconds since the Unix epoch.
    pub(crate) started: f64,
}

/// The oldest request that is in flight.
#[derive(Debug, Serialize)]
pub(crate) struct OldestRequest {
    /// Method and path.
    pub(crate) request: String,
    /// Seconds.
    pub(crate) age: f64,
}
