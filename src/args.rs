//! The command line.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use usernsd_config::{LogFormat, LogLevel, Overrides};
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::ignition::Ignition;

pub mod kubectl;

/// Makes user-namespaced pods work on this node, and keeps them safe.
#[derive(Debug, Parser)]
#[command(name = "usernsd", version, propagate_version = true)]
pub struct Args {
    /// Flags of every command.
    #[command(flatten)]
    pub log: LogArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The command line of `usernsd hook` alone.
#[derive(Debug, Parser)]
struct OfHook {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    hook: HookArgs,
}

// === impl Args ===

impl Args {
    /// Parses the command line of this process; prints help or an error and exits if there is nothing to run.
    #[must_use]
    pub fn of_process() -> Args {
        Args::of_hook(std::env::args_os()).unwrap_or_else(Args::parse)
    }

    /// The command line of the hook, parsed without what the other commands accept: a container's start waits for it.
    fn of_hook(mut arguments: impl Iterator<Item = OsString>) -> Option<Args> {
        let program = arguments.next()?;
        if arguments.next()? != "hook" {
            return None;
        }
        let OfHook { log, hook } = OfHook::try_parse_from(std::iter::once(program).chain(arguments)).ok()?;
        Some(Args { log, command: Command::Hook(hook) })
    }
}

/// How log lines are written; they go to stderr.
#[derive(Debug, ClapArgs)]
pub struct LogArgs {
    /// Least important level to log: error, warn, info, debug, trace
    #[arg(long, global = true, env = "USERNSD_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Form of log lines: text, json
    #[arg(long, global = true, env = "USERNSD_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run on a node: hand cgroups over, refuse lost isolation
    Agent(AgentArgs),
    /// Make this node ready for user namespaces: ID ranges, the kubelet's user, the runtime
    Bootstrap(BootstrapArgs),
    /// Serve the agent's state and metrics over HTTP, without any privilege
    Exporter(ExporterArgs),
    /// Check this node for what keeps pods from running safely in user namespaces
    Doctor(DoctorArgs),
    /// Run as the OCI createRuntime hook, for runtimes without NRI; started by the OCI runtime
    Hook(HookArgs),
    /// Be the process in whose user namespace a mount is tried; started by usernsd
    #[command(hide = true)]
    HoldUserNamespace,
    /// Be the process that reads other processes' namespaces; started by usernsd
    #[command(hide = true)]
    ObserveProcesses {
        /// Where /proc is mounted
        proc: PathBuf,
    },
    /// Run the process that examines files of containers, whose file systems may never answer; started by
    /// usernsd
    #[command(hide = true)]
    LookInside {
        /// The directory of processes
        proc: PathBuf,
        /// A process of the container
        pid: u32,
        /// The file as the container names it
        path: String,
    },
    /// Be the process that reads the node's /etc; started by usernsd
    #[command(hide = true)]
    ReadConfiguration {
        /// The node's root directory
        root: PathBuf,
    },
    /// List this node's containers, their host IDs and the owners of their cgroups
    Ps(PsArgs),
    /// Print this node's problems: what someone must act on
    Status(StateArgs),
    /// Draw this node's host IDs and their owners: users, subordinate ranges, pools, pods, overlaps
    Map(StateArgs),
    /// Explain a container: its IDs, cgroup, processes and volumes, and why it is as it is
    Explain(ExplainArgs),
    /// Find the owner of a host ID: a pod, a user, a range; also pods that ended lately
    Whois(WhoisArgs),
    /// Print the configuration that prepares a pool of nodes: a MachineConfig, or the same for other systems; or check
    /// what it would do to the pool
    Machineconfig(MachineconfigArgs),
    /// Collect an archive for the analysis of a problem on this node; no secrets
    SupportBundle(SupportBundleArgs),
    /// Print a script that completes commands and flags in a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual pages into a directory, one for each command
    Man {
        /// The directory, such as /usr/local/share/man/man8; it must exist
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Print or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Flags of `usernsd agent`. Each overrides the configuration file.
#[derive(Debug, ClapArgs)]
pub struct AgentArgs {
    /// Configuration file; without it every setting is at its default
    #[arg(long, env = "USERNSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The node's root directory as the agent sees it
    #[arg(long, env = "USERNSD_HOST_ROOT", value_name = "DIR")]
    pub host_root: Option<String>,
    /// CRI socket of the container runtime
    #[arg(long, env = "USERNSD_CRI_ENDPOINT", value_name = "PATH")]
    pub cri_endpoint: Option<String>,
    /// NRI socket of the container runtime
    #[arg(long, env = "USERNSD_NRI_SOCKET", value_name = "PATH")]
    pub nri_socket: Option<String>,
    /// Serve metrics and health over HTTP on this address and port
    #[arg(long, env = "USERNSD_HTTP", value_name = "ADDR")]
    pub http: Option<String>,
    /// The finest objects with their own series: node, pod, container
    #[arg(long, env = "USERNSD_METRICS_DETAIL", value_name = "LEVEL")]
    pub metrics_detail: Option<String>,
    /// How many pods have series of their own at most
    #[arg(long, env = "USERNSD_METRICS_MAX_PODS", value_name = "NUMBER")]
    pub metrics_max_pods: Option<u32>,
    /// Unix socket on which the state is served
    #[arg(long, env = "USERNSD_STATE_SOCKET", value_name = "PATH")]
    pub state_socket: Option<String>,
}

/// Flags of `usernsd exporter`. Each but --allow-root overrides the configuration file.
#[derive(Debug, ClapArgs)]
pub struct ExporterArgs {
    /// Configuration file, the agent's; without it every setting is at its default
    #[arg(long, env = "USERNSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve on this address and port
    #[arg(long, env = "USERNSD_HTTP", value_name = "ADDR")]
    pub http: Option<String>,
    /// Unix socket on which the agent serves its state
    #[arg(long, env = "USERNSD_STATE_SOCKET", value_name = "PATH")]
    pub state_socket: Option<String>,
    /// Run even as root; for places where root is not the host's root, such as a container with a user namespace
    #[arg(long, env = "USERNSD_ALLOW_ROOT")]
    pub allow_root: bool,
}

/// Flags of `usernsd hook`. The container's state comes on the standard input.
#[derive(Debug, ClapArgs)]
pub struct HookArgs {
    /// Configuration file, the agent's; without it every setting is at its default
    #[arg(long, env = "USERNSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `usernsd bootstrap`. Exits 0 if the node is ready, 1 if --diff or --check find that
/// it is not, 2 if it could not be made so, or if --undo had to leave something.
#[derive(Debug, ClapArgs)]
pub struct BootstrapArgs {
    /// Change nothing; print what would change as a patch for "patch -p1"
    #[arg(long)]
    pub diff: bool,
    /// Change nothing; only report whether anything would change
    #[arg(long, conflicts_with = "diff")]
    pub check: bool,
    /// Undo the changes of earlier runs; later changes of others stay
    #[arg(long)]
    pub undo: bool,
    /// Apply the files and units of this MachineConfig, and nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "undo")]
    pub machineconfig: Option<PathBuf>,
    /// The node's root directory as this process sees it
    #[arg(long, env = "USERNSD_HOST_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Prepare CRI-O of this version, if it can neither be asked nor run
    #[arg(long, value_name = "VERSION", value_parser = CrioVersion::parse)]
    pub crio_version: Option<CrioVersion>,
    /// Allow user namespaces where user.max_user_namespaces is too low: in /etc/sysctl.d, and in the
    /// running kernel
    #[arg(long)]
    pub apply_sysctl: bool,
    /// Restart what runs on files from before they changed: CRI-O or containerd, then the kubelet.
    /// Refused, before anything is written, if CRI-O would lose the ID mappings of running pods
    #[arg(long, conflicts_with_all = ["diff", "check"])]
    pub restart: bool,
    /// Exit 0 even if the node could not be made ready, and keep the reason for the agent, which reports it
    /// as the check bootstrap_result: so that a node is not left without an agent
    #[arg(long, conflicts_with_all = ["diff", "check", "undo", "restart"])]
    pub exit_zero: bool,
    /// Configuration file; without it every setting is at its default
    #[arg(long, env = "USERNSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `usernsd doctor`. Exits 0 if the node is as it should be, 1 if something is wrong with
/// it, 2 if the checks could not be made.
#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = DoctorOutput::Table)]
    pub output: DoctorOutput,
    /// Only failed checks, and the verdict; the same as -o short
    #[arg(short, long, conflicts_with = "output")]
    pub quiet: bool,
    /// Warnings count too: exit 1
    #[arg(long)]
    pub strict: bool,
    /// Leave checks out, by name
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    pub ignore: Vec<String>,
    /// No colours
    #[arg(long)]
    pub no_color: bool,
    /// The node's root directory as this process sees it: / on the node, or where its disk is mounted
    #[arg(long, env = "USERNSD_HOST_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Configuration file; without it every setting is at its default
    #[arg(long, env = "USERNSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// CRI-O's version, if CRI-O does not answer
    #[arg(long, value_name = "VERSION", value_parser = CrioVersion::parse)]
    pub crio_version: Option<CrioVersion>,
    /// The agent's state socket, for facts that only the agent may see
    #[arg(long, env = "USERNSD_STATE_SOCKET", value_name = "PATH")]
    pub socket: Option<String>,
    /// Do not ask the agent
    #[arg(long, conflicts_with = "socket")]
    pub no_agent: bool,
}

/// How `usernsd doctor` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DoctorOutput {
    /// Every check, by category
    Table,
    /// Only failed checks, and the verdict
    Short,
    /// Every check as JSON
    Json,
}

/// Flags of `usernsd ps`.
#[derive(Debug, ClapArgs)]
pub struct PsArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The agent's state socket
    #[arg(
        long,
        env = "USERNSD_STATE_SOCKET",
        value_name = "PATH",
        default_value = "/run/usernsd/usernsd.sock"
    )]
    pub socket: PathBuf,
    /// Print no headings and no summary
    #[arg(long)]
    pub no_headers: bool,
    /// Print nothing; exit 0 once the agent has inspected the node and the runtime calls usernsd before a
    /// start, 1 before: for a readiness probe
    #[arg(long, conflicts_with_all = ["output", "no_headers"])]
    pub ready: bool,
}

