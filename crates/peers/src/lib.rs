//! The daemons that usernsd speaks with, one module each: container runtimes over CRI and NRI and by
//! their OCI bundles, systemd over D-Bus, the API server, kubectl, and the plugin that the runtime
//! launches. Bytes and calls become values of `usernsd-domain` here, and back: no decision, no metric,
//! no retry.

pub mod cri;
pub mod kube;
pub mod kubectl;
pub mod launched;
pub mod nri;
pub mod oci;
pub mod systemd;
