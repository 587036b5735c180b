//! The Linux host: cgroupfs, /proc, the node's files, and dropping privileges. Each module turns system calls into
//! values of `usernsd-domain`, and back; none makes decisions. No network, no daemon's protocol. Used by `usernsd-agent`,
//! `usernsd-inspect`, `usernsd-prepare`, `usernsd-report` and the binary.

pub mod archive;
pub mod arrival;
pub mod cgroupfs;
pub mod host;
pub mod inherited;
pub mod kernel_files;
pub mod kernel_log;
pub mod landlock;
pub mod log;
pub mod mount_idmap;
pub mod privilege;
pub mod proc;
pub mod program;
pub mod seccomp;
pub mod tail;
pub mod userdb;
