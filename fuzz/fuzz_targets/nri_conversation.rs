//! See `src/nri_conversation.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| usernsd_fuzz::nri_conversation::run(bytes));
