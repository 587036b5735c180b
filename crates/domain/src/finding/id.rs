//! The list of findings, and the check to which each belongs.

use std::fmt;

use super::{Finding, Severity};
use crate::check::Check;

macro_rules! findings {
    ($($finding:ident = $name:literal,)+) => {
        /// Identifies a kind of finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FindingId {
            $(
                #[doc = concat!("`", $name, "`.")]
                $finding,
            )+
        }

        words! {
            /// The name, in kebab case; the same in all versions.
            FindingId { $($finding = $name),+ }
        }
    };
}

findings! {
    CgroupV1 = "cgroup-v1",
    CgroupUnknown = "cgroup-unknown",
    Nsdelegate = "nsdelegate",
    MaxUserNamespaces = "max-user-namespaces",
    IdmappedMounts = "idmapped-mounts",
    IdmappedTmpfs = "idmapped-tmpfs",
    Psi = "psi",
    SubidFlawedLine = "subid-flawed-line",
    SubidNsswitch = "subid-nsswitch",
    KubeletNsswitch = "kubelet-nsswitch",
    SubidOverlap = "subid-overlap",
    SubidHoldsAccount = "subid-holds-account",
    SubidLow = "subid-low",
    SubidPastEnd = "subid-past-end",
    RangeForeign = "range-foreign",
    KubeletDirectoryRange = "kubelet-directory-range",
    KubeletLineMissing = "kubelet-line-missing",
    KubeletSeveralLines = "kubelet-several-lines",
    KubeletLinesDiffer = "kubelet-lines-differ",
    KubeletIdsPerPod = "kubelet-ids-per-pod",
    KubeletStartMisaligned = "kubelet-start-misaligned",
    KubeletStartLow = "kubelet-start-low",
    KubeletCountMisaligned = "kubelet-count-misaligned",
    KubeletCountFew = "kubelet-count-few",
    KubeletPastEnd = "kubelet-past-end",
    KubeletDefaultPool = "kubelet-default-pool",
    PasswdMissing = "passwd-missing",
    KubeletNoGetsubids = "kubelet-no-getsubids",
    KubeletNoGetent = "kubelet-no-getent",
    KubeletRecordOutside = "kubelet-record-outside",
    KubeletConfigUnreadable = "kubelet-config-unreadable",
    KubeletGateOff = "kubelet-feature-gate",
    KubeletInContainer = "kubelet-in-container",
    ContainerdNri = "containerd-nri",
    NriConnections = "nri-connections",
    PluginNotInstalled = "plugin-not-installed",
    NriRequired = "nri-required",
    ContainerdUndecodable = "containerd-undecodable",
    ContainerdImports = "containerd-imports",
    ContainerdCriDisabled = "containerd-cri-disabled",
    ContainerdSnapshotter = "containerd-snapshotter",
    CrioUnreadable = "crio-unreadable",
    CrioUndecodable = "crio-undecodable",
    CrioNoDefaultRuntime = "crio-no-default-runtime",
    CrioSysctl = "crio-sysctl",
    CrioWorkload = "crio-workload",
    CrioHandler = "crio-handler",
    CrioConmon = "crio-conmon",
    CrioSetting = "crio-setting",
    OciHookBad = "oci-hook-bad",
    CrioStrayFile = "crio-stray-file",
    CrioTableReplaced = "crio-table-replaced",
    CrioHandlerIgnored = "crio-handler-ignored",
    CrioWorkloadTwins = "crio-workload-twins",
    CrioAllowedTwice = "crio-allowed-twice",
    RestartEndsMonitors = "restart-ends-monitors",

    BootstrapFailed = "bootstrap-failed",
    BootstrapUnrecorded = "bootstrap-unrecorded",
    ContainersRangeSmall = "containers-range-small",
    CrioNodeMappings = "crio-node-mappings",
    ContainersRangeCached = "containers-range-cached",
    CrioDowngrade = "crio-downgrade",
    CrioLeftOut = "crio-left-out",
    CrioOverridden = "crio-overridden",
    CrioPingGroupRange = "crio-ping-group-range",
    CrioStorageConf = "crio-storage-conf",
    CrioUsernsMode = "crio-userns-mode",
    KernelArguments = "kernel-arguments",
    KernelUnknown = "kernel-unknown",
    KubeletLineUnused = "kubelet-line-unused",
    KubeletPodsUnsaid = "kubelet-pods-unsaid",
    KubeletRangeUnread = "kubelet-range-unread",
    KubeletRestart = "kubelet-restart",
    KubeletUserElsewhere = "kubelet-user-elsewhere",
    KubeletUserUnknown = "kubelet-user-unknown",
    MachineconfigLeftOut = "machineconfig-left-out",
    MachineconfigRoles = "machineconfig-roles",
    McoManaged = "mco-managed",
    MountApart = "mount-apart",
    OciHook = "oci-hook",
    PluginNotLaunched = "plugin-not-launched",
    RangeInUse = "range-in-use",
    RangeMoved = "range-moved",
    RangeSmaller = "range-smaller",
    RangeOpenshift = "range-openshift",
    RangeSystemd = "range-systemd",
    RangeUpperHalf = "range-upper-half",
    RestartForgetsMappings = "restart-forgets-mappings",
    RestartPending = "restart-pending",
    RestartUnknown = "restart-unknown",
    RuntimeAmbiguous = "runtime-ambiguous",
    RuntimeUnknown = "runtime-unknown",
    RuntimeVersionDiffers = "runtime-version-differs",
    RuntimeVersionUnknown = "runtime-version-unknown",
    SelinuxLabel = "selinux-label",
    SubidReplaced = "subid-replaced",
    UndoLeft = "undo-left",
    UnitEnabled = "unit-enabled",
    UnitMissing = "unit-missing",
    UnitStatic = "unit-static",
    UnitToEnable = "unit-to-enable",
}

