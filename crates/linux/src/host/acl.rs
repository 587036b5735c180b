//! A file's ACL (acl(5)) and the attributes that users set (xattr(7)), for the file that takes its place.

use std::os::fd::AsFd;

use rustix::fs::{Mode, XattrFlags, fchmod, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

/// The access ACL.
const ACCESS: &str = "system.posix_acl_access";
/// Attributes that a new file does not get by itself. Those of the security modules are theirs to set.
const KEPT: [&str; 2] = ["user.", "trusted."];
/// Upper limits of the kernel (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MOST: usize = 65_536;

/// An extended attribute: its name and its value.
pub(super) type Extended = (String, Vec<u8>);

/// The extended attributes of a file that go to the file in its place.
pub(super) fn extended(file: impl AsFd) -> Result<Vec<Extended>, Errno> {
    let mut names = vec![0; MOST];
    match flistxattr(&file, names.as_mut_slice()) {
        Ok(length) => names.truncate(length),
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    }
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
        if name != ACCESS && !KEPT.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut value = vec![0; MOST];
        match fgetxattr(&file, name, value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(errno) => return Err(errno),
        }
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// Sets the attributes of another file on one that has its mode. The group's bits of a mode with an ACL are the ACL's
/// mask: if the ACL cannot be set, they become the permissions of the group itself.
pub(super) fn set(file: impl AsFd, mode: u32, extended: &[Extended]) -> Result<(), Errno> {
    for (name, value) in extended {
        match fsetxattr(&file, name.as_str(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(_) if name == ACCESS => {
                let group = group_of(value).unwrap_or(0) << 3;
                fchmod(&file, Mode::from_raw_mode(mode & !0o070 | mode & group))?;
            }
            // An attribute of a user's has no influence on who may read the file.
            Err(_) => {}
        }
    }
    Ok(())
}

/// The permissions of the owning group in an ACL as the kernel stores it (`include/uapi/linux/posix_acl_xattr.h`).
fn group_of(acl: &[u8]) -> Option<u32> {
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    const GROUP: u16 = 0x04;
    let entries = acl.strip_prefix(&VERSION)?;
    entries.chunks_exact(8).find_map(|entry| match entry {
        [tag, tag_high, permissions, ..] if u16::from_le_bytes([*tag, *tag_high]) == GROUP => {
            Some(u32::from(permissions & 0o7))
        }
        _ => None,
    })
}

/// The ACL of `setfacl -m u:1000:rw FILE` on a file of mode 0600.
#[cfg(test)]
pub(super) fn of_one_more_user() -> Vec<u8> {
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [
        2_u32.to_le_bytes().to_vec(),
        entry(0x01, 6, u32::MAX),
        entry(0x02, 6, 1000),
        entry(0x04, 0, u32::MAX),
        entry(0x10, 6, u32::MAX),
        entry(0x20, 0, u32::MAX),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permissions_of_the_group_are_not_those_of_the_mask() {
        let acl = of_one_more_user();
        assert_eq!(group_of(&acl), Some(0));
        assert_eq!(group_of(&acl[4..]), None);
        assert_eq!(group_of(b""), None);
    }

    /// Setting an ACL that no file can have fails.
    #[test]
    fn without_its_acl_a_file_is_not_more_open_than_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let acl = [&2_u32.to_le_bytes()[..], &[0x04, 0, 0o4, 0, 0xff, 0xff, 0xff, 0xff]].concat();
        set(file.as_file(), 0o660, &[(ACCESS.to_owned(), acl)]).unwrap();
        let mode = rustix::fs::fstat(file.as_file()).unwrap().st_mode & 0o777;
        assert_eq!(mode, 0o640);
    }
}
