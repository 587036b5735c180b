//! What this process may do, and how it gives that up. Nothing here can be taken back.

use std::io;

use nix::sys::prctl;
use nix::unistd::Uid;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use thiserror::Error;

use usernsd_domain::privilege::Capability;

/// Why a privilege is still there.
#[derive(Debug, Error)]
#[error("giving up privileges: {what}: {error}")]
pub struct PrivilegeError {
    what: &'static str,
    error: io::Error,
}

/// Whether this process is root, of whichever user namespace.
#[must_use]
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Gives up every capability but these, for ever: what this process runs gets none of the others
/// either, and nobody but root may look into its memory. To be called before there is another thread:
/// capabilities are each thread's own.
///
/// # Errors
/// The kernel does not do it.
pub fn keep_only(kept: &[Capability]) -> Result<(), PrivilegeError> {
    let kept = kept.iter().map(|capability| one(capability.number)).collect::<CapabilitySet>();
    let failed = |what: &'static str| move |error: Errno| PrivilegeError { what, error: error.into() };
    prctl::set_no_new_privs()
        .map_err(|errno| PrivilegeError { what: "no_new_privs", error: errno.into() })?;
    // Else another process of the same user, in another container say, could attach to this one.
    prctl::set_dumpable(false).map_err(|errno| PrivilegeError { what: "dumpable", error: errno.into() })?;
    clear_ambient_capability_set().map_err(failed("the ambient set"))?;
    let own = capabilities(None).map_err(failed("reading the capabilities"))?;
    // Only who has CAP_SETPCAP can change the bounding set. With no_new_privs and without a permitted
    // one it gives nothing.
    if own.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..64 {
            if kept.contains(one(number)) {
                continue;
            }
            match remove_capability_from_bounding_set(one(number)) {
                Ok(()) => {}
                // The kernel knows no such capability, and none after it.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(failed("the bounding set")(error)),
            }
        }
    }
    let sets = CapabilitySets {
        effective: own.effective & kept,
        permitted: own.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed("the permitted set"))
}

fn one(number: u8) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number)
}
