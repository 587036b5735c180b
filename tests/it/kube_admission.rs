//! The admission policies of `daemonset/components` in a real kube-apiserver: refusals and warnings, each
//! with the sentence that `docs/admission.md` quotes. `USERNSD_TEST_KUBE` names the directory of the
//! binaries (1.36 or newer).

use std::process::Command;
use std::time::Duration;

use crate::apiserver::{Server, ask};
use kube::client::{Body, Client};
use serde_json::{Value, json};
use usernsd_domain::admission;

const PAGE: &str = include_str!("../../docs/admission.md");
const PODS: &str = "/api/v1/namespaces/team-a/pods";

/// The API server's answer: its code, its message, its warnings.
#[derive(Debug)]
struct Answer {
    code: u16,
    object: Value,
    warnings: Vec<String>,
}

impl Answer {
    /// The message of a policy that refuses, without the API server's prefix.
    #[track_caller]
    fn refusal(&self) -> &str {
        let message = self.object["message"].as_str().unwrap_or_else(|| panic!("not refused: {self:?}"));
        message.split_once("denied request: ").unwrap_or_else(|| panic!("by another: {message}")).1
    }
}

async fn send(client: &Client, method: &str, path: &str, kind: &str, object: &Value) -> Answer {
    let request = hyper::Request::builder().method(method).uri(path).header("content-type", kind);
    let response =
        client.send(request.body(Body::from(object.to_string().into_bytes())).unwrap()).await.unwrap();
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|value| {
        let text = value.to_str().unwrap();
        // 299 - "TEXT"
        text.split_once('"').unwrap().1.trim_end_matches('"').replace("\\\"", "\"")
    });
    let warnings = warnings.collect();
    let bytes = response.into_body().collect_bytes().await.unwrap();
    Answer { code, object: serde_json::from_slice(&bytes).unwrap(), warnings }
}

/// A pod of team-a with these annotations and its own user namespace.
fn pod(name: &str, annotations: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations},
        "spec": {"hostUsers": false, "containers": [{"name": "web", "image": "i"}],
            "initContainers": [{"name": "setup", "image": "i"}]}})
}

fn quoted(sentence: &str) {
    // The page's lines are wrapped, and it contains quotations.
    let flat = |text: &str| text.split_whitespace().filter(|word| *word != ">").collect::<Vec<_>>().join(" ");
    assert!(flat(PAGE).contains(&flat(sentence)), "docs/admission.md does not quote: {sentence}");
}

async fn apply(client: &Client, text: &str) {
    for document in text.split("---\n") {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        let plural = match object["kind"].as_str().unwrap() {
            "ValidatingAdmissionPolicy" => "validatingadmissionpolicies",
            "ValidatingAdmissionPolicyBinding" => "validatingadmissionpolicybindings",
            "MutatingAdmissionPolicy" => "mutatingadmissionpolicies",
            "MutatingAdmissionPolicyBinding" => "mutatingadmissionpolicybindings",
            kind => panic!("{kind}"),
        };
        let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
        ask(client, "POST", &path, Some(object)).await.unwrap();
    }
}

