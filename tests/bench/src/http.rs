//! What it costs to refuse what hyper would take: instructions of an HTTP/1 request over a socket, its client
//! included, on a server that looks at each request and on one that tolerates all.

use axum::Router;
use axum::body::Bytes;
use axum::routing::any;
use clap::ValueEnum;
use farrier::serve::{Drain, Server};
use serde::Serialize;
use stats_alloc::Region;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::ALLOCATOR;
use crate::callgrind::{self, Args, ServeArgs, name};
use crate::report::{self, Error, Row};

/// The request, and whether it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    GetTolerated,
    Get,
    ChunkedTolerated,
    Chunked,
}

#[derive(Debug, Serialize)]
struct Cost {
    variant: Variant,
    instructions: f64,
    allocations: f64,
}

/// As a browser sends it, without cookies.
const HEADERS: &str = "Host: guests.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Connection: keep-alive\r\n";

/// Counts every variant and prints the table.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let mut rows = Vec::new();
    for &variant in Variant::value_variants() {
        let (instructions, allocations) = callgrind::count("serve-http", &variant)?;
        rows.push(Cost { variant, instructions, allocations });
    }
    report::print(&rows, args.json.as_deref())
}

/// Serves requests of one variant and prints how often it allocated.
pub(crate) fn serve(args: &ServeArgs<Variant>) -> Result<(), Error> {
    let path = std::env::temp_dir().join(format!("farrier-bench-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let allocations = runtime.block_on(async {
        let router =
            Router::new().route("/", any(async |_body: Bytes| "Hello, World!")).with_state(());
        let server = Server::new([UnixListener::bind(&path)?], router)
            .tolerate_invalid_requests(args.variant.is_tolerated());
        tokio::spawn(server.serve(Drain::new()));
        let mut client = UnixStream::connect(&path).await?;
        let request = args.variant.request();
        client.write_all(request.as_bytes()).await?;
        let mut response = vec![0; 4096];
        // Each one is as long as the first.
        let length = client.read(&mut response).await?;
        let counted = Region::new(ALLOCATOR);
        for _ in 0..args.requests {
            client.write_all(request.as_bytes()).await?;
            client.read_exact(&mut response[..length]).await?;
        }
        Ok::<_, Error>(counted.change().allocations)
    });
    // It may not have been made.
    let _ = std::fs::remove_file(&path);
    report::say(&allocations?.to_string());
    Ok(())
}

impl Variant {
    fn is_tolerated(self) -> bool {
        matches!(self, Self::GetTolerated | Self::ChunkedTolerated)
    }

    fn request(self) -> String {
        match self {
            Self::GetTolerated | Self::Get => format!("GET / HTTP/1.1\r\n{HEADERS}\r\n"),
            Self::ChunkedTolerated | Self::Chunked => format!(
                "POST / HTTP/1.1\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
                "40\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n"
                    .repeat(8)
            ),
        }
    }
}

impl Row for Cost {
    const HEADS: &'static [&'static str] = &["request", "instructions", "allocations"];

    fn cells(&self) -> Vec<String> {
        vec![
            name(&self.variant),
            report::thousands(self.instructions),
            format!("{:.2}", self.allocations),
        ]
    }
}
