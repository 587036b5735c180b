//! The links that `systemctl enable` would create, from a unit's `[Install]` section (systemd.unit(5)).

/// The links of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitLinks {
    /// Each link's path and target, both absolute.
    pub links: Vec<(String, String)>,
    /// Settings of `[Install]` that only systemctl can apply.
    pub left_out: Vec<String>,
}

/// Types of units (systemd.unit(5)).
const TYPES: [&str; 11] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
];

/// Whether a text is the name of a unit.
#[must_use]
pub fn is_unit(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\-@".contains(&byte);
    name.len() <= 255
        && name.bytes().all(good)
        && name.rsplit_once('.').is_some_and(|(stem, kind)| !stem.is_empty() && TYPES.contains(&kind))
}

/// The template of an instance: `a@.service` for `a@b.service`.
#[must_use]
pub fn template_of(unit: &str) -> Option<String> {
    let (stem, kind) = unit.rsplit_once('.')?;
    let (stem, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{stem}@.{kind}"))
}

/// The links of the unit `name`, whose text is in `file`.
#[must_use]
pub fn install(name: &str, text: &str, file: &str) -> UnitLinks {
    let keys = keys(text);
    let values =
        |key: &'static str| keys.iter().filter(move |(known, _)| known == key).map(|(_, value)| value);
    let mut found = UnitLinks::default();
    let linked = match name.split_once("@.") {
        None => name.to_owned(),
        // A template without an instance cannot be started.
        Some((stem, kind)) => match values("DefaultInstance").next_back() {
            Some(instance) => format!("{stem}@{instance}.{kind}"),
            None => {
                found.left_out.push(format!("{name} is a template, and no instance of it is named"));
                return found;
            }
        },
    };
    for (key, kind) in [("WantedBy", "wants"), ("RequiredBy", "requires"), ("UpheldBy", "upholds")] {
        for unit in values(key) {
            if is_unit(unit) && is_unit(&linked) {
                let path = format!("/etc/systemd/system/{unit}.{kind}/{linked}");
                found.links.push((path, file.to_owned()));
            } else {
                found.left_out.push(format!("{key}={unit} of {name}"));
            }
        }
    }
    for alias in values("Alias") {
        if is_unit(alias)
            && alias.rsplit_once('.').map(|(_, kind)| kind) == name.rsplit_once('.').map(|(_, kind)| kind)
        {
            if alias != name {
                found.links.push((format!("/etc/systemd/system/{alias}"), file.to_owned()));
            }
        } else {
            found.left_out.push(format!("Alias={alias} of {name}"));
        }
    }
    found.left_out.extend(values("Also").map(|unit| format!("Also={unit} of {name}")));
    found
}

/// The keys of `[Install]` with their values, one at a time (systemd.syntax(7)).
fn keys(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    let mut carried = String::new();
    for line in text.lines() {
        let line = line.trim();
        // Comments are skipped within a continued line, too.
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(part) = line.strip_suffix('\\') {
            carried.push_str(part);
            carried.push(' ');
            continue;
        }
        let whole = std::mem::take(&mut carried) + line;
        let whole = whole.trim();
        if whole.starts_with('[') {
            inside = whole == "[Install]";
        } else if let Some((key, value)) = whole.split_once('=').filter(|_| inside) {
            let key = key.trim();
            if value.trim().is_empty() {
                // An empty value resets the list.
                found.retain(|(known, _)| known != key);
            }
            found.extend(value.split_whitespace().map(|value| (key.to_owned(), value.to_owned())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_are_those_that_systemctl_creates() {
        for (name, text, links, left_out) in [
            ("a.service", "[Install]\nWantedBy=multi-user.target\n", "multi-user.target.wants/a.service", ""),
            ("a.service", "[Unit]\nWantedBy=x.target\n[Install]\n# WantedBy=y.target\n", "", ""),
            (
                "a.service",
                "[Install]\nWantedBy=x.target \\\n# no\n  y.target\nRequiredBy = z.target\nUpheldBy=u.service",
                "x.target.wants/a.service y.target.wants/a.service z.target.requires/a.service u.service.upholds/a.service",
                "",
            ),
            (
                "a.service",
                "[Install]\nWantedBy=x.target\nWantedBy=\nWantedBy=y.target\n",
                "y.target.wants/a.service",
                "",
            ),
            ("a.service", "[Install]\nAlias=b.service a.service\n", "b.service", ""),
            (
                "a.service",
                "[Install]\nAlias=b.timer ../b.service\n",
                "",
                "Alias=b.timer of a.service, Alias=../b.service of a.service",
            ),
            ("a@b.service", "[Install]\nWantedBy=x.target\n", "x.target.wants/a@b.service", ""),
            (
                "a@.service",
                "[Install]\nDefaultInstance=c\nWantedBy=x.target\n",
                "x.target.wants/a@c.service",
                "",
            ),
            (
                "a@.service",
                "[Install]\nWantedBy=x.target\n",
                "",
                "a@.service is a template, and no instance of it is named",
            ),
            (
                "a@.service",
                "[Install]\nDefaultInstance=../c\nWantedBy=x.target\n",
                "",
                "WantedBy=x.target of a@.service",
            ),
            (
                "a.service",
                "[Install]\nWantedBy=x@%i.target\nAlso=b.socket\n",
                "",
                "WantedBy=x@%i.target of a.service, Also=b.socket of a.service",
            ),
        ] {
            let found = install(name, text, "/f");
            let want: Vec<String> =
                links.split_whitespace().map(|path| format!("/etc/systemd/system/{path}")).collect();
            assert_eq!(found.links.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), want, "{text}");
            assert!(found.links.iter().all(|(_, target)| target == "/f"));
            assert_eq!(found.left_out.join(", "), left_out, "{text}");
        }
        assert_eq!(template_of("a@b.service").as_deref(), Some("a@.service"));
        assert_eq!((template_of("a@.service"), template_of("a.service")), (None, None));
        for name in ["", "a", ".service", "a.b", "a/b.service", "a b.service", "../a.service", "a.service\n"]
        {
            assert!(!is_unit(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn no_link_leaves_the_directory_for_any_unit(name in "[a-z@./]{1,9}\\.service", text in "(\\[Install\\]\n)?([A-Za-z]{5,9}=[a-z./@%\\\\ ]{0,20}\n){0,5}") {
            for (path, _) in install(&name, &text, "/f").links {
                prop_assert!(!path.contains("/../") && !path.ends_with("/.."), "{path}");
            }
        }
    }
}
