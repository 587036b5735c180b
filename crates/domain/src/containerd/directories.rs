//! Where containerd keeps images and containers: `containerd-config.toml(5)`.

use super::ContainerdConf;

/// The usual directories.
const ROOT: &str = "/var/lib/containerd";
const STATE: &str = "/run/containerd";

/// containerd's directories. k3s and RKE2 name them in the file that they write, whose `root` follows `--data-dir`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// That of images and of what containers write.
    pub root: String,
    /// That of what does not outlive the machine's run, among it the containers' bundles.
    pub state: String,
}

impl Directories {
    /// The directories that the command line names (`root`, `state`); else those in the files; else the usual ones.
    #[must_use]
    pub fn of(conf: Option<&ContainerdConf>, root: Option<String>, state: Option<String>) -> Directories {
        let in_files = |of: fn(&ContainerdConf) -> &Option<String>| conf.and_then(|conf| of(conf).clone());
        Directories {
            root: root.or_else(|| in_files(|conf| &conf.root)).unwrap_or_else(|| ROOT.to_owned()),
            state: state.or_else(|| in_files(|conf| &conf.state)).unwrap_or_else(|| STATE.to_owned()),
        }
    }

    /// The directory of a pod's container's bundle, with `{id}` in place of the container's ID.
    #[must_use]
    pub fn bundle(&self) -> String {
        format!("{}/io.containerd.runtime.v2.task/k8s.io/{{id}}", self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::Release;
    use crate::crio::config::tests::{table, text};
    use crate::toml::Value;

    #[test]
    fn the_command_line_counts_before_the_last_file() {
        let of = |root: &str, state: &str| Directories { root: root.into(), state: state.into() };
        assert_eq!(Directories::of(None, None, None), of(ROOT, STATE));
        assert_eq!(
            Directories::of(None, None, None).bundle(),
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}"
        );
        let conf = |pairs: &[(&str, Value)]| ContainerdConf::of(Some(&table(pairs)));
        let main = conf(&[("root", text("/data/k3s/agent/containerd/")), ("state", text("/data/run"))]);
        assert_eq!(Directories::of(Some(&main), None, None), of("/data/k3s/agent/containerd", "/data/run"));
        let flags = Directories::of(Some(&main), None, Some("/s".into()));
        assert_eq!(flags, of("/data/k3s/agent/containerd", "/s"));
        // An imported file, in both versions; what names no directory changes nothing.
        for release in [Release::new(1, 7), Release::new(2, 1)] {
            let imported =
                main.clone().with_import(release, &table(&[("state", text("/r2")), ("root", text(""))]));
            assert_eq!(Directories::of(Some(&imported), None, None), of("/data/k3s/agent/containerd", "/r2"));
        }
        let odd = conf(&[("root", Value::Bool(true)), ("state", text("run"))]);
        assert_eq!(Directories::of(Some(&odd), None, None), of(ROOT, STATE));
    }
}
