//! The status page: a state document as one HTML page, for people. Nothing of it lies elsewhere.

use std::time::{Duration, SystemTime};

use crate::edge::http::Page;
use crate::edge::state::State;

const LANDING: &str = "<!doctype html>
<html lang=\"en\">
<head><meta charset=\"utf-8\"><title>usernsd</title></head>
<body>
<h1>usernsd</h1>
<p>Node agent for pods in user namespaces.</p>
<ul>
<li><a href=\"metrics\">metrics</a>: what it counts</li>
<li><a href=\"api/v1/state\">api/v1/state</a>: what it knows, as JSON</li>
</ul>
</body>
</html>
";

/// What the page shows.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The agent's last word; `None` where it never said any.
    pub state: Option<&'a State>,
    /// How long ago that was; zero where the agent answers.
    pub age: Duration,
    /// The time.
    pub now: SystemTime,
}

// === impl Seen ===

impl<'a> Seen<'a> {
    /// An answer of this moment.
    #[must_use]
    pub fn now(state: &'a State) -> Seen<'a> {
        Seen { state: Some(state), age: Duration::ZERO, now: SystemTime::now() }
    }
}

/// The page.
#[must_use]
pub fn render(_seen: &Seen<'_>) -> Page {
    let policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    Page { html: LANDING.to_owned(), policy: policy.to_owned() }
}
