//! Counts the instructions and the allocations of a request, by running this program under callgrind.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use clap::ValueEnum;

use crate::report::Error;

/// A command that counts each variant.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// The command that it runs under callgrind, which prints how often it allocated.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs<V: ValueEnum + Send + Sync + 'static> {
    pub(crate) variant: V,
    pub(crate) requests: u32,
}

/// Requests before the counted ones: they grow tables and fill caches.
const WARM: u32 = 200;
const COUNTED: u32 = 2_000;

/// Instructions and allocations per request of `variant`, which `command` serves.
pub(crate) fn count<V: ValueEnum>(command: &str, variant: &V) -> Result<(f64, f64), Error> {
    let (few_instructions, few_allocations) = run(command, variant, WARM)?;
    let (instructions, allocations) = run(command, variant, WARM + COUNTED)?;
    let per_request = |more: u64, few: u64| (more as f64 - few as f64) / f64::from(COUNTED);
    Ok((per_request(instructions, few_instructions), per_request(allocations, few_allocations)))
}

/// Instructions and allocations of a whole run.
fn run<V: ValueEnum>(command: &str, variant: &V, requests: u32) -> Result<(u64, u64), Error> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args([command, &name(variant), &requests.to_string()])
        .output()
        .map_err(|error| format!("valgrind (Debian: apt-get install valgrind): {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the run under callgrind failed: {stderr}").into());
    }
    let collected = stderr
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .ok_or_else(|| format!("callgrind collected nothing: {stderr}"))?;
    let allocations = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    Ok((collected, allocations))
}

/// What a variant is called on the command line.
pub(crate) fn name<V: ValueEnum>(variant: &V) -> String {
    // Only one that is skipped has none, and none is.
    variant.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
