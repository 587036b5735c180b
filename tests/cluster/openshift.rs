//! OpenShift's admission and its ranges of IDs, with CRI-O: the overlays are admitted by their own SCC, pods by those
//! that the recipes name, and the demonstration of 2021 works as docs/seed-demo.md has it.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Cluster, first_host_id, is_ready, wait_for};
use crate::node::{Options, Runtime};
use crate::recipes::{example, page, type_block};

fn boot() -> Option<Cluster> {
    let cluster =
        Cluster::boot_openshift_or_skip(1, &Options { runtime: Runtime::Crio, ..Options::default() })?;
    // The kernel of these nodes has no SELinux, so nothing to mount.
    if !Path::new("/sys/fs/selinux").exists() {
        let component = "  - ../../components/selinux\n";
        cluster.edit("daemonset/overlays/openshift/kustomization.yaml", |text| {
            assert!(text.contains(component));
            text.replace(component, "")
        });
    }
    Some(cluster)
}

/// The SCC by which a pod was admitted.
fn scc(pod: &Value) -> &str {
    pod["metadata"]["annotations"]["openshift.io/scc"].as_str().unwrap()
}

/// kubectl as a service account with the rights of its namespace's editor.
fn create_as(cluster: &Cluster, account: &str, namespace: &str, document: &str) -> (bool, String) {
    cluster.control().write("/run/create.yaml", document);
    let user = format!("--as=system:serviceaccount:{namespace}:{account}");
    let groups = ["--as-group=system:authenticated", "--as-group=system:serviceaccounts"];
    let words =
        ["create", "--dry-run=server", "-o", "json", "-n", namespace, "-f", "/run/create.yaml", &user];
    let output = cluster.try_kubectl(&[&words[..], &groups].concat());
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The agent's pod, as the DaemonSet's controller creates it.
fn agents_pod(cluster: &Cluster) -> String {
    let template = cluster.get(&["daemonset", "usernsd", "-n", "usernsd"])["spec"]["template"].clone();
    let mut metadata = template["metadata"].clone();
    metadata["name"] = json!("probe");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}).to_string()
}

#[test]
#[cfg_attr(
    not(all(has_openshift, has_crio)),
    ignore = "USERNSD_TEST_KUBE has no openshift, or no CRI-O is named"
)]
fn the_demonstration_works_on_openshift() {
    let Some(cluster) = boot() else { return };
    let mut typed = 0;
    for block in page("docs/seed-demo.md") {
        if !block.above.starts_with("<!-- not run") {
            assert_eq!(
                block.above, "<!-- run by: the_demonstration_works_on_openshift -->",
                "{}",
                block.place
            );
            type_block(&cluster, &block);
            typed += 1;
        }
    }
    assert!(typed > 8, "{typed} blocks");

    // The numbers of the verification agree with one another.
    let inside =
        cluster.kubectl(&["-n", "test", "exec", "nginx", "--", "stat", "-c", "%i", "/sys/fs/cgroup"]);
    let outside = cluster.workers[0].node.run([
        "find",
        "/sys/fs/cgroup/kubepods.slice",
        "-name",
        "crio-*.scope",
        "-uid",
        "+65535",
        "-printf",
        "%i %U",
    ]);
    let map = cluster.kubectl(&["-n", "test", "exec", "nginx", "--", "cat", "/proc/self/uid_map"]);
    assert_eq!(outside, format!("{inside} {}", first_host_id(&map)));

    // As the page has it: not without the SCC that it requires, nor with the user's right alone.
    let pod = cluster.get(&["pod", "nginx", "-n", "test"]);
    let spec = json!({"hostUsers": false, "containers": [{"name": "c", "image": "localhost/systemd:1"}]});
    let plain = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain"}, "spec": spec});
    let (created, output) = create_as(&cluster, "default", "test", &plain.to_string());
    assert!(!created, "no right to create pods: {output}");
    cluster.kubectl(&[
        "-n",
        "test",
        "create",
        "rolebinding",
        "edit",
        "--clusterrole=edit",
        "--serviceaccount=test:default",
    ]);
    let (created, output) = create_as(&cluster, "default", "test", &plain.to_string());
    assert!(created, "{output}");
    let chosen: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(scc(&chosen), "restricted-v2");
    assert_eq!(scc(&pod), "nested-container");
    cluster.kubectl(&["create", "namespace", "other"]);
    let bind = ["-n", "other", "create", "rolebinding", "nested-container"];
    let to_user = ["--clusterrole=system:openshift:scc:nested-container", "--user=test"];
    cluster.kubectl(&[&bind[..], &to_user].concat());
    cluster.kubectl(&["-n", "other", "create", "rolebinding", "admin", "--clusterrole=admin", "--user=test"]);
    let mut required = plain;
    required["metadata"]["annotations"] = json!({"openshift.io/required-scc": "nested-container"});
    cluster.control().write("/run/required.json", required.to_string());
    wait_for("the label of Pod Security", || {
        let labels = cluster.get(&["namespace", "other"])["metadata"]["labels"].clone();
        (labels["pod-security.kubernetes.io/enforce"] == "restricted").then_some(())
    });
    let refused = cluster.try_kubectl(&["-n", "other", "--as=test", "create", "-f", "/run/required.json"]);
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("violates PodSecurity \"restricted:latest\""), "{refused}");
}

