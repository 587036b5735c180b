//! Clients of the programs that usernsd talks to, one module each: container runtimes over CRI, over NRI and
//! by their OCI bundles, systemd over D-Bus, the API server, kubectl, and the plugin that the runtime
//! launches. The modules convert between bytes or calls and values of `usernsd-domain`. They contain no
//! decision, no metric and no retry.

pub mod cri;
pub mod kube;
pub mod kubectl;
pub mod launched;
pub mod nri;
pub mod oci;
pub mod systemd;