/// Flags of `usernsd status` and `usernsd map`. `status` exits 0 if there is no problem, 1 if there is one, 2 if no agent
/// answers.
#[derive(Debug, ClapArgs)]
pub struct StateArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = OutputForm::Table)]
    pub output: OutputForm,
    /// The agent's state socket
    #[arg(
        long,
        env = "USERNSD_STATE_SOCKET",
        value_name = "PATH",
        default_value = "/run/usernsd/usernsd.sock"
    )]
    pub socket: PathBuf,
}

/// Flags of `usernsd explain`. Exits 0 if all is well, 1 if something is wrong with the container,
/// 2 if the node could not be examined.
#[derive(Debug, ClapArgs)]
pub struct ExplainArgs {
    /// Container ID or its beginning, pod, NAMESPACE/POD, or the number of a process on the node
    #[arg(value_name = "CONTAINER|POD|PID", required_unless_present = "from_log")]
    pub target: Option<String>,
    /// Explain error messages instead: those in LINE, in the file of that name, or in the lines of the standard
    /// input; exits 1 if none is known
    #[arg(
        long,
        value_name = "LINE",
        num_args = 0..=1,
        default_missing_value = "-",
        conflicts_with_all = ["target", "container"]
    )]
    pub from_log: Option<String>,
    /// One container of the pod
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// The UID of the pod NAMESPACE/POD, from someone who has seen at the API server that it is on this node
    #[arg(long, value_name = "UID", hide = true, conflicts_with = "from_log")]
    pub pod_uid: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = OutputForm::Table)]
    pub output: OutputForm,
    /// Where the node, its agent and its runtime are
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Flags of `usernsd whois`. Exits 1 if the ID has no owner.
#[derive(Debug, ClapArgs)]
pub struct WhoisArgs {
    /// A host user or group ID, or a file, whose owner and group are looked up
    #[arg(value_name = "ID|FILE")]
    pub target: String,
    /// Only user IDs
    #[arg(long, conflicts_with = "gid")]
    pub uid: bool,
    /// Only group IDs
    #[arg(long)]
    pub gid: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = OutputForm::Table)]
    pub output: OutputForm,
    /// Where the node, its agent and its runtime are
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Flags of the commands that examine the node themselves.
#[derive(Debug, ClapArgs)]
pub struct NodeArgs {
    /// Configuration file, the agent's; without it every setting is at its default
    #[arg(long, env = "USERNSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The node's root directory as this process sees it
    #[arg(long, env = "USERNSD_HOST_ROOT", value_name = "DIR")]
    pub host_root: Option<String>,
    /// CRI socket of the container runtime
    #[arg(long, env = "USERNSD_CRI_ENDPOINT", value_name = "PATH")]
    pub cri_endpoint: Option<String>,
    /// The agent's state socket
    #[arg(long, env = "USERNSD_STATE_SOCKET", value_name = "PATH")]
    pub socket: Option<String>,
}

