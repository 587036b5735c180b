//! The requests of a pod's annotations for one of its containers.
//!
//! Keys follow the NRI project's convention (containerd/nri `pkg/plugin`, `GetEffectiveAnnotation`):
//! `KEY/container.NAME` takes precedence over `KEY/pod`, and that over `KEY`.

use std::collections::BTreeMap;

use super::Ungranted;
use crate::crio::annotation::USERNS_MODE;

/// Asks for a writable cgroup for every container of the pod: `writable`. Equivalent to the bare key [`CGROUP_KEY`].
pub const CGROUP_ANNOTATION: &str = "usernsd.io/cgroup";
/// Asks for what systemd as PID 1 needs, including a writable cgroup, for every container of the pod: `true`.
/// Equivalent to the bare key [`SYSTEMD_KEY`].
pub const SYSTEMD_ANNOTATION: &str = "usernsd.io/systemd";
/// The scoped key that asks for a writable cgroup. A Kubernetes annotation may have only one slash, which the scope
/// needs; so `cgroup` is part of the domain.
pub const CGROUP_KEY: &str = "cgroup.usernsd.io";
/// The scoped key that asks for what systemd as PID 1 needs.
pub const SYSTEMD_KEY: &str = "systemd.usernsd.io";
/// The key of the NRI project's experimental plugin, which asks for a writable cgroup: `true` (containerd/nri
/// `plugins/writable-cgroups`).
pub const WRITABLE_CGROUPS_KEY: &str = "writable-cgroups.noderesource.dev";
/// CRI-O's annotations for a writable cgroup: `true` (cri-o `pkg/annotations`). They have the same effect on every
/// runtime, and apply to the whole pod.
pub const CRIO_ANNOTATIONS: [&str; 2] =
    ["io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", "cgroup2-mount-hierarchy-rw.crio.io"];

/// The longest container name that a key can carry: the part after the slash has at most 63
/// characters (Kubernetes, qualified names), of which `container.` takes ten. The NRI project has no
/// other form for longer names.
pub const LONGEST_NAMED_CONTAINER: usize = 53;

/// The requests of a pod's annotations for one of its containers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptIn {
    /// Mount `/sys/fs/cgroup` read-write.
    pub writable: bool,
    /// Provide the other things that systemd as PID 1 needs; never true without `writable`.
    pub systemd: bool,
    /// The annotation that decided, for or against; `None` if no annotation applies to the container.
    pub decided_by: Option<DecidingAnnotation>,
}

/// An annotation that decided an opt-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidingAnnotation {
    /// The annotation's key.
    pub key: String,
    /// The annotation's value.
    pub value: String,
}

/// Which containers an annotation applies to; a narrower scope compares greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Pod,
    Container,
}

/// A scoped key and its allowed values.
struct Family {
    key: &'static str,
    /// An unscoped key with the same meaning as the bare one, which takes precedence.
    alias: Option<&'static str>,
    yes: &'static str,
    no: &'static str,
    /// Any other value is a mistake, which is reported. Values of other projects' keys are read as those
    /// projects read them: everything but `yes` means no.
    strict: bool,
}

const SYSTEMD: Family =
    Family { key: SYSTEMD_KEY, alias: Some(SYSTEMD_ANNOTATION), yes: "true", no: "false", strict: true };
const CGROUP: Family = Family {
    key: CGROUP_KEY,
    alias: Some(CGROUP_ANNOTATION),
    yes: "writable",
    no: "read-only",
    strict: true,
};
const WRITABLE_CGROUPS: Family =
    Family { key: WRITABLE_CGROUPS_KEY, alias: None, yes: "true", no: "false", strict: false };
const FAMILIES: [&Family; 3] = [&SYSTEMD, &CGROUP, &WRITABLE_CGROUPS];

/// The annotation of a family that applies to a container.
struct Effective<'a> {
    scope: Scope,
    key: &'a str,
    value: &'a str,
    asks: bool,
}

// === impl Family ===

