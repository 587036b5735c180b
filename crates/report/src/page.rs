//! The status page: a state document as one HTML page. It loads nothing from elsewhere, and has the same
//! content without its script.

mod containers;
mod feed;
mod html;
mod space;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};

use crate::http::Page;
use crate::map::{Maps, has_own_ids};
use crate::state::{Peer, State};
use crate::verdict::{NodeVerdict, Tone};
use usernsd_domain::ignition::bytes::base64;
use usernsd_domain::map::words::{counted, grouped};
use usernsd_domain::node::{PeerState, StartPath};
use usernsd_domain::record::{CgroupState, UserNamespaceMode};
use usernsd_domain::utc::rfc3339;

use html::{Element, Html, el};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");
/// An older document counts as no answer.
const FRESH: Duration = Duration::from_secs(10);
/// Without a script, the page reloads at this interval, in seconds.
const RELOAD: u64 = 15;

/// Permits only the page's own style and script, by their digests. The script may request the page's own
/// origin. The icon is a data: URL.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", base64(digest(&SHA256, text.as_bytes()).as_ref()));
    format!(
        "default-src 'none'; style-src {}; script-src {}; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// Distinguishes a page from that of another build, with another style and script.
static BUILD: LazyLock<String> = LazyLock::new(|| base64(digest(&SHA256, POLICY.as_bytes()).as_ref()));

/// The input of the page.
#[derive(Debug, Clone, Copy)]
pub struct PageInput<'a> {
    /// The agent's last document; `None` if there has been none.
    pub state: Option<&'a State>,
    /// The age of the document; zero if the agent answers.
    pub age: Duration,
    pub now: SystemTime,
}

// === impl PageInput ===

