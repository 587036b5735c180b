//! Errors of calls to systemd.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use usernsd_domain::chain::chain;
use zbus::{DBusError as _, Message};

/// The D-Bus error for a method that this systemd does not have.
pub(super) const UNKNOWN_METHOD: &str = "org.freedesktop.DBus.Error.UnknownMethod";

/// Why a call to systemd has no usable answer.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SystemdError {
    /// There is no connection to the bus.
    #[error(
        "cannot reach the system bus at {}: {reason}; check that dbus runs, and in a pod mount the socket's \
         directory", path.display()
    )]
    Unreachable {
        /// Path of the bus's socket.
        path: PathBuf,
        /// Message of the kernel or of the bus.
        reason: String,
    },
    /// The connection broke during the call.
    #[error("{call}: the connection to systemd broke: {reason}")]
    Broken {
        /// The D-Bus method.
        call: &'static str,
        /// Message of the kernel or of zbus.
        reason: String,
    },
    /// systemd accepted the call and did not answer in time.
    #[error("{call}: no answer from systemd within {within:?}")]
    Deadline {
        /// The D-Bus method.
        call: &'static str,
        /// The time limit.
        within: Duration,
    },
    /// systemd, or the bus's policy, refused the call.
    #[error("{call}: {message} ({name})")]
    Refused {
        /// The D-Bus method.
        call: &'static str,
        /// Name of the D-Bus error.
        name: String,
        message: String,
    },
    /// The answer does not have the expected type or content.
    #[error("{call}: unreadable answer: {reason}")]
    Answer {
        /// The D-Bus method.
        call: &'static str,
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
        // This connection carries no file descriptors: treated as a systemd without the method.
        zbus::Error::Unsupported => SystemdError::Refused {
            call,
            name: UNKNOWN_METHOD.to_owned(),
            message: "this connection passes no file descriptors".to_owned(),
        },
        error => SystemdError::Broken { call, reason: chain(&error) },
    }
}

pub(super) fn answer(call: &'static str, reason: String) -> SystemdError {
    SystemdError::Answer { call, reason }
}
