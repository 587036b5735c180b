//! Clients of the programs that usernsd talks to, one module each: container runtimes over CRI and by their OCI
//! bundles, systemd over D-Bus, the API server, kubectl, and the plugin that the runtime launches. NRI has a crate of
//! its own, `usernsd-nri`. The modules convert between bytes or calls and values of `usernsd-domain`. They contain no
//! decision, no metric and no retry.

pub mod cri;
pub mod kube;
pub mod kubectl;
pub mod launched;
pub mod oci;
pub mod systemd;
