//! The same configuration for nodes without a Machine Config Operator: Butane for Fedora CoreOS and similar systems,
//! cloud-init, or a shell script.

use std::collections::BTreeSet;

use super::bytes::base64;
use super::{FileEncoding, Ignition, NodeConfig, NodeFile, Out, is_block, scalar};

impl NodeConfig {
    /// A Butane document (`fcos`, docs: "Upgrading configs"); `None` if there are kernel arguments and that version
    /// of Ignition cannot set them (before 3.3).
    #[must_use]
    pub fn butane(&self) -> Option<String> {
        let version = match self.ignition {
            Ignition::V3_1 => "1.1.0",
            Ignition::V3_2 => "1.3.0",
            Ignition::V3_3 => "1.4.0",
            Ignition::V3_4 => "1.5.0",
            Ignition::V3_5 => "1.6.0",
        };
        if self.ignition < Ignition::V3_3 && !self.kernel_arguments.is_empty() {
            return None;
        }
        let mut out = Out(String::new());
        out.line(0, "variant: fcos");
        out.line(0, &format!("version: {version}"));
        if !self.kernel_arguments.is_empty() {
            out.line(0, "kernel_arguments:");
            out.line(1, "should_exist:");
            for argument in &self.kernel_arguments {
                out.line(2, &format!("- {}", scalar(argument)));
            }
        }
        if !self.files.is_empty() {
            out.line(0, "storage:");
            out.line(1, "files:");
        }
        for file in &self.files {
            out.line(2, &format!("- path: {}", scalar(&file.path)));
            out.line(3, &format!("mode: {:04o}", mode(file)));
            out.line(3, "overwrite: true");
            out.line(3, "contents:");
            match std::str::from_utf8(&file.content) {
                Ok(text) if is_block(text) && file.encoding == FileEncoding::Plain => {
                    out.text(4, "inline", text)
                }
                _ => {
                    if let FileEncoding::Gzip(_) = file.encoding {
                        out.line(4, "compression: gzip");
                    }
                    out.line(4, &format!("source: {}", file.source()));
                }
            }
        }
        if !self.units.is_empty() {
            out.line(0, "systemd:");
            out.line(1, "units:");
        }
        for unit in &self.units {
            out.line(2, &format!("- name: {}", scalar(&unit.name)));
            out.line(3, &format!("enabled: {}", unit.enabled));
            if let Some(text) = &unit.text {
                out.text(3, "contents", text);
            }
        }
        Some(out.0)
    }

    /// cloud-init user data. It writes files before the runtime starts at the first boot. It cannot set kernel
    /// arguments: those are listed in a comment.
    #[must_use]
    pub fn cloud_init(&self) -> String {
        let mut out = Out(String::from("#cloud-config\n"));
        if !self.kernel_arguments.is_empty() {
            let list = self.kernel_arguments.join(" ");
            out.line(0, &format!("# Kernel arguments to be set in the image: {list}"));
        }
        let units: Vec<NodeFile> = self.unit_files();
        if !self.files.is_empty() || !units.is_empty() {
            out.line(0, "write_files:");
        }
        for file in self.files.iter().chain(&units) {
            out.line(0, &format!("- path: {}", scalar(&file.path)));
            out.line(1, &format!("permissions: \"{:04o}\"", mode(file)));
            out.line(1, "encoding: b64");
            out.line(1, &format!("content: {}", base64(&file.content)));
        }
        out.line(0, "runcmd:");
        out.line(0, "- [systemctl, daemon-reload]");
        for unit in self.units.iter().filter(|unit| unit.enabled) {
            out.line(0, &format!("- [systemctl, enable, --now, {}]", super::quote(&unit.name)));
        }
        // At first boot no pod runs yet that a restart could harm.
        out.line(0, "- [systemctl, try-restart, crio.service]");
        out.0
    }

    /// A POSIX shell script, to be run as root. It replaces each file atomically, writes no temporary file in a
    /// directory that CRI-O reads, and restarts nothing.
    #[must_use]
    pub fn script(&self) -> String {
        let mut text = String::from(SCRIPT_HEAD);
        for file in self.files.iter().filter(|file| is_subid(&file.path)) {
            let path = sh(&file.path);
            let owners: BTreeSet<&str> = std::str::from_utf8(&file.content)
                .unwrap_or_default()
                .lines()
                .filter_map(|line| line.split(':').next())
                .collect();
            let owners: Vec<&str> = owners.into_iter().collect();
            text.push_str(&format!("no_others {path} {}\n", sh(&owners.join("|"))));
        }
        for file in self.files.iter().chain(&self.unit_files()) {
            text.push_str(&format!("put {:04o} {} <<'END'\n", mode(file), sh(&file.path)));
            let encoded = base64(&file.content);
            let mut rest = encoded.as_str();
            while !rest.is_empty() {
                let (line, tail) = rest.split_at_checked(76).unwrap_or((rest, ""));
                text.push_str(line);
                text.push('\n');
                rest = tail;
            }
            text.push_str("END\n");
        }
        if !self.units.is_empty() {
            text.push_str("\nsystemctl daemon-reload\n");
        }
        for unit in self.units.iter().filter(|unit| unit.enabled) {
            text.push_str(&format!("systemctl enable {}\n", sh(&unit.name)));
        }
        if !self.kernel_arguments.is_empty() {
            let list = self.kernel_arguments.join(" ");
            let say = format!("Kernel arguments that must be set, and need a reboot: {list}");
            text.push_str(&format!("\necho {} >&2\n", sh(&say)));
        }
        text.push_str(
            "echo 'Drain the node and restart its container runtime for this to take effect.' >&2\n",
        );
        text
    }

