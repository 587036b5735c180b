//! Parses the arguments, opens the log, runs the command, and prints an error with its causes.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use usernsd::args::kubectl::KubectlArgs;
use usernsd::args::{Args, Command, ConfigCommand};
use usernsd::cli;
use usernsd::plugin::Launched;
use usernsd_config::{LogFormat, LogLevel, LogSettings, Settings};
use usernsd_linux::log::{self, Writing};

/// Exit code for "could not run"; 1 means that problems were found. clap uses 2 as well.
const COULD_NOT: u8 = 2;

fn main() -> ExitCode {
    // Checked before anything is opened and before arguments are parsed, because a runtime passes no
    // arguments to its plugin.
    if let Some(launched) = Launched::recognise(std::env::args_os(), |name| std::env::var(name).ok()) {
        let served = usernsd::plugin::run(&launched);
        return served.map_or(ExitCode::from(COULD_NOT), |()| ExitCode::SUCCESS);
    }
    let name = std::env::args_os().next().unwrap_or_default();
    let done = match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("kubectl-userns") => cli::kubectl::run(KubectlArgs::parse()),
        Some("kubectl_complete-userns") => cli::kubectl_complete::run(std::env::args_os().skip(1)),
        _ => run(Args::of_process()),
    };
    done.unwrap_or_else(|error| {
        cli::tell(&format!("error: {error:#}"));
        ExitCode::from(COULD_NOT)
    })
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Commands for people log only warnings and errors.
    let log = LogSettings {
        level: args.log.log_level.unwrap_or(LogLevel::Warn),
        format: args.log.log_format.unwrap_or(LogFormat::Text),
    };
    match args.command {
        Command::Agent(agent) => {
            let (file, overrides) = agent.into_parts(&args.log);
            let settings = usernsd::agent::settings(file.as_deref(), overrides)?;
            // Done before the log starts a thread, because privileges are per thread.
            let prepared = usernsd::agent::prepare(&settings)?;
            let _log = open_log(settings.log, Writing::Behind)?;
            usernsd::agent::run(settings, prepared)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Exporter(exporter) => {
            // Done first, before there is another thread.
            usernsd::exporter::give_up_privileges(exporter.allow_root)?;
            let (file, overrides) = exporter.into_parts(&args.log);
            let settings = Settings::load(file.as_deref(), overrides)?;
            let _log = open_log(settings.log, Writing::Behind)?;
            usernsd::exporter::run(settings)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bootstrap(bootstrap) => {
            let _log = open_log(log, Writing::Directly)?;
            cli::bootstrap::run(&bootstrap)
        }
        Command::Doctor(doctor) => {
            let _log = open_log(log, Writing::Directly)?;
            cli::doctor::run(doctor)
        }
        Command::Hook(hook) => {
            let level = args.log.log_level.unwrap_or(LogLevel::Info);
            let _log = open_log(LogSettings { level, ..log }, Writing::Directly)?;
            Ok(cli::hook::run(hook.config.as_deref()))
        }
        Command::HoldUserNamespace => Ok(usernsd_linux::mount_idmap::hold().map(|()| ExitCode::SUCCESS)?),
        Command::ObserveProcesses { proc } => usernsd::cli::observe::run(&proc),
        Command::LookInside { proc, pid, path } => {
            usernsd_linux::proc::examine(&proc, pid, &path)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::ReadConfiguration { root } => usernsd::cli::read::run(&root),
        Command::Ps(ps) if ps.ready => cli::ps::ready(&ps.socket),
        Command::Ps(ps) => cli::ps::run(&ps.socket, ps.output, !ps.no_headers),
        Command::Status(status) => cli::status::run(&status.socket, status.output),
        Command::Map(map) => cli::map::run(&map.socket, map.output),
        Command::Explain(explain) => {
            let _log = open_log(log, Writing::Directly)?;
            cli::explain::run(explain)
        }
        Command::Whois(whois) => {
            let _log = open_log(log, Writing::Directly)?;
            cli::whois::run(whois)
        }
        Command::Machineconfig(args) => {
            let _log = open_log(log, Writing::Directly)?;
            cli::machineconfig::run(args)
        }
        Command::SupportBundle(args) => {
            let _log = open_log(log, Writing::Directly)?;
            cli::support_bundle::run(args)
        }
        Command::Completion { shell } => cli::completion::run(shell),
        Command::Man { dir } => cli::man::run(&dir),
        Command::Config(ConfigCommand::Default) => cli::config::default(),
        Command::Config(ConfigCommand::Check { file }) => cli::config::check(&file),
        Command::Config(ConfigCommand::Admission { config }) => cli::config::admission(config.as_deref()),
    }
}

fn open_log(log: LogSettings, writing: Writing) -> Result<log::Log, log::LogError> {
    log::init(log.level.name(), log.format == LogFormat::Json, writing)
}
