//! This process's privileges, and how it gives them up for good.

use std::io;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use thiserror::Error;

use usernsd_domain::privilege::Capability;

/// Why a privilege could not be given up.
#[derive(Debug, Error)]
#[error("giving up privileges: {what}: {error}")]
pub struct PrivilegeError {
    what: &'static str,
    error: io::Error,
}

/// Whether this process is root, in any user namespace.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Gives up every capability but these for good: programs that this process runs get none of the others either, and
/// only root may read its memory. Must be called before another thread exists, because capabilities are per thread.
///
/// # Errors
/// The kernel refuses.
pub fn keep_only(kept: &[Capability]) -> Result<(), PrivilegeError> {
    let kept = kept.iter().map(|capability| one(capability.number)).collect::<CapabilitySet>();
    let failed = |what: &'static str| move |error: Errno| PrivilegeError { what, error: error.into() };
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    // Otherwise another process of the same user, for example in another container, could attach to this one.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("dumpable"))?;
    clear_ambient_capability_set().map_err(failed("the ambient set"))?;
    let own = capabilities(None).map_err(failed("reading the capabilities"))?;
    // Only a process with CAP_SETPCAP can change the bounding set. With no_new_privs and without permitted
    // capabilities, the bounding set grants nothing.
    if own.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..64 {
            if kept.contains(one(number)) {
                continue;
            }
            match remove_capability_from_bounding_set(one(number)) {
                Ok(()) => {}
                // The kernel does not have this capability, or any after it.
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
