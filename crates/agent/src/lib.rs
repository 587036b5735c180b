//! The tasks of the privileged role: the decisions on each container, the triggers that lead to them (NRI,
//! systemd, CRI), the repair of containers that were missed, and the link to the launched plugin. Composed
//! by the binary's `agent` and `plugin`.

pub mod confinement;
pub mod containers;
pub mod cri_watch;
pub mod decide;
pub mod launched;
pub mod nri_plugin;
pub mod pod_answers;
pub mod repair;
pub mod systemd_user;
pub mod systemd_watch;
pub mod watchdog;
