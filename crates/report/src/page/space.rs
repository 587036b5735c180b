//! The map of host IDs: a strip of segments, and each pool as rows of slots.

use crate::map::Maps;
use usernsd_domain::map::words::{counted, grouped, ids};
use usernsd_domain::map::{Claim, Grid, Holder, Map, Row, Segment, SegmentKind, Slot};
use usernsd_domain::ranges::Window;
use usernsd_domain::space::IdType;

use super::html::{Element, Html, el};

/// Slots in a row.
const COLUMNS: usize = 32;
/// Beyond this number, segments are stacked.
const STRIP: usize = 9;
/// The most overlaps and names in a list; the rest is only counted.
const LISTED: usize = 6;

/// The pattern of IDs with two owners, for the pictures.
pub(super) fn hatch() -> Element {
    let pattern = el("pattern")
        .attr("id", "hatch")
        .attr("width", 6)
        .attr("height", 6)
        .attr("patternUnits", "userSpaceOnUse")
        .attr("patternTransform", "rotate(45)")
        .add(el("rect").class("hatch-ground").attr("width", 6).attr("height", 6))
        .add(el("rect").class("hatch-line").attr("width", 3).attr("height", 6));
    el("svg")
        .class("nowhere")
        .attr("aria-hidden", "true")
        .attr("width", 0)
        .attr("height", 0)
        .add(el("defs").add(pattern))
}

pub(super) fn strips(maps: &Maps) -> Html {
    let both = maps.spaces.len() > 1;
    let strip = |(index, map): (usize, &Map)| {
        let title = match (map.space, both) {
            (IdType::Uid, true) => "Host user IDs",
            (IdType::Gid, _) => "Host group IDs",
            (IdType::Uid, false) => "Host IDs",
        };
        strip(map, title, if index == 0 { "ids-title" } else { "gids-title" })
    };
    el("div").all(maps.spaces.iter().enumerate().map(strip)).into()
}

fn strip(map: &Map, title: &'static str, id: &'static str) -> Element {
    let file = map.space.file();
    let key = |class: &'static str, text: String| {
        el("li").add(el("span").class(format!("key {class}")).attr("aria-hidden", "true")).text(text)
    };
    let many = if map.segments.len() > STRIP { " many" } else { "" };
    let overlaps = (!map.overlaps.is_empty()).then(|| overlaps(map));
    el("section")
        .attr("aria-labelledby", id)
        .add(
            el("div").class("bar").add(el("h2").attr("id", id).text(title)).add(
                el("ul")
                    .class("legend")
                    .add(key("pod", "pod".to_owned()))
                    .add(key("line", format!("/etc/{file}")))
                    .add(key("dot", if map.space == IdType::Uid { "user" } else { "group" }.to_owned()))
                    .add(key("shared", "shared".to_owned()))
                    .add(el("li").class("quiet").text("not to scale")),
            ),
        )
        .add(
            el("ol")
                .class(format!("strip{many}"))
                .all(map.segments.iter().map(|one| segment(map.space, one))),
        )
        .add(overlaps)
}

fn segment(space: IdType, segment: &Segment) -> Element {
    let (name, notes) = (segment.name(), segment.notes());
    let is_pool = matches!(segment.kind, SegmentKind::Pool(_));
    let label = format!("{} to {}: {name}", segment.window.start, segment.window.end() - 1);
    let label = if notes.is_empty() { label } else { format!("{label}; {notes}") };
    el("li")
        .class(format!("w{}{}", segment.weight, if is_pool { " pool" } else { "" }))
        .add(el("span").class("first").text(segment.window.start))
        .add(picture(space, segment, &label))
        .add(el("span").class("what").text(name))
        .add(el("span").class("note").text(notes))
}

fn picture(space: IdType, segment: &Segment, label: &str) -> Element {
    let mut marks: Vec<Element> = Vec::new();
    for claim in &segment.claims {
        let title = title(space, claim);
        marks.push(match &claim.holder {
            Holder::Subid { .. } => {
                bar(segment, claim.window, "line").attr("y", 30).attr("height", 5).add(title)
            }
            Holder::Pod(pod) => bar(segment, claim.window, "pod")
                .attr("y", 5)
                .attr("height", 20)
                .attr("data-pod", pod)
                .add(title),
            Holder::Account(_) => continue,
        });
    }
    for window in &segment.shared {
        let title = el("title").text(format!("shared: {}", ids(*window)));
        marks.push(bar(segment, *window, "shared").attr("y", 2).attr("height", 34).add(title));
    }
    // Drawn last, because it lies on top.
    for claim in segment.claims.iter().filter(|claim| matches!(claim.holder, Holder::Account(_))) {
        let middle = share(claim.window.start - segment.window.start, segment.window.count);
        marks.push(
            el("circle")
                .class("dot")
                .attr("cx", format!("{:.2}%", 4.0 + middle * 0.92))
                .attr("cy", 15)
                .attr("r", 2.5)
                .add(title(space, claim)),
        );
    }
    el("svg")
        .attr("role", "img")
        .attr("aria-label", label)
        .attr("width", "100%")
        .attr("height", 38)
        .add(el("rect").class("ground").attr("width", "100%").attr("height", 38))
        .all(marks)
}

