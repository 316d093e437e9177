//! What the server's error numbers say about a connection.

use farrier_connection::{ErrorClass, Poisoned};
use mysql_async::{DriverError, Error};

pub(crate) fn poisoned() -> Error {
    Error::Other(Box::new(Poisoned::new()))
}

pub(crate) fn classify(error: &Error) -> ErrorClass {
    match error {
        // An option of the server forbids it: of this one a failover tells, of others nothing.
        Error::Server(error) if error.code == 1290 && !error.message.contains("read-only") => {
            ErrorClass::Suspect
        }
        Error::Server(error) => classify_code(error.code),
        Error::Url(_)
        | Error::Driver(
            DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled
            | DriverError::NoClientSslFlagFromServer,
        ) => ErrorClass::Denied,
        // The driver closes the connection on every error that is not the server's.
        Error::Driver(_) | Error::Io(_) | Error::Other(_) => ErrorClass::Fatal,
    }
}

/// Whether the server or the network has ended the connection; the driver also does so by itself.
pub(crate) fn is_disconnect(error: &Error) -> bool {
    match error {
        Error::Server(error) => classify_code(error.code) == ErrorClass::Fatal,
        Error::Io(_) => true,
        Error::Driver(_) | Error::Other(_) | Error::Url(_) => false,
    }
}

fn classify_code(code: u16) -> ErrorClass {
    match code {
        // Too many connections, of all or of this user; host blocked after too many errors.
        1040 | 1129 | 1203 | 1226 => ErrorClass::Busy,
        // Access, unknown database, authentication plugin, locked account, expired password, host.
        1044 | 1045 | 1049 | 1130 | 1251 | 1524 | 1698 | 1820 | 1862 | 3118 | 4151 => {
            ErrorClass::Denied
        }
        // The server runs with --read-only, or in read-only mode. (1792 is about the transaction.)
        1290 | 1836 => ErrorClass::Failover,
        // Shutdown, killed (MariaDB, MySQL), inactivity, network, handshake.
        1043 | 1047 | 1053 | 1152 | 1158..=1161 | 1927 | 3168 | 3169 | 4031 => ErrorClass::Fatal,
        // Django's data and integrity errors: null, duplicate, foreign keys, checks, ranges,
        // lengths.
        1048 | 1062 | 1216 | 1217 | 1264 | 1292 | 1365 | 1366 | 1406 | 1451 | 1452 | 1557
        | 1586 | 1690 | 3819 | 4025 => ErrorClass::Harmless,
        _ => ErrorClass::Suspect,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use mysql_async::ServerError;

    use super::*;

    #[test]
    fn a_lost_link_is_fatal_and_a_poisoned_one_too() {
        assert_eq!(classify(&DriverError::ConnectionClosed.into()), ErrorClass::Fatal);
        assert_eq!(classify(&poisoned()), ErrorClass::Fatal);
        assert_eq!(classify_code(1927), ErrorClass::Fatal);
    }

    #[test]
    fn only_a_link_that_was_cut_is_a_disconnect() {
        let shutdown = ServerError { code: 1053, message: String::new(), state: String::new() };
        assert!(is_disconnect(&shutdown.clone().into()));
        assert!(is_disconnect(&Error::from(std::io::Error::from(ErrorKind::BrokenPipe))));
        assert!(!is_disconnect(&ServerError { code: 1062, ..shutdown }.into()));
        assert!(!is_disconnect(&poisoned()));
        let mismatch = DriverError::StmtParamsMismatch { required: 1, supplied: 2 };
        assert!(!is_disconnect(&mismatch.into()));
    }

    #[test]
    fn server_errors_are_told_apart() {
        assert_eq!(classify_code(1062), ErrorClass::Harmless);
        assert_eq!(classify_code(1146), ErrorClass::Suspect);
        assert_eq!(classify_code(1290), ErrorClass::Failover);
        assert_eq!(classify_code(1040), ErrorClass::Busy);
        assert_eq!(classify_code(1045), ErrorClass::Denied);
    }
}