#[test]
#[cfg_attr(
    not(all(has_openshift, has_crio)),
    ignore = "USERNSD_TEST_KUBE has no openshift, or no CRI-O is named"
)]
fn the_overlays_are_admitted_by_their_own_scc_and_by_no_broader_one() {
    let Some(cluster) = boot() else { return };
    cluster.install("microshift");
    let agents = cluster.get(&["pods", "-n", "usernsd"]);
    assert_eq!(scc(&agents["items"][0]), "usernsd-agent");

    // The account may use no SCC but its own and those of everyone.
    let all = cluster.get(&["scc"]);
    let account = "--as=system:serviceaccount:usernsd:usernsd";
    let groups = ["--as-group=system:authenticated", "--as-group=system:serviceaccounts"];
    let mut usable = Vec::new();
    for name in all["items"].as_array().unwrap().iter().map(|scc| scc["metadata"]["name"].as_str().unwrap()) {
        let ask = ["auth", "can-i", "use", &format!("scc/{name}"), "-n", "usernsd", account];
        if cluster.try_kubectl(&[&ask[..], &groups].concat()).status.success() {
            usable.push(name);
        }
    }
    assert_eq!(usable, ["restricted-v2", "restricted-v3", "usernsd-agent"]);

    // Each thing that the SCC allows is needed.
    let pod = agents_pod(&cluster);
    cluster.kubectl(&[
        "-n",
        "usernsd",
        "create",
        "rolebinding",
        "probe",
        "--clusterrole=edit",
        "--serviceaccount=usernsd:usernsd",
    ]);
    let admitted = || create_as(&cluster, "usernsd", "usernsd", &pod);
    wait_for("the right to create pods", || admitted().0.then_some(()));
    let own = cluster.get(&["scc", "usernsd-agent"]);
    let mut without = vec![("allowHostPID", json!(false)), ("allowHostDirVolumePlugin", json!(false))];
    for list in ["allowedCapabilities", "volumes"] {
        let values = own[list].as_array().unwrap();
        for value in values {
            // OpenShift's own list contains hostPath as long as host directories are allowed.
            if value != "hostPath" {
                without.push((list, values.iter().filter(|other| *other != value).cloned().collect()));
            }
        }
    }
    assert!(without.len() > 6, "{without:?}");
    for (key, value) in without {
        let patch = |value: &Value| {
            let patch = json!({key: value}).to_string();
            cluster.kubectl(&["patch", "scc", "usernsd-agent", "--type=merge", "-p", &patch]);
        };
        patch(&value);
        let output = wait_for(&format!("a refusal without {key} {value}"), || {
            let (created, output) = admitted();
            (!created).then_some(output)
        });
        println!("{key} {value}: {}", output.lines().next().unwrap_or_default());
        patch(&own[key]);
        wait_for("the SCC as it was", || admitted().0.then_some(()));
    }
    cluster.kubectl(&["delete", "-k", "daemonset/overlays/microshift"]);

    // The whole overlay, with what the monitoring stack and the service CA bring.
    bring_monitoring(&cluster);
    for overlay in ["openshift-observe-only", "openshift"] {
        wait_for(overlay, || {
            let applied = cluster.try_kubectl(&["apply", "-k", &format!("daemonset/overlays/{overlay}")]);
            applied.status.success().then_some(())
        });
        cluster.sign_service("usernsd");
        cluster.wait_for_roll_out();
        let agents = cluster.get(&["pods", "-n", "usernsd"]);
        assert_eq!(scc(&agents["items"][0]), "usernsd-agent", "{overlay}");
    }
}

