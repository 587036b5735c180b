//! Unit names as D-Bus object paths (systemd `src/libsystemd/sd-bus/bus-label.c`): every byte except letters
//! and digits is written as `_` and two hexadecimal digits, and so is a digit at the start.

use std::fmt::Write as _;

const UNITS: &str = "/org/freedesktop/systemd1/unit/";

/// The object path of a unit.
pub(super) fn of_unit(unit: &str) -> String {
    let mut path = UNITS.to_owned();
    if unit.is_empty() {
        path.push('_');
    }
    for (index, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The unit of an object path.
    fn unit_of(path: &str) -> Option<String> {
        let label = path.strip_prefix(UNITS)?;
        let mut bytes = Vec::new();
        let mut rest = label.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'_' {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
                bytes.push(u8::try_from(value).ok()?);
            } else {
                bytes.push(byte);
            }
        }
        let unit = String::from_utf8(bytes).ok()?;
        (of_unit(&unit) == path).then_some(unit)
    }

    #[test]
    fn unit_names_are_escaped_as_systemd_escapes_them() {
        for (unit, label) in [
            ("crio-2d6f54.scope", "crio_2d2d6f54_2escope"),
            ("init.scope", "init_2escope"),
            ("0a.scope", "_30a_2escope"),
            ("a_b\\x2dé.scope", "a_5fb_5cx2d_c3_a9_2escope"),
        ] {
            let path = format!("{UNITS}{label}");
            assert_eq!(of_unit(unit), path);
            assert_eq!(unit_of(&path).as_deref(), Some(unit));
        }
        assert_eq!(of_unit(""), format!("{UNITS}_"));
    }

    proptest! {
        #[test]
        fn an_escaped_name_is_unescaped_to_itself(unit in "\\PC{1,40}") {
            let path = of_unit(&unit);
            prop_assert!(zbus::ObjectPath::try_from(path.as_str()).is_ok());
            prop_assert_eq!(unit_of(&path), Some(unit));
        }

        #[test]
        fn any_name_is_escaped_without_panic(text in any::<String>()) {
            let _ = of_unit(&text);
        }
    }
}
