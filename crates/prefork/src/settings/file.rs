//! The settings file: TOML, flat.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use toml::de::{DeTable, DeValue};

use super::error::SettingsError;
use super::origin::{Origin, Raw};

/// Bytes that no settings file has.
const LONGEST: u64 = 1 << 20;

/// The settings of the file at `path` in its order.
///
/// `named` says who asked for the file; the default one, which nobody names, may be missing. Tables are
/// the program's own and left alone.
pub(super) fn read(
    path: &Path,
    named: Option<Origin>,
) -> Result<Vec<(String, Raw)>, SettingsError> {
    match read_file(path) {
        Ok(text) => parse(path, &text),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => Ok(Vec::new()),
        Err(error) => Err(SettingsError::file(path, named, error.to_string())),
    }
}

/// Never waits, as it would for the writer of a pipe: the master reads it again at each reload.
fn read_file(path: &Path) -> io::Result<String> {
    let file =
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is a pipe, which cannot be read again",
        ));
    }
    let mut text = String::new();
    // A device may have no end.
    if file.take(LONGEST).read_to_string(&mut text)? as u64 == LONGEST {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is longer than 1 MiB"));
    }
    Ok(text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<(String, Raw)>, SettingsError> {
    let table = DeTable::parse(text).map_err(|error| {
        let origin = error.span().map(|span| Origin::File(path.to_owned(), line(text, span.start)));
        SettingsError::file(path, origin, error.message().replace('\n', ", "))
    })?;
    let mut found: Vec<_> = table.get_ref().iter().collect();
    found.sort_by_key(|(key, _)| key.span().start);
    Ok(found
        .into_iter()
        .filter_map(|(key, value)| {
            let values = match value.get_ref() {
                DeValue::Table(_) => return None,
                DeValue::Array(values) => {
                    values.iter().map(|value| scalar(value.get_ref())).collect()
                }
                value => vec![scalar(value)],
            };
            let origin = Origin::File(path.to_owned(), line(text, key.span().start));
            Some((key.get_ref().to_string(), Raw { values, origin }))
        })
        .collect())
}

/// A value in the spelling that a flag would have.
fn scalar(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    }
}

fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