/// Flags of `usernsd support-bundle`.
#[derive(Debug, ClapArgs)]
pub struct SupportBundleArgs {
    /// The archive to make, readable by its owner alone; "-" for the standard output
    #[arg(short, long, value_name = "FILE.tar.gz")]
    pub output: PathBuf,
    /// Replace the names of the node, of namespaces, pods and containers by hashes of this bundle's own
    #[arg(long)]
    pub redact: bool,
    /// Where the node, its agent and its runtime are
    #[command(flatten)]
    pub node: NodeArgs,
}

/// A shell that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// How to print what is not a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// For people
    Table,
    /// For programs
    Json,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// One line a container
    Table,
    /// The same with cgroup, unit, limits and more
    Wide,
    /// The containers of the state document
    Json,
}

/// Flags of `usernsd machineconfig`.
#[derive(Debug, ClapArgs)]
pub struct MachineconfigArgs {
    /// The machine config pool
    #[arg(long, value_name = "POOL", default_value = "worker")]
    pub role: String,
    /// Kind of the nodes
    #[arg(long, value_enum, default_value_t = NodeProfile::Default)]
    pub profile: NodeProfile,
    /// How to print it
    #[arg(long, value_enum, default_value_t = NodeFormat::Machineconfig)]
    pub format: NodeFormat,
    /// Version of Ignition, 3.1 to 3.5 [default: the profile's]
    #[arg(long, value_name = "VERSION", value_parser = parse_ignition)]
    pub ignition: Option<Ignition>,
    /// Configuration file, the agent's: its settings of CRI-O and of the NRI plugin are rendered too, with
    /// --profile default
    #[arg(long, env = "USERNSD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Oldest CRI-O of the pool; from 1.35.0 on, pods may use the new names of annotations too
    /// [default: the configuration's, else 1.32.0, OpenShift 4.19]
    #[arg(long, value_name = "VERSION", value_parser = CrioVersion::parse)]
    pub crio_version: Option<CrioVersion>,
    /// Let pods ask for a user namespace by annotation, and write /etc/subuid and /etc/subgid for it; of no
    /// use with Kubernetes 1.33 or later, which uses hostUsers: false instead
    #[arg(long)]
    pub userns_mode: bool,
    /// Compress the files
    #[arg(long)]
    pub gzip: bool,
    /// Print nothing to apply, but what the Machine Config Operator would do with it on the nodes of the pool.
    /// FILE holds the pool's rendered MachineConfig, as oc get -o yaml or -o json prints it; - is stdin. Exits 0 if
    /// no node reboots, 1 if nodes reboot, the operator refuses it or another MachineConfig has one of the files,
    /// 2 if that cannot be found out
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    pub check: Option<PathBuf>,
    /// Check this MachineConfig instead of the one that would be printed
    #[arg(long, value_name = "FILE", requires = "check",
          conflicts_with_all = ["profile", "ignition", "config", "crio_version", "userns_mode", "gzip"])]
    pub machineconfig: Option<PathBuf>,
}

