//! The command line of `kubectl userns`, which is the same program under another name.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{Output, OutputForm};

/// Asks the usernsd agents of a cluster, through kubectl.
#[derive(Debug, Parser)]
#[command(name = "kubectl-userns", bin_name = "kubectl userns", version)]
pub struct KubectlArgs {
    /// Namespace of the pod; kubectl's own without it
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Namespace of the agents
    #[arg(long, global = true, value_name = "NAMESPACE", default_value = "usernsd")]
    pub agent_namespace: String,
    /// kubectl's context
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// kubectl's configuration
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: KubectlCommand,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum KubectlCommand {
    /// Show each node's agent and how many problems it sees
    Status,
    /// List containers of all nodes
    Ps {
        /// The pods of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Explain a pod's containers
    Explain {
        /// Name of the pod
        pod: String,
        /// Name of one of its containers; all of them without it
        #[arg(short, long, value_name = "NAME")]
        container: Option<String>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = OutputForm::Table)]
        output: OutputForm,
    },
    /// Check a node
    Doctor {
        /// Name of the node
        node: String,
    },
    /// Show the host IDs of a node and their owners
    Map {
        /// Name of the node
        node: String,
    },
    /// Find the owner of a host ID of a node
    Whois {
        /// Name of the node
        node: String,
        /// A host user or group ID
        id: u32,
        /// Only the user ID
        #[arg(long, conflicts_with = "gid")]
        uid: bool,
        /// Only the group ID
        #[arg(long)]
        gid: bool,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = OutputForm::Table)]
        output: OutputForm,
    },
    /// Prove that it works: run systemd in a pod with a user namespace, show it from both sides, delete the pod. Exits 0
    /// if it works
    Demo {
        /// An image that has systemd as its entry point
        #[arg(long, value_name = "IMAGE", default_value = "registry.access.redhat.com/ubi9/ubi-init:latest")]
        image: String,
        /// How long to wait until systemd runs, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
    },
    /// Collect a node's support bundle
    SupportBundle {
        /// Name of the node
        node: String,
        /// The archive to make, readable by its owner alone
        #[arg(short, long, value_name = "FILE.tar.gz")]
        output: PathBuf,
        /// Replace names by hashes
        #[arg(long)]
        redact: bool,
    },
}
