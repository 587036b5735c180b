//! Explains why a container's cgroup is as it is, and what to do about it, from the rules' plan and the agent's
//! record.

#[cfg(test)]
mod tests;

use crate::Plan;
use usernsd_domain::adjust::{DecidingAnnotation, Ungranted};
use usernsd_domain::assessment::Assessment;
use usernsd_domain::delegation::Skip;
use usernsd_domain::guard::Verdict;
use usernsd_domain::pod::{is_dns_label, is_dns_name};
use usernsd_domain::record::{CgroupState, OutcomeName};

/// The facts about a container from which the explanation is made.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainFacts {
    /// The Kubernetes namespace of its pod, for the commands.
    pub namespace: String,
    /// Its pod's name.
    pub pod: String,
    /// The container's name.
    pub name: String,
    /// How it ended, if it did.
    pub ended: Option<Ended>,
    /// What the rules plan for it now; `None` if it does not run.
    pub now: Option<PresentPlan>,
    /// Whether its pod got the user namespace it asked for.
    pub isolation: Verdict,
    /// What its pod's annotations would change if it were created now.
    pub opt_in: OptInResult,
    /// The agent's record of it.
    pub agent: AgentRecord,
    /// Whether it owns its cgroup, and the number of cgroups that its pod may create is not limited.
    pub is_unlimited: bool,
    /// The AppArmor profile that forbids mounts to systemd, which runs in it.
    pub forbids_mounts: Option<String>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// The runtime's reason, in one line; may be empty.
    pub reason: String,
}

/// What [`crate::plan()`] decides now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresentPlan {
    /// This has to be applied.
    Plan(Plan),
    /// The cgroup stays as it is; with the details, if the reason alone does not explain it.
    Skip(Skip, Option<String>),
    /// The container could not be observed.
    Failed(String),
}

/// The outcome of the pod's annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptInResult {
    /// The container has everything that it asks for.
    Nothing,
    /// An annotation keeps its cgroup read-only.
    Declined(DecidingAnnotation),
    /// It asks for a writable cgroup and may have it, but was created without it.
    Missed,
    /// Its request is not granted.
    Ungranted(Ungranted),
}

/// The agent's record of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentRecord {
    /// The agent does not answer, for this reason.
    Silent(String),
    /// The agent answers, but has no record of the container.
    Unaware,
    /// The agent has inspected the container.
    Inspected {
        /// The outcome; `None` if a later version added it.
        outcome: Option<OutcomeName>,
        /// The reason, as a sentence.
        reason: Option<String>,
        /// The trigger of the inspection.
        source: String,
    },
}

/// A pod of this node without a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The pod's Kubernetes namespace, for the commands.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Whether it has a sandbox that is ready.
    pub has_sandbox: bool,
    /// The host IDs that the kubelet assigned to it.
    pub ids: ChosenIds,
}

/// The host IDs that the kubelet assigned to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenIds {
    /// An extent of IDs.
    Range {
        /// The first ID.
        first: u32,
        /// The number of IDs.
        count: u32,
    },
    /// It has not assigned any.
    None,
    /// The kubelet's record cannot be seen, as from an agent's pod.
    Unseen,
}

/// The agent's log, of a systemd unit or of a DaemonSet.
const AGENT_LOG: &str = "read the agent's log: journalctl -u usernsd; in a DaemonSet kubectl logs of its pod on this node, -c agent";
/// How to start an agent, of a systemd unit or of a DaemonSet.
const START_AGENT: &str =
    "start the agent: systemctl enable --now usernsd; in a DaemonSet kubectl describe its pod on this node";

/// Why a container is as it is: the result of `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnosis {
    /// Whether the cgroup's owner is right; `None` if that cannot be said of this container.
    pub owner_is_right: Option<bool>,
    /// What is wrong, a few words each; empty if nothing.
    pub problems: Vec<String>,
    /// The reasons, as sentences.
    pub because: Vec<String>,
    /// Commands to run or settings to change next.
    pub next: Vec<String>,
}

// === impl Diagnosis ===