impl Family {
    /// The annotation of this family with the narrowest scope that includes the container.
    ///
    /// # Errors
    /// The value is not an allowed one.
    fn effective<'a>(
        &self,
        annotations: &'a BTreeMap<String, String>,
        container: &str,
    ) -> Result<Option<Effective<'a>>, Ungranted> {
        let of = |key: &str| annotations.get_key_value(key);
        let scoped =
            of(&format!("{}/container.{container}", self.key)).map(|found| (Scope::Container, found));
        let pod_wide =
            || of(&format!("{}/pod", self.key)).or_else(|| of(self.key)).or_else(|| of(self.alias?));
        let found = scoped.or_else(|| pod_wide().map(|found| (Scope::Pod, found)));
        let Some((scope, (key, value))) = found else { return Ok(None) };
        let asks = value == self.yes;
        if self.strict && !asks && value != self.no {
            return Err(Ungranted::Value {
                annotation: cut(key),
                value: value.chars().take(40).collect(),
                allowed: self.yes,
            });
        }
        Ok(Some(Effective { scope, key, value, asks }))
    }

    /// Whether the key belongs to this family, for any container.
    fn has(&self, key: &str) -> bool {
        let scope = key.strip_prefix(self.key);
        self.alias == Some(key)
            || scope
                .is_some_and(|scope| scope.is_empty() || scope == "/pod" || scope.starts_with("/container."))
    }
}

// === impl OptIn ===

impl OptIn {
    /// Reads a pod's annotations for the container of that name.
    ///
    /// Of each key, the narrowest scope counts. Of the keys that decide on a writable cgroup, those with the
    /// narrowest scope count, and one that asks is enough: `read-only` for a container outweighs `writable` for the
    /// pod, but not the reverse; and of two keys for the whole pod, either is enough. `false` for systemd does not
    /// decide about the cgroup. Without a writable cgroup, systemd gets nothing.
    ///
    /// # Errors
    /// An annotation that applies to this container has a value that is not allowed.
    pub fn of(annotations: &BTreeMap<String, String>, container: &str) -> Result<OptIn, Ungranted> {
        let mut found = Vec::with_capacity(4);
        let systemd = SYSTEMD.effective(annotations, container)?;
        let is_systemd = systemd.as_ref().is_some_and(|systemd| systemd.asks);
        let declined = systemd.as_ref().filter(|systemd| !systemd.asks).map(Effective::decision);
        found.extend(systemd.filter(|systemd| systemd.asks));
        found.extend(CGROUP.effective(annotations, container)?);
        found.extend(WRITABLE_CGROUPS.effective(annotations, container)?);
        // CRI-O accepts exactly "true" and ignores every other value.
        let crio = CRIO_ANNOTATIONS.iter().filter_map(|key| annotations.get_key_value(*key));
        let crio = crio.filter(|(_, value)| *value == "true");
        found.extend(crio.map(|(key, value)| Effective { scope: Scope::Pod, key, value, asks: true }));

        let narrowest = found.iter().map(|one| one.scope).max();
        let mut decisive = found.iter().filter(|one| Some(one.scope) == narrowest);
        let first = decisive.clone().next();
        let asking = decisive.find(|one| one.asks);
        let writable = asking.is_some();
        Ok(OptIn {
            writable,
            systemd: writable && is_systemd,
            decided_by: asking.or(first).map(Effective::decision).or(declined),
        })
    }

    /// The key of the annotation that asks; `None` if the container asks for nothing.
    #[must_use]
    pub fn asked_by(&self) -> Option<&str> {
        self.decided_by.as_ref().filter(|_| self.writable).map(|decision| decision.key.as_str())
    }
}

impl Effective<'_> {
    fn decision(&self) -> DecidingAnnotation {
        DecidingAnnotation { key: cut(self.key), value: self.value.chars().take(40).collect() }
    }
}

/// A key for a message, cut to a limit: the longest key that names a container has 92 characters.
pub(super) fn cut(key: &str) -> String {
    key.chars().take(100).collect()
}

/// Whether usernsd reads this annotation key. All others can be dropped.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    asks_by(key) || USERNS_MODE.contains(&key)
}

/// Whether the key can ask for a writable cgroup, for any container.
#[must_use]
pub fn asks_by(key: &str) -> bool {
    FAMILIES.iter().any(|family| family.has(key)) || CRIO_ANNOTATIONS.contains(&key)
}

/// Whether the key can ask for a writable cgroup for the container of that name: by its own scope or the pod's.
#[must_use]
pub fn concerns(key: &str, container: &str) -> bool {
    asks_by(key)
        && match key.split_once("/container.") {
            Some((_, name)) => name == container,
            None => true,
        }
}

