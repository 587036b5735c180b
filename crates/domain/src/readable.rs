//! Which files the agent may read of the node's `/etc`, of `/var` and of a distribution's data. Its reader (`usernsd_linux::host::reader`)
//! opens no others, so that a compromised agent cannot read the keys there. `docs/security.md` lists the files.

use crate::containerd::layout::DISTRIBUTIONS;
use crate::paths;

/// How much of a file the agent may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// The whole file.
    Yes,
    /// The whole file, if no part of its path is a symbolic link: others write to directories of that name, too.
    Unlinked,
    /// The first document in the file if it is a `KubeletConfiguration`: kubeconfigs, which contain keys, have the same
    /// names.
    IfKubelets,
    No,
}

/// Files by their path below the root.
const FILES: [&str; 14] = [
    // Owners of IDs, and the configuration of the kubelet's.
    "etc/subuid",
    "etc/subgid",
    "etc/passwd",
    "etc/group",
    "etc/nsswitch.conf",
    "etc/os-release",
    // Kernel settings, one of which limits the number of user namespaces.
    "etc/sysctl.conf",
    // The files that OpenShift manages.
    "etc/machine-config-daemon/currentconfig",
    // The kubelet's flags, also in the files of distributions.
    "etc/default/kubelet",
    "etc/sysconfig/kubelet",
    "etc/kubernetes/kubelet.env",
    "etc/rancher/k3s/config.yaml",
    "etc/rancher/rke2/config.yaml",
    "etc/containerd/config.toml",
];

/// Files with that suffix, at any depth below a directory.
const BELOW: [(&str, &str); 8] = [
    // CRI-O reads every file there, whatever its name.
    ("etc/crio/", ""),
    ("etc/containerd/", ".toml"),
    ("etc/nri/conf.d/", ".conf"),
    ("etc/containers/oci/hooks.d/", ".json"),
    ("etc/usernsd/", ""),
    ("etc/sysctl.d/", ".conf"),
    ("etc/rancher/k3s/config.yaml.d/", ""),
    ("etc/rancher/rke2/config.yaml.d/", ""),
];

/// Editors of other systems write it at the start of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The directory of units. Readable are the kubelet's units, their drop-ins, and their environment files.
const UNITS: &str = "etc/systemd/system/";
const KUBELETS: [&str; 4] = ["kubelet", "k3s", "rke2", "k0s"];

/// Whether a file below the root may be read. The names in a directory may be listed unless this is [`Readable::No`].
#[must_use]
pub fn readable(path: &str) -> Readable {
    let is_plain = path.split('/').all(|name| !matches!(name, "" | "." | ".."));
    if !is_plain {
        return Readable::No;
    }
    if !path.starts_with("etc/") {
        return match below_var(path) {
            Readable::No | Readable::IfKubelets if !is_of_a_pod(path) => of_distribution(path),
            readable => readable,
        };
    }
    let is_below = |(directory, ending): &(&str, &str)| path.starts_with(directory) && path.ends_with(ending);
    let is_unit =
        path.strip_prefix(UNITS).is_some_and(|rest| KUBELETS.iter().any(|name| rest.starts_with(name)));
    // A unit's environment files, and a configuration's imports and hooks, may be anywhere.
    let name = path.rsplit('/').next().unwrap_or_default();
    let is_named = is_environment(path, name) || name.ends_with(".toml") || is_hook(path);
    if FILES.contains(&path) || BELOW.iter().any(is_below) || is_unit || is_named {
        return Readable::Yes;
    }
    Readable::IfKubelets
}

/// The kubelet's flags, of kubeadm and of MicroK8s, and containerd's configuration there.
const FILES_BELOW_VAR: [&str; 4] = [
    "var/lib/kubelet/kubeadm-flags.env",
    "var/snap/microk8s/current/args/kubelet",
    "var/snap/microk8s/current/args/containerd.toml",
    "var/snap/microk8s/current/args/containerd-template.toml",
];

/// What k3s and RKE2 write for containerd and the kubelet in the directory of their data, which may be anywhere.
fn of_distribution(path: &str) -> Readable {
    let Some((data, rest)) = path.split_once("/agent/etc/") else { return below_var(path) };
    let is_containerds =
        rest.starts_with("containerd/") && (rest.ends_with(".toml") || rest.ends_with(".tmpl"));
    if is_containerds {
        // No pod writes to the usual directories by itself.
        let mut usual = DISTRIBUTIONS.iter().filter_map(|layout| layout.data?.usual.strip_prefix('/'));
        return if usual.any(|usual| usual == data) { Readable::Yes } else { Readable::Unlinked };
    }
    // The names there; of the files only the kubelet's configuration.
    let is_beside = rest.starts_with("containerd") || rest.starts_with("kubelet.conf.d");
    if is_beside { Readable::IfKubelets } else { below_var(path) }
}

