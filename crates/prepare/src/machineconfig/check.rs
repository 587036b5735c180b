//! `usernsd machineconfig --check`: what the Machine Config Operator would do in a pool with a MachineConfig.

use std::fmt;

use super::pool::{
    self, ClusterPolicies, PlannedConfig, PlannedConfigError, PoolError, PoolState, reads_ignition,
};
use super::read::decoded;
use usernsd_domain::mco::disruption::{Consequence, DisruptionAction, DisruptionPolicies, consequence};
use usernsd_domain::mco::merge::{
    COMPRESSION, ConfigChange, Conflict, Difference, SOURCE, SetFields, changes, conflicts,
};

/// How many nodes are listed by name.
const NODES: usize = 8;

/// What would happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigReport {
    /// The pool, its rendered MachineConfig, and what is added to it.
    title: String,
    changes: Vec<(ConfigChange, Option<&'static str>)>,
    conflicts: Vec<Conflict>,
    consequence: Consequence,
    /// The pool's nodes, and how many at a time.
    nodes: String,
    /// What the answer depends on.
    notes: Vec<String>,
    ours: String,
}

/// Compares the MachineConfig `ours`, with its policies, with the state of the pool that `oc` has printed.
///
/// # Errors
/// One of the two cannot be read.
pub fn check(pool_text: &str, role: &str, ours: &str) -> Result<ConfigReport, CheckError> {
    let ours = pool::ours(ours).map_err(CheckError::PlannedConfig)?;
    let state = pool::read(pool_text, role).map_err(CheckError::Pool)?;
    let (policies, mut notes) = policies(&state, &ours);
    let found = changes(&state.pool, &ours.config);
    let consequence = consequence(&found, &policies, refused(&state, &ours));
    notes.extend(notes_on_pool(&state, &ours, role));
    let conflicts = conflicts(&state.pool, &ours.config, &decoded);
    if conflicts.iter().any(|conflict| conflict.others.is_empty()) {
        notes.push(
            "the rendered MachineConfig does not show where its files are from; \
             oc get machineconfigs,machineconfigpools -o yaml does"
                .to_owned(),
        );
    }
    let release = state.release.as_ref().map_or_else(String::new, |release| format!(", OpenShift {release}"));
    Ok(ConfigReport {
        title: format!(
            "pool {} ({}{release}) with {}",
            state.name, state.pool.rendered.name, ours.config.name
        ),
        changes: found
            .into_iter()
            .map(|change| (encoding_of(&change, &state, &ours), change))
            .map(|(a, b)| (b, a))
            .collect(),
        conflicts,
        consequence,
        nodes: nodes(&state),
        notes,
        ours: ours.config.name,
    })
}

/// Which of the two texts cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckError {
    Pool(PoolError),
    PlannedConfig(PlannedConfigError),
}

/// The policies in effect once ours are applied, and what they are based on.
fn policies(state: &PoolState, ours: &PlannedConfig) -> (DisruptionPolicies, Vec<String>) {
    let mut notes = Vec::new();
    let policies = match &state.policies {
        ClusterPolicies::Known { effective, set } => {
            for (path, actions) in &ours.policies.files {
                if set.files.get(path).is_some_and(|theirs| theirs != actions) {
                    notes.push(format!(
                        "MachineConfiguration/cluster has another policy for {path}, which ours replaces; if somebody \
                         else has set it, oc apply --server-side reports a conflict"
                    ));
                }
            }
            effective.clone().with(&ours.policies)
        }
        ClusterPolicies::Unsupported => {
            notes.push(
                "MachineConfiguration/cluster has no NodeDisruptionPolicy in its status, as before OpenShift 4.17: the \
                 policy that usernsd machineconfig prints has no effect"
                    .to_owned(),
            );
            DisruptionPolicies::fixed()
        }
        ClusterPolicies::Unknown if state.release.as_deref().is_some_and(is_before_policies) => {
            notes.push("OpenShift before 4.17 has no NodeDisruptionPolicy".to_owned());
            DisruptionPolicies::fixed()
        }
        ClusterPolicies::Unknown => {
            notes.push(
                "the cluster's policies are not in the file, so those of the operator are assumed, with ours; \
                 oc get machineconfiguration cluster -o yaml prints them"
                    .to_owned(),
            );
            DisruptionPolicies::defaults().with(&ours.policies)
        }
    };
    (policies, notes)
}

fn is_before_policies(release: &str) -> bool {
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(Some(4)), Some(Some(0..=16))))
}

fn refused(state: &PoolState, ours: &PlannedConfig) -> Vec<String> {
    let mut refused = ours.config.refused.clone();
    let version = ours.ignition.as_deref();
    if let (Some(release), Some(version)) = (&state.release, version)
        && reads_ignition(release, version) == Some(false)
    {
        refused.push(format!(
            "OpenShift {release} does not read Ignition {version}; for 4.14 to 4.18: --ignition 3.4"
        ));
    }
    // isConfigReconcilable: "refusing to modify FIPS on a running cluster"
    let fips = |system: &SetFields| system.contains_key("FIPS");
    if fips(&ours.config.system) && !fips(&state.pool.rendered.system) {
        refused.push("spec.fips cannot be changed on a node that runs".to_owned());
    }
    refused
}

