//! `usernsd whois`: finds the owner of a host ID.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::explain::node;
use super::terminal::{json, line};
use crate::args::{OutputForm, WhoisArgs};
use crate::compose;
use usernsd_config::Settings;
use usernsd_domain::idmap::HostId;
use usernsd_domain::space::{HostIds, IdType};
use usernsd_domain::whois::{HostIdHolder, Tenant, whois};
use usernsd_inspect::whois::{Registry, gather};
use usernsd_report::state::Named;

/// Version of the JSON document.
const VERSION: u64 = 1;

/// The complete answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    version: u64,
    ids: Vec<Answer<'a>>,
    unseen: &'a [String],
}

/// The answer for one ID as user or group ID.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    id_type: Named<IdType>,
    id: u32,
    holders: Vec<Entry<'a>>,
}

/// An owner of the ID. The tag is `kind`.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Entry<'a> {
    Container {
        namespace: &'a str,
        pod: &'a str,
        pod_uid: &'a str,
        container: &'a str,
        container_id: &'a str,
        inside: u32,
        /// `None` for a container that still runs.
        since: Option<&'a str>,
        until: Option<&'a str>,
    },
    Account {
        name: &'a str,
    },
    Range {
        file: &'static str,
        line: usize,
        owner: &'a str,
        start: u64,
        count: u64,
    },
    Pool {
        name: &'static str,
        slot: u64,
        slots: u64,
    },
}

/// Looks an ID up and prints the answer. Exits 1 if an ID has no owner.
///
/// # Errors
/// There is no such file, or stdout is closed.
pub fn run(args: WhoisArgs) -> anyhow::Result<ExitCode> {
    let wanted = wanted(&args.target, args.uid, args.gid)?;
    let (file, overrides) = args.node.into_parts();
    let node = node(Settings::load(file.as_deref(), overrides)?);
    let runtime = compose::runtime()?;
    let Registry { tenants, host, unseen } = runtime.block_on(gather(&node));
    let answers: Vec<Answer<'_>> =
        wanted.into_iter().map(|(space, id)| answer(space, id, &tenants, host.as_ref())).collect();
    // A number that is looked up both as user and as group ID counts as known if one of them is.
    let is_file = args.target.parse::<u32>().is_err();
    let mut known = answers.iter().map(|answer| !answer.holders.is_empty());
    let is_known = if is_file { known.all(|known| known) } else { known.any(|known| known) };
    match args.output {
        OutputForm::Json => {
            let document = Document { version: VERSION, ids: answers, unseen: &unseen };
            super::print(&json(&document))?;
        }
        OutputForm::Table => {
            super::print(&render(&answers, is_file))?;
            unseen.iter().for_each(|unseen| super::tell(&format!("not looked at: {unseen}")));
        }
    }
    Ok(ExitCode::from(u8::from(!is_known)))
}

/// The IDs to look up.
fn wanted(target: &str, uid: bool, gid: bool) -> anyhow::Result<Vec<(IdType, u32)>> {
    let (uid, gid) = if uid || gid { (uid, gid) } else { (true, true) };
    let asked = |space: &(IdType, u32)| if space.0 == IdType::Uid { uid } else { gid };
    let found = match target.parse::<u32>() {
        Ok(u32::MAX) => bail!("4294967295 is no ID: the kernel takes it for \"none\""),
        Ok(id) => [(IdType::Uid, id), (IdType::Gid, id)],
        Err(_) => {
            let metadata = std::fs::symlink_metadata(target)
                .with_context(|| format!("{target:?} is neither a number nor a file here"))?;
            [(IdType::Uid, metadata.uid()), (IdType::Gid, metadata.gid())]
        }
    };
    Ok(found.into_iter().filter(asked).collect())
}

fn answer<'a>(space: IdType, id: u32, tenants: &'a [Tenant], host: Option<&'a HostIds>) -> Answer<'a> {
    let entry = |holder: HostIdHolder<'a>| match holder {
        HostIdHolder::Container { tenant, inside } => Entry::Container {
            namespace: &tenant.pod.namespace,
            pod: &tenant.pod.name,
            pod_uid: &tenant.pod.uid,
            container: &tenant.name,
            container_id: &tenant.id,
            inside,
            since: tenant.past.as_ref().map(|(since, _)| since.as_str()),
            until: tenant.past.as_ref().map(|(_, until)| until.as_str()),
        },
        HostIdHolder::Account(account) => Entry::Account { name: &account.name },
        HostIdHolder::Range { line, owner, start, count } => {
            Entry::Range { file: space.file(), line, owner, start, count }
        }
        HostIdHolder::Pool(slot) => {
            Entry::Pool { name: slot.pool.name(), slot: slot.index + 1, slots: slot.slots }
        }
    };
    let holders = whois(HostId(id), space, tenants, host).into_iter().map(entry).collect();
    Answer { id_type: space.into(), id, holders }
}

/// One line for each owner. With `all`, an ID without owner is listed as such; otherwise, of a number that
/// has an owner only as user or only as group ID, the other is left out.
fn render(answers: &[Answer<'_>], all: bool) -> String {
    let mut text = String::new();
    let nobody = answers.iter().all(|answer| answer.holders.is_empty());
    for answer in answers {
        let left = format!("{} {}", answer.id_type, answer.id);
        if answer.holders.is_empty() && (all || nobody) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{left:<16}nobody's");
        }
        for holder in &answer.holders {
            let _ = writeln!(text, "{left:<16}{}", line(&sentence(&answer.id_type, holder)));
        }
    }
    text
}

fn sentence(id_type: &Named<IdType>, entry: &Entry<'_>) -> String {
    let kind = if id_type.is(IdType::Uid) { "user" } else { "group" };
    match entry {
        Entry::Container { namespace, pod, container, container_id, inside, since, until, .. } => {
            let short: String = container_id.chars().take(13).collect();
            let time = since.zip(*until).map(|(since, until)| format!(", ended: {since} to {until}"));
            format!(
                "{kind} {inside} in {namespace}/{pod}, container {container} ({short}){}",
                time.unwrap_or_default()
            )
        }
        Entry::Account { name } => format!("the host's {kind} {name}"),
        Entry::Range { file, line, owner, start, count } => {
            format!("in {owner}:{start}:{count}, /etc/{file} line {line}")
        }
        Entry::Pool { name, slot, slots } => format!("in slot {slot} of {slots} of pool {name}"),
    }
}
