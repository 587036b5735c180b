//! The rules of [`super::adjust`] as admission policies of the API server, so that a mistake is refused when the
//! object is applied. A policy grants nothing: the agent decides on the node, by the same configuration.
//!
//! The expressions use only standard CEL and `join`, no other extension.

use super::adjust::{CGROUP_ANNOTATION, CGROUP_KEY, SYSTEMD_ANNOTATION, SYSTEMD_KEY};
use super::nri_plugin::REQUIREMENT;
use super::repair::{ANNOTATION as MISSED_ANNOTATION, KEEP};

/// Name of the policy, and of its binding, that refuses pods.
pub const PODS_POLICY: &str = "usernsd-pods";
/// Name of the policy, and of its binding, that warns about workloads whose pods would be refused.
pub const TEMPLATES_POLICY: &str = "usernsd-templates";
/// Name of the policy, and of its binding, that makes usernsd a required plugin for pods that ask.
pub const REQUIRED_POLICY: &str = "usernsd-required";

/// A validation: an expression that must be true, and the message if it is not.
struct Rule {
    /// Name of the variable that lists the keys at fault.
    fault: &'static str,
    /// CEL expression of that list, over `variables.keys`.
    list: String,
    /// The message as a CEL expression; `KEY` stands for the first key at fault.
    sentence: String,
    reason: &'static str,
}

/// Which part of an object describes the pod.
struct PodLocation {
    /// CEL expression of the object that has `metadata` and `spec`.
    pod: &'static str,
    /// The noun for it in a message.
    noun: &'static str,
}

const POD: PodLocation = PodLocation { pod: "object", noun: "pod" };
const TEMPLATE: PodLocation = PodLocation { pod: "variables.template", noun: "pod template" };

/// CEL: the key belongs to usernsd, whether well-formed or not.
fn is_ours(key: &str) -> String {
    let domain = |domain: &str| format!("{key} == '{domain}' || {key}.startsWith('{domain}/')");
    format!("({key}.startsWith('usernsd.io/') || {} || {})", domain(CGROUP_KEY), domain(SYSTEMD_KEY))
}

/// CEL: the key asks for a cgroup by `writable` or `read-only`.
fn is_cgroup(key: &str) -> String {
    format!("({key} == '{CGROUP_ANNOTATION}' || {key}.startsWith('{CGROUP_KEY}'))")
}

fn rules(place: &PodLocation, namespaces: &[String]) -> Vec<Rule> {
    let (pod, noun) = (place.pod, place.noun);
    let value = format!("{pod}.metadata.annotations[key]");
    let known = [CGROUP_ANNOTATION, SYSTEMD_ANNOTATION, MISSED_ANNOTATION, CGROUP_KEY, SYSTEMD_KEY]
        .map(|key| format!("'{key}'"));
    let scoped = [CGROUP_KEY, SYSTEMD_KEY].map(|key| format!("'{key}/pod'"));
    let mut rules = vec![
        Rule {
            fault: "unknown",
            list: format!(
                "variables.keys.filter(key, !(key in [{}, {}] || key.startsWith('{CGROUP_KEY}/container.') || \
                 key.startsWith('{SYSTEMD_KEY}/container.')))",
                known.join(", "),
                scoped.join(", "),
            ),
            sentence: format!(
                "'usernsd has no annotation ' + KEY + '; for the whole pod there are {CGROUP_ANNOTATION}, \
                 {SYSTEMD_ANNOTATION} and {MISSED_ANNOTATION}, for one container {CGROUP_KEY}/container.NAME and \
                 {SYSTEMD_KEY}/container.NAME'"
            ),
            reason: "Invalid",
        },
        Rule {
            fault: "mistyped",
            list: format!(
                "variables.keys.filter(key, !(key in variables.unknown) && !({value} in ({} ? ['writable', 'read-only'] : key == \
                 '{MISSED_ANNOTATION}' ? ['{KEEP}'] : ['true', 'false'])))",
                is_cgroup("key"),
            ),
            sentence: format!(
                "'annotation ' + KEY + ' is ' + ({pod}.metadata.annotations[KEY].size() > 40 ? 'too long' : '\"' + \
                 {pod}.metadata.annotations[KEY] + '\"') + '; it may only be ' + ({} ? '\"writable\" or \"read-only\"' : \
                 KEY == '{MISSED_ANNOTATION}' ? '\"{KEEP}\"' : '\"true\" or \"false\"')",
                is_cgroup("KEY"),
            ),
            reason: "Invalid",
        },
        Rule {
            fault: "unnamed",
            list: "variables.keys.filter(key, key.contains('/container.') && !variables.names.exists(name, \
                   key.endsWith('/container.' + name)))"
                .to_owned(),
            sentence: format!(
                "'annotation ' + KEY + ' names a container that the {noun} does not have; it has ' + \
                 variables.names.join(', ')"
            ),
            reason: "Invalid",
        },
    ];
    if let Some(allowed) = allowed(namespaces) {
        let list = if namespaces.is_empty() {
            "no namespace may".to_owned()
        } else {
            format!("these may: {}", namespaces.join(", "))
        };
        rules.push(Rule {
            fault: "elsewhere",
            list: format!("variables.asking.filter(key, !({allowed}))"),
            sentence: format!(
                "'annotation ' + KEY + ' asks for a writable cgroup, but pods of namespace ' + request.namespace + \
                 ' may not ask; {list}'"
            ),
            reason: "Forbidden",
        });
    }
    rules.push(Rule {
        fault: "shared",
        list: format!("has({pod}.spec.hostUsers) && {pod}.spec.hostUsers == false ? [] : variables.asking"),
        sentence: format!(
            "'annotation ' + KEY + ' asks for a writable cgroup, but the {noun} has no user namespace; set hostUsers: \
             false in its spec'"
        ),
        reason: "Invalid",
    });
    rules
}

