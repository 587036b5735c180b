//! The tasks of the privileged role: each container's decisions, the ways in that lead to them (NRI,
//! systemd, CRI), the repair of what was missed, and the link to the launched plugin. Composed by the
//! binary's `agent` and `plugin`.

pub mod alive;
pub mod confinement;
pub mod containers;
pub mod decide;
pub mod launched;
pub mod plugin;
pub mod repair;
pub mod runtime;
pub mod systemd_user;
pub mod units;
