//! `usernsd whois` on a node: pods that run, pods that have ended, and their files, with and without an
//! agent.

use std::fs;

use serde_json::Value;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options};
use crate::pods::{BASE, ContainerSpec, PodSpec, Pods, wait_for};

#[track_caller]
fn whois(node: &Node, args: &[&str]) -> (i32, Value) {
    let words = ["usernsd", "whois", "--output", "json"];
    let ran = node.command(words.iter().chain(args)).output().unwrap();
    let document = serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (ran.status.code().unwrap(), document)
}

/// The containers among the holders of the first ID.
fn containers(document: &Value) -> Vec<Value> {
    let holders = document["ids"][0]["holders"].as_array().unwrap().iter();
    holders.filter(|holder| holder["kind"] == "container").cloned().collect()
}

#[test]
fn holders_are_found_for_running_and_for_ended_pods() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    for file in ["/etc/subuid", "/etc/subgid"] {
        node.write(file, "containers:200000:6553600\n");
    }
    fs::create_dir_all(node.path("srv/data")).unwrap();
    std::os::unix::fs::chown(node.path("srv/data"), Some(BASE + 1000), Some(BASE + 7)).unwrap();
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("web"));
    let container = pods.run(&pod, &ContainerSpec::sleeping());
    pods.run(&pods.run_pod(&PodSpec::new("host").in_host_user_namespace()), &ContainerSpec::sleeping());
    let id = (BASE + 1000).to_string();

    // Without an agent, the answer comes from the runtime and the kernel.
    let (code, result) = whois(&node, &[&id]);
    let found = containers(&result);
    assert_eq!((code, found.len()), (0, 1), "{result:#}");
    assert_eq!((&found[0]["pod"], &found[0]["inside"]), (&"web".into(), &1000.into()));
    assert!(
        result["unseen"][0].as_str().unwrap().starts_with("pods that ended lately: nothing answers"),
        "{result:#}"
    );

    // With an agent the answer is the same, and a file can be given instead of an ID.
    let agent = Agent::start(&node);
    agent.record(&container);
    let (_, with) = whois(&node, &[&id]);
    assert_eq!((&containers(&with), &with["unseen"]), (&found, &Value::Array(vec![])));
    let (code, file) = whois(&node, &["/srv/data"]);
    assert_eq!((code, &file["ids"][0]), (0, &with["ids"][0]));
    assert_eq!(file["ids"][1]["id"], BASE + 7);
    assert_eq!(file["ids"][1]["holders"][0]["inside"], 7);

    // The pod has ended, and the holder of the ID is still known.
    pods.remove_pod(&pod);
    let past = wait_for("the end of the pod", || {
        let (_, result) = whois(&node, &[&id]);
        containers(&result).into_iter().find(|holder| !holder["until"].is_null())
    });
    assert_eq!(
        (&past["pod"], &past["inside"], &past["containerId"]),
        (&"web".into(), &1000.into(), &found[0]["containerId"])
    );
    assert!(past["since"].as_str() <= past["until"].as_str(), "{past:#}");

    // A user other than root gets users and ranges only.
    let words = ["setpriv", "--reuid=65534", "--clear-groups", "usernsd", "whois", &id];
    let result = node.command(words).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    assert!(out.contains("in containers:200000:6553600, /etc/subuid line 1"), "{out}");
    assert!(result.status.success() && error.contains("not looked at: pods"), "{error}");
    assert_eq!(whois(&node, &["99999"]).0, 1);
}
