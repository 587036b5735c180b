//! Compiles the CRI and NRI protocol files, without protoc, and names the compiler.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");

    // CRI: a tonic client; the server half is for the tests' fake runtime. Default stubs let that
    // fake implement only the methods a scenario needs.
    let cri = protox::compile(["proto/cri-v1.proto"], ["proto"])?;
    tonic_prost_build::configure().build_transport(false).generate_default_stubs(true).compile_fds(cri)?;

    // NRI speaks ttrpc through its own multiplexer, so only the messages are generated.
    // Ordered maps: an adjustment's annotations are the domain's.
    let nri = protox::compile(["proto/nri.proto"], ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(nri)?;

    // For usernsd_build_info.
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = std::process::Command::new(rustc).arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout);
    println!("cargo:rustc-env=USERNSD_RUSTC={}", version.split(' ').nth(1).unwrap_or("unknown").trim());
    Ok(())
}