/// The command's output for this configuration.
fn rendered(config: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_usernsd"))
        .args(["config", "admission", "--config"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
async fn a_pod_whose_request_cannot_be_granted_is_refused_with_a_reason() {
    let Some(server) = Server::start_or_skip() else { return };
    let admin = server.admin().await;
    for name in ["team-a", "db"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ask(&admin, "POST", "/api/v1/namespaces", Some(namespace)).await.unwrap();
    }
    let json_type = "application/json";
    // A pod from before the policy.
    let old = pod("old", json!({"usernsd.io/cgroup": "writeable"}));
    assert_eq!(send(&admin, "POST", PODS, json_type, &old).await.code, 201);

    apply(&admin, &rendered("optIn: {namespaces: [\"team-*\", databases]}\n")).await;
    let try_path = format!("{PODS}?dryRun=All");
    let create = |object: Value| {
        let (admin, path) = (admin.clone(), try_path.clone());
        async move { send(&admin, "POST", &path, json_type, &object).await }
    };
    let mut seen = false;
    for _ in 0..300 {
        seen = create(pod("p", json!({"usernsd.io/cgrup": "writable"}))).await.code == 422;
        if seen {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(seen, "the policy has no effect");

    let refused = [
        (
            json!({"usernsd.io/cgrup": "writable"}),
            "usernsd has no annotation usernsd.io/cgrup; for the whole pod there are usernsd.io/cgroup, \
             usernsd.io/systemd and usernsd.io/missed, for one container cgroup.usernsd.io/container.NAME and \
             systemd.usernsd.io/container.NAME",
        ),
        (
            json!({"usernsd.io/systemd": "yes"}),
            "annotation usernsd.io/systemd is \"yes\"; it may only be \"true\" or \"false\"",
        ),
        (
            json!({"cgroup.usernsd.io/container.web": "writeable"}),
            "annotation cgroup.usernsd.io/container.web is \"writeable\"; it may only be \"writable\" or \
             \"read-only\"",
        ),
        (
            json!({"systemd.usernsd.io/container.wbe": "true"}),
            "annotation systemd.usernsd.io/container.wbe names a container that the pod does not have; it has web, \
             setup",
        ),
    ];
    for (annotations, sentence) in refused {
        let answer = create(pod("p", annotations)).await;
        assert_eq!((answer.code, answer.refusal()), (422, sentence));
        quoted(sentence);
    }
    let mut shared = pod("p", json!({"usernsd.io/systemd": "true"}));
    let in_vain = "annotation usernsd.io/systemd asks for a writable cgroup, but the pod has no user namespace; set \
                   hostUsers: false in its spec";
    quoted(in_vain);
    for host_users in [json!(true), json!(null)] {
        shared["spec"]["hostUsers"] = host_users;
        assert_eq!(create(shared.clone()).await.refusal(), in_vain);
    }
    let elsewhere = "annotation usernsd.io/cgroup asks for a writable cgroup, but pods of namespace db may not ask; \
                     these may: team-*, databases";
    let asks = pod("p", json!({"usernsd.io/cgroup": "writable"}));
    let answer = send(&admin, "POST", "/api/v1/namespaces/db/pods?dryRun=All", json_type, &asks).await;
    assert_eq!((answer.code, answer.refusal()), (403, elsewhere));
    quoted(elsewhere);
    let long = create(pod("p", json!({"usernsd.io/cgroup": "x".repeat(6000)}))).await;
    assert_eq!(
        long.refusal(),
        "annotation usernsd.io/cgroup is too long; it may only be \"writable\" or \"read-only\""
    );

    // Requests that are granted, and pods that do not concern usernsd.
    let mut host =
        pod("p", json!({"usernsd.io/cgroup": "read-only", "writable-cgroups.noderesource.dev": "true"}));
    host["spec"]["hostUsers"] = json!(true);
    for good in [
        pod("p", json!({"usernsd.io/systemd": "true", "systemd.usernsd.io/container.setup": "false"})),
        pod("p", json!({"cgroup.usernsd.io": "writable", "cgroup.usernsd.io/pod": "read-only"})),
        pod("p", json!({"other.io/cgroup": "writable"})),
        pod("p", Value::Null),
        host,
    ] {
        let answer = create(good).await;
        assert_eq!((answer.code, answer.warnings), (201, vec![]), "{:#}", answer.object);
    }

    // Existing pods can still be changed; a new annotation is checked.
    let patch = |body: Value| {
        let admin = admin.clone();
        async move { send(&admin, "PATCH", &format!("{PODS}/old"), "application/merge-patch+json", &body).await }
    };
    assert_eq!(patch(json!({"metadata": {"labels": {"a": "b"}}})).await.code, 200);
    let answer = patch(json!({"metadata": {"annotations": {"usernsd.io/cgroup": "rw"}}})).await;
    assert!(answer.refusal().contains("is \"rw\""));

    warned(&admin).await;
    required(&admin).await;
}

/// A workload whose pods would be refused is accepted with a warning.
async fn warned(admin: &Client) {
    let template = json!({"metadata": {"labels": {"app": "a"}, "annotations": {"usernsd.io/systemd": "true"}},
        "spec": {"containers": [{"name": "web", "image": "i"}], "restartPolicy": "Always"}});
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = json!("Never");
    let selector = json!({"matchLabels": {"app": "a"}});
    let sentence = "annotation usernsd.io/systemd asks for a writable cgroup, but the pod template has no user \
                    namespace; set hostUsers: false in its spec";
    quoted(sentence);
    for (path, kind, spec) in [
        ("apps/v1", "Deployment", json!({"selector": selector, "template": template})),
        ("apps/v1", "DaemonSet", json!({"selector": selector, "template": template})),
        ("apps/v1", "StatefulSet", json!({"selector": selector, "serviceName": "a", "template": template})),
        ("batch/v1", "Job", json!({"template": once})),
        ("batch/v1", "CronJob", json!({"schedule": "@daily", "jobTemplate": {"spec": {"template": once}}})),
    ] {
        let object = json!({"apiVersion": path, "kind": kind, "metadata": {"name": "a"}, "spec": spec});
        let path = format!("/apis/{path}/namespaces/team-a/{}s?dryRun=All", kind.to_lowercase());
        let answer = send(admin, "POST", &path, "application/json", &object).await;
        assert_eq!(answer.code, 201, "{kind}: {:#}", answer.object);
        let [warning] = answer.warnings.as_slice() else { panic!("{kind}: {:?}", answer.warnings) };
        assert!(warning.ends_with(sentence), "{kind}: {warning}");
    }
}

/// A pod that asks for a writable cgroup gets usernsd as a required plugin, unless it names plugins itself.
async fn required(admin: &Client) {
    const KEY: &str = "required-plugins.noderesource.dev";
    apply(admin, &admission::required_policy()).await;
    let made = |annotations: Value| {
        let admin = admin.clone();
        async move {
            let object = pod("p", annotations);
            let answer =
                send(&admin, "POST", &format!("{PODS}?dryRun=All"), "application/json", &object).await;
            assert_eq!(answer.code, 201, "{:#}", answer.object);
            answer.object["metadata"]["annotations"].clone()
        }
    };
    let mut found = Value::Null;
    for _ in 0..300 {
        found = made(json!({"usernsd.io/cgroup": "writable"})).await;
        if found[KEY].is_string() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(found, json!({"usernsd.io/cgroup": "writable", KEY: "[\"usernsd\"]"}));
    assert!(made(json!({"usernsd.io/cgroup": "read-only"})).await[KEY].is_null());
    let own = json!({"systemd.usernsd.io/container.web": "true", KEY: "[\"other\"]"});
    assert_eq!(made(own.clone()).await, own);
}
