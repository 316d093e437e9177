//! The error that services and bodies may have.

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