impl Diagnosis {
    /// Explains a container's state.
    #[must_use]
    pub fn of(facts: &ExplainFacts) -> Diagnosis {
        let mut diagnosis =
            Diagnosis { owner_is_right: facts.assessment().owner_is_right(), ..Diagnosis::default() };
        if let Some(ended) = &facts.ended {
            diagnosis.ended(facts, ended);
        }
        if facts.assessment() == Assessment::IsolationLost {
            diagnosis.problem("isolation lost");
            diagnosis.because(
                "It runs as the host's root although its pod asked for a user namespace. The runtime has lost the pod's \
                 ID mappings, as CRI-O 1.25 to 1.36.3 (not 1.35.6) does when it restarts.",
            );
            diagnosis.delete(facts);
            return diagnosis;
        }
        match &facts.now {
            None => {}
            Some(PresentPlan::Plan(Plan::AlreadyRight { .. })) => diagnosis.right(facts),
            Some(PresentPlan::Plan(Plan::Chown { owner, .. })) => {
                diagnosis.problem(format!("the cgroup should belong to host user {owner} and does not"));
                diagnosis.not_handed_over(facts);
                diagnosis.because("Inside, mkdir below /sys/fs/cgroup fails with \"Permission denied\".");
            }
            Some(PresentPlan::Skip(skip, detail)) => diagnosis.skipped(facts, *skip, detail.as_deref()),
            Some(PresentPlan::Failed(error)) => {
                diagnosis.problem("the cgroup could not be looked at");
                diagnosis.because(format!("{error}."));
            }
        }
        diagnosis
    }

