//! What a worker says to its master: that its app is started, or is not, and that it has served enough.

/// A worker's message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Ready,
    /// It has begun as many requests as it may.
    Due,
    /// The app could not be started, and why; the last message.
    Failure(String),
}

impl Report {
    /// Bytes; a pipe takes so many at once or none (PIPE_BUF), so that neither side waits.
    pub(crate) const LONGEST: usize = 4096;

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ready => b"r".to_vec(),
            Self::Due => b"d".to_vec(),
            Self::Failure(why) => {
                let mut bytes = [b"f", why.as_bytes()].concat();
                bytes.truncate(Self::LONGEST);
                bytes
            }
        }
    }

    /// The first message of what was read at once, and the rest; `None` if there is nothing.
    pub(crate) fn first(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = bytes.split_first()?;
        Some(match first {
            // It becomes a part of lines.
            b'f' => {
                let why = String::from_utf8_lossy(rest).replace(char::is_control, " ");
                (Self::Failure(why), &[])
            }
            b'd' => (Self::Due, rest),
            _ => (Self::Ready, rest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_as_they_went_and_a_long_one_is_cut() {
        assert_eq!(Report::first(&[]), None);
        let failure = || Report::Failure("no database: \u{e9}".into());
        for report in [Report::Ready, Report::Due, failure()] {
            assert_eq!(Report::first(&report.to_bytes()), Some((report, &[][..])));
        }
        let several = [Report::Ready, Report::Due, failure()];
        let bytes: Vec<u8> = several.iter().flat_map(Report::to_bytes).collect();
        let mut rest = bytes.as_slice();
        for report in several {
            let (first, more) = Report::first(rest).expect("a report");
            assert_eq!(first, report);
            rest = more;
        }
        let long = Report::Failure("\u{e9}".repeat(Report::LONGEST)).to_bytes();
        assert_eq!(long.len(), Report::LONGEST);
        let Some((Report::Failure(why), _)) = Report::first(&long) else {
            panic!("it is a failure")
        };
        assert!(why.starts_with('\u{e9}'));
    }
}