/// The kind of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeProfile {
    /// Today's best: an additive drop-in for CRI-O, no reboot
    Default,
    /// The demonstration on OpenShift 4.7, byte for byte
    #[value(name = "demo-4.7")]
    Demo47,
}

/// How `usernsd machineconfig` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeFormat {
    /// For OpenShift, with the NodeDisruptionPolicy that avoids reboots
    Machineconfig,
    /// For Fedora CoreOS and its like
    Butane,
    /// For cloud images
    CloudInit,
    /// A shell script for everything else
    Script,
}

fn parse_ignition(text: &str) -> Result<Ignition, String> {
    Ignition::parse(text).ok_or_else(|| {
        let names: Vec<&str> = Ignition::ALL.iter().map(|version| version.name()).collect();
        format!("write one of: {}", names.join(", "))
    })
}

/// `usernsd config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the default configuration, with every key explained
    Default,
    /// Validate a file; exits 1 if something is wrong in it
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the admission policies that refuse, at the API server, what the agent would not grant
    Admission {
        /// Configuration file, the agent's; without it every setting is at its default
        #[arg(long, env = "USERNSD_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

// === impl NodeArgs ===

impl NodeArgs {
    /// Splits the flags into the configuration file and the settings that override it.
    #[must_use]
    pub fn into_parts(self) -> (Option<PathBuf>, Overrides) {
        let overrides = Overrides {
            host_root: self.host_root,
            cri_endpoint: self.cri_endpoint,
            state_socket: self.socket,
            ..Overrides::default()
        };
        (self.config, overrides)
    }
}

// === impl AgentArgs ===

impl AgentArgs {
    /// Splits the flags into the configuration file and the settings that override it.
    #[must_use]
    pub fn into_parts(self, log: &LogArgs) -> (Option<PathBuf>, Overrides) {
        let overrides = Overrides {
            host_root: self.host_root,
            cri_endpoint: self.cri_endpoint,
            nri_socket: self.nri_socket,
            http: self.http,
            exporter_http: None,
            metrics_detail: self.metrics_detail,
            metrics_max_pods: self.metrics_max_pods,
            state_socket: self.state_socket,
            log_level: log.log_level.map(|level| level.name().to_owned()),
            log_format: log.log_format.map(|format| format.name().to_owned()),
        };
        (self.config, overrides)
    }
}

impl ExporterArgs {
    /// Splits the flags into the configuration file and the settings that override it.
    #[must_use]
    pub fn into_parts(self, log: &LogArgs) -> (Option<PathBuf>, Overrides) {
        let overrides = Overrides {
            exporter_http: self.http,
            state_socket: self.state_socket,
            log_level: log.log_level.map(|level| level.name().to_owned()),
            log_format: log.log_format.map(|format| format.name().to_owned()),
            ..Overrides::default()
        };
        (self.config, overrides)
    }
}
