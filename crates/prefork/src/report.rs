//! What a worker says to its master when its app is started, or is not.

/// A worker's one message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Ready,
    Failure(String),
}

impl Report {
    /// Bytes; a pipe takes so many at once or none (PIPE_BUF), so that neither side waits.
    pub(crate) const LONGEST: usize = 4096;

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ready => b"r".to_vec(),
            Self::Failure(why) => {
                let mut bytes = [b"f", why.as_bytes()].concat();
                bytes.truncate(Self::LONGEST);
                bytes
            }
        }
    }

    /// What was read at once; `None` if the worker has died and said nothing.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [] => return None,
            // It becomes a part of lines.
            [b'f', why @ ..] => {
                Self::Failure(String::from_utf8_lossy(why).replace(char::is_control, " "))
            }
            _ => Self::Ready,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_as_it_went_and_a_long_one_is_cut() {
        assert_eq!(Report::of(&[]), None);
        for report in [Report::Ready, Report::Failure("no database: \u{e9}".into())] {
            assert_eq!(Report::of(&report.to_bytes()), Some(report));
        }
        let long = Report::Failure("\u{e9}".repeat(Report::LONGEST)).to_bytes();
        assert_eq!(long.len(), Report::LONGEST);
        let Some(Report::Failure(why)) = Report::of(&long) else { panic!("it is a failure") };
        assert!(why.starts_with('\u{e9}'));
    }
}
