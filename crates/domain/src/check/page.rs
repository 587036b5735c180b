//! `docs/runbooks/checks.md`, and the beginnings of the pages that it lists.

use std::fmt::Write as _;

use super::{Category, Check};

const INTRODUCTION: &str = "# Checks

There is a page for each check of `usernsd doctor`. The same names are used in `usernsd_check_passed`, in `--ignore`
and in the state document. Checks of severity error, except those of pods, determine `usernsd_node_ready`.
";

/// The sections of a check's page.
pub const SECTIONS: [&str; 4] = ["What it means", "How to see it by hand", "What to do", "What breaks"];

/// `docs/runbooks/checks.md`.
#[must_use]
pub fn documented_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    for category in Category::ALL {
        let title = category.title();
        let _ = write!(page, "\n## {title}\n\n| check | severity | passes if |\n|---|---|---|\n");
        for check in Check::of_category(category) {
            let (name, severity) = (check.name(), check.severity().name());
            let _ = writeln!(page, "| [{name}](checks/{name}.md) | {severity} | {} |", check.meaning());
        }
    }
    page
}

impl Check {
    /// The beginning of the check's page, `docs/runbooks/checks/NAME.md`.
    #[must_use]
    pub fn page_head(self) -> String {
        let (name, meaning, severity) = (self.name(), self.meaning(), self.severity().name());
        format!("# {name}\n\nPasses if {meaning}. Severity: {severity}.\n")
    }
}
