//! See `src/nri_frames.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| usernsd_fuzz::nri_frames::run(bytes));