fn notes_on_pool(state: &PoolState, ours: &PlannedConfig, role: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if !ours.config.role.is_empty() && ours.config.role != state.name {
        notes.push(format!(
            "{} is for the role {}: in the pool {} it counts only if that pool's machineConfigSelector selects this role",
            ours.config.name, ours.config.role, state.name
        ));
    } else if role != state.name && ours.config.role.is_empty() {
        notes.push(format!("{} has no label with a role, so no pool selects it", ours.config.name));
    }
    let Some(object) = &state.object else { return notes };
    if object.is_updating {
        notes.push(
            "the pool has not finished its last update: some nodes get both changes at once".to_owned(),
        );
    }
    if object.is_paused {
        notes.push("the pool is paused: nothing happens on its nodes until spec.paused is false".to_owned());
    }
    notes
}

fn nodes(state: &PoolState) -> String {
    let object = state.object.as_ref();
    let count = object.and_then(|object| object.machines).or_else(|| {
        let known = u64::try_from(state.nodes.len()).ok();
        known.filter(|known| *known > 0)
    });
    let mut names = state.nodes.iter().take(NODES).cloned().collect::<Vec<String>>().join(", ");
    if state.nodes.len() > NODES {
        names.push_str(", …");
    }
    let names = if names.is_empty() { names } else { format!(" ({names})") };
    let pace = object.map_or(String::new(), |object| format!(", {} at a time", object.max_unavailable));
    match count {
        Some(1) => format!("on the one node of the pool{names}"),
        Some(count) => format!("on each of the {count} nodes of the pool{names}{pace}"),
        None => format!("on each node of the pool{pace}"),
    }
}

/// Whether only the encoding of a file's content changes.
fn encoding_of(change: &ConfigChange, state: &PoolState, ours: &PlannedConfig) -> Option<&'static str> {
    let Difference::Fields(fields) = &change.how else { return None };
    let key = change.what.to_string();
    let (old, new) = (state.pool.rendered.files.get(&key)?, ours.config.files.get(&key)?);
    let encoded = fields.iter().all(|field| field == SOURCE || field == COMPRESSION);
    let same = encoded && decoded(old).is_some_and(|content| Some(content) == decoded(new));
    same.then_some("the content is the same, in another encoding; the operator compares the encoded text")
}

/// A field in the words of a person.
fn field(name: &str) -> &str {
    match name {
        SOURCE => "content",
        COMPRESSION => "compression",
        other => other,
    }
}

fn fields(names: &[String]) -> String {
    names.iter().map(|name| field(name)).collect::<Vec<&str>>().join(", ")
}

fn action(action: &DisruptionAction) -> String {
    match action {
        DisruptionAction::None => "nothing".to_owned(),
        DisruptionAction::Drain => "drain the node".to_owned(),
        DisruptionAction::DaemonReload => "systemctl daemon-reload".to_owned(),
        DisruptionAction::Reload(service) => format!("reload {service}"),
        DisruptionAction::Restart(service) => format!("restart {service}"),
        DisruptionAction::Special => {
            "reload crio.service; before that, drain the node if more than mirrors for digests is added"
                .to_owned()
        }
        DisruptionAction::Reboot => "reboot the node".to_owned(),
    }
}

impl ConfigReport {
    /// Whether no node reboots, nothing is refused and no file is in dispute.
    #[must_use]
    pub fn needs_no_attention(&self) -> bool {
        self.conflicts.is_empty() && matches!(self.consequence, Consequence::Nothing | Consequence::Live(_))
    }
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        writeln!(f, "\nchanges:")?;
        for (ConfigChange { what, how }, encoding) in &self.changes {
            match how {
                Difference::New => writeln!(f, "  new      {what}")?,
                Difference::Removed => writeln!(f, "  removed  {what}")?,
                Difference::Fields(names) => writeln!(f, "  changed  {what} ({})", fields(names))?,
            }
            if let Some(encoding) = encoding {
                writeln!(f, "           {encoding}")?;
            }
        }
        if self.changes.is_empty() {
            writeln!(f, "  none")?;
        }
        if !self.conflicts.is_empty() {
            writeln!(f, "\nconflicts:")?;
        }
        for conflict in &self.conflicts {
            let theirs = if conflict.others.is_empty() {
                "another MachineConfig".to_owned()
            } else {
                conflict.others.join(", ")
            };
            let counts = match &conflict.stronger {
                Some(stronger) => format!("{stronger} is merged later and counts"),
                None if conflict.others.is_empty() => "the one that is merged later counts".to_owned(),
                None => format!("{} is merged later and counts", self.ours),
            };
            writeln!(
                f,
                "  {}: {theirs} has it too, with another {}; {counts}",
                conflict.key,
                fields(&conflict.fields)
            )?;
        }
        writeln!(f)?;
        match &self.consequence {
            Consequence::Nothing if self.conflicts.is_empty() => {
                writeln!(f, "The Machine Config Operator does nothing: the pool has all of it.")?;
            }
            Consequence::Nothing => {
                writeln!(f, "The Machine Config Operator does nothing: the other MachineConfigs count.")?;
            }
            Consequence::Refused(reasons) => {
                writeln!(f, "The Machine Config Operator refuses it, and the pool becomes degraded:")?;
                reasons.iter().try_for_each(|reason| writeln!(f, "  {reason}"))?;
            }
            Consequence::Live(actions) => {
                writeln!(f, "The Machine Config Operator writes it {}:", self.nodes)?;
                actions
                    .iter()
                    .try_for_each(|(one, why)| writeln!(f, "  {}, because of {why}", action(one)))?;
                if actions.is_empty() {
                    writeln!(f, "  and does nothing else")?;
                }
                writeln!(f, "No node reboots.")?;
            }
            Consequence::Reboot(reasons) => {
                writeln!(f, "The Machine Config Operator drains and reboots, {}, because of:", self.nodes)?;
                reasons.iter().try_for_each(|reason| writeln!(f, "  {reason}"))?;
            }
        }
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}
