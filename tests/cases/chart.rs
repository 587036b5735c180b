//! The Helm chart, rendered by Helm's own engine: the same objects as the overlays, and no combination of values that
//! renders something else than it names.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::helm::Helm;
use crate::manifests::{kind, overlays, rendered, source};

/// As the overlays: with the namespace. The program that renders has no cluster to ask for the operator's kinds.
fn whole(mut values: Value) -> Value {
    values["namespace"] = json!({"create": true});
    values["prometheusOperator"]["check"] = false.into();
    values
}

fn chart() -> PathBuf {
    source("charts/usernsd")
}

fn values_of(flavour: &str) -> PathBuf {
    chart().join(format!("values-{flavour}.yaml"))
}

/// By kind and name.
type Objects = BTreeMap<(String, String), Value>;

fn objects(documents: impl IntoIterator<Item = Value>) -> Objects {
    let mut found = Objects::new();
    for mut document in documents {
        normalise(&mut document);
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        let before = found.insert((kind(&document).to_owned(), name), document);
        assert!(before.is_none(), "twice: {before:?}");
    }
    found
}

/// What differs between kustomize and Helm without a difference in the cluster.
fn normalise(document: &mut Value) {
    // Helm's own labels, and kustomize's one label, which not every object has there.
    if let Some(labels) = document["metadata"].get_mut("labels").and_then(Value::as_object_mut) {
        labels.retain(|key, _| !key.starts_with("app.kubernetes.io/") && key != "helm.sh/chart");
        if labels.is_empty() {
            document["metadata"].as_object_mut().unwrap().remove("labels");
        }
    }
    match kind(document) {
        // kustomize has a hash of the configuration in its name, Helm in an annotation of the pod. The text differs in
        // comments.
        "ConfigMap" if document["data"]["config.yaml"].is_string() => {
            document["metadata"]["name"] = "usernsd".into();
            let config: Value =
                serde_saphyr::from_str(document["data"]["config.yaml"].as_str().unwrap()).unwrap();
            document["data"]["config.yaml"] = config;
        }
        "DaemonSet" => {
            let template = &mut document["spec"]["template"];
            template["metadata"]["annotations"].as_object_mut().unwrap().remove("checksum/config");
            let pod = &mut template["spec"];
            // A list without elements is no list.
            if pod["initContainers"].as_array().is_none_or(Vec::is_empty) {
                pod.as_object_mut().unwrap().remove("initContainers");
            }
            for list in ["initContainers", "containers"] {
                for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    for (key, by) in [("volumeMounts", "mountPath"), ("env", "name")] {
                        sort(container, key, by);
                    }
                    // HTTP is the default.
                    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                        let get = container.get_mut(probe).and_then(|probe| probe.get_mut("httpGet"));
                        if let Some(get) = get.and_then(Value::as_object_mut)
                            && get.get("scheme").is_some_and(|scheme| scheme == "HTTP")
                        {
                            get.remove("scheme");
                        }
                    }
                }
            }
            sort(pod, "volumes", "name");
            sort(pod, "containers", "name");
            for volume in pod["volumes"].as_array_mut().unwrap() {
                if volume["name"] == "config" {
                    volume["configMap"]["name"] = "usernsd".into();
                }
            }
        }
        _ => {}
    }
}

fn sort(object: &mut Value, key: &str, by: &str) {
    if let Some(list) = object.get_mut(key).and_then(Value::as_array_mut) {
        list.sort_by_key(|element| element[by].as_str().unwrap().to_owned());
    }
}

/// The flavours that have a file of values.
fn flavours() -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(chart())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_prefix("values-")?.strip_suffix(".yaml")?.to_owned()))
        .collect();
    found.sort();
    found
}

#[test]
fn the_chart_renders_the_objects_of_each_overlay() {
    let Some(mut helm) = Helm::start_or_skip() else { return };
    let Some(rendered) = rendered() else { return };
    assert_eq!(flavours(), overlays());
    for (overlay, documents) in rendered {
        let overlay_has = objects(documents);
        for engine in ["v3", "v4"] {
            let files = [values_of(&overlay)];
            let rendered = helm.template_by(engine, &chart(), &files, &whole(json!({}))).unwrap();
            let chart = objects(rendered);
            assert_eq!(
                chart.keys().collect::<Vec<_>>(),
                overlay_has.keys().collect::<Vec<_>>(),
                "{overlay}, {engine}: the chart's objects, the overlay's"
            );
            for (id, want) in &overlay_has {
                assert_eq!(&chart[id], want, "{overlay}, {engine}: {id:?}: the chart's, the overlay's");
            }
        }
    }
}

