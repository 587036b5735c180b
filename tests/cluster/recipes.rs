//! The recipes, as their pages have it: each in a namespace with the level of Pod Security that its page names, and
//! the page's commands typed by an administrator.

use std::fs;
use std::path::Path;

use crate::harness::{Cluster, is_ready, wait_for, within_limit};
use crate::image::SOURCE;
use crate::node::Options;
use crate::shown::{Block, agrees, blocks};

/// A recipe: `examples/NAME.yaml` and `docs/recipes/NAME.md`.
struct Recipe {
    name: &'static str,
    /// The level that its page names.
    level: &'static str,
    /// A level that refuses it.
    stricter: &'static str,
}

const fn recipe(name: &'static str, level: &'static str, stricter: &'static str) -> Recipe {
    Recipe { name, level, stricter }
}

const RECIPES: [Recipe; 5] = [
    recipe("systemd-server", "baseline", "restricted"),
    recipe("root-application", "baseline", "restricted"),
    recipe("notebook", "baseline", "restricted"),
    recipe("sandbox", "privileged", "baseline"),
    recipe("container-engine", "privileged", "baseline"),
];

/// The images that nodes have for those of the examples.
const IMAGES: [(&str, &str); 4] = [
    ("docker.io/library/busybox:1.37", "localhost/busybox:1"),
    ("registry.example.com/systemd-nginx:1", "localhost/systemd:1"),
    ("registry.example.com/workbench:1", "localhost/systemd:1"),
    ("registry.example.com/podman:1", "localhost/podman:1"),
];

/// Makes the image `inner:1` of the container engine's page, from the busybox in its own image.
const INNER: &str = "mkdir -p /tmp/root/bin && cp /bin/busybox /tmp/root/bin/ &&
                     tar -C /tmp/root -c . | podman import -q - inner:1";

/// An example with images that nodes have.
pub(crate) fn example(cluster: &Cluster, name: &str) -> String {
    let path = cluster.control().path(&format!("{SOURCE}/examples/{name}.yaml"));
    let text = fs::read_to_string(path).unwrap();
    IMAGES.iter().fold(text, |text, (image, local)| text.replace(image, local))
}

/// Types the commands of a block, until they print what it shows: `$` as the administrator, `#` on the first node.
#[track_caller]
pub(crate) fn type_block(cluster: &Cluster, block: &Block) {
    let mut lines = block.lines.iter().map(String::as_str).peekable();
    let is_command = |line: &str| line.starts_with("$ ") || line.starts_with("# ");
    while let Some(line) = lines.next() {
        assert!(is_command(line), "{}: {line}", block.place);
        let (prompt, command) = line.split_at(2);
        let mut command = command.to_owned();
        while command.contains("<<'EOF'") && !command.ends_with("\nEOF") {
            command = format!("{command}\n{}", lines.next().unwrap());
        }
        let shown: Vec<&str> = std::iter::from_fn(|| lines.next_if(|line| !is_command(line))).collect();
        let mut last = String::new();
        let agreed = within_limit(|| {
            let words = ["bash", "-c", &command];
            let output = match prompt {
                "$ " => cluster.command(&words).output().unwrap(),
                _ => cluster.workers[0].node.exec(words),
            };
            let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            let out: Vec<&str> = out.lines().map(str::trim_end).collect();
            // kubectl's notes, for example which of several containers is meant, are not shown.
            let both = [&out[..], &err.lines().map(str::trim_end).collect::<Vec<_>>()].concat();
            last = both.join("\n");
            let is_right = match shown.is_empty() {
                // kubectl diff ends with 1 if there is a difference.
                true => {
                    output.status.success()
                        || command.starts_with("kubectl diff") && output.status.code() == Some(1)
                }
                false => agrees(&shown, &out) || agrees(&shown, &both),
            };
            is_right.then_some(())
        });
        let place = &block.place;
        assert!(agreed.is_some(), "{place}: {command}\n--- shown\n{}\n--- printed\n{last}", shown.join("\n"));
        println!("{prompt}{command}\n{last}");
    }
}

/// The blocks of a page.
pub(crate) fn page(path: &str) -> Vec<Block> {
    blocks(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn the_recipes_work_at_the_levels_of_their_pages() {
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    cluster.install("kubernetes");
    let node = &cluster.workers[0].node;
    fs::copy(node.image_archive("podman"), node.path("/run/podman.tar")).unwrap();
    node.run(["ctr", "--namespace=k8s.io", "images", "import", "/run/podman.tar"]);
    for Recipe { name, level, stricter } in RECIPES {
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/recipes/{name}.md")));
        assert!(text.unwrap().contains(&format!("Pod Security `{level}`")), "{name}");
        cluster.kubectl(&["create", "namespace", name]);
        cluster.kubectl(&["config", "set-context", "--current", "--namespace", name]);
        cluster.control().write("/run/example.yaml", example(&cluster, name));
        let enforce = |level: &str| {
            let label = format!("pod-security.kubernetes.io/enforce={level}");
            cluster.kubectl(&["label", "--overwrite", "namespace", name, &label]);
        };
        enforce(stricter);
        let refused = cluster.try_kubectl(&["apply", "-f", "/run/example.yaml"]);
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.contains(&format!("violates PodSecurity \"{stricter}:")), "{name}: {refused}");
        enforce(level);
        let output = cluster.kubectl(&["apply", "-f", "/run/example.yaml"]);
        assert!(!output.contains("Warning"), "{output}");
        cluster.wait_for_pod(name, is_ready);
        if name == "container-engine" {
            // The image of the page's commands.
            cluster.exec(name, &["sh", "-ec", INNER]);
        }
        let typed = page(&format!("docs/recipes/{name}.md"));
        // One block of the container engine's shows what happens without usernsd.
        let typed: Vec<&Block> = typed
            .iter()
            .filter(|block| !block.lines.iter().any(|line| line.trim_start().starts_with("Error:")))
            .collect();
        assert!(!typed.is_empty(), "{name}");
        for block in typed {
            type_block(&cluster, block);
        }
        cluster.kubectl(&["delete", "pod", name, "--grace-period=1"]);
    }
    wait_for("the pods' end", || {
        let listed = cluster.try_kubectl(&["userns", "ps", "-A"]);
        listed.status.success().then_some(())
    });
}
