//! Errors with their causes. An error's own text names what failed, and its `source` is the cause; code that
//! prints an error prints the whole chain.

use std::error::Error;

/// An error and its causes, from the outermost to the first, separated by ": ". The texts of some libraries' errors
/// contain their cause; such a cause is not repeated.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let added = error.to_string();
        if !text.contains(&added) {
            text.push_str(": ");
            text.push_str(&added);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("the disk is full")]
    struct Disk;

    #[derive(Debug, Error)]
    #[error("writing {path}")]
    struct Write {
        path: &'static str,
        #[source]
        error: Disk,
    }

    #[derive(Debug, Error)]
    #[error("cannot save: {0}")]
    struct Repeats(#[source] Disk);

    #[derive(Debug, Error)]
    enum Save {
        #[error("the settings are not saved")]
        Write(#[from] Write),
        #[error(transparent)]
        Disk(#[from] Disk),
    }

    #[test]
    fn causes_follow_their_error_once_each() {
        let write = Write { path: "/a", error: Disk };
        assert_eq!(chain(&Save::from(write)), "the settings are not saved: writing /a: the disk is full");
        assert_eq!(chain(&Save::from(Disk)), "the disk is full");
        assert_eq!(chain(&Disk), "the disk is full");
        // The texts of errors of reqwest, zbus and others contain their cause.
        let repeats = Repeats(Disk);
        assert_eq!(chain(&repeats), "cannot save: the disk is full");
    }
}
