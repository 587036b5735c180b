//! The list of checks.

use super::Category;
use crate::finding::Severity;

/// A block for each category, in it a line for each check: its value, its name, its severity, and what is true if it
/// passes, in words that complete "Passes if".
macro_rules! checks {
    ($($category:ident { $($check:ident = $name:literal $severity:ident $meaning:literal,)+ })+) => {
        /// A check. The values are in the order of output.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Check {
            $($(
                #[doc = concat!("Passes if ", $meaning, ".")]
                $check,
            )+)+
        }

        words! {
            /// Its name, in snake case; the same in all versions.
            Check { $($($check = $name),+),+ }
        }

        impl Check {
            /// The category to which it belongs.
            #[must_use]
            pub const fn category(self) -> Category {
                match self {
                    $($(Check::$check)|+ => Category::$category,)+
                }
            }

            /// What a failure means.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self {
                    $($(Check::$check => Severity::$severity,)+)+
                }
            }

            /// The statement that holds if the check passes, in a few words.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $($(Check::$check => $meaning,)+)+
                }
            }
        }
    };
}

checks! {
    Kernel {
        CgroupV2 = "cgroup_v2" Error "cgroup v2 is mounted at /sys/fs/cgroup",
        CgroupNsdelegate = "cgroup_nsdelegate" Error "cgroup2 is mounted with nsdelegate",
        CgroupDelegateList = "cgroup_delegate_list" Warning "the kernel lists the cgroup files that may be delegated",
        MaxUserNamespaces = "max_user_namespaces" Error "the kernel allows user namespaces",
        UserNamespacesRoom = "user_namespaces_room" Warning "the limit of user namespaces allows one for each pod",
        IdmappedMounts = "idmapped_mounts" Error "the file systems of pods can be mounted with mapped IDs",
        ProcHidepid = "proc_hidepid" Warning "/proc shows every process to the agent without CAP_SYS_PTRACE",
        PsiEnabled = "psi_enabled" Note "the kernel measures pressure",
        ApparmorProfile = "apparmor_profile" Note "AppArmor, if it is on, has a profile under which systemd in pods may mount",
        ApparmorUserns = "apparmor_userns" Note "AppArmor does not restrict the user namespaces that programs in pods create",
        SelinuxCgroup = "selinux_cgroup" Note "SELinux, if it enforces, lets containers change their own cgroups",
    }
    Ids {
        SubidGrammar = "subid_grammar" Warning "every program that reads /etc/subuid and /etc/subgid accepts each line",
        SubidNsswitch = "subid_nsswitch" Warning "getsubids and newuidmap read /etc/subuid and /etc/subgid",
        SubidNoOverlap = "subid_no_overlap" Warning "no two owners share subordinate IDs",
        SubidNoHostUser = "subid_no_host_user" Warning "no user or group of the host has a subordinate ID",
        SubidPastEnd = "subid_past_end" Warning "no range reaches past the last ID",
        SubidConventions = "subid_conventions" Warning "no range overlaps IDs that other programs use by convention",
        SubidKubelet = "subid_kubelet" Error "the kubelet accepts its lines in /etc/subuid and /etc/subgid",
        SubidTerminalSlot = "subid_terminal_slot" Error "the kubelet's range ends before the last 65536 IDs",
        KubeletPool = "kubelet_pool" Warning "the kubelet has a range of its own",
        KubeletGetsubids = "kubelet_getsubids" Error "the kubelet finds getsubids",
        KubeletGetent = "kubelet_getent" Warning "the kubelet finds getent",
        KubeletRecords = "kubelet_records" Error "the kubelet's records of pods lie in its pool",
        KubeletConfig = "kubelet_config" Warning "the kubelet's configuration can be read",
        KubeletGate = "kubelet_gate" Error "the kubelet's configuration does not switch user namespaces off",
    }
    Runtime {
        CriReachable = "cri_reachable" Error "the container runtime answers over CRI",
        RuntimeVersion = "runtime_version" Error "the container runtime supports user namespaces",
        CriUsernsHandler = "cri_userns_handler" Error "the default runtime handler offers user namespaces",
        NriEnabled = "nri_enabled" Warning "the container runtime offers NRI and calls usernsd over it",
        PluginInstalled = "plugin_installed" Warning "usernsd is installed as an NRI plugin that the runtime launches",
        PluginRunning = "plugin_running" Warning "the plugin that the runtime launched runs",
        NriRequired = "nri_required" Error "the NRI plugins that the runtime requires keep no container from starting",
        ContainerdConfig = "containerd_config" Error "containerd can read its configuration, and serves CRI with it",
        ContainerdSnapshotter = "containerd_snapshotter" Warning "containerd's snapshotters map the IDs of images",
        CrioConfig = "crio_config" Error "CRI-O starts with its configuration",
        CrioConfigIgnored = "crio_config_ignored" Warning "CRI-O ignores no part of its configuration",
        CrioWorkloadTwins = "crio_workload_twins" Warning "no two workloads of CRI-O are activated by one annotation",
        CrioAllowedTwice = "crio_allowed_twice" Warning "no annotation is allowed by both a workload and a handler, if CRI-O fails on that",
        CrioAnnotations = "crio_annotations" Warning "CRI-O lets pods ask for a writable cgroup",
        CrioPodEvents = "crio_pod_events" Note "CRI-O sends container events",
        CrioRestart = "crio_restart" Warning "a restart of CRI-O harms no running pod",
        CrioUserns = "crio_userns" Warning "pods that CRI-O gives a user namespace by itself have IDs of their own",
        CrioMappings = "crio_mappings" Error "CRI-O passes ID mappings to the OCI runtime",
        OciRuntimeVersion = "oci_runtime_version" Error "the OCI runtimes support user namespaces and ID-mapped mounts",
        OciRuntimeIdmap = "oci_runtime_idmap" Error "the OCI runtimes report support for ID-mapped mounts",
        NriJoined = "nri_joined" Warning "the agent has joined the container runtime over NRI",
    }
    Systemd {
        SystemdReachable = "systemd_reachable" Warning "systemd answers over D-Bus",
        SystemdVersion = "systemd_version" Note "systemd marks the cgroups of delegated units",
        ScopesDelegated = "scopes_delegated" Warning "systemd keeps out of containers' cgroups",
    }
    Pods {
        PodIsolation = "pod_isolation" Error "every pod runs in the user namespace it asked for",
        PodHostRoot = "pod_host_root" Error "root of a pod with a user namespace is not the host's root",
        PodIdOverlap = "pod_id_overlap" Error "no pod shares host IDs with anyone",
        PodCgroupOwner = "pod_cgroup_owner" Error "containers with a writable cgroup own it",
        PodCgroupWritable = "pod_cgroup_writable" Warning "pods that ask for a writable cgroup have it",
        PodCgroupBounded = "pod_cgroup_bounded" Warning "the number of cgroups that containers can create is limited",
    }
    Configuration {
        BootstrapResult = "bootstrap_result" Error "usernsd bootstrap has left no error",
        ConfigDrift = "config_drift" Warning "usernsd bootstrap would change nothing",
        KubeletRangeRead = "kubelet_range_read" Error "the kubelet has read its range of IDs",
        RestartPending = "restart_pending" Warning "every service runs with the files on disk",
    }
}
