//! Compiles the CRI and NRI protocol files, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../../proto";
    println!("cargo:rerun-if-changed={proto}");

    // Default stubs let a fake runtime implement only the methods that a scenario needs.
    let cri = protox::compile(["cri-v1.proto"], [proto])?;
    tonic_prost_build::configure().build_transport(false).generate_default_stubs(true).compile_fds(cri)?;

    // Ordered maps: an adjustment's annotations are the domain's.
    let nri = protox::compile(["nri.proto"], [proto])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(nri)?;
    Ok(())
}
