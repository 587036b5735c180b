//! See `src/runtime_json.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| usernsd_fuzz::runtime_json::run(bytes));
