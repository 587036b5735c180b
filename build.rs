//! Passes to the compiler which optional programs the tests have: a test that lacks one is ignored, so that
//! every runner counts it as skipped and none as passed. docs/development.md lists the variables.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for (name, variables) in [
        ("has_crio", &["USERNSD_TEST_CRIO"][..]),
        ("has_new_containerd", &["USERNSD_TEST_CONTAINERD"]),
        ("has_kubernetes", &["USERNSD_TEST_KUBE"]),
        ("has_kubernetes_versions", &["USERNSD_TEST_KUBE", "USERNSD_TEST_KUBE_SKEW"]),
        ("has_node_problem_detector", &["USERNSD_TEST_KUBE", "USERNSD_TEST_NPD"]),
        ("has_version_before", &["USERNSD_TEST_BEFORE"]),
    ] {
        println!("cargo:rustc-check-cfg=cfg({name})");
        for variable in variables {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        if variables.iter().all(|variable| std::env::var_os(variable).is_some()) {
            println!("cargo:rustc-cfg={name}");
        }
    }
    println!("cargo:rustc-check-cfg=cfg(has_openshift)");
    if std::env::var_os("USERNSD_TEST_KUBE")
        .is_some_and(|directory| std::path::Path::new(&directory).join("openshift").is_dir())
    {
        println!("cargo:rustc-cfg=has_openshift");
    }
}
