//! The test node, and runtimes played by the tests' fakes: for benches in a node without a runtime.

#[path = "../../tests/fakes/mod.rs"]
pub(crate) mod fakes;
#[path = "../../tests/node/mod.rs"]
pub(crate) mod node;
pub(crate) mod runtime;