/// Whether it is a directory of a kubelet's, or in one.
fn is_kubelets_directory(path: &str) -> bool {
    paths::KUBELETS.iter().any(|kubelet| {
        path.strip_prefix(kubelet.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Whether it is in a directory of the kubelet's that its pods fill.
fn is_of_a_pod(path: &str) -> bool {
    paths::KUBELETS.iter().any(|kubelet| {
        let below = path.strip_prefix(kubelet.as_str()).and_then(|rest| rest.strip_prefix('/'));
        below.is_some_and(|below| below.starts_with(paths::PODS))
    })
}

/// The kubelet's files below `/var`, and usernsd's own: the configuration, wherever it is, and its records of the IDs that pods hold. Pods
/// write to their volumes, which are below the same directory, but deeper.
fn below_var(path: &str) -> Readable {
    let pods = paths::KUBELETS.iter().find_map(|kubelet| {
        let below = path.strip_prefix(kubelet.as_str())?.strip_prefix('/')?;
        (below == paths::PODS).then_some("").or_else(|| below.strip_prefix(paths::PODS)?.strip_prefix('/'))
    });
    match pods.map(|pods| pods.split('/').collect::<Vec<_>>()).as_deref() {
        Some([_] | [_, "userns"]) => Readable::Yes,
        Some(_) => Readable::No,
        None if FILES_BELOW_VAR.contains(&path) || path.starts_with("var/lib/usernsd/") => Readable::Yes,
        None if path.starts_with("var/lib/") || is_kubelets_directory(path) => Readable::IfKubelets,
        None => Readable::No,
    }
}

/// Whether it is an environment file of a kubelet's unit, by its name.
fn is_environment(path: &str, name: &str) -> bool {
    let is_kubelets = KUBELETS.iter().any(|kubelet| name.starts_with(kubelet));
    is_kubelets
        && (name.ends_with(".env") || path.starts_with("etc/default/") || path.starts_with("etc/sysconfig/"))
}

fn is_hook(path: &str) -> bool {
    path.ends_with(".json") && path.rsplit('/').nth(1).is_some_and(|directory| directory == "hooks.d")
}

/// The first document of a text in YAML or JSON, if it is a `KubeletConfiguration`: the kubelet reads no other. Further
/// documents may contain secrets: kubeadm reads its own configuration, with tokens and keys, from the same file.
#[must_use]
pub fn kubelets_document(text: &str) -> Option<&str> {
    let first = first_document(text);
    let is_content = |line: &&str| {
        let line = line.trim_start_matches(BYTE_ORDER_MARK).trim();
        !line.is_empty() && !line.starts_with(['#', '%'])
    };
    let lines = first.lines().filter(is_content).skip_while(|line| is_marker(line, "---"));
    let mut lines = lines.peekable();
    let begin = lines.peek()?.trim_start_matches(BYTE_ORDER_MARK);
    let is_kubelets = if begin.trim_start().starts_with('{') {
        let content: String = first.lines().filter(is_content).collect();
        outermost(&content).split(['{', ',']).any(|entry| begins_with_kubelets(entry.trim_start()))
    } else {
        // All keys of a mapping are indented like the first.
        let indent = begin.len() - begin.trim_start_matches(' ').len();
        lines.any(|line| {
            let line = line.trim_start_matches(BYTE_ORDER_MARK);
            let key =
                line.get(indent..).filter(|_| line.len() - line.trim_start_matches(' ').len() == indent);
            key.is_some_and(begins_with_kubelets)
        })
    };
    is_kubelets.then_some(first)
}

/// Whether a line separates documents (YAML 1.2, section 9.1).
fn is_marker(line: &str, marker: &str) -> bool {
    line.trim_start_matches(BYTE_ORDER_MARK)
        .strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
}

/// A text up to the end of its first document, with the lines before it.
fn first_document(text: &str) -> &str {
    let (mut has_content, mut end) = (false, 0);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        if has_content && (is_marker(bare, "---") || is_marker(bare, "...")) {
            break;
        }
        let trimmed = bare.trim_start_matches(BYTE_ORDER_MARK).trim_start();
        has_content |= !trimmed.is_empty() && !trimmed.starts_with(['#', '%']) && !is_marker(bare, "---");
        end += line.len();
    }
    text.get(..end).unwrap_or(text)
}

/// The text between the outermost braces without what is in further ones.
fn outermost(text: &str) -> String {
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    let mut found = String::new();
    for sign in text.chars() {
        match (quote, sign) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some('"'), '\\') => is_escaped = true,
            (Some(open), _) if open == sign => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(sign),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        if depth == 1 {
            // In a string, the signs that separate entries have no such meaning.
            found.push(if quote.is_some() && matches!(sign, '{' | ',') { ' ' } else { sign });
        }
    }
    found
}

/// Whether a text begins with the key `kind` and that value.
fn begins_with_kubelets(text: &str) -> bool {
    let after = ["kind", "\"kind\"", "'kind'"].iter().find_map(|key| text.strip_prefix(key));
    let value = after.and_then(|after| after.trim_start().strip_prefix(':')).unwrap_or_default();
    value.trim_start().trim_start_matches(['"', '\'']).starts_with("KubeletConfiguration")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_readable() {
        for path in [
            "etc/kubernetes/pki/ca.key",
            "etc/kubernetes/pki/etcd/ca.key",
            "etc/kubernetes/admin.conf",
            "etc/kubernetes/kubelet.conf",
            "etc/kubernetes/static-pod-resources/secrets/tls.key",
            "etc/shadow",
            "etc/gshadow",
            "etc/ssh/ssh_host_ed25519_key",
            "etc/ssl/private/x.key",
            "etc/containerd/certs.d/registry/client.key",
            "etc/rancher/k3s/k3s.yaml",
            "etc/rancher/node/password",
            "etc/systemd/system/other.service",
            "etc/containers/auth.json",
        ] {
            assert_eq!(readable(path), Readable::IfKubelets, "{path}");
        }
        for path in
            ["etc/crio/../kubernetes/pki/ca.key", "etc//passwd", "/etc/passwd", "root/x", "etc/./passwd", ""]
        {
            assert_eq!(readable(path), Readable::No, "{path}");
        }
    }

    #[test]
    fn of_the_files_below_var_only_the_kubelets_are_readable() {
        use Readable::{IfKubelets, No, Unlinked, Yes};
        for (path, want) in [
            ("var/lib/kubelet/config.yaml", IfKubelets),
            ("var/lib/kubelet/kubeadm-flags.env", Yes),
            ("var/lib/usernsd/bootstrap.json", Yes),
            ("var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf", IfKubelets),
            ("var/lib/kubelet/pki/kubelet-client-current.pem", IfKubelets),
            ("var/lib/etcd/member/snap/db", IfKubelets),
            ("var/lib/kubelet/pods", Yes),
            ("var/lib/kubelet/pods/u1", Yes),
            ("var/lib/kubelet/pods/u1/userns", Yes),
            ("var/lib/k0s/kubelet/pods/u1/userns", Yes),
            ("var/lib/rancher/k3s/agent/etc/containerd/config.toml", Yes),
            ("var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl", Yes),
            ("var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d", IfKubelets),
            ("var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/90-usernsd.toml", Yes),
            ("data/k3s/agent/etc/containerd/config.toml", Unlinked),
            ("var/lib/rancher/k3s/storage/pvc-1/agent/etc/containerd/x.toml", Unlinked),
            ("data/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf", IfKubelets),
            ("data/k3s/agent/client-kubelet.key", No),
            ("data/k3s/server/tls/server-ca.key", No),
            ("var/lib/rancher/k3s/agent/etc/containerd/certs.d/registry/client.key", IfKubelets),
            ("var/snap/microk8s/current/args/containerd.toml", Yes),
            ("var/snap/microk8s/current/certs/ca.key", No),
            ("var/snap/microk8s/common/var/lib/kubelet", IfKubelets),
            ("var/snap/microk8s/common/var/lib/kubelet/pods/u1/userns", Yes),
            ("var/snap/microk8s/common/var/lib/kubelet/pods/u1/volumes/x", No),
            ("var/snap/microk8s/common/var/lib/kubelets", No),
            ("var/lib/kubelet/pods/u1/volumes/x/agent/etc/containerd/config.toml", No),
            ("var/lib/kubelet/pods/u1/etc-hosts", No),
            ("var/lib/kubelet/pods/u1/volumes/kubernetes.io~secret/s/userns", No),
            ("var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/v/pods/x/userns", No),
            ("var/lib/kubelet/pods/../pki/x", No),
            ("var/tmp/x", No),
            ("data/kubelet/config.yaml", No),
        ] {
            assert_eq!(readable(path), want, "{path}");
        }
    }

    #[test]
    fn files_of_each_layout_are_readable() {
        // The agent reads files below /usr by itself.
        let below = |path: &'static str| path.strip_prefix('/').filter(|path| !path.starts_with("usr/"));
        for layout in &DISTRIBUTIONS {
            let templates = layout.template.into_iter().flat_map(|template| template.paths);
            let configuration = layout.data.map(|data| data.configuration);
            for file in [layout.main_file].into_iter().chain(templates).chain(configuration).filter_map(below)
            {
                assert_eq!(readable(file), Readable::Yes, "{file}");
            }
            for source in layout.sources.iter().copied().filter_map(below) {
                assert_ne!(readable(source), Readable::No, "{source}");
            }
            if let Some(configuration) = configuration.and_then(below) {
                let further = format!("{configuration}.d/10-site.yaml");
                assert_eq!(readable(&further), Readable::Yes, "{further}");
            }
        }
    }

    #[test]
    fn files_that_the_agent_needs_are_readable() {
        for path in [
            "etc/subuid",
            "etc/crio/crio.conf",
            "etc/crio/crio.conf.d/10-crio",
            "etc/containerd/conf.d/x.toml",
            "etc/other/x.toml",
            "etc/nri/conf.d/90-usernsd.conf",
            "etc/containers/oci/hooks.d/x.json",
            "etc/elsewhere/hooks.d/x.json",
            "etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "etc/systemd/system/k3s.service.env",
            "etc/kubernetes/kubelet.env",
            "etc/default/kubelet-extra",
        ] {
            assert_eq!(readable(path), Readable::Yes, "{path}");
        }
    }

    #[test]
    fn a_kubelet_configuration_is_recognised() {
        for text in [
            "kind: KubeletConfiguration\n",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind:   \"KubeletConfiguration\"\n",
            "{\"kind\": \"KubeletConfiguration\"}",
            "{\"kind\":\"KubeletConfiguration\"}",
            "\u{feff}kind: KubeletConfiguration\r\n",
            "# ours\n%YAML 1.1\n---\n\"kind\" : 'KubeletConfiguration'\n",
            "--- # ours\n  apiVersion: v1\n  kind: KubeletConfiguration\n",
            "{\n  \"featureGates\": {\"A\": true},\n  \"kind\": \"KubeletConfiguration\"\n}\n",
            "# don't\n{apiVersion: v1, kind: KubeletConfiguration, maxPods: 5}",
            "authentication:\n  x509: {}\nkind: KubeletConfiguration\n",
        ] {
            assert_eq!(kubelets_document(text), Some(text), "{text}");
        }
        for text in [
            "kind: Config\nusers: []\n",
            "# KubeletConfiguration\nkind: Config\n",
            "# kind: KubeletConfiguration\nkind: Config\n",
            "",
            "---\n",
            "kindKubeletConfiguration",
            // A text in a value, and an object in another one.
            "kind: Secret\nstringData:\n  kubelet: |\n    kind: KubeletConfiguration\n  key: x\n",
            "{\"kind\":\"List\",\"items\":[{\"kind\":\"KubeletConfiguration\"}],\"key\":\"x\"}",
            "{\"kind\":\"Secret\",\"data\":\"a, kind: KubeletConfiguration\"}",
            "a: {kind: KubeletConfiguration}\nkey: x\n",
            "{\"data\":\"}, \\\"kind\\\": KubeletConfiguration\"}",
            "akind: KubeletConfiguration\n",
        ] {
            assert_eq!(kubelets_document(text), None, "{text}");
        }
    }

    #[test]
    fn of_several_documents_only_the_kubelets_is_handed_out() {
        const OF_KUBEADM: &str = "kind: InitConfiguration\ncertificateKey: 8f2c\n";
        const OF_KUBELET: &str = "# ours\n---\nkind: KubeletConfiguration\nmaxPods: 250\n";
        let first = format!("{OF_KUBELET}---\n{OF_KUBEADM}");
        assert_eq!(kubelets_document(&first), Some(OF_KUBELET));
        assert_eq!(kubelets_document(&format!("{OF_KUBELET}...\n{OF_KUBEADM}")), Some(OF_KUBELET));
        // The kubelet does not read it.
        assert_eq!(kubelets_document(&format!("{OF_KUBEADM}---\n{OF_KUBELET}")), None);
    }
}
