//! `usernsd bootstrap`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::{diff, print_bytes, tell};
use crate::args::BootstrapArgs;
use crate::config::{Overrides, Settings};
use crate::domain::provision::Form;
use crate::domain::runtime::{Kind, Runtime, RuntimeWish, Said, choose};
use crate::edge::host::HostRoot;
use crate::task::bootstrap::{self, Part, Step};
use crate::task::machineconfig::{self, Parsed};

/// Differences were found.
const DIFFERENT: u8 = 1;

/// Plans, and prints or applies: 0 where the node is as it should be, 1 where `--diff` or `--check`
/// find that it is not.
///
/// # Errors
/// The node could not be made ready, and nothing is half-written; or stdout is closed.
pub fn run(args: &BootstrapArgs) -> anyhow::Result<ExitCode> {
    let host_root = args.root.as_deref().map(absolute).transpose()?;
    let settings = Settings::load(args.config.as_deref(), Overrides { host_root, ..Overrides::default() })?;
    let root = HostRoot::open(&settings.host_root)?;
    let wishes = &settings.bootstrap;
    let ids = &wishes.ids;
    let mut said = wishes.runtime;
    if let Some(version) = args.crio_version {
        said = Said { wish: RuntimeWish::Only(Kind::Crio), crio: Some(version), ..said };
    }
    let (runtime, findings) = match (args.undo, said.wish) {
        (true, _) | (_, RuntimeWish::None) => (None, Vec::new()),
        _ => {
            let seen = executor()?.block_on(bootstrap::runtime::look(&root, &settings.runtime.endpoints))?;
            choose(&said, &seen)
        }
    };
    findings.iter().for_each(|finding| tell(&finding.to_string()));
    // Whatever else a node needs is one more step here.
    let plan_ids = |root: &HostRoot| bootstrap::ids::plan(root, ids);
    let plan_runtime =
        |root: &HostRoot| bootstrap::runtime::plan(root, runtime, wishes.crio, wishes.containerd_nri);
    let apply_sysctl = args.apply_sysctl || wishes.apply_sysctl;
    let plan_kernel =
        |root: &HostRoot| bootstrap::kernel::plan(root, bootstrap::ids::max_pods(root, ids)?, apply_sysctl);
    let crio = match runtime {
        Some(Runtime::Crio(version)) => Some(version),
        _ => None,
    };
    let machine_config = args.machineconfig.as_deref().map(read_machine_config).transpose()?;
    let plan_machine_config = |root: &HostRoot| match &machine_config {
        Some(parsed) => bootstrap::machine_config::plan(root, parsed, ids, crio),
        None => Ok(Part::default()),
    };
    let all: [&Step<'_>; 3] = [&plan_ids, &plan_kernel, &plan_runtime];
    let only: [&Step<'_>; 1] = [&plan_machine_config];
    let steps = if machine_config.is_some() { only.as_slice() } else { all.as_slice() };

    let only_look = args.diff || args.check;
    let part = match (args.undo, only_look) {
        (false, true) => bootstrap::plan(&root, steps)?,
        (false, false) => bootstrap::apply(&root, steps, &mut tell)?,
        (true, true) => bootstrap::plan_undo(&root, ids)?,
        (true, false) => bootstrap::undo(&root, ids, &mut tell)?,
    };
    part.findings.iter().for_each(|finding| tell(&finding.to_string()));
    if !only_look {
        if part.changes.is_empty() {
            tell("nothing to do");
        }
        return Ok(ExitCode::SUCCESS);
    }
    report(&part, args.diff)
}

fn read_machine_config(path: &Path) -> anyhow::Result<Parsed> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--machineconfig {}", path.display()))?;
    machineconfig::parse(&text).with_context(|| path.display().to_string())
}

fn report(part: &Part, as_patch: bool) -> anyhow::Result<ExitCode> {
    for change in &part.changes {
        if change.reasons.is_empty() {
            tell(&format!("would change {}", change.path));
        }
        change.reasons.iter().for_each(|reason| tell(&format!("would change {}: {reason}", change.path)));
        if as_patch && change.form == Form::Live {
            tell(&format!("{} is not in the patch: it is no text", change.path));
        }
    }
    if as_patch {
        print_bytes(&diff::unified(&part.changes))?;
    }
    Ok(if part.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

/// Peers are asked one after the other: one thread is enough.
fn executor() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Settings take absolute paths only; a person may be anywhere.
pub(super) fn absolute(path: &Path) -> anyhow::Result<String> {
    let absolute = std::path::absolute(path).with_context(|| format!("--root {}", path.display()))?;
    absolute.into_os_string().into_string().map_err(|path| anyhow::anyhow!("--root {path:?} is not UTF-8"))
}
