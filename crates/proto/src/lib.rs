//! The messages of CRI and NRI, generated from the files in `proto/`. They are a crate of their own, so that this
//! code, some 30,000 lines, is compiled once and no change elsewhere compiles it again.
//!
//! Only `usernsd-peers`, `usernsd-nri` and programs that play the other side (tests, benches, the demo) name these
//! types: the rest of usernsd works with the values of `usernsd-domain`.

#![allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all, reason = "generated")]

/// CRI, `runtime.v1`: a tonic client, and the server half for fake runtimes.
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// NRI, `nri.pkg.api.v1alpha1`: messages only, because NRI speaks ttrpc through its own multiplexer.
pub mod nri {
    include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));
}
