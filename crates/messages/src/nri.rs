//! NRI `plugins/default-validator`, in containerd and CRI-O.

messages! { Nri;
    RequiredPlugin = "nri-required-plugin" {
        says: ["validation error: required plugin…usernsd… not present"],
        sample: "validator \"00-default-validator\" rejected container adjustment, reason: validation error: required plugin \"usernsd\" not present",
        cause: "The pod's annotation or the runtime's configuration (bootstrap.nri.required) requires usernsd for this container, and neither its launched plugin nor an agent is connected.",
        fix: "Start the agent, or restart the runtime so that it launches the plugin; usernsd doctor shows which is missing. The kubelet retries.",
        page: "nri-plugin.md",
    }
    NamespaceRestricted = "nri-namespace-restricted" {
        says: ["validation error: attempted restricted namespace adjustment by …usernsd"],
        sample: "validator \"00-default-validator\" rejected container adjustment, reason: validation error: attempted restricted namespace adjustment by plugin(s) \"usernsd\" (namespace \"cgroup\")",
        cause: "NRI's default validator rejects plugins that change namespaces, and usernsd gives privileged containers their own cgroup namespace.",
        fix: "Remove reject_namespace_adjustment (CRI-O: nri_validator_reject_namespace_adjustment), or set delegation.privilegedCgroupNamespace to false.",
        page: "runbooks/checks/nri_required.md",
    }
    PluginClosed = "nri-plugin-closed" {
        says: ["closing plugin …usernsd, failed to handle event"],
        sample: "closing plugin 90-usernsd, failed to handle event 4: context deadline exceeded",
        cause: "usernsd did not answer within the runtime's time limit for plugins (2 s by default), and the runtime has disconnected it. Containers that started since were set up without usernsd.",
        fix: "usernsd doctor shows whether it is connected again (nri_enabled, plugin_running); the agent's resync repairs the containers that it missed. If it happens often, the node is overloaded: raise plugin_request_timeout (CRI-O: nri_plugin_request_timeout) and restart the runtime.",
        page: "runbooks/checks/nri_enabled.md",
    }
    Socket = "nri-socket-denied" {
        says: ["failed to start NRI interface: failed to create socket"],
        sample: "failed to set up NRI for CRI service: failed to start NRI interface: failed to create socket \"/var/run/nri/nri.sock\": listen unix /var/run/nri/nri.sock: bind: permission denied",
        cause: "The runtime cannot create NRI's socket, and its CRI plugin does not load: it runs in a user namespace (rootless containerd, a node in a container) that does not own /run, or another runtime has the socket.",
        fix: "Give it a /run of its own, or set socket_path of NRI in its configuration to a directory that it may write; disable = true there switches NRI off, and usernsd's hook takes its place.",
        page: "hook.md",
    }
    NoService = "nri-no-service" {
        says: ["failed to connect to NRI service", "failed to connect to NRI/Runtime"],
        sample: "failed to connect to NRI service: dial unix /var/run/nri/nri.sock: connect: no such file or directory",
        cause: "An NRI plugin cannot reach the runtime: NRI is switched off, connections from plugins are switched off (disable_connections), the socket has another path, or the socket is not mounted into the plugin's pod.",
        fix: "The check nri_enabled of usernsd doctor shows the settings in the runtime's files, and usernsd bootstrap switches NRI on. Restart the runtime after a change.",
        page: "runbooks/checks/nri_enabled.md",
    }
    Registration = "nri-registration" {
        says: ["failed to register with NRI/Runtime: ", "failed to register plugin…ttrpc: closed"],
        sample: "failed to register with NRI/Runtime: ttrpc: closed",
        cause: "The runtime closed the connection before the plugin was registered. On a busy node the time limit for it has passed (5 s by default, in the runtime and in the plugin's library), or the runtime was restarting.",
        fix: "Some plugins connect again by themselves; others do when their pod is restarted. If it happens often, raise plugin_registration_timeout (CRI-O: nri_plugin_registration_timeout) and restart the runtime.",
    }
}
