//! The peers, one file each: bytes and calls become domain values here, and back. No decisions, no
//! metrics, no retries.

pub mod archive;
pub mod arrival;
pub mod cgroupfs;
pub mod cri;
pub mod crio;
pub mod host;
pub mod http;
pub mod idmap;
pub mod inherited;
pub mod journal;
pub mod kernel;
pub mod kube;
pub mod kubectl;
pub mod kubelet;
pub mod landlock;
pub mod launched;
pub mod log;
pub mod nri;
pub mod oci;
pub mod privilege;
pub mod proc;
pub mod program;
pub mod seccomp;
pub mod state;
pub mod systemd;
pub mod tail;
pub mod userdb;
