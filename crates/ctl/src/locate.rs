//! Where the control socket is.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::client::Failure;

/// The settings file that a server reads when no other is named.
const DEFAULT_CONFIG: &str = "farrier.toml";

/// Which server: without one of these, what the variables FARRIER_CONTROL_SOCKET, FARRIER_PIDFILE and
/// FARRIER_CONFIG say, else ./farrier.toml.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct Server {
    /// The server's control socket.
    #[arg(long, value_name = "PATH", global = true)]
    control_socket: Option<PathBuf>,
    /// The server's pidfile; the control socket lies beside it.
    #[arg(long, value_name = "PATH", global = true)]
    pidfile: Option<PathBuf>,
    /// The server's settings file.
    #[arg(long, short, value_name = "PATH", global = true)]
    config: Option<PathBuf>,
}

/// The two settings that say where the socket is; the launcher knows them by the same names.
#[derive(Debug, Default, Deserialize)]
struct Settings {
    control_socket: Option<PathBuf>,
    pidfile: Option<PathBuf>,
}

/// The control socket by what names it most directly, flags before variables.
///
/// # Errors
///
/// A settings file that cannot be read, or that names neither socket nor pidfile.
pub(crate) fn socket(
    flags: &Server,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, Failure> {
    if let Some(found) = named(flags) {
        return found;
    }
    // An empty variable is an unset one, as for the launcher.
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let environment = Server {
        control_socket: path("FARRIER_CONTROL_SOCKET"),
        pidfile: path("FARRIER_PIDFILE"),
        config: path("FARRIER_CONFIG"),
    };
    named(&environment).unwrap_or_else(|| configured(DEFAULT_CONFIG.as_ref()))
}

fn named(server: &Server) -> Option<Result<PathBuf, Failure>> {
    let Server { control_socket, pidfile, config } = server;
    let direct = control_socket.clone().or_else(|| pidfile.as_deref().map(beside));
    direct.map(Ok).or_else(|| config.as_deref().map(configured))
}

/// The socket of the server that this settings file is for.
fn configured(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |reason: String| Failure::Config { path: path.to_owned(), reason };
    // A pipe would be waited for, and the server refuses it as well.
    if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Err(failed("it is a pipe".to_owned()));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let settings: Settings =
        toml::from_str(&text).map_err(|error| failed(error.message().replace('\n', ", ")))?;
    settings
        .control_socket
        .or_else(|| settings.pidfile.as_deref().map(beside))
        .ok_or_else(|| failed("it has neither control_socket nor pidfile".to_owned()))
}

/// The socket that the launcher makes when only a pidfile is set.
fn beside(pidfile: &Path) -> PathBuf {
    let mut name = pidfile.as_os_str().to_owned();
    name.push(".sock");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(name: &str, path: &str) -> Server {
        let mut flags = Server::default();
        let place = match name {
            "control-socket" => &mut flags.control_socket,
            "pidfile" => &mut flags.pidfile,
            _ => &mut flags.config,
        };
        *place = Some(path.into());
        flags
    }

    fn no_variable(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn flags_go_before_variables_and_the_direct_before_the_indirect() {
        let all = |name: &str| Some(format!("/{name}").into());
        let found = socket(&flags("pidfile", "/p"), all).unwrap();
        assert_eq!(found, Path::new("/p.sock"));
        let found = socket(&Server::default(), all).unwrap();
        assert_eq!(found, Path::new("/FARRIER_CONTROL_SOCKET"));
        let pidfile = |name: &str| (name == "FARRIER_PIDFILE").then(|| "/p".into());
        assert_eq!(socket(&Server::default(), pidfile).unwrap(), Path::new("/p.sock"));
        let found = socket(&flags("control-socket", "/s"), pidfile).unwrap();
        assert_eq!(found, Path::new("/s"));
    }

    #[test]
    fn the_settings_file_names_the_socket() {
        let folder = std::env::temp_dir().join(format!("farrierctl-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("farrier.toml");
        let flags = flags("config", path.to_str().unwrap());
        for (content, expected) in [
            ("workers = 2\npidfile = '/run/p'", Some("/run/p.sock")),
            ("pidfile = '/run/p'\ncontrol_socket = '/run/s'\n[app]\nx = 1", Some("/run/s")),
            ("workers = 2", None),
            ("pidfile = ", None),
        ] {
            fs::write(&path, content).unwrap();
            let found = socket(&flags, no_variable);
            assert_eq!(found.ok().as_deref(), expected.map(Path::new), "{content}");
        }
        fs::remove_dir_all(&folder).unwrap();
        let missing = socket(&flags, no_variable).unwrap_err().to_string();
        assert!(missing.contains("farrier.toml"), "{missing}");
    }
}
