//! The section of recent events.

use crate::state::Event;
use usernsd_domain::recent_events::EventKind;

use super::html::{Element, el};

pub(super) fn feed(events: &[Event]) -> Element {
    let none = events.is_empty().then(|| el("p").class("quiet").text("Nothing yet since the agent started."));
    el("section")
        .attr("aria-labelledby", "feed-title")
        .add(el("h2").attr("id", "feed-title").text("Fixes and refusals"))
        .add(none)
        .add(
            el("div")
                .class("feed")
                .attr("role", "log")
                .attr("aria-labelledby", "feed-title")
                .attr("tabindex", "0")
                .all(events.iter().map(line)),
        )
}

fn line(event: &Event) -> Element {
    let (class, mark, word) = match event.kind.known() {
        Some(EventKind::Fixed) => ("good", "✓", "fixed"),
        Some(EventKind::Refused) => ("bad", "✗", "refused"),
        Some(EventKind::Failed) => ("bad", "✗", "failed"),
        _ => ("warning", "!", "left alone"),
    };
    let clock = event.at.get(11..19).unwrap_or(&event.at);
    let who = format!("{}/{} {}", event.pod.namespace, event.pod.name, event.container);
    el("p")
        .attr("id", format!("e{}", event.number))
        .class(class)
        .add(el("time").attr("datetime", &event.at).attr("title", &event.at).text(clock))
        .add(
            el("span")
                .class("mark")
                .attr("title", format!("{word}: {}", event.what))
                .text(mark)
                .add(el("span").class("unseen").text(word)),
        )
        .add(el("span").class("words").add(el("b").text(who)).text(" ").add(el("span").text(&event.sentence)))
}
