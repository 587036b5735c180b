use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_passes_claps_own_checks() {
    Args::command().debug_assert();
}

#[test]
fn every_flag_reaches_the_settings() {
    let line = "usernsd agent --config f --host-root /h --cri-endpoint /c --nri-socket /n --http [::]:1 \
                    --metrics-detail pod --metrics-max-pods 7 --state-socket /s --log-level debug --log-format json";
    let args = Args::try_parse_from(line.split_whitespace()).unwrap();
    let Command::Agent(agent) = args.command else { panic!() };
    let (file, overrides) = agent.into_parts(&args.log);
    assert_eq!(file, Some("f".into()));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        overrides,
        Overrides {
            host_root: some("/h"),
            cri_endpoint: some("/c"),
            nri_socket: some("/n"),
            http: some("[::]:1"),
            exporter_http: None,
            metrics_detail: some("pod"),
            metrics_max_pods: Some(7),
            state_socket: some("/s"),
            log_level: some("debug"),
            log_format: some("json"),
        }
    );
}

#[test]
fn every_flag_has_a_variable_and_a_help() {
    let command = Args::command();
    let roles = ["agent", "exporter"].map(|name| command.find_subcommand(name).unwrap());
    for arg in roles.iter().flat_map(|role| role.get_arguments()).chain(command.get_arguments()) {
        assert!(arg.get_help().is_some(), "{arg}");
        if !matches!(arg.get_id().as_str(), "help" | "version") {
            let want = format!("USERNSD_{}", arg.get_id().as_str().to_uppercase());
            assert_eq!(arg.get_env().unwrap().to_str(), Some(want.as_str()), "{arg}");
        }
    }
}

#[test]
fn log_flags_are_accepted_before_and_after_a_command() {
    for line in ["usernsd --log-level debug ps", "usernsd ps --log-level debug"] {
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(args.log.log_level, Some(LogLevel::Debug), "{line}");
    }
    let wrong = Args::try_parse_from(["usernsd", "--log-level", "loud", "ps"]).unwrap_err();
    assert!(wrong.to_string().contains("error, warn, info, debug, trace"), "{wrong}");
    assert_eq!(wrong.exit_code(), 2);
}

#[test]
fn the_hooks_command_line_means_the_same_without_the_other_commands() {
    for line in
        ["usernsd hook", "usernsd hook --log-level debug --config f", "usernsd hook --log-format json"]
    {
        let hook = Args::of_hook(line.split_whitespace().map(OsString::from)).unwrap();
        let whole = Args::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(format!("{hook:?}"), format!("{whole:?}"));
    }
    for line in
        ["", "usernsd", "usernsd ps", "usernsd hook --help", "usernsd hook --version", "usernsd hook x"]
    {
        assert!(Args::of_hook(line.split_whitespace().map(OsString::from)).is_none(), "{line}");
    }
}
