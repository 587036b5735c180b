//! A real Prometheus, and the rules that it evaluates: what tests/it/dashboards.rs has of them.

#[path = "../it/dashboards/catalogue.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
pub(crate) mod catalogue;
#[path = "../it/dashboards/expressions.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
pub(crate) mod expressions;
#[path = "../it/dashboards/promql.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
pub(crate) mod promql;
#[path = "../it/dashboards/rules.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
pub(crate) mod rules;
#[path = "../it/dashboards/server.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
pub(crate) mod server;
#[path = "../it/dashboards/tools.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
pub(crate) mod tools;
