//! The map's texts, the same on the web page and in the terminal.

use super::{Holder, IdType, Segment, SegmentKind, Window};

// === impl Holder ===

impl Holder {
    /// The holder, with the place of its definition.
    #[must_use]
    pub fn name_in(&self, space: IdType) -> String {
        match (self, space) {
            (Holder::Pod(name), _) => name.clone(),
            (Holder::Subid { owner, .. }, _) => format!("/etc/{} of {owner}", space.file()),
            (Holder::Account(name), IdType::Uid) => format!("user {name}"),
            (Holder::Account(name), IdType::Gid) => format!("group {name}"),
        }
    }
}

// === impl Segment ===

impl Segment {
    /// The segment's name.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.kind {
            SegmentKind::System => "system".to_owned(),
            SegmentKind::Users => "users".to_owned(),
            SegmentKind::Reserved => "systemd".to_owned(),
            SegmentKind::Between if self.claims.is_empty() => "free".to_owned(),
            SegmentKind::Between => "outside the pools".to_owned(),
            SegmentKind::Pool(names) => format!("pool {}", names.join(" + ")),
        }
    }

    /// A summary of the claims in the segment.
    #[must_use]
    pub fn notes(&self) -> String {
        let of = |kind: fn(&Holder) -> bool| -> Vec<&str> {
            let held = self.claims.iter().filter(|claim| kind(&claim.holder));
            let mut names: Vec<&str> = held.map(|claim| claim.holder.name()).collect();
            names.sort_unstable();
            names.dedup();
            names
        };
        let pods = of(|holder| matches!(holder, Holder::Pod(_)));
        let users = of(|holder| matches!(holder, Holder::Account(_)));
        let lines = of(|holder| matches!(holder, Holder::Subid { is_pool: false, .. }));
        let mut notes = Vec::new();
        if !pods.is_empty() {
            notes.push(counted(pods.len() as u64, "pod", "pods"));
        }
        match users.as_slice() {
            [] => {}
            [one] => notes.push((*one).to_owned()),
            many => notes.push(format!("{} accounts", many.len())),
        }
        match lines.as_slice() {
            [] => {}
            [one] => notes.push(format!("range of {one}")),
            many => notes.push(format!("{} ranges", many.len())),
        }
        if !self.shared.is_empty() {
            notes.push("shared IDs".to_owned());
        }
        if notes.is_empty() && matches!(self.kind, SegmentKind::Pool(_)) {
            notes.push("free".to_owned());
        }
        notes.join(", ")
    }
}

/// A range of IDs and their number.
#[must_use]
pub fn ids(window: Window) -> String {
    match window.count {
        1 => window.start.to_string(),
        count => format!("{}–{} ({} IDs)", window.start, window.end() - 1, grouped(count)),
    }
}

/// A number with its noun.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// A count with separated thousands: `4,096`. IDs are written without separators, as in files.
#[must_use]
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_separated_thousands() {
        for (number, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (4_294_967_295, "4,294,967,295")] {
            assert_eq!(grouped(number), want);
        }
        assert_eq!((counted(1, "pod", "pods"), counted(2, "pod", "pods")), ("1 pod".into(), "2 pods".into()));
        assert_eq!(ids(Window { start: 5, count: 1 }), "5");
        assert_eq!(ids(Window { start: 5, count: 1_000 }), "5–1004 (1,000 IDs)");
    }
}
