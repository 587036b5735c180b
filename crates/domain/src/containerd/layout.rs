//! Where distributions of Kubernetes keep containerd's configuration, sources of which are read when they start.

/// How a node is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The distribution; `None`: a containerd of its own, as packages install it.
    pub distribution: Option<&'static str>,
    /// The main file.
    pub main_file: &'static str,
    /// Path of the socket on which containerd serves CRI.
    pub socket: &'static str,
    /// The file from which the distribution makes the main file at each start, and how it has to begin; `None` if the
    /// main file is not generated, or from nothing that can be changed.
    pub template: Option<Template>,
    /// What the distribution itself has containerd import.
    pub managed: Option<Managed>,
    /// Files and directories that an administrator changes, and that are read at the next start.
    pub sources: &'static [&'static str],
}

/// A template from which a distribution writes containerd's main file, and which an administrator may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Its path, by `version` of the main file: the first for 1 and 2, the second for 3.
    pub paths: [&'static str; 2],
    /// The first line of a template that keeps all that the distribution writes by itself.
    pub first_line: Option<&'static str>,
}

/// A directory from which the distribution has containerd import every `.toml`, also if the main file of an earlier
/// start names the files one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Managed {
    /// The first line of a main file that the distribution writes; without it, an administrator does.
    pub first_line: &'static str,
    /// Absolute path of the directory whose files the managed main file imports.
    pub directory: &'static str,
}

/// containerd as packages install it.
pub const PACKAGED: Layout = Layout {
    distribution: None,
    main_file: super::MAIN_FILE,
    socket: "/run/containerd/containerd.sock",
    template: None,
    managed: None,
    sources: &["/etc/containerd/config.toml", "/etc/containerd/conf.d"],
};

/// The first line of a template of k3s and RKE2 (k3s `pkg/agent/templates`).
const BASE: Option<&str> = Some("{{ template \"base\" . }}");

/// The layouts of distributions, in the order in which they are looked for: k3s `pkg/agent/containerd`, k0s
/// `pkg/component/worker/containerd`, MicroK8s `microk8s-resources/default-args`. RKE2 is built on k3s, and shares its
/// socket.
pub const DISTRIBUTIONS: [Layout; 5] = [
    Layout {
        distribution: Some("RKE2"),
        main_file: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        socket: "/run/k3s/containerd/containerd.sock",
        template: Some(Template {
            paths: [
                "/var/lib/rancher/rke2/agent/etc/containerd/config.toml.tmpl",
                "/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl",
            ],
            first_line: BASE,
        }),
        managed: None,
        sources: &[
            "/var/lib/rancher/rke2/agent/etc/containerd/config.toml.tmpl",
            "/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl",
            "/var/lib/rancher/rke2/agent/etc/containerd/config.toml.d",
            "/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.d",
        ],
    },
    Layout {
        distribution: Some("k3s"),
        main_file: "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        socket: "/run/k3s/containerd/containerd.sock",
        template: Some(Template {
            paths: [
                "/var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl",
                "/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.tmpl",
            ],
            first_line: BASE,
        }),
        managed: None,
        sources: &[
            "/var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl",
            "/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.tmpl",
            "/var/lib/rancher/k3s/agent/etc/containerd/config.toml.d",
            "/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d",
        ],
    },
    Layout {
        distribution: Some("k0s"),
        main_file: "/etc/k0s/containerd.toml",
        socket: "/run/k0s/containerd.sock",
        template: None,
        managed: Some(Managed { first_line: "# k0s_managed=true", directory: "/etc/k0s/containerd.d" }),
        sources: &["/etc/k0s/containerd.d"],
    },
    Layout {
        distribution: Some("MicroK8s"),
        main_file: "/var/snap/microk8s/current/args/containerd.toml",
        socket: "/var/snap/microk8s/common/run/containerd.sock",
        template: Some(Template {
            paths: ["/var/snap/microk8s/current/args/containerd-template.toml"; 2],
            first_line: None,
        }),
        managed: None,
        sources: &["/var/snap/microk8s/current/args/containerd-template.toml"],
    },
    // It has a unit of its own for containerd, whose environment names another file.
    Layout {
        distribution: Some("Flatcar"),
        main_file: "/usr/share/containerd/config.toml",
        socket: PACKAGED.socket,
        template: None,
        managed: None,
        sources: &[],
    },
];

impl Layout {
    /// The layout of a node, by the paths that exist on it: the distribution's whose containerd runs; else the one of a
    /// package; else the distribution's whose main file is there. `None` if there is no main file at all.
    pub fn of(exists: &dyn Fn(&str) -> bool) -> Option<&'static Layout> {
        let here = || DISTRIBUTIONS.iter().filter(|layout| exists(layout.main_file));
        let runs = |layout: &&Layout| layout.socket != PACKAGED.socket && exists(layout.socket);
        here()
            .find(runs)
            .or_else(|| exists(PACKAGED.main_file).then_some(&PACKAGED))
            .or_else(|| here().next())
    }

    /// The directory of the main file.
    #[must_use]
    pub fn directory(&self) -> &'static str {
        self.main_file.rsplit_once('/').map_or("", |(directory, _)| directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_whose_containerd_runs_comes_before_a_package_and_that_before_another() {
        let of = |paths: &[&str]| {
            let layout = Layout::of(&|path| paths.contains(&path));
            layout.map(|layout| layout.distribution.unwrap_or("packaged"))
        };
        let rke2 = "/var/lib/rancher/rke2/agent/etc/containerd/config.toml";
        let k3s = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml";
        let socket = "/run/k3s/containerd/containerd.sock";
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[PACKAGED.main_file]), Some("packaged"));
        assert_eq!(of(&[k3s]), Some("k3s"));
        // Docker's package beside it.
        assert_eq!(of(&[PACKAGED.main_file, k3s, socket, PACKAGED.socket]), Some("k3s"));
        assert_eq!(of(&[PACKAGED.main_file, k3s]), Some("packaged"), "left behind");
        assert_eq!(of(&[rke2, socket]), Some("RKE2"));
        let flatcar = "/usr/share/containerd/config.toml";
        assert_eq!(of(&[flatcar, PACKAGED.socket]), Some("Flatcar"));
        assert_eq!(of(&[flatcar, PACKAGED.main_file, PACKAGED.socket]), Some("packaged"));
    }
}
