//! The requests of the state socket, one line each.

/// The longest request, including its line end, in bytes.
pub(super) const MAX_BYTES: usize = 64;

/// A request; a connection serves one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// The current document. A reader that closes its side without a request gets it too.
    State,
    /// A document now, and another one after each change.
    Watch,
    /// The agent's metrics, as text for a scraper.
    Metrics,
}

// === impl Request ===

impl Request {
    pub(super) const ALL: [Request; 3] = [Request::State, Request::Watch, Request::Metrics];

    /// The request's line; it contains the document's version.
    pub(super) fn line(self) -> &'static str {
        match self {
            Request::State => "v1 state\n",
            Request::Watch => "v1 watch\n",
            Request::Metrics => "v1 metrics\n",
        }
    }

    /// Parses the bytes that a reader sent before it ended the line or its side.
    pub(super) fn parse(line: &[u8]) -> Option<Request> {
        if line.is_empty() {
            return Some(Request::State);
        }
        Request::ALL.into_iter().find(|request| request.line().as_bytes() == line)
    }
}

/// The answer to every other line. It cannot be confused with metrics or a document.
pub(super) fn refusal() -> String {
    let known: Vec<&str> = Request::ALL.iter().map(|request| request.line().trim_end()).collect();
    format!("{{\"error\":\"this agent answers to: {}\"}}\n", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_requests() {
        for request in Request::ALL {
            assert_eq!(Request::parse(request.line().as_bytes()), Some(request));
            assert!(request.line().len() <= MAX_BYTES);
        }
        assert_eq!(Request::parse(b""), Some(Request::State));
        for line in ["v1 state", "v1 state\r\n", "v2 state\n", "V1 STATE\n", "\n", "v1 state\nv1 state\n"] {
            assert_eq!(Request::parse(line.as_bytes()), None, "{line:?}");
        }
        assert!(serde_json::from_str::<serde_json::Value>(&refusal()).is_ok());
    }
}