#[test]
fn a_field_that_differs_from_the_overlay_is_found() {
    let Some(mut helm) = Helm::start_or_skip() else { return };
    let Some(mut rendered) = rendered() else { return };
    let overlay = objects(rendered.remove("kubernetes").unwrap());
    for values in [
        json!({"updateStrategy": {"maxSurge": "20%", "maxUnavailable": 0}}),
        json!({"config": {"log": {"format": "text"}}}),
        json!({"image": {"tag": "9"}}),
        json!({"nodeSelector": {"x": "y"}}),
        json!({"topology": "combined"}),
    ] {
        let chart = helm.template(&chart(), &[], &whole(values.clone())).unwrap();
        assert_ne!(objects(chart), overlay, "{values}");
    }
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    let Some(mut helm) = Helm::start_or_skip() else { return };
    let output = helm.call("helm_lint", &json!({"paths": [chart()], "strict": true})).unwrap();
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(output["passed"], true, "{output}");
    let worse = output["messages"].as_array().unwrap().iter().filter(|one| one["severity"] != "INFO");
    assert_eq!(worse.count(), 0, "{output}");
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let Some(mut helm) = Helm::start_or_skip() else { return };
    for (values, word) in [
        (json!({"mode": "enforced"}), "mode"),
        (json!({"platform": "talos"}), "platform"),
        (json!({"nodeselector": {}}), "nodeselector"),
        (json!({"image": {"digest": "sha256:1"}}), "digest"),
        (json!({"image": {"architectures": ["riscv64"]}}), "architectures"),
        (json!({"topology": "combined", "platform": "openshift"}), "not for OpenShift"),
        (json!({"bootstrap": {"undo": true}, "platform": "microshift"}), "MachineConfig"),
        (json!({"bootstrap": {"undo": true}, "mode": "observe"}), "mode enforce"),
        (json!({"nodeCondition": true, "topology": "combined"}), "need the exporter"),
        (json!({"prometheusOperator": {"enabled": true}}), "install the Prometheus operator"),
        (json!({"authorization": true}), "set tls.secretName"),
        (json!({"authorization": true, "platform": "microshift"}), "set tls.secretName"),
        (json!({"config": {"http": {"authorization": "kubernetes"}}}), "set authorization=true"),
        (json!({"config": {"http": {"tlsCertificateFile": "/c", "tlsKeyFile": "/k"}}}), "set tls.secretName"),
        (json!({"tls": {"secretName": "a"}, "topology": "combined"}), "use topology sidecar"),
        (json!({"config": {"exporter": {"address": "127.0.0.1:9564"}}}), "reach the pod by its own address"),
        (json!({"config": {"exporter": {"address": "0.0.0.0:0"}}}), "a port other than 0"),
    ] {
        let error = helm.template(&chart(), &[], &values).unwrap_err();
        assert!(error.contains(word), "{values}: {error}");
    }
}

/// The components of the overlays are values of the chart.
#[test]
fn components_are_switched_on_by_values() {
    let Some(mut helm) = Helm::start_or_skip() else { return };
    let Some(node) = crate::manifests::renderer() else { return };
    for (component, values) in [
        ("node-condition", json!({"nodeCondition": true})),
        ("authorization", json!({"authorization": true})),
        ("admission", json!({"admission": {"enabled": true}})),
        ("admission-required", json!({"admission": {"required": true}})),
    ] {
        let values = whole(values);
        let mut chart = objects(helm.template(&chart(), &[values_of("openshift")], &values).unwrap());
        let mut overlay = objects(crate::manifests::with_component(&node, component));
        let id = ("ConfigMap".to_owned(), "usernsd".to_owned());
        let config = chart.remove(&id).unwrap();
        let without = overlay.remove(&id).unwrap();
        // The component needs this key besides; the chart sets it.
        let (key, want) = match component {
            "node-condition" => ("kubernetes", json!({"namespaces": true, "nodeCondition": "on"})),
            "authorization" => {
                let mut http = without["data"]["config.yaml"]["http"].clone();
                http["authorization"] = "kubernetes".into();
                ("http", http)
            }
            _ => ("log", json!({"format": "json"})),
        };
        assert_eq!(config["data"]["config.yaml"][key], want, "{component}");
        assert_eq!(chart, overlay, "{component}");
    }
}

