//! Compiles the CRI and NRI protocol files, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");

    // CRI: a tonic client; the server half is for the tests' fake runtime. Default stubs let that
    // fake implement only the methods a scenario needs.
    let cri = protox::compile(["proto/cri-v1.proto"], ["proto"])?;
    tonic_prost_build::configure().build_transport(false).generate_default_stubs(true).compile_fds(cri)?;

    // NRI speaks ttrpc through its own multiplexer, so only the messages are generated.
    // Ordered maps: annotations are decoded straight into the map that the domain keeps.
    let nri = protox::compile(["proto/nri.proto"], ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(nri)?;
    Ok(())
}
