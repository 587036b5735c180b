//! systemd and its scopes.

use super::{Answer, Category, Check, Checked, Probe};

/// The first version that writes the extended attribute `user.delegate` on the cgroups of delegated units.
const MARKS: u32 = 251;
/// The most scopes that are named.
const MANY: usize = 5;

/// The facts about systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdFacts {
    pub version: u32,
    /// The scopes of containers, and whether each is delegated.
    pub scopes: Probe<Vec<(String, bool)>>,
}

#[must_use]
pub fn checks(facts: &Answer<SystemdFacts>) -> Vec<Checked> {
    let facts = match facts {
        Answer::NotAsked(why) => return Check::all_skipped(Category::Systemd, why),
        Answer::Missing(why) => {
            let no_answer = "systemd does not answer";
            return vec![
                Check::SystemdReachable.failed(
                    format!("{why}; systemd confirms no cgroup until then"),
                    "systemctl start dbus; in a pod, mount /run/dbus",
                ),
                Check::SystemdVersion.skipped(no_answer),
                Check::ScopesDelegated.skipped(no_answer),
            ];
        }
        Answer::Given(facts) => facts,
    };
    let version = facts.version;
    vec![
        Check::SystemdReachable.passed("the system bus"),
        if version >= MARKS {
            Check::SystemdVersion.passed(format!("systemd {version}"))
        } else {
            Check::SystemdVersion.failed(
                format!(
                    "systemd {version} does not mark the cgroups of delegated units, so the agent asks it about each container"
                ),
                format!("systemd {MARKS} or later marks them; a later release of the distribution has it"),
            )
        },
        scopes(&facts.scopes),
    ]
}

fn scopes(scopes: &Probe<Vec<(String, bool)>>) -> Checked {
    match scopes {
        Err(why) => Check::ScopesDelegated.skipped(why.clone()),
        Ok(scopes) if scopes.is_empty() => Check::ScopesDelegated.skipped("no scope of a container"),
        Ok(scopes) => {
            let not: Vec<&str> =
                scopes.iter().filter(|(_, delegate)| !delegate).map(|(unit, _)| unit.as_str()).collect();
            if not.is_empty() {
                return Check::ScopesDelegated.passed(format!("Delegate=yes on {} scopes", scopes.len()));
            }
            let more =
                if not.len() > MANY { format!(" and {} more", not.len() - MANY) } else { String::new() };
            let names: Vec<&str> = not.iter().take(MANY).copied().collect();
            Check::ScopesDelegated.failed(
                format!(
                    "Delegate=no on {}{more}: systemd may undo what is handed over, so these are left alone",
                    names.join(", ")
                ),
                "remove the override (systemctl cat UNIT shows it), and recreate the pod",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(facts: &Answer<SystemdFacts>) -> Vec<&'static str> {
        checks(facts).iter().map(Checked::word).collect()
    }

    #[test]
    fn each_check_fails_alone_if_its_cause_is_present() {
        let facts = |version, delegates: &[bool]| {
            let scopes = delegates.iter().map(|delegate| ("crio-a.scope".to_owned(), *delegate)).collect();
            Answer::Given(SystemdFacts { version, scopes: Ok(scopes) })
        };
        assert_eq!(words(&facts(262, &[true, true])), ["pass", "pass", "pass"]);
        assert_eq!(words(&facts(251, &[])), ["pass", "pass", "skip"]);
        assert_eq!(words(&facts(250, &[true])), ["pass", "note", "pass"]);
        assert_eq!(words(&facts(262, &[true, false])), ["pass", "pass", "warn"]);
        assert_eq!(words(&Answer::Missing("no bus".into())), ["warn", "skip", "skip"]);
        assert_eq!(words(&Answer::NotAsked("offline".into())), ["skip", "skip", "skip"]);
    }
}
