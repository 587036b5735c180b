//! A lock whose holder may have panicked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a value, also after a panic of another thread that held it. A release build ends with the panic (`panic =
/// "abort"` in Cargo.toml), so only a test can see such a value, and there a second panic would hide the first.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
