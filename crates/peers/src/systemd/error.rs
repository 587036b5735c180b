//! What can go wrong between a question to systemd and its answer.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use zbus::{DBusError as _, Message};

/// The bus's name for a call that this systemd does not have.
pub(super) const UNKNOWN_METHOD: &str = "org.freedesktop.DBus.Error.UnknownMethod";

/// Why systemd gave no usable answer.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SystemdError {
    /// No connection to the bus.
    #[error(
        "cannot reach the system bus at {}: {reason}; check that dbus runs, and in a pod mount the socket's \
         directory", path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system or the bus said.
        reason: String,
    },
    /// The connection broke.
    #[error("{call}: the connection to systemd broke: {reason}")]
    Broken {
        /// The D-Bus method.
        call: &'static str,
        /// What the system said.
        reason: String,
    },
    /// systemd took the call and did not answer in time.
    #[error("{call}: no answer from systemd within {within:?}")]
    Deadline {
        /// The D-Bus method.
        call: &'static str,
        /// The time it had.
        within: Duration,
    },
    /// systemd, or the bus's policy, refused.
    #[error("{call}: {message} ({name})")]
    Refused {
        /// The D-Bus method.
        call: &'static str,
        /// The D-Bus error's name.
        name: String,
        /// systemd's words.
        message: String,
    },
    /// The answer arrived and makes no sense.
    #[error("{call}: unreadable answer: {reason}")]
    Answer {
        /// The D-Bus method.
        call: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

// === impl SystemdError ===

impl SystemdError {
    pub(super) fn is_named(&self, wanted: &str) -> bool {
        matches!(self, SystemdError::Refused { name, .. } if name == wanted)
    }
}

pub(super) async fn within(
    call: &'static str,
    deadline: Duration,
    reply: impl Future<Output = zbus::Result<Message>>,
) -> Result<Message, SystemdError> {
    match tokio::time::timeout(deadline, reply).await {
        Ok(reply) => reply.map_err(|error| failure(call, error)),
        Err(_) => Err(SystemdError::Deadline { call, within: deadline }),
    }
}

fn failure(call: &'static str, error: zbus::Error) -> SystemdError {
    match error {
        zbus::Error::MethodError(name, message, _) => {
            SystemdError::Refused { call, name: name.to_string(), message: message.unwrap_or_default() }
        }
        zbus::Error::FDO(error) => SystemdError::Refused {
            call,
            name: error.name().to_string(),
            message: error.description().unwrap_or_default().to_owned(),
        },
        // No descriptors over this connection: as good as a systemd without the method.
        zbus::Error::Unsupported => SystemdError::Refused {
            call,
            name: UNKNOWN_METHOD.to_owned(),
            message: "this connection passes no file descriptors".to_owned(),
        },
        error => SystemdError::Broken { call, reason: error.to_string() },
    }
}

pub(super) fn answer(call: &'static str, reason: String) -> SystemdError {
    SystemdError::Answer { call, reason }
}