/// Nodes of containerd and of CRI-O in one cluster: a component over the overlay `kubernetes`, a platform of the chart.
#[test]
fn the_platform_of_both_runtimes_is_the_component_of_that_name() {
    let Some(mut helm) = Helm::start_or_skip() else { return };
    let Some(node) = crate::manifests::renderer() else { return };
    let overlay = objects(crate::manifests::composed(&node, "kubernetes", "both-runtimes"));
    for engine in ["v3", "v4"] {
        let files = [values_of("kubernetes")];
        let values = whole(json!({"platform": "both-runtimes"}));
        let chart = objects(helm.template_by(engine, &chart(), &files, &values).unwrap());
        assert_eq!(chart, overlay, "{engine}: the chart's, the component's");
    }
}

/// Nodes with SELinux elsewhere than on OpenShift, whose overlay has the component.
#[test]
fn the_value_selinux_is_the_component_of_that_name() {
    let Some(mut helm) = Helm::start_or_skip() else { return };
    let Some(node) = crate::manifests::renderer() else { return };
    for overlay in ["kubernetes", "crio", "observe-only"] {
        let component = objects(crate::manifests::composed(&node, overlay, "selinux"));
        let files = [values_of(overlay)];
        let chart = objects(helm.template(&chart(), &files, &whole(json!({"selinux": true}))).unwrap());
        assert_eq!(chart, component, "{overlay}: the chart's, the component's");
    }
}

/// With TLS, and on another port, probes and Prometheus find the exporter.
#[test]
fn a_secret_and_a_port_are_those_of_probes_and_prometheus() {
    let Some(mut helm) = Helm::start_or_skip() else { return };
    let mut rendered = |values: Value| objects(helm.template(&chart(), &[], &whole(values)).unwrap());
    let object = |objects: &Objects, kind: &str| objects[&(kind.to_owned(), "usernsd".to_owned())].clone();
    let found = rendered(json!({
        "tls": {"secretName": "pair", "serverName": "metrics.example"}, "authorization": true,
        "config": {"exporter": {"address": "[::]:9999"}},
        "prometheusOperator": {"enabled": true, "check": false},
    }));
    let pod = object(&found, "DaemonSet")["spec"]["template"]["spec"].clone();
    let exporter = &pod["containers"][1];
    assert_eq!(exporter["ports"][0]["containerPort"], 9999);
    for probe in ["readinessProbe", "livenessProbe"] {
        let get = &exporter[probe]["httpGet"];
        assert_eq!((&get["scheme"], &get["port"]), (&json!("HTTPS"), &json!("metrics")), "{probe}");
    }
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "tls").unwrap();
    assert_eq!(volume["secret"]["secretName"], "pair");
    let mounts = exporter["volumeMounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["mountPath"] == "/etc/usernsd-tls"), "{mounts:?}");
    let config = &object(&found, "ConfigMap")["data"]["config.yaml"];
    assert_eq!(
        config["http"],
        json!({"authorization": "kubernetes", "tlsCertificateFile":
        "/etc/usernsd-tls/tls.crt", "tlsKeyFile": "/etc/usernsd-tls/tls.key"})
    );
    let monitor = object(&found, "PodMonitor");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoint["scheme"], "https");
    assert_eq!(
        endpoint["tlsConfig"],
        json!({"serverName": "metrics.example",
        "ca": {"secret": {"name": "pair", "key": "ca.crt"}}})
    );

    let found = rendered(json!({"topology": "combined", "config": {"http": {"address": "0.0.0.0:9999"}}}));
    let agent = object(&found, "DaemonSet")["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(agent["ports"][0]["containerPort"], 9999);
    let env = agent["env"].as_array().unwrap().iter().find(|of| of["name"] == "USERNSD_HTTP").unwrap();
    assert_eq!(env["value"], "0.0.0.0:9999");
}

#[test]
fn the_values_name_the_condition_that_is_written() {
    for file in ["values.yaml", "values.schema.json"] {
        let text = fs::read_to_string(chart().join(file)).unwrap();
        let words = text.split(|char: char| !char.is_ascii_alphanumeric());
        let conditions: Vec<&str> = words.filter(|word| word.starts_with("UserNamespaces")).collect();
        assert_eq!(conditions, [usernsd_domain::condition::TYPE], "{file}");
    }
}

#[test]
fn each_value_has_a_schema_and_a_description_in_the_page() {
    let values: Value =
        serde_saphyr::from_str(&fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap();
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut described = keys(&schema["properties"]);
    described.retain(|key| key != "global");
    described.sort();
    let mut existing = keys(&values);
    existing.sort();
    assert_eq!(existing, described);
    let page = fs::read_to_string(source("docs/helm.md")).unwrap();
    for key in existing {
        let named = [format!("`{key}`"), format!("`{key}.")].iter().any(|name| page.contains(name));
        assert!(named, "docs/helm.md has no row for {key}");
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let text = fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
