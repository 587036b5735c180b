//! See `src/machine_config.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| usernsd_fuzz::machine_config::run(bytes));
