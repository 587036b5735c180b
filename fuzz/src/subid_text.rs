//! Any bytes as /etc/subuid: they round-trip, and a range that is set is found once, unless there is a zero byte.

use usernsd_domain::subid::{SubidFile, SubordinateRange};

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut file = SubidFile::parse(bytes);
    assert_eq!(file.render(), bytes, "foreign bytes stay");
    // bootstrap refuses to write next to a zero byte, because shadow-utils does not read every line then.
    if file.zero_byte().is_some() {
        return;
    }
    let range = SubordinateRange { owner: "kubelet".to_owned(), start: 327_680, count: 7_208_960 };
    file.set(&range, |owner| owner == range.owner);
    let again = SubidFile::parse(&file.render());
    assert_eq!(again.ranges().filter(|(_, there)| **there == range).count(), 1);
    assert_eq!(again.ranges().filter(|(_, there)| there.owner == range.owner).count(), 1);
}