impl fmt::Display for FindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Finding {
    /// The check to which it belongs; `None` if it is about a plan, not about the node as it is.
    #[must_use]
    pub fn check(&self) -> Option<Check> {
        use FindingId as Id;
        Some(match self.id {
            Id::CgroupV1 | Id::CgroupUnknown => Check::CgroupV2,
            Id::Nsdelegate => Check::CgroupNsdelegate,
            Id::IdmappedTmpfs => Check::IdmappedMounts,
            Id::Psi => Check::PsiEnabled,
            Id::SubidFlawedLine => Check::SubidGrammar,
            Id::SubidNsswitch | Id::KubeletNsswitch => Check::SubidNsswitch,
            Id::SubidOverlap => Check::SubidNoOverlap,
            Id::SubidHoldsAccount | Id::SubidLow => Check::SubidNoHostUser,
            Id::SubidPastEnd => Check::SubidPastEnd,
            Id::RangeForeign => Check::SubidConventions,
            Id::KubeletDirectoryRange
            | Id::KubeletLineMissing
            | Id::KubeletSeveralLines
            | Id::KubeletLinesDiffer
            | Id::KubeletIdsPerPod
            | Id::KubeletStartMisaligned
            | Id::KubeletStartLow
            | Id::KubeletCountMisaligned
            | Id::KubeletCountFew => Check::SubidKubelet,
            Id::KubeletPastEnd => Check::SubidTerminalSlot,
            Id::KubeletDefaultPool | Id::KubeletInContainer | Id::PasswdMissing => Check::KubeletPool,
            Id::KubeletNoGetsubids => Check::KubeletGetsubids,
            Id::KubeletNoGetent => Check::KubeletGetent,
            Id::KubeletRecordOutside => Check::KubeletRecords,
            Id::KubeletConfigUnreadable => Check::KubeletConfig,
            Id::ContainerdNri | Id::NriConnections => Check::NriEnabled,
            Id::PluginNotInstalled => Check::PluginInstalled,
            Id::NriRequired => Check::NriRequired,
            Id::ContainerdUndecodable | Id::ContainerdImports | Id::ContainerdCriDisabled => {
                Check::ContainerdConfig
            }
            Id::ContainerdSnapshotter => Check::ContainerdSnapshotter,
            Id::CrioUnreadable
            | Id::CrioUndecodable
            | Id::CrioNoDefaultRuntime
            | Id::CrioWorkload
            | Id::CrioHandler
            | Id::CrioConmon
            | Id::CrioSetting
            | Id::OciHookBad => Check::CrioConfig,
            Id::CrioStrayFile | Id::CrioTableReplaced | Id::CrioHandlerIgnored => Check::CrioConfigIgnored,
            Id::CrioWorkloadTwins => Check::CrioWorkloadTwins,
            Id::CrioAllowedTwice => Check::CrioAllowedTwice,
            Id::CrioNodeMappings | Id::ContainersRangeSmall => Check::CrioUserns,
            Id::RestartEndsMonitors => Check::CrioRestart,
            Id::KubeletGateOff => match self.severity {
                Severity::Error => Check::KubeletGate,
                Severity::Warning | Severity::Note => return None,
            },
            Id::MaxUserNamespaces => match self.severity {
                Severity::Error => Check::MaxUserNamespaces,
                Severity::Warning => Check::UserNamespacesRoom,
                Severity::Note => return None,
            },
            Id::IdmappedMounts => match self.severity {
                Severity::Error => Check::IdmappedMounts,
                Severity::Warning => return None,
                Severity::Note => return None,
            },
            Id::CrioSysctl => match self.severity {
                Severity::Error => Check::CrioConfig,
                Severity::Warning => Check::CrioConfigIgnored,
                Severity::Note => return None,
            },
            // Why a run failed; the check bootstrap_result reports it.
            Id::BootstrapFailed | Id::BootstrapUnrecorded | Id::UndoLeft => return None,
            // Changes that a plan contains, or leaves to others.
            Id::ContainersRangeCached
            | Id::CrioDowngrade
            | Id::CrioLeftOut
            | Id::CrioOverridden
            | Id::CrioPingGroupRange
            | Id::CrioStorageConf
            | Id::CrioUsernsMode
            | Id::KernelArguments
            | Id::KernelUnknown
            | Id::KubeletLineUnused
            | Id::KubeletPodsUnsaid
            | Id::KubeletRestart
            | Id::KubeletUserElsewhere
            | Id::KubeletUserUnknown
            | Id::MachineconfigLeftOut
            | Id::MachineconfigRoles
            | Id::McoManaged
            | Id::MountApart
            | Id::PluginNotLaunched
            | Id::RangeInUse
            | Id::RangeMoved
            | Id::RangeSmaller
            | Id::RangeOpenshift
            | Id::RangeSystemd
            | Id::RangeUpperHalf
            | Id::SelinuxLabel
            | Id::SubidReplaced
            | Id::UnitEnabled
            | Id::UnitMissing
            | Id::UnitStatic
            | Id::UnitToEnable => return None,
            // Which runtime: checks that depend on it are skipped with these words.
            Id::RuntimeAmbiguous
            | Id::RuntimeUnknown
            | Id::RuntimeVersionDiffers
            | Id::RuntimeVersionUnknown => return None,
            // A check reports the same from other facts.
            Id::KubeletRangeUnread
            | Id::OciHook
            | Id::RestartForgetsMappings
            | Id::RestartPending
            | Id::RestartUnknown => {
                return None;
            }
        })
    }
}
