//! See `src/crio_toml.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| usernsd_fuzz::crio_toml::run(bytes));