    /// Units as the files that systemd reads.
    fn unit_files(&self) -> Vec<NodeFile> {
        let file = |unit: &super::NodeUnit| {
            unit.text.clone().map(|text| NodeFile::text(&format!("/etc/systemd/system/{}", unit.name), text))
        };
        self.units.iter().filter_map(file).collect()
    }
}

/// Whether it is a file of subordinate IDs, which may contain other owners' lines.
fn is_subid(path: &str) -> bool {
    matches!(path, "/etc/subuid" | "/etc/subgid")
}

const SCRIPT_HEAD: &str = r#"#!/bin/sh
# Written by "usernsd machineconfig --format script".
set -eu

# put MODE PATH: the content comes in base64.
put() {
	dir=${2%/*}
	mkdir -p "$dir"
	# Every file in crio.conf.d is read: half a file there stops CRI-O.
	case $dir in
	/etc/*) stage=/etc ;;
	*) stage=$dir ;;
	esac
	new=$(mktemp "$stage/.usernsd.XXXXXX")
	trap 'rm -f "$new"' EXIT
	base64 -d >"$new"
	chmod "$1" "$new"
	sync "$new"
	mv -f "$new" "$2"
	trap - EXIT
	if command -v restorecon >/dev/null; then restorecon "$2"; fi
}

# no_others PATH OWNERS: it is about to be replaced, with the lines of these owners.
no_others() {
	if [ -s "$1" ] && grep -qvE "^(($2):|[[:space:]]*(#|\$))" "$1"; then
		echo "$1 has lines of others, which would go; use usernsd bootstrap on this node" >&2
		exit 1
	fi
}

"#;

fn mode(file: &NodeFile) -> u32 {
    file.mode.unwrap_or(0o644)
}

/// A quoted shell word.
fn sh(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::super::NodeUnit;
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig {
            name: "x".into(),
            role: "worker".into(),
            ignition: Ignition::V3_4,
            kernel_arguments: vec!["psi=1".into()],
            files: vec![
                NodeFile::text("/etc/a", "one\n\ntwo: 'x'\n".into()),
                NodeFile { mode: Some(0o755), ..NodeFile::text("/opt/b", "no end".into()) },
            ],
            units: vec![NodeUnit { name: "u.service".into(), enabled: true, text: Some("[Unit]\n".into()) }],
        }
    }

    #[test]
    fn butane_is_rendered_in_full() {
        assert_eq!(
            config().butane().unwrap(),
            "variant: fcos\nversion: 1.5.0\nkernel_arguments:\n  should_exist:\n    - psi=1\nstorage:\n  files:\n    \
             - path: /etc/a\n      mode: 0644\n      overwrite: true\n      contents:\n        inline: |\n          one\n\n          \
             two: 'x'\n    - path: /opt/b\n      mode: 0755\n      overwrite: true\n      contents:\n        \
             source: data:text/plain;charset=utf-8;base64,bm8gZW5k\nsystemd:\n  units:\n    - name: u.service\n      \
             enabled: true\n      contents: |\n        [Unit]\n"
        );
        assert_eq!(NodeConfig { ignition: Ignition::V3_2, ..config() }.butane(), None);
        let bare = NodeConfig { ignition: Ignition::V3_1, kernel_arguments: Vec::new(), ..config() };
        assert!(bare.butane().unwrap().contains("version: 1.1.0\n"));
    }

    #[test]
    fn cloud_init_is_rendered_in_full() {
        assert_eq!(
            config().cloud_init(),
            "#cloud-config\n# Kernel arguments to be set in the image: psi=1\nwrite_files:\n- path: /etc/a\n  \
             permissions: \"0644\"\n  encoding: b64\n  content: b25lCgp0d286ICd4Jwo=\n- path: /opt/b\n  permissions: \"0755\"\n  \
             encoding: b64\n  content: bm8gZW5k\n- path: /etc/systemd/system/u.service\n  permissions: \"0644\"\n  encoding: b64\n  \
             content: W1VuaXRdCg==\nruncmd:\n- [systemctl, daemon-reload]\n- [systemctl, enable, --now, \"u.service\"]\n- \
             [systemctl, try-restart, crio.service]\n"
        );
    }

    #[test]
    fn a_quoted_text_is_one_shell_word() {
        assert_eq!(sh("a'b $x"), "'a'\\''b $x'");
        let script = config().script();
        assert!(script.contains("put 0755 '/opt/b' <<'END'\nbm8gZW5k\nEND\n"), "{script}");
        assert!(script.contains("systemctl enable 'u.service'\n"), "{script}");
    }
}
