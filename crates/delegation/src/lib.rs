//! The rules in the middle of the pipeline, as pure functions: whether a cgroup is proven to be a container's own
//! ([`proof`]), who should own it and what has to change for that ([`plan()`]), how many cgroups its pod and it may create
//! ([`bounds`]), and the explanation of the result for people ([`explain`]). The terms are `usernsd-domain`'s.
//! `usernsd-inspect` calls these rules, after it has observed a container and before it applies the plan.

pub mod bounds;
pub mod explain;
mod plan;
pub mod proof;

pub use self::plan::{Facts, Plan, ProcessUser, plan};
