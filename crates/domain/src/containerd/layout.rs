//! Where distributions of Kubernetes keep containerd's configuration, and the files from which they write it at each
//! start.

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
    pub managed: Option<ImportedDirectory>,
    /// Files and directories that an administrator changes, and that are read at the next start.
    pub sources: &'static [&'static str],
    /// How another directory for the distribution's data is set; all these files are then in that directory.
    pub data: Option<DataDirectory>,
    /// The command, with words for another kind of node, after which containerd reads its files again.
    pub restart: &'static str,
}

/// The directory of a distribution's data, and what names another one, the later before the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataDirectory {
    /// Absolute path of the usual one.
    pub usual: &'static str,
    /// A variable of the unit's environment.
    pub variable: &'static str,
    /// A configuration file, whose further files are in the directory of its name with `.d` behind it.
    pub configuration: &'static str,
    /// The units whose command may name it, by [`DATA_FLAGS`].
    pub units: [&'static str; 2],
    /// The program that the units start.
    pub program: &'static str,
}

/// The flag of k3s and RKE2 that names the directory, and its key in their configuration files without the dashes.
pub const DATA_FLAGS: [&str; 2] = ["--data-dir", "-d"];

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
pub struct ImportedDirectory {
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
    data: None,
    restart: "systemctl restart containerd",
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
        data: Some(DataDirectory {
            usual: "/var/lib/rancher/rke2",
            variable: "RKE2_DATA_DIR",
            configuration: "/etc/rancher/rke2/config.yaml",
            units: ["rke2-server.service", "rke2-agent.service"],
            program: "rke2",
        }),
        restart: "systemctl restart rke2-server, or on an agent rke2-agent",
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
        data: Some(DataDirectory {
            usual: "/var/lib/rancher/k3s",
            variable: "K3S_DATA_DIR",
            configuration: "/etc/rancher/k3s/config.yaml",
            units: ["k3s.service", "k3s-agent.service"],
            program: "k3s",
        }),
        restart: "systemctl restart k3s, or on an agent k3s-agent",
    },
    Layout {
        distribution: Some("k0s"),
        main_file: "/etc/k0s/containerd.toml",
        socket: "/run/k0s/containerd.sock",
        template: None,
        managed: Some(ImportedDirectory {
            first_line: "# k0s_managed=true",
            directory: "/etc/k0s/containerd.d",
        }),
        sources: &["/etc/k0s/containerd.d"],
        data: None,
        restart: "systemctl restart k0sworker, or on a controller k0scontroller",
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
        data: None,
        restart: "snap restart microk8s.daemon-containerd",
    },
    // It has a unit of its own for containerd, whose environment names another file.
    Layout {
        distribution: Some("Flatcar"),
        main_file: "/usr/share/containerd/config.toml",
        socket: PACKAGED.socket,
        template: None,
        managed: None,
        sources: &[],
        data: None,
        restart: PACKAGED.restart,
    },
];

impl Layout {
    /// The layout of a node, by the paths that exist on it: the distribution's whose containerd runs; else the one of a
    /// package; else the distribution's whose main file is there. `None` if there is no main file at all. `place` gives
    /// a distribution's file its place in the directory that its data are in.
    pub fn of(
        exists: &dyn Fn(&str) -> bool,
        place: &dyn Fn(&'static Layout, &str) -> String,
    ) -> Option<&'static Layout> {
        let here = || DISTRIBUTIONS.iter().filter(|layout| exists(&place(layout, layout.main_file)));
        let runs = |layout: &&Layout| layout.socket != PACKAGED.socket && exists(layout.socket);
        here()
            .find(runs)
            .or_else(|| exists(PACKAGED.main_file).then_some(&PACKAGED))
            .or_else(|| here().next())
    }

    /// The place of one of its files where `data` is the directory of its data.
    #[must_use]
    pub fn in_data(&self, path: &str, data: &str) -> String {
        let below =
            self.data.and_then(|usual| path.strip_prefix(usual.usual)).filter(|rest| rest.starts_with('/'));
        below.map_or_else(|| path.to_owned(), |rest| format!("{}{rest}", data.trim_end_matches('/')))
    }

    /// The place of a file that is usually beside its main file, where that is `main_file`.
    #[must_use]
    pub fn beside(&self, path: &str, main_file: &str) -> String {
        let directory = main_file.rsplit_once('/').map_or("", |(directory, _)| directory);
        let name = path.strip_prefix(self.directory()).filter(|rest| rest.starts_with('/'));
        name.map_or_else(|| path.to_owned(), |name| format!("{directory}{name}"))
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
            let layout = Layout::of(&|path| paths.contains(&path), &|_, path| path.to_owned());
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

    #[test]
    fn files_of_a_distribution_move_with_its_data() {
        let [_, k3s, k0s, ..] = &DISTRIBUTIONS;
        let moved = k3s.in_data(k3s.main_file, "/mnt/k3s/");
        assert_eq!(moved, "/mnt/k3s/agent/etc/containerd/config.toml");
        assert_eq!(k3s.in_data(k3s.socket, "/mnt/k3s"), k3s.socket, "it is in /run");
        assert_eq!(k0s.in_data(k0s.main_file, "/mnt"), k0s.main_file);
        let [before, _] = k3s.template.unwrap().paths;
        assert_eq!(k3s.beside(before, &moved), "/mnt/k3s/agent/etc/containerd/config.toml.tmpl");
        let exists = |path: &str| path == moved;
        let place = |layout: &'static Layout, path: &str| layout.in_data(path, "/mnt/k3s");
        assert_eq!(
            Layout::of(&exists, &place).unwrap().data,
            DISTRIBUTIONS[0].data,
            "RKE2 is looked for first"
        );
    }
}
