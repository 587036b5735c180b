//! Any bytes as /etc/subuid: they round-trip, and a range that is set is found once.

use usernsd_domain::subid::{SubidFile, SubordinateRange};

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut file = SubidFile::parse(bytes);
    assert_eq!(file.render(), bytes, "foreign bytes stay");
    let range = SubordinateRange { owner: "kubelet".to_owned(), start: 327_680, count: 7_208_960 };
    file.set(&range, |owner| owner == range.owner);
    let again = SubidFile::parse(&file.render());
    assert_eq!(again.ranges().filter(|(_, there)| **there == range).count(), 1);
    assert_eq!(again.ranges().filter(|(_, there)| there.owner == range.owner).count(), 1);
}