/// CEL expression that is true for the namespaces whose pods may opt in; `None` if all may.
fn allowed(namespaces: &[String]) -> Option<String> {
    if namespaces.iter().any(|pattern| pattern == "*") {
        return None;
    }
    let one = |pattern: &String| match pattern.strip_suffix('*') {
        Some(start) => format!("request.namespace.startsWith('{start}')"),
        None => format!("request.namespace == '{pattern}'"),
    };
    let all: Vec<String> = namespaces.iter().map(one).collect();
    Some(if all.is_empty() { "false".to_owned() } else { all.join(" || ") })
}

/// The policies that refuse a pod whose annotations would not be granted, and warn about a workload with such pods,
/// as the YAML documents of their component. `namespaces` is `optIn.namespaces`: names of Kubernetes namespaces, each
/// with or without a trailing `*`.
#[must_use]
pub fn policies(namespaces: &[String]) -> String {
    let is_new = "request.operation == 'CREATE' || !has(oldObject.metadata.annotations) || !(key in \
                  oldObject.metadata.annotations) || oldObject.metadata.annotations[key] != \
                  object.metadata.annotations[key]";
    let pods = format!(
        "has(object.metadata.annotations) && object.metadata.annotations.exists(key, {} && ({is_new}))",
        is_ours("key")
    );
    let template = "(request.kind.kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : \
                    dyn(object).spec.template)";
    let templates = format!(
        "[{template}].exists(template, has(template.metadata) && has(template.metadata.annotations) && \
         template.metadata.annotations.exists(key, {}))",
        is_ours("key")
    );
    let mut text = format!(
        "# Rendered by \"usernsd config admission\" for optIn.namespaces: [{}].\n\
         # For another list, render it again from the agent's configuration: docs/admission.md.\n",
        namespaces.iter().map(|pattern| format!("\"{pattern}\"")).collect::<Vec<_>>().join(", "),
    );
    text.push_str(&policy(
        PODS_POLICY,
        "Deny",
        "    # Not for what a controller changes in a pod that was there before the policy.\n",
        &[
            "- apiGroups: [\"\"]",
            "  apiVersions: [v1]",
            "  operations: [CREATE, UPDATE]",
            "  resources: [pods]",
        ],
        ("asks-by-annotation", &pods),
        &[],
        &POD,
        namespaces,
    ));
    text.push_str("---\n");
    text.push_str(&policy(
        TEMPLATES_POLICY,
        // Another policy may set hostUsers in the pod itself, or add containers to it.
        "Warn",
        "",
        &[
            "- apiGroups: [apps]",
            "  apiVersions: [v1]",
            "  operations: [CREATE, UPDATE]",
            "  resources: [deployments, statefulsets, daemonsets]",
            "- apiGroups: [batch]",
            "  apiVersions: [v1]",
            "  operations: [CREATE, UPDATE]",
            "  resources: [jobs, cronjobs]",
        ],
        ("asks-by-annotation", &templates),
        &[("template", template)],
        &TEMPLATE,
        namespaces,
    ));
    text
}

/// The policy that makes usernsd a required plugin for pods that ask ([`REQUIREMENT`], NRI ≥ 0.10), as the YAML documents of its component.
#[must_use]
pub fn required_policy() -> String {
    let asks = format!(
        "has(object.metadata.annotations) && object.metadata.annotations.exists(key, {} && \
         object.metadata.annotations[key] in ['writable', 'true'])",
        is_ours("key")
    );
    let free = format!("!object.metadata.annotations.exists(key, key.startsWith('{REQUIREMENT}'))");
    let conditions = condition("asks-by-annotation", &asks) + &condition("names-no-plugin-itself", &free);
    format!(
        "# A pod that asks for a cgroup by annotation waits, where the runtime's validator is on, until\n\
         # usernsd is there. One that names required plugins itself is left as it is.\n\
         apiVersion: admissionregistration.k8s.io/v1\n\
         kind: MutatingAdmissionPolicy\n\
         metadata:\n  name: {REQUIRED_POLICY}\n\
         spec:\n  failurePolicy: Fail\n  reinvocationPolicy: IfNeeded\n  matchConstraints:\n    resourceRules:\n      \
         - apiGroups: [\"\"]\n        apiVersions: [v1]\n        operations: [CREATE]\n        resources: [pods]\n  \
         matchConditions:\n{conditions}  mutations:\n    - patchType: ApplyConfiguration\n      \
         applyConfiguration:\n        expression: >-\n          Object{{metadata: Object.metadata{{annotations: \
         {{'{REQUIREMENT}': '[\"usernsd\"]'}}}}}}\n---\n\
         apiVersion: admissionregistration.k8s.io/v1\n\
         kind: MutatingAdmissionPolicyBinding\n\
         metadata:\n  name: {REQUIRED_POLICY}\n\
         spec:\n  policyName: {REQUIRED_POLICY}\n"
    )
}

