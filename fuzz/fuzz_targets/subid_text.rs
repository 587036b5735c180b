//! Any bytes as /etc/subuid: they round-trip, and a range that is set is found once.
//!
//! `cargo +nightly fuzz run subid_text -- -rss_limit_mb=512 -max_len=65536`
#![no_main]

use usernsd_domain::subid::{SubidFile, SubordinateRange};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = SubidFile::parse(bytes);
    assert_eq!(file.render(), bytes, "foreign bytes stay");
    let range = SubordinateRange { owner: "kubelet".to_owned(), start: 327_680, count: 7_208_960 };
    file.set(&range, |owner| owner == range.owner);
    let again = SubidFile::parse(&file.render());
    assert_eq!(again.ranges().filter(|(_, there)| **there == range).count(), 1);
    assert_eq!(again.ranges().filter(|(_, there)| there.owner == range.owner).count(), 1);
});