/// The key of the annotation that requests a writable cgroup, or the problem with its value; `None` if there
/// is none.
#[must_use]
pub fn asks_for_writable(annotations: &BTreeMap<String, String>, container: &str) -> Option<String> {
    match OptIn::of(annotations, container) {
        Ok(opt_in) => opt_in.asked_by().map(str::to_owned),
        Err(ungranted) => Some(ungranted.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(annotations: &[(&str, &str)], container: &str) -> Result<OptIn, Ungranted> {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        OptIn::of(&annotations.collect(), container)
    }

    /// Writable, systemd, and the key that decided.
    fn decided(annotations: &[(&str, &str)], container: &str) -> (bool, bool, String) {
        let opt_in = of(annotations, container).unwrap();
        (opt_in.writable, opt_in.systemd, opt_in.decided_by.map(|decision| decision.key).unwrap_or_default())
    }

    #[test]
    fn the_narrower_scope_wins_if_scopes_differ() {
        let all = [
            ("cgroup.usernsd.io/container.web", "writable"),
            ("cgroup.usernsd.io/pod", "read-only"),
            ("cgroup.usernsd.io", "writable"),
            ("usernsd.io/cgroup", "read-only"),
        ];
        for (left, (key, value)) in all.iter().enumerate() {
            let annotations = all.get(left..).unwrap();
            assert_eq!(decided(annotations, "web"), (*value == "writable", false, (*key).to_owned()));
        }
        assert_eq!(decided(&all, "other"), (false, false, "cgroup.usernsd.io/pod".to_owned()));
    }

    #[test]
    fn a_container_can_be_excluded_by_name() {
        let pod = [("usernsd.io/systemd", "true"), ("systemd.usernsd.io/container.sidecar", "false")];
        assert_eq!(decided(&pod, "main"), (true, true, "usernsd.io/systemd".to_owned()));
        assert_eq!(
            decided(&pod, "sidecar"),
            (false, false, "systemd.usernsd.io/container.sidecar".to_owned())
        );
        // systemd cannot use a read-only cgroup, so nothing of the pod's opt-in is left.
        let pod = [("usernsd.io/systemd", "true"), ("cgroup.usernsd.io/container.sidecar", "read-only")];
        assert_eq!(
            decided(&pod, "sidecar"),
            (false, false, "cgroup.usernsd.io/container.sidecar".to_owned())
        );
        // Without systemd's mounts, but with a writable cgroup.
        let pod = [("usernsd.io/cgroup", "writable"), ("systemd.usernsd.io/container.sidecar", "false")];
        assert_eq!(decided(&pod, "sidecar"), (true, false, "usernsd.io/cgroup".to_owned()));
    }

    #[test]
    fn keys_of_the_same_scope_are_combined() {
        let pod = [("usernsd.io/cgroup", "read-only"), ("usernsd.io/systemd", "true")];
        assert_eq!(decided(&pod, "c"), (true, true, "usernsd.io/systemd".to_owned()));
        let pod = [("cgroup.usernsd.io/pod", "read-only"), (CRIO_ANNOTATIONS[1], "true")];
        assert_eq!(decided(&pod, "c"), (true, false, CRIO_ANNOTATIONS[1].to_owned()));
    }

    #[test]
    fn values_of_other_projects_keys_are_read_as_they_read_them() {
        for (value, asks) in [("true", true), ("false", false), ("True", false), ("", false)] {
            for scope in ["", "/pod", "/container.c"] {
                let key = format!("{WRITABLE_CGROUPS_KEY}{scope}");
                assert_eq!(of(&[(&key, value)], "c").unwrap().writable, asks, "{key}={value}");
            }
            assert_eq!(of(&[(CRIO_ANNOTATIONS[0], value)], "c").unwrap().writable, asks);
        }
    }

    #[test]
    fn only_the_effective_value_is_checked() {
        let pod = [("cgroup.usernsd.io/container.web", "writable"), ("usernsd.io/cgroup", "writeable")];
        assert!(of(&pod, "web").unwrap().writable);
        let error = of(&pod, "other").unwrap_err();
        assert_eq!(
            error.to_string(),
            "annotation usernsd.io/cgroup is \"writeable\"; it may only be \"writable\""
        );
        let pod = [("systemd.usernsd.io/container.web", "yes")];
        let error = of(&pod, "web").unwrap_err().to_string();
        assert_eq!(error, "annotation systemd.usernsd.io/container.web is \"yes\"; it may only be \"true\"");
    }

    #[test]
    fn keys_are_recognised() {
        for key in [
            "usernsd.io/cgroup",
            "usernsd.io/systemd",
            "cgroup.usernsd.io",
            "systemd.usernsd.io/pod",
            "writable-cgroups.noderesource.dev/container.web",
            "io.kubernetes.cri-o.userns-mode",
            "cgroup2-mount-hierarchy-rw.crio.io",
        ] {
            assert!(is_ours(key), "{key}");
        }
        for key in [
            "usernsd.io/other",
            "cgroup.usernsd.io.example",
            "cgroup.usernsd.io/web",
            "kubectl.kubernetes.io/last-applied-configuration",
        ] {
            assert!(!is_ours(key), "{key}");
        }
        assert!(!asks_by("userns-mode.crio.io"));
        assert!(
            concerns("cgroup.usernsd.io/container.a", "a") && !concerns("cgroup.usernsd.io/container.a", "b")
        );
    }

    fn annotation() -> impl Strategy<Value = (String, String)> {
        let base = prop_oneof![
            Just(CGROUP_KEY),
            Just(SYSTEMD_KEY),
            Just(WRITABLE_CGROUPS_KEY),
            Just(CGROUP_ANNOTATION),
            Just(SYSTEMD_ANNOTATION),
            Just(CRIO_ANNOTATIONS[0]),
        ];
        let scope = prop_oneof![Just(""), Just("/pod"), Just("/container.a"), Just("/container.b")];
        let value = prop_oneof![Just("true"), Just("false"), Just("writable"), Just("read-only"), Just("x")];
        (base, scope, value).prop_map(|(base, scope, value)| {
            let scoped = if base.contains('/') || base.starts_with("io.") { "" } else { scope };
            (format!("{base}{scoped}"), value.to_owned())
        })
    }

    proptest! {
        #[test]
        fn annotations_for_other_containers_change_nothing(all in prop::collection::btree_map(annotation().prop_map(|one| one.0), annotation().prop_map(|one| one.1), 0..8)) {
            let own: BTreeMap<_, _> = all.iter().filter(|(key, _)| concerns(key, "a")).map(|(key, value)| (key.clone(), value.clone())).collect();
            prop_assert_eq!(OptIn::of(&all, "a"), OptIn::of(&own, "a"));
        }

        #[test]
        fn a_containers_own_annotations_override_the_pods(all in prop::collection::btree_map(annotation().prop_map(|one| one.0), annotation().prop_map(|one| one.1), 0..8)) {
            // With every key set for the container itself, no annotation for the pod has an effect.
            for (cgroup, systemd, other, want) in [
                ("read-only", "false", "false", (false, false)),
                ("writable", "false", "false", (true, false)),
                ("read-only", "true", "false", (true, true)),
                ("read-only", "false", "true", (true, false)),
            ] {
                let mut all = all.clone();
                all.insert(format!("{CGROUP_KEY}/container.a"), cgroup.to_owned());
                all.insert(format!("{SYSTEMD_KEY}/container.a"), systemd.to_owned());
                all.insert(format!("{WRITABLE_CGROUPS_KEY}/container.a"), other.to_owned());
                let opt_in = OptIn::of(&all, "a").unwrap();
                prop_assert_eq!((opt_in.writable, opt_in.systemd), want);
            }
        }

        #[test]
        fn the_decision_is_one_of_the_annotations_and_systemd_is_never_alone(all in prop::collection::btree_map(annotation().prop_map(|one| one.0), annotation().prop_map(|one| one.1), 0..8)) {
            match OptIn::of(&all, "a") {
                Ok(opt_in) => {
                    prop_assert!(opt_in.writable || !opt_in.systemd);
                    prop_assert_eq!(opt_in.asked_by().is_some(), opt_in.writable);
                    if let Some(decision) = opt_in.decided_by {
                        prop_assert_eq!(all.get(&decision.key), Some(&decision.value));
                        prop_assert!(concerns(&decision.key, "a"));
                    }
                }
                Err(Ungranted::Value { annotation, value, .. }) => prop_assert_eq!(all.get(&annotation), Some(&value)),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