    /// Puts it into words for a pod that has no container.
    #[must_use]
    pub fn of_waiting(waiting: &Waiting) -> Diagnosis {
        let mut diagnosis = Diagnosis::default();
        let kubectl = |words: &str| kubectl(&waiting.namespace, &waiting.pod, words);
        if waiting.has_sandbox {
            diagnosis.problem("no container yet");
            diagnosis.because(
                "Its sandbox is ready: an image is being pulled, a volume is not mounted yet, or the runtime cannot \
                 create the container.",
            );
        } else {
            diagnosis.problem("no sandbox");
            diagnosis.because("The kubelet has the pod, but the runtime has not created a sandbox for it.");
        }
        diagnosis.because(match waiting.ids {
            ChosenIds::Range { first, count } => format!(
                "The kubelet assigned the host IDs {first} to {} to it.",
                u64::from(first) + u64::from(count.saturating_sub(1))
            ),
            ChosenIds::None => {
                "The kubelet has not assigned host IDs to it: the pod does not set hostUsers: false, or it failed."
                    .to_owned()
            }
            ChosenIds::Unseen => {
                "Whether the kubelet has assigned host IDs to it cannot be seen from here.".to_owned()
            }
        });
        diagnosis.next(format!(
            "{}; the last event has the error message of the kubelet or the runtime",
            kubectl("describe pod POD")
        ));
        diagnosis.next("usernsd explain --from-log MESSAGE, or journalctl -u kubelet -u containerd -u crio | usernsd explain --from-log");
        diagnosis
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    fn because(&mut self, text: impl Into<String>) {
        self.because.push(text.into());
    }

    fn next(&mut self, text: impl Into<String>) {
        self.next.push(text.into());
    }

    fn ended(&mut self, facts: &ExplainFacts, ended: &Ended) {
        let reason = if ended.reason.is_empty() { String::new() } else { format!(" ({})", ended.reason) };
        self.because(format!("It ended with exit code {}{reason}. Its cgroup is gone with it.", ended.code));
        if ended.code != 0 {
            self.problem(format!("ended with exit code {}", ended.code));
            match &facts.opt_in {
                OptInResult::Missed => self.missed(facts),
                OptInResult::Ungranted(ungranted) => {
                    self.because(format!("{}.", capital(&ungranted.to_string())))
                }
                OptInResult::Nothing | OptInResult::Declined(_) => {}
            }
            self.next(facts.kubectl(&format!(
                "logs POD -c {} (with --previous if it was started again)",
                if is_dns_label(&facts.name) { &facts.name } else { "CONTAINER" }
            )));
        }
    }

    fn right(&mut self, facts: &ExplainFacts) {
        match &facts.agent {
            AgentRecord::Inspected { outcome: Some(OutcomeName::Delegated), source, .. } => {
                self.because(format!("usernsd handed the cgroup over ({source})."));
            }
            AgentRecord::Inspected { .. } => {
                self.because("The runtime handed the cgroup over; usernsd found it right.");
            }
            AgentRecord::Unaware | AgentRecord::Silent(_) => self.because("The cgroup is the container's."),
        }
        if facts.is_unlimited {
            self.unlimited(facts);
        }
        if let Some(profile) = &facts.forbids_mounts {
            self.because(format!(
                "Its AppArmor profile {profile} forbids every mount, and the kernel logs nothing. systemd starts services \
                 with PrivateTmp, ProtectSystem or the like without this protection; those with TemporaryFileSystem, \
                 BindPaths or the like fail with status=226/NAMESPACE."
            ));
            self.next(
                "if it has such services, load the AppArmor profile usernsd-systemd on the node, name it in the pod \
                 (appArmorProfile: {type: Localhost, localhostProfile: usernsd-systemd}), and add the capability SYS_ADMIN",
            );
        }
    }

    fn unlimited(&mut self, facts: &ExplainFacts) {
        self.problem("nothing limits the cgroups that the pod may create");
        self.because("Without a limit, a pod's cgroups can take the node down.");
        match &facts.agent {
            AgentRecord::Silent(_) => self.agent_is_needed(facts),
            AgentRecord::Unaware => {}
            AgentRecord::Inspected { .. } => self.next(
                "set delegation.mechanism in the agent's configuration: with none it sets no limits. With another value, \
                 the agent's log shows why there are none",
            ),
        }
    }

    fn not_handed_over(&mut self, facts: &ExplainFacts) {
        match &facts.agent {
            AgentRecord::Inspected { outcome: Some(OutcomeName::Failed), reason, source } => {
                let reason = reason.as_deref().unwrap_or("for an unknown reason");
                self.because(format!(
                    "usernsd tried and failed ({source}): {reason}. The next resync tries again."
                ));
                self.next(AGENT_LOG);
            }
            AgentRecord::Inspected { outcome, .. } => {
                let outcome = outcome.map_or("in a way that only a later version names", OutcomeName::name);
                self.because(format!(
                    "usernsd's last inspection ended as {outcome}; something changed it since."
                ));
                self.next("usernsd ps -o wide");
            }
            AgentRecord::Unaware => self.because("usernsd has not inspected it yet; its next resync will."),
            AgentRecord::Silent(_) => {
                self.because("Nobody hands it over: the OCI runtime did not, and no usernsd agent answers.");
                self.agent_is_needed(facts);
            }
        }
    }

    fn agent_is_needed(&mut self, facts: &ExplainFacts) {
        if let AgentRecord::Silent(reason) = &facts.agent {
            self.because(format!("The agent: {reason}."));
            self.next(START_AGENT);
        }
    }

    fn missed(&mut self, facts: &ExplainFacts) {
        self.because(
            "Its annotations ask for a writable cgroup, and it was created without one: no agent was running then, NRI is off, \
             or the agent's configuration (--config) forbids it. A container's mounts are set up once.",
        );
        self.agent_is_needed(facts);
        if facts.ended.is_some() {
            // The kubelet creates it again, with what usernsd adds.
            self.next(format!(
                "wait for the container's next restart, which gets the writable cgroup if usernsd may give it; with \
                 restartPolicy: Never {}",
                facts.kubectl("delete pod POD")
            ));
        } else {
            self.delete(facts);
        }
    }

    fn delete(&mut self, facts: &ExplainFacts) {
        self.next(facts.kubectl("delete pod POD"));
    }

    fn skipped(&mut self, facts: &ExplainFacts, skip: Skip, detail: Option<&str>) {
        if facts.is_unlimited {
            self.because(
                "Its OCI runtime handed the cgroup over (crun does so for each container with a user namespace). However it \
                 is mounted, the container can mount it again and create cgroups.",
            );
            self.unlimited(facts);
        }
        match skip {
            Skip::ReadOnlyMount => {
                match &facts.opt_in {
                    OptInResult::Missed => {
                        self.problem("asked for a writable cgroup in vain");
                        self.missed(facts);
                    }
                    OptInResult::Ungranted(ungranted) => {
                        self.problem("asked for a writable cgroup in vain");
                        self.because(format!("{}.", capital(&ungranted.to_string())));
                    }
                    OptInResult::Declined(DecidingAnnotation { key, value }) => {
                        self.because(format!(
                            "/sys/fs/cgroup is read-only in it: annotation {key} is {value:?}."
                        ));
                        self.next("to make it writable, change that annotation in the pod's template");
                    }
                    OptInResult::Nothing => {
                        self.because(if facts.is_unlimited {
                            "/sys/fs/cgroup is read-only in it, the default of every runtime."
                        } else {
                            "/sys/fs/cgroup is read-only in it, the default of every runtime: ownership would make no difference."
                        });
                        self.next(
                            "to make it writable, annotate the pod's template: usernsd.io/cgroup: writable (for systemd: \
                             usernsd.io/systemd: \"true\")",
                        );
                    }
                }
                return;
            }
            Skip::HostUserNamespace => {
                if facts.isolation == Verdict::Unknown {
                    self.because(
                        "Its root is the host's root, and the runtime does not report whether its pod asked for a user namespace.",
                    );
                    self.next(facts.kubectl("get pod POD -o jsonpath={.spec.hostUsers}"));
                    return;
                }
                self.because("The pod did not ask for a user namespace. Its root is the host's root.");
                if let OptInResult::Ungranted(ungranted) = &facts.opt_in {
                    self.problem("asked for a writable cgroup in vain");
                    self.because(format!("{}.", capital(&ungranted.to_string())));
                }
                self.next("to give it one, set in the pod's template: hostUsers: false");
                return;
            }
            Skip::NoCgroupMount => {
                self.because(format!("{}.", capital(skip.meaning())));
                if facts.opt_in == OptInResult::Missed {
                    self.problem("asked for a writable cgroup in vain");
                    self.missed(facts);
                }
                return;
            }
            Skip::BeingMade => {
                self.because(format!("{}.", capital(skip.meaning())));
                self.next("usernsd explain the container again once it runs");
                return;
            }
            _ => {}
        }
        self.problem(skip.name().replace('_', " "));
        self.because(format!("{}.", capital(skip.meaning())));
        if let Some(detail) = detail {
            self.because(format!("{}.", capital(detail)));
        }
        self.next(match skip {
            Skip::NotUnified => "boot the node with systemd.unified_cgroup_hierarchy=1".to_owned(),
            Skip::RootIsHostRoot => {
                format!("usernsd whois 0; then delete the pod: {}", facts.kubectl("delete pod POD"))
            }
            Skip::UnmappedRoot | Skip::UnmappedOwner => {
                "choose a runAsUser that is in the container's uid map above".to_owned()
            }
            Skip::ReservedOwner => {
                "move the pods' ID range (bootstrap.kubelet.start, or bootstrap.ranges), or lower delegation.minimumHostId"
                    .to_owned()
            }
            Skip::ForeignOwner => "find out whose it is: usernsd whois ID, with the owner above".to_owned(),
            Skip::Closed => "in the container, as the owner of its cgroup: chmod 755 /sys/fs/cgroup; chmod 644 /sys/fs/cgroup/cgroup.*".to_owned(),
            Skip::NotDelegated => "systemctl show -p Delegate UNIT, with the unit above".to_owned(),
            _ => AGENT_LOG.to_owned(),
        });
    }
}

// === impl ExplainFacts ===

impl ExplainFacts {
    /// The assessment of the container, by the rule that the agent uses for its inspections.
    #[must_use]
    pub fn assessment(&self) -> Assessment {
        let (outcome, state) = match &self.now {
            None => (None, None),
            Some(PresentPlan::Plan(Plan::AlreadyRight { .. })) => {
                let state = if self.is_unlimited { CgroupState::Unlimited } else { CgroupState::Ok };
                (Some(OutcomeName::AlreadyRight), Some(state))
            }
            Some(PresentPlan::Plan(Plan::Chown { .. })) => (None, Some(CgroupState::OwnerWrong)),
            Some(PresentPlan::Skip(skip, _)) => {
                let state = skip.cgroup_state(self.opt_in == OptInResult::Missed, self.is_unlimited);
                (Some(OutcomeName::Skipped(*skip)), Some(state))
            }
            Some(PresentPlan::Failed(_)) => (Some(OutcomeName::Failed), None),
        };
        Assessment::of(Some(self.isolation), outcome, state, false)
    }

    /// A command with the pod's names in it.
    fn kubectl(&self, words: &str) -> String {
        kubectl(&self.namespace, &self.pod, words)
    }
}

/// A command with a pod's names in it. If Kubernetes would not allow the names, they are replaced.
fn kubectl(namespace: &str, pod: &str, words: &str) -> String {
    let is_good = is_dns_label(namespace) && is_dns_name(pod);
    let [namespace, pod] = if is_good { [namespace, pod] } else { ["NAMESPACE", "POD"] };
    format!("kubectl -n {namespace} {}", words.replacen("POD", pod, 1))
}

/// Capitalises the first letter, except of a path or an annotation's name.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