/// The kinds of the monitoring stack, until the API server serves them.
pub(crate) fn bring_monitoring(cluster: &Cluster) {
    for (kind, plural) in [("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules")] {
        cluster.apply(&format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: \
             {plural}.monitoring.coreos.com}}\nspec:\n  group: monitoring.coreos.com\n  scope: Namespaced\n  names: \
             {{kind: {kind}, plural: {plural}}}\n  versions:\n    - name: v1\n      served: true\n      storage: \
             true\n      schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}\n"
        ));
        wait_for(plural, || cluster.try_kubectl(&["get", plural, "-A"]).status.success().then_some(()));
    }
}

/// A pod that runs as the SCC's user.
fn pod(name: &str, required: Option<&str>) -> String {
    let annotations = required.map(|scc| json!({"openshift.io/required-scc": scc}));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "hostUsers": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "localhost/busybox:1",
                "command": ["/bin/sh", "-c", "id -u; exec sleep 2147483647"]}],
        },
    })
    .to_string()
}

#[test]
#[cfg_attr(
    not(all(has_openshift, has_crio)),
    ignore = "USERNSD_TEST_KUBE has no openshift, or no CRI-O is named"
)]
fn pods_get_the_sccs_and_the_ids_that_the_recipes_name() {
    let Some(cluster) = boot() else { return };
    cluster.install("microshift");

    // A user of the namespace's range is not one of the pod's, unless the SCC says otherwise.
    cluster.kubectl(&["create", "namespace", "team"]);
    cluster.kubectl(&["config", "set-context", "--current", "--namespace=team"]);
    let range = wait_for("a range of IDs", || {
        let namespace = cluster.get(&["namespace", "team"]);
        let range = namespace["metadata"]["annotations"]["openshift.io/sa.scc.uid-range"].as_str();
        range.map(str::to_owned)
    });
    let first = range.split('/').next().unwrap();
    cluster.kubectl(&["create", "serviceaccount", "dev"]);
    cluster.kubectl(&["create", "rolebinding", "dev", "--clusterrole=edit", "--serviceaccount=team:dev"]);
    let as_dev = [
        "--as=system:serviceaccount:team:dev",
        "--as-group=system:authenticated",
        "--as-group=system:serviceaccounts:team",
    ];
    for (name, required) in [("plain", None), ("third", Some("restricted-v3"))] {
        cluster.control().write("/run/pod.json", pod(name, required));
        cluster.kubectl(&[&["create", "-f", "/run/pod.json"], &as_dev[..]].concat());
    }
    let third = cluster.wait_for_pod("third", is_ready);
    assert_eq!(scc(&third), "restricted-v3");
    assert_eq!(cluster.exec("third", &["id", "-u"]), "1000");
    let plain = cluster.get(&["pod", "plain"]);
    assert_eq!(scc(&plain), "restricted-v2");
    assert_eq!(plain["spec"]["containers"][0]["securityContext"]["runAsUser"].to_string(), first);
    let event = wait_for("the Event", || {
        let events = cluster.kubectl(&["get", "events"]);
        let is_it = |line: &&str| line.contains("UserNotInMapping") && line.contains("namespace's range");
        events.lines().find(is_it).map(str::to_owned)
    });
    println!("{event}");
    assert!(event.contains(first) && event.contains("openshift.io/required-scc: restricted-v3"), "{event}");
    // As the Event advises, the other way: the namespace's range below 65536.
    let annotate = ["annotate", "--overwrite", "namespace", "team"];
    let ranges =
        ["openshift.io/sa.scc.uid-range=1000/10000", "openshift.io/sa.scc.supplemental-groups=1000/10000"];
    cluster.kubectl(&[&annotate[..], &ranges].concat());
    cluster.kubectl(&["delete", "pod", "plain", "--now"]);
    cluster.control().write("/run/pod.json", pod("plain", None));
    wait_for("a user of the new range", || {
        let dry = cluster.try_kubectl(
            &[&["create", "--dry-run=server", "-o", "json", "-f", "/run/pod.json"], &as_dev[..]].concat(),
        );
        let made: Value = serde_json::from_slice(&dry.stdout).ok()?;
        (made["spec"]["containers"][0]["securityContext"]["runAsUser"] == 1000).then_some(())
    });
    cluster.kubectl(&[&["create", "-f", "/run/pod.json"], &as_dev[..]].concat());
    cluster.wait_for_pod("plain", is_ready);

    // Root inside: refused for everyone, admitted by nested-container once it is bound to the account.
    let systemd = example(&cluster, "systemd-server")
        .replace("  annotations:\n", "  annotations:\n    openshift.io/required-scc: nested-container\n");
    cluster.control().write("/run/example.yaml", systemd);
    let create = [&["create", "-f", "/run/example.yaml"], &as_dev[..]].concat();
    let refused = cluster.try_kubectl(&create);
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    println!("{refused}");
    assert!(refused.contains("nested-container"), "{refused}");
    let bind = |scc: &str| {
        let role = format!("--clusterrole=system:openshift:scc:{scc}");
        cluster.kubectl(&["create", "rolebinding", scc, &role, "--serviceaccount=team:default"]);
        wait_for("Pod Security's label", || {
            let labels = cluster.get(&["namespace", "team"])["metadata"]["labels"].clone();
            (labels["pod-security.kubernetes.io/enforce"] == "privileged").then_some(())
        });
    };
    bind("nested-container");
    cluster.kubectl(&create);
    let server = cluster.wait_for_pod("systemd-server", is_ready);
    assert_eq!(scc(&server), "nested-container");

    // More capabilities: refused, and admitted by a copy that allows those of the page.
    let mut copy = cluster.get(&["scc", "nested-container"]);
    copy["metadata"] = json!({"name": "recipes"});
    copy["allowedCapabilities"] = json!(["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"]);
    for (name, of) in
        [("notebook", "nested-container"), ("notebook", "recipes"), ("root-application", "recipes")]
    {
        let text = example(&cluster, name);
        let text = text.replace(
            &format!("  name: {name}\nspec:"),
            &format!("  name: {name}\n  annotations: {{openshift.io/required-scc: {of}}}\nspec:"),
        );
        assert!(text.contains("required-scc"), "{name}");
        cluster.control().write("/run/example.yaml", text);
        let apply = ["apply", "-f", "/run/example.yaml"];
        if of == "nested-container" {
            let refused = cluster.try_kubectl(&apply);
            let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(refused.contains("capability may not be added"), "{refused}");
            cluster.apply(&copy.to_string());
            let role = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": "system:openshift:scc:recipes"},
                "rules": [{"apiGroups": ["security.openshift.io"], "verbs": ["use"],
                    "resources": ["securitycontextconstraints"], "resourceNames": ["recipes"]}],
            });
            cluster.apply(&role.to_string());
            for account in ["default", "sessions"] {
                cluster.kubectl(&[
                    "create",
                    "rolebinding",
                    &format!("recipes-{account}"),
                    "--clusterrole=system:openshift:scc:recipes",
                    &format!("--serviceaccount=team:{account}"),
                ]);
            }
        } else {
            wait_for(name, || cluster.try_kubectl(&apply).status.success().then_some(()));
            let made = cluster.wait_for_pod(name, is_ready);
            assert_eq!(scc(&made), "recipes", "{name}");
        }
    }
    // None of them has a problem.
    let ps = cluster.kubectl(&["userns", "ps", "-A"]);
    println!("{ps}");
    for name in ["third", "plain", "systemd-server", "notebook", "root-application"] {
        // Only one of them asks for a writable cgroup.
        let state = if name == "systemd-server" { "ok" } else { "read-only" };
        let rows: Vec<&str> = ps.lines().filter(|line| line.contains(name)).collect();
        assert!(!rows.is_empty() && rows.iter().all(|row| row.trim_end().ends_with(state)), "{ps}");
    }
}
