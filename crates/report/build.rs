//! Names the compiler, for `usernsd_build_info`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = std::process::Command::new(rustc).arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout);
    println!("cargo:rustc-env=USERNSD_RUSTC={}", version.split(' ').nth(1).unwrap_or("unknown").trim());
    Ok(())
}
