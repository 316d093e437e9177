//! Panics of the program's code, caught where they must not go on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls the program's code.
///
/// # Errors
///
/// What its panic says.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(said_by)
}

/// What a panic that was caught says.
pub(crate) fn said_by(panic: Box<dyn Any + Send>) -> String {
    let said = message(&*panic).to_owned();
    // What the program panicked with may panic once more when it is dropped.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        let _ = Box::leak(another);
    }
    said
}

/// What a panic says.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    #[test]
    fn a_panic_ends_here_whatever_it_is_made_of() {
        struct Again;
        impl Drop for Again {
            fn drop(&mut self) {
                panic_any(Self);
            }
        }
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| panic!("no {}", "table")), Err::<(), _>("no table".to_owned()));
        assert_eq!(caught(|| panic_any(Again)), Err::<(), _>("no message".to_owned()));
    }
}
