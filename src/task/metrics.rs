//! Placeholder for the metrics.
#![allow(missing_docs)]
use crate::domain::adjust::Ungranted;
use crate::domain::delegation::Skip;
use std::time::{Duration, SystemTime};
#[derive(Debug, Clone, Copy)]
pub enum Trigger {
    Startup,
    Periodic,
    StreamLost,
}
#[derive(Debug, Clone)]
pub struct Metrics;
impl Metrics {
    pub fn container_adjusted(&self) {}
    pub fn refused_lost_isolation(&self) {}
    pub fn fixed(&self, _: &str) {}
    pub fn fix_failed(&self, _: &str) {}
    pub fn fix_delay(&self, _: Duration) {}
    pub fn already_right(&self) {}
    pub fn skipped(&self, _: Skip) {}
    pub fn handled(&self, _: Duration) {}
    pub fn ungranted(&self, _: &Ungranted) {}
    pub fn reconciled(&self, _: Trigger, _: SystemTime) {}
    pub fn reconcile_failed(&self, _: Trigger) {}
}