/// A rectangle over these IDs, wide enough to be visible.
fn bar(segment: &Segment, window: Window, class: &'static str) -> Element {
    let width = share(window.count, segment.window.count).max(0.6);
    let left = share(window.start - segment.window.start, segment.window.count).min(100.0 - width);
    el("rect").class(class).attr("x", format!("{left:.2}%")).attr("width", format!("{width:.2}%"))
}

/// `part` of `whole` in percent.
#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

fn title(space: IdType, claim: &Claim) -> Element {
    el("title").text(format!("{}: {}", claim.holder.name_in(space), ids(claim.window)))
}

fn overlaps(map: &Map) -> Element {
    let one = |overlap: &usernsd_domain::map::Overlap| {
        let mut names: Vec<String> =
            overlap.holders.iter().take(LISTED).map(|holder| holder.name_in(map.space)).collect();
        let more = overlap.holders.len().saturating_sub(names.len());
        if more > 0 {
            names.push(format!("{more} more"));
        }
        el("li")
            .add(el("span").class("key shared").attr("aria-hidden", "true"))
            .add(el("b").text(ids(overlap.window)))
            .text(" ")
            .add(el("span").text(names.join(", ")))
    };
    let more = map.overlaps.len().saturating_sub(LISTED);
    el("ul")
        .class("overlaps")
        .all(map.overlaps.iter().take(LISTED).map(one))
        .add((more > 0).then(|| el("li").class("quiet").text(format!("and {more} more"))))
}

pub(super) fn pools(maps: &Maps) -> Element {
    let grids = maps.grids(COLUMNS);
    let none = grids.is_empty().then(|| {
        let text = "No pool: neither the user kubelet nor containers has subordinate IDs here.";
        el("p").class("quiet").text(text)
    });
    el("section")
        .attr("aria-labelledby", "pools-title")
        .add(el("h2").attr("id", "pools-title").text("Pools"))
        .add(none)
        .all(grids.iter().map(pool))
}

fn pool(grid: &Grid) -> Element {
    let used = format!("{} of {} slots used", grouped(grid.used), grouped(grid.slots));
    let shared = grid.rows.iter().filter_map(|row| match row {
        Row::Slots(slots) => Some(slots.iter().filter(|slot| slot.is_shared).count()),
        Row::Free { .. } => None,
    });
    let shared: usize = shared.sum();
    let label = match shared {
        0 => format!("Pool {}: {used}", grid.name),
        count => format!("Pool {}: {used}, {count} shared", grid.name),
    };
    el("div")
        .class("grid")
        .add(
            el("h3")
                .text(&grid.name)
                .add(el("span").text(used))
                .add(el("span").class("quiet").text(format!("{} IDs each", grouped(grid.slot_ids)))),
        )
        .add(
            el("div")
                .class("slots")
                .attr("role", "img")
                .attr("aria-label", label)
                .all(grid.rows.iter().map(row)),
        )
}

fn row(row: &Row) -> Html {
    match row {
        Row::Slots(slots) => el("div")
            .class("row")
            .add(el("span").class("first").text(slots.first().map_or(0, |slot| slot.window.start)))
            .all(slots.iter().map(slot))
            .into(),
        Row::Free { window, count } => el("div")
            .class("row")
            .add(el("span").class("first").text(window.start))
            .add(el("span").class("span").text(format!("{} free", counted(*count, "slot", "slots"))))
            .into(),
    }
}

fn slot(slot: &Slot) -> Element {
    let last = slot.window.end() - 1;
    let range = format!("{}–{last}", slot.window.start);
    match slot.pods.as_slice() {
        [] => el("i").attr("title", format!("{range}: free")),
        [first, ..] => {
            let title = format!("{range}: {}", slot.pods.join(", "));
            let cell = el("i").attr("title", title).attr("data-pod", first);
            if slot.is_shared { cell.class("shared").text("!") } else { cell.class("pod") }
        }
    }
}
