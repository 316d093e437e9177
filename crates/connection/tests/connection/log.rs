//! What is logged, line by line.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::subscriber::{DefaultGuard, set_default};

/// What was logged on this thread while it lives.
pub(crate) struct Log {
    text: Text,
    _default: DefaultGuard,
}

#[derive(Clone, Debug, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn here() -> Self {
        let text = Text::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        Self { text, _default: set_default(subscriber) }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let text = self.text.0.lock().expect("a log");
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// The failures that all lines together say.
    pub(crate) fn failures(&self) -> u64 {
        let count = |line: &String| {
            let (_, rest) = line.split_once("failures=").expect("each line has the count");
            let number = rest.split(' ').next().expect("a first word");
            number.parse::<u64>().expect("a number")
        };
        self.lines().iter().map(count).sum()
    }
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("a log").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
