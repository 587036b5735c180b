//! See `src/subid_text.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| usernsd_fuzz::subid_text::run(bytes));
