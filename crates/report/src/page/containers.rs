//! The section of containers: those with a problem first; if there are many, the rest is collapsed.

use std::collections::BTreeMap;

use crate::map::has_own_ids;
use crate::state::{Container, Named, PodState, State};
use crate::verdict::{Assessment, Tone, assess};
use usernsd_domain::container::CgroupMount;
use usernsd_domain::map::words::counted;

use super::html::{Element, Html, el};
use super::word;

/// The most containers that are shown at once.
const MANY: usize = 40;

const HEADINGS: [(&str, &str); 7] = [
    ("pod", "Pod"),
    ("name", "Container"),
    ("num root", "Host root UID"),
    ("num owner", "Cgroup owner"),
    ("mount", "Mount"),
    ("state", "Cgroup"),
    ("num made", "Cgroups"),
];

pub(super) fn containers(state: &State) -> Element {
    let pods: BTreeMap<&str, &PodState> =
        state.pods.iter().flat_map(|pod| pod.containers.iter().map(move |id| (id.as_str(), pod))).collect();
    let mut all: Vec<(Assessment, &Container)> =
        state.containers.iter().map(|container| (assess(container), container)).collect();
    all.sort_by_key(|(word, container)| {
        let pod = &container.pod;
        (std::cmp::Reverse(word.tone()), &pod.namespace, &pod.name, &container.name, &container.id)
    });
    let is_many = all.len() > MANY;
    let (wrong, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(word, _)| word.tone() != Tone::Good);
    let rows = |rows: &[(Assessment, &Container)]| -> Vec<Element> {
        rows.iter()
            .map(|(word, container)| row(*word, container, pods.get(container.id.as_str()).copied()))
            .collect()
    };
    let none = state.containers.is_empty().then(|| el("p").class("quiet").text("No containers."));
    let filter = el("div")
        .class("filter")
        .add(
            el("input")
                .attr("id", "filter")
                .attr("type", "search")
                .attr("placeholder", "Filter: name, ID, state")
                .attr("aria-label", "Filter containers by name, ID or state")
                .attr("autocomplete", "off")
                .attr("spellcheck", "false"),
        )
        .add(el("output").attr("id", "shown").attr("for", "filter"));
    let wrong_table = (!wrong.is_empty()).then(|| table("Containers with a problem", rows(&wrong), true));
    let summary = match (wrong.is_empty(), rest.len() as u64) {
        (true, count) => counted(count, "container", "containers"),
        (false, count) => counted(count, "other container", "other containers"),
    };
    let rest_table = (!rest.is_empty()).then(|| {
        el("details")
            .attr("id", "rest")
            .flag("open", !is_many)
            .add(el("summary").text(summary).add(states(&rest)))
            .add(table("Containers without a problem", rows(&rest), wrong.is_empty()))
    });
    el("section")
        .attr("id", "containers")
        .attr("aria-labelledby", "containers-title")
        .add(
            el("div")
                .class("bar")
                .add(el("h2").attr("id", "containers-title").text("Containers"))
                .add((!state.containers.is_empty()).then_some(filter)),
        )
        .add(none)
        .add(wrong_table)
        .add(rest_table)
}

/// The number of containers in each state.
fn states(rows: &[(Assessment, &Container)]) -> Element {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (word, _) in rows {
        *counts.entry(word.words()).or_default() += 1;
    }
    let counts: Vec<String> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    el("span").class("quiet").text(format!(" {}", counts.join(", ")))
}

fn table(caption: &'static str, rows: Vec<Element>, headings: bool) -> Element {
    let heading = |(class, text): (&'static str, &'static str)| {
        el("th").attr("role", "columnheader").attr("scope", "col").class(class).text(text)
    };
    let head = el("thead").class(if headings { "headings" } else { "unseen" }).attr("role", "rowgroup");
    // The roles are kept, because in a narrow window the rows are shown as cards.
    el("table")
        .attr("role", "table")
        .add(el("caption").class("unseen").text(caption))
        .add(el("colgroup").all(HEADINGS.map(|(class, _)| el("col").class(class))))
        .add(head.add(el("tr").attr("role", "row").all(HEADINGS.map(heading))))
        .add(el("tbody").attr("role", "rowgroup").all(rows))
}

fn row(assessment: Assessment, container: &Container, pod: Option<&PodState>) -> Element {
    let label = format!("{}/{}", container.pod.namespace, container.pod.name);
    let cell = |class: &'static str| el("td").attr("role", "cell").class(class);
    let id: String = container.id.chars().take(13).collect();
    let reason = (assessment.tone() != Tone::Good).then(|| reason(container)).flatten();
    let made = pod.and_then(|pod| pod.cgroup.as_ref()).map(|cgroup| {
        let most = cgroup.max_descendants.map_or_else(|| "∞".to_owned(), |most| most.to_string());
        format!("{}/{most}", cgroup.descendants)
    });
    el("tr")
        .attr("id", format!("c{}", container.id))
        .class(word(assessment.tone()))
        .attr("role", "row")
        .attr("data-pod", &label)
        .add(
            el("th")
                .attr("role", "rowheader")
                .attr("scope", "row")
                .class("pod")
                .add(el("bdi").class("ns").text(&container.pod.namespace))
                .add(el("span").class("ns").text("/"))
                .add(el("bdi").text(&container.pod.name)),
        )
        .add(cell("name").attr("title", format!("container {id}")).text(&container.name))
        .add(cell("num root").add(root(container)))
        .add(cell("num owner").text(or_dash(container.cgroup.owner)))
        .add(cell("mount").text(match container.mount.as_ref().and_then(Named::known) {
            Some(CgroupMount::ReadWrite) => "rw",
            Some(CgroupMount::ReadOnly) => "ro",
            _ => "–",
        }))
        .add(
            cell("state")
                .add(
                    el("span")
                        .class("said")
                        .add(el("span").class("mark").attr("aria-hidden", "true").text(mark(assessment)))
                        .text(assessment.words()),
                )
                .add(reason.map(|reason| el("span").class("reason").text(reason))),
        )
        .add(cell("num made").text(made.unwrap_or_else(|| "–".to_owned())))
}

fn mark(assessment: Assessment) -> &'static str {
    match (assessment.tone(), assessment) {
        (Tone::Good, Assessment::Ok) => "✓",
        (Tone::Good, Assessment::Unknown) => "?",
        (Tone::Good, _) => "–",
        (tone, _) => tone.mark(),
    }
}

/// The host ID of root in the container.
fn root(container: &Container) -> Html {
    if !has_own_ids(container) {
        return el("span").class("quiet").text("host").into();
    }
    let mut extents = container.uid_map.iter().flatten();
    let root = extents.find(|extent| extent.container_id == 0).map(|extent| extent.host_id);
    let all: Vec<String> = container
        .uid_map
        .iter()
        .flatten()
        .take(8)
        .map(|extent| {
            let last = |first: u32| u64::from(first) + u64::from(extent.length).saturating_sub(1);
            let (inside, outside) = (extent.container_id, extent.host_id);
            format!("{inside}–{} inside is {outside}–{} outside", last(inside), last(outside))
        })
        .collect();
    el("span").attr("title", all.join("; ")).text(or_dash(root)).into()
}

/// The reason for the container's state.
fn reason(container: &Container) -> Option<String> {
    if assess(container) == Assessment::IsolationLost {
        return Some(
            "runs as the host's root; delete the pod, and its successor gets new mappings".to_owned(),
        );
    }
    container.reason.clone()
}

fn or_dash(number: Option<u32>) -> String {
    number.map_or_else(|| "–".to_owned(), |number| number.to_string())
}
