//! Parse, log, run; print the error chain once.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use usernsd::args::{Args, Command, ConfigCommand};
use usernsd::cli;
use usernsd::config::{LogFormat, LogLevel, LogSettings, Settings};
use usernsd::edge::log::{self, Writing};

/// "Could not run"; 1 is for problems found. clap uses 2 as well.
const COULD_NOT: u8 = 2;

fn main() -> ExitCode {
    run(Args::parse()).unwrap_or_else(|error| {
        // Where stderr is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::from(COULD_NOT)
    })
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Commands for people speak up only when something is wrong.
    let log = LogSettings {
        level: args.log.log_level.unwrap_or(LogLevel::Warn),
        format: args.log.log_format.unwrap_or(LogFormat::Text),
    };
    match args.command {
        Command::Agent(agent) => {
            let (file, overrides) = agent.into_parts(&args.log);
            let settings = Settings::load(file.as_deref(), overrides)?;
            // Before the log has a thread: each has privileges of its own.
            let prepared = usernsd::agent::prepare(&settings)?;
            let _log = open_log(settings.log, Writing::Behind)?;
            usernsd::agent::run(settings, prepared)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Exporter(exporter) => {
            // First of all, and before there is another thread.
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
        Command::Ps(ps) => cli::ps::run(&ps.socket, ps.output, !ps.no_headers),
        Command::Explain(explain) => {
            let _log = open_log(log, Writing::Directly)?;
            cli::explain::run(explain)
        }
        Command::Machineconfig(args) => {
            let _log = open_log(log, Writing::Directly)?;
            cli::machineconfig::run(args)
        }
        Command::Config(ConfigCommand::Default) => cli::config::default(),
        Command::Config(ConfigCommand::Check { file }) => cli::config::check(&file),
    }
}

fn open_log(log: LogSettings, writing: Writing) -> Result<log::Log, log::LogError> {
    log::init(log.level.name(), log.format == LogFormat::Json, writing)
}