fn condition(name: &str, expression: &str) -> String {
    format!("    - name: {name}\n      expression: >-\n{}", folded(expression))
}

/// The lines of a folded YAML scalar; each line end stands for one space.
fn folded(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.len() + word.len() > 96 {
            lines.push_str(&format!("        {line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines + &format!("        {line}\n")
}

#[allow(clippy::too_many_arguments, reason = "each is one part of the document, in its order")]
fn policy(
    name: &str,
    action: &str,
    note: &str,
    resources: &[&str],
    (condition_name, match_condition): (&str, &str),
    extra: &[(&str, &str)],
    place: &PodLocation,
    namespaces: &[String],
) -> String {
    let pod = place.pod;
    let names = |field: &str| {
        format!("(has({pod}.spec.{field}) ? {pod}.spec.{field}.map(container, container.name) : [])")
    };
    let mut variables: Vec<(&str, String)> =
        extra.iter().map(|(name, expression)| (*name, (*expression).to_owned())).collect();
    variables.extend([
        ("keys", format!("{pod}.metadata.annotations.map(key, key).filter(key, {})", is_ours("key"))),
        (
            "asking",
            format!("variables.keys.filter(key, {pod}.metadata.annotations[key] in ['writable', 'true'])"),
        ),
        (
            "names",
            format!(
                "{pod}.spec.containers.map(container, container.name) + {} + {}",
                names("initContainers"),
                names("ephemeralContainers"),
            ),
        ),
    ]);
    let rules = rules(place, namespaces);
    variables.extend(rules.iter().map(|rule| (rule.fault, rule.list.clone())));

    let mut text = format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata:\n  name: {name}\n\
         spec:\n  failurePolicy: Fail\n  matchConstraints:\n    resourceRules:\n"
    );
    for line in resources {
        text.push_str(&format!("      {line}\n"));
    }
    text.push_str("  matchConditions:\n");
    text.push_str(note);
    text.push_str(&condition(condition_name, match_condition));
    text.push_str("  variables:\n");
    for (name, expression) in &variables {
        text.push_str(&condition(name, expression));
    }
    text.push_str("  validations:\n");
    for rule in &rules {
        let key = format!("variables.{}[0]", rule.fault);
        text.push_str(&format!(
            "    - expression: variables.{fault}.size() == 0\n      reason: {reason}\n      message: an annotation of \
             usernsd is wrong ({fault})\n      messageExpression: >-\n{sentence}",
            fault = rule.fault,
            reason = rule.reason,
            sentence = folded(&rule.sentence.replace("KEY", &key)),
        ));
    }
    text.push_str(&format!(
        "---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata:\n  name: \
         {name}\nspec:\n  policyName: {name}\n  validationActions: [{action}]\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_every_namespace_may_opt_in_and_none_is_checked() {
        assert!(!policies(&["db".into(), "*".into()]).contains("request.namespace"));
        assert_eq!(allowed(&[]).as_deref(), Some("false"));
        assert_eq!(
            allowed(&["db".into(), "team-*".into()]).as_deref(),
            Some("request.namespace == 'db' || request.namespace.startsWith('team-')")
        );
    }

    #[test]
    fn a_pod_that_keeps_its_missed_containers_is_admitted() {
        for place in [&POD, &TEMPLATE] {
            let rules = rules(place, &[]);
            let list = |fault| &rules.iter().find(|rule| rule.fault == fault).unwrap().list;
            assert!(list("unknown").contains("'usernsd.io/missed'"));
            assert!(list("mistyped").contains("key == 'usernsd.io/missed' ? ['report']"));
        }
    }

    #[test]
    fn a_folded_text_reads_back_unchanged() {
        let text = "a ".repeat(200) + "b";
        let back: Vec<String> = folded(&text).lines().map(|line| line.trim().to_owned()).collect();
        assert!(back.len() > 3);
        assert_eq!(back.join(" "), text);
    }

    #[test]
    fn both_policies_have_the_same_rules() {
        let text = policies(&["db".into()]);
        for rule in rules(&POD, &["db".into()]) {
            assert_eq!(text.matches(&format!("expression: variables.{}.size() == 0", rule.fault)).count(), 2);
        }
        assert!(!text.contains("KEY"), "a sentence without its key");
    }
}
