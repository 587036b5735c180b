//! The status page of a live node in a real browser, which runs in the node's network namespace, because the
//! agent listens on loopback only.

use crate::agent::{Agent, HTTP, node_with_binary};
use crate::browser::Browser;
use crate::node::Options;
use crate::pods::{Container, ContainerSpec, PodSpec, Pods};

fn row(container: &Container) -> String {
    format!("document.querySelector('#c{}')", container.id)
}

#[test]
fn a_started_pod_appears_without_a_reload() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pid = node.pid().to_string();
    let Some(mut browser) = Browser::start_in(&["nsenter", "--target", &pid, "--net"]) else { return };
    for file in ["/etc/subuid", "/etc/subgid"] {
        node.write(file, "kubelet:200000:6553600\n");
    }
    node.run(["useradd", "--system", "kubelet"]);
    let agent = Agent::start(&node);
    let pods = Pods::connect(&node);
    let run = |name: &str, index| {
        let pod = pods.run_pod(&PodSpec::new(name).numbered(index).privileged());
        let container = pods.run(&pod, &ContainerSpec::sleeping().privileged());
        (pod, container)
    };
    let (_, before) = run("before", 0);
    agent.wait_for_outcome(&before, "delegated");
    let url = format!("http://{HTTP}/");
    browser.look(1160, 1000, "light");
    browser.open(&url);
    assert_eq!(browser.eval(&format!("{} !== null", row(&before))), true);
    let used = "document.querySelectorAll('.row i.pod').length";
    assert_eq!(browser.eval(used), 1);
    browser.eval("window.mark = 1");
    browser.events();

    let (pod, after) = run("after", 7);
    browser.wait_for(&format!("{}?.textContent.includes('after')", row(&after)));
    let text = browser.eval(&format!("{}.textContent", row(&after)));
    let map = pods.proc(&after, "uid_map");
    let host_root = map.split_whitespace().nth(1).unwrap();
    assert!(text.as_str().unwrap().contains(host_root), "{map}: {text}");
    // The slot and its change appeared with it.
    assert_eq!(browser.eval(used), 2);
    let feed = browser.eval("document.querySelector('.feed').innerText");
    assert!(feed.as_str().unwrap().contains("default/after"), "{feed}");
    assert_eq!(browser.eval("window.mark"), 1, "the page was loaded again");

    // A removed pod disappears in the same way.
    pods.remove_pod(&pod);
    browser.wait_for(&format!("{} === null", row(&after)));
    assert_eq!(browser.eval(&format!("{} !== null && window.mark === 1", row(&before))), true);
    assert_eq!(browser.eval(used), 1);
    browser.assert_quiet(&url, "live");
}