impl<'a> PageInput<'a> {
    /// A document of this moment.
    #[must_use]
    pub fn now(state: &'a State) -> PageInput<'a> {
        PageInput { state: Some(state), age: Duration::ZERO, now: SystemTime::now() }
    }

    fn is_away(&self) -> bool {
        self.state.is_none() || self.age >= FRESH
    }
}

/// Renders the status page.
#[must_use]
pub fn render(seen: &PageInput<'_>) -> Page {
    let verdict = seen.state.map(NodeVerdict::of);
    let name = seen.state.map_or("usernsd", |state| state.node.name.as_str());
    let (tone, short) = match &verdict {
        _ if seen.is_away() => (Tone::Bad, "the agent does not answer".to_owned()),
        Some(verdict) => (verdict.tone(), verdict.short()),
        None => (Tone::Good, String::new()),
    };
    let head = el("head")
        .add(el("meta").attr("charset", "utf-8"))
        .add(el("meta").attr("name", "viewport").attr("content", "width=device-width, initial-scale=1"))
        .add(el("meta").attr("name", "color-scheme").attr("content", "light dark"))
        .add(el("title").text(format!("{name}: {short}")))
        .add(el("link").attr("id", "icon").attr("rel", "icon").attr("href", icon(tone)))
        .add(el("noscript").add(el("meta").attr("http-equiv", "refresh").attr("content", RELOAD)))
        .add(el("style").own(STYLE));
    let page = el("div")
        .attr("id", "page")
        .add(header(seen, name))
        .add(el("main").add(verdict_element(seen, verdict.as_ref())).add(seen.state.map(body)))
        .add(footer(seen));
    let body = el("body")
        .attr("data-build", BUILD.as_str())
        .add(space::hatch())
        .add(
            el("p")
                .attr("id", "silent")
                .attr("role", "status")
                .flag("hidden", true)
                .text("No answer; this is the last known state. Trying again."),
        )
        .add(page)
        .add(el("script").own(SCRIPT));
    let html: Html = el("html").attr("lang", "en").add(head).add(body).into();
    Page { html: html.document(), policy: POLICY.clone() }
}

/// A dot in the verdict's colour. The title contains the verdict as text, too.
fn icon(tone: Tone) -> String {
    let colour = match tone {
        Tone::Good => "%231f9d61",
        Tone::Warning => "%23d39b1e",
        Tone::Bad => "%23d92d3a",
    };
    format!(
        "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'>\
         <circle cx='4' cy='4' r='3.4' fill='{colour}'/></svg>"
    )
}

fn header(seen: &PageInput<'_>, name: &str) -> Element {
    let time = rfc3339(seen.now.checked_sub(seen.age).unwrap_or(seen.now));
    let clock = time.get(11..19).unwrap_or_default().to_owned();
    let about = seen.state.map(|state| {
        let kernel = state.node.kernel.as_ref().map(|kernel| format!("Linux {}", kernel.release));
        let runtime =
            state.node.runtime.as_ref().map(|runtime| format!("{} {}", runtime.name, runtime.version));
        let parts = [Some(format!("usernsd {}", state.agent.version)), kernel, runtime];
        el("p").class("about").all(parts.into_iter().flatten().map(|part| el("span").text(part)))
    });
    el("header")
        .add(el("h1").text(name))
        .add(about)
        .add(
            el("nav")
                .attr("aria-label", "The same for programs")
                .add(el("a").attr("href", "metrics").text("metrics"))
                .add(el("a").attr("href", "api/v1/state").text("state as JSON")),
        )
        .add(
            el("p")
                .class("clock")
                .text("as of ")
                .add(el("time").attr("datetime", &time).attr("title", &time).text(format!("{clock} UTC"))),
        )
}

/// The verdict, the first element of the page.
fn verdict_element(seen: &PageInput<'_>, verdict: Option<&NodeVerdict>) -> Element {
    let away = seen.is_away().then(|| {
        let what = match seen.state {
            Some(_) => format!("The agent has not answered for {}", span(seen.age)),
            None => "The agent does not answer".to_owned(),
        };
        let where_ = match seen.state {
            Some(_) => {
                "the rest of the page is the last known state; containers start as they do without usernsd"
            }
            None => "containers start as they do without usernsd; is the agent running?",
        };
        (Tone::Bad, what, where_.to_owned())
    });
    let problems = verdict.iter().flat_map(|verdict| &verdict.problems);
    let problems = problems.map(|problem| (problem.tone, sentence(&problem.what), problem.where_.clone()));
    let all: Vec<_> = away.into_iter().chain(problems).collect();
    let tone = all.iter().map(|(tone, ..)| *tone).max().unwrap_or(Tone::Good);
    let (headline, healthy_summary) = match (all.len(), seen.state) {
        (0, Some(state)) => ("All well".to_owned(), Some(healthy_summary(state))),
        (count, _) => (counted(count as u64, "problem", "problems"), None),
    };
    let list = all.into_iter().map(|(tone, what, where_)| {
        el("li")
            .class(word(tone))
            .add(el("span").class("mark").attr("aria-hidden", "true").text(tone.mark()))
            .add(el("strong").text(what))
            .add((!where_.is_empty()).then(|| el("span").class("where").text(where_)))
    });
    el("section")
        .attr("id", "verdict")
        .class(word(tone))
        .attr("aria-live", "polite")
        .add(
            el("h2")
                .add(el("span").class("mark").attr("aria-hidden", "true").text(tone.mark()))
                .text(headline),
        )
        .add(healthy_summary.map(|healthy_summary| el("p").text(healthy_summary)))
        .add((tone != Tone::Good).then(|| el("ul").all(list)))
}

fn healthy_summary(state: &State) -> String {
    let own = state
        .pods
        .iter()
        .filter(|pod| matches!(pod.userns.known(), Some(UserNamespaceMode::Pod | UserNamespaceMode::Auto)))
        .count() as u64;
    if state.containers.is_empty() {
        return "No container runs here yet.".to_owned();
    }
    if own == 0 {
        return "No pod here has a user namespace of its own.".to_owned();
    }
    let pods = counted(own, "pod runs", "pods run");
    format!("{pods} in user namespaces of their own; no ID is shared, and each cgroup has the right owner.")
}

fn body(state: &State) -> Html {
    let maps = Maps::of(state);
    el("div")
        .class("body")
        .add(facts(state))
        .add(maps.as_ref().map(space::strips))
        .add(el("div").class("two").add(maps.as_ref().map(space::pools)).add(feed::feed(&state.events)))
        .add(containers::containers(state))
        .into()
}

fn facts(state: &State) -> Element {
    let own = state
        .pods
        .iter()
        .filter(|pod| matches!(pod.userns.known(), Some(UserNamespaceMode::Pod | UserNamespaceMode::Auto)))
        .count() as u64;
    let handed = state.containers.iter().filter(|container| container.state.is(CgroupState::Ok)).count();
    let mapped = state.containers.iter().filter(|container| has_own_ids(container)).count();
    let mut facts = vec![
        ("pods in user namespaces", grouped(own), format!("of {}", grouped(state.pods.len() as u64))),
        ("containers with own cgroup", grouped(handed as u64), format!("of {}", grouped(mapped as u64))),
    ];
    if let Some(kernel) = &state.node.kernel {
        let most = format!("of {}", grouped(kernel.max_user_namespaces));
        facts.push(("user namespaces", grouped(kernel.user_namespaces), most));
    }
    let fact = |(what, number, of): (&'static str, String, String)| {
        el("div")
            .add(el("dt").text(what))
            .add(el("dd").add(el("b").text(number)).text(" ").add(el("span").text(of)))
    };
    let nri = match state.peers.start_path.known() {
        Some(StartPath::LaunchedPlugin) => "NRI (launched plugin)",
        Some(StartPath::AgentJoined) => "NRI (joined)",
        _ => "NRI",
    };
    let peers = [("CRI", &state.peers.cri), (nri, &state.peers.nri), ("systemd", &state.peers.systemd)];
    let peers = peers.map(|(name, peer)| el("li").add(self::peer(name, peer)));
    el("dl")
        .class("facts")
        .all(facts.into_iter().map(fact))
        .add(el("div").add(el("dt").text("talks to")).add(el("dd").add(el("ul").class("peers").all(peers))))
}

fn peer(name: &'static str, peer: &Peer) -> Element {
    let (class, mark) = match peer.state.known() {
        Some(PeerState::Up) => ("good", "✓"),
        Some(PeerState::Off) => ("off", "–"),
        _ => ("bad", "✗"),
    };
    let since = format!("{} since {}", peer.state, peer.since);
    let title = match &peer.last_error {
        Some(error) => format!("{since}; last error: {error}"),
        None => since,
    };
    el("span")
        .class(class)
        .attr("title", title)
        .add(el("span").class("mark").text(mark))
        .text(name)
        .add(el("span").class("unseen").text(format!(" {}", peer.state)))
}

fn footer(seen: &PageInput<'_>) -> Element {
    let since = seen.state.map(|state| format!("The agent started {}. ", state.agent.started_at));
    el("footer")
        .text(since.unwrap_or_default())
        .add(el("noscript").text(format!("Reloaded every {RELOAD} seconds, because no script runs.")))
}

/// The CSS class of a tone.
fn word(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Warning => "warning",
        Tone::Bad => "bad",
    }
}

/// The text with a capital first letter.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A span of time, in one unit.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests;
