//! The kubelet's own line: whether it gets another, and of what size.

use super::{CONTAINERS, DesiredIds, NodeIds, PlanError, Planner};
use crate::finding::{Finding, Severity};
use crate::kubelet::{self, NextPool, PoolFlaw, Stranded};
use crate::ranges::{FIRST, NoPlace, Placed, Start, Taken, WantedWindow, Window, place};

impl Planner<'_> {
    /// The kubelet's new line; `None` if it has a line that works.
    pub(super) fn kubelet(&self) -> Result<Option<WantedWindow>, PlanError> {
        let [uids, gids] = self.ranges(kubelet::USER);
        let is_known = self.max_pods_is_configured() || self.node.kubelet.has_config;
        let flaws = |window| self.demand.flaws(window);
        let needed = self.demand.count();
        if let Some(start) = self.desired.kubelet.start
            && let Some(flaw) = flaws(Window { start, count: needed }).first()
        {
            let sentence = flaw.sentence(Window { start, count: needed }, self.demand);
            return Err(PlanError::Flawed(sentence));
        }
        if flaws(Window { start: self.demand.ids_per_pod, count: needed }).contains(&PoolFlaw::Length) {
            let window = Window { start: self.demand.ids_per_pod, count: needed };
            return Err(PlanError::Flawed(PoolFlaw::Length.sentence(window, self.demand)));
        }
        let known = uids.first().map(|range| Window { start: range.start, count: range.count });
        // If the needed size is a guess, no existing line is too short.
        let is_kept = |window: &Window| {
            flaws(*window)
                .iter()
                .all(|flaw| !is_known && self.node.kubelet.is_present && *flaw == PoolFlaw::Few)
        };
        // Of several that work, the one with the fewest stranded pods.
        let mut good = self.known(kubelet::USER);
        good.retain(is_kept);
        let records = &self.node.kubelet.records;
        let good = good
            .into_iter()
            .min_by_key(|window| NextPool::Line(*window, self.demand).stranded(records).len());
        let start = match (self.desired.kubelet.start, good) {
            (Some(start), _) => Start::Fixed(start),
            (None, Some(window)) => Start::Unchanged(window.start),
            (None, None) => Start::Free,
        };
        if let (Some(window), [uid], [gid]) = (known.filter(is_kept), uids.as_slice(), gids.as_slice())
            && (uid.start, uid.count) == (gid.start, gid.count)
            && self.desired.kubelet.start.is_none_or(|start| start == window.start)
        {
            return Ok(None);
        }
        // Without a working line the kubelet does not start anyway; but without the user it does.
        if !is_known && good.is_none() && self.node.kubelet.is_present && self.pool() != NextPool::WontStart {
            return Err(PlanError::Demand(self.node.kubelet.config_unreadable.clone()));
        }
        let count = good.map_or(needed, |window| window.count);
        Ok(Some(WantedWindow {
            owner: kubelet::USER.to_owned(),
            start,
            count,
            align: self.demand.ids_per_pod,
        }))
    }

    /// Whether the number of pods that the kubelet may run is configured anywhere.
    pub(super) fn max_pods_is_configured(&self) -> bool {
        self.desired.kubelet.max_pods.or(self.node.kubelet.max_pods).is_some()
    }

    /// Places all ranges. If the number of pods is not configured, the kubelet's new range is larger than the default
    /// needs, unless another range or a convention would have to give way for that.
    pub(super) fn place(&self, wanted: Vec<WantedWindow>, taken: &[Taken]) -> Result<Vec<Placed>, NoPlace> {
        let (mut wanted, enough) = self.place_enough(wanted, taken)?;
        let (size, needed) = (self.demand.ids_per_pod, self.demand.count());
        // A repaired line keeps its range, and a range that a file or the configuration names has its size.
        let mut named = self.desired.ranges.iter().flatten();
        let is_named = named.any(|range| self.is_same(&range.owner, kubelet::USER));
        let is_new = |one: &WantedWindow| {
            one.owner == kubelet::USER
                && one.count == needed
                && !matches!(one.start, Start::Unchanged(_))
                && !is_named
        };
        let Some(index) = wanted.iter().position(is_new).filter(|_| !self.max_pods_is_configured()) else {
            return Ok(enough);
        };
        let split = |placed: &[Placed]| {
            let (kubelets, others): (Vec<Placed>, _) =
                placed.iter().cloned().partition(|one| one.owner == kubelet::USER);
            (kubelets.into_iter().map(|one| one.overlaps).collect::<Vec<_>>(), others)
        };
        for pods in kubelet::ROOMY_PODS.into_iter().filter(|pods| *pods > self.demand.max_pods) {
            if let Some(one) = wanted.get_mut(index) {
                one.count = pods.saturating_mul(size);
            }
            if let Ok(roomy) = place(&wanted, taken)
                && split(&roomy) == split(&enough)
            {
                return Ok(roomy);
            }
        }
        Ok(enough)
    }

    /// Places all ranges; if there is no room, with a smaller default for `containers`, which is the larger half of all
    /// that is wanted.
    fn place_enough(
        &self,
        mut wanted: Vec<WantedWindow>,
        taken: &[Taken],
    ) -> Result<(Vec<WantedWindow>, Vec<Placed>), NoPlace> {
        let full = match place(&wanted, taken) {
            Ok(placed) => return Ok((wanted, placed)),
            Err(full) => full,
        };
        let (owner, _, count) = CONTAINERS;
        let is_default =
            |one: &WantedWindow| self.desired.ranges.is_none() && one.owner == owner && one.count == count;
        let Some(index) = wanted.iter().position(is_default).filter(|_| matches!(full, NoPlace::Full { .. }))
        else {
            return Err(full);
        };
        let smaller = std::iter::successors(Some(count / 2), |count| Some(count / 2));
        for count in smaller.take_while(|count| *count >= FIRST) {
            if let Some(one) = wanted.get_mut(index) {
                one.count = count;
            }
            if let Ok(placed) = place(&wanted, taken) {
                return Ok((wanted, placed));
            }
        }
        Err(full)
    }
}

/// Checks whether the kubelet would start again after the change from `before` to `after`. `first` is the node before
/// the first change.
///
/// If it did not start at first either, there is no error: the findings describe what is wrong.
///
/// # Errors
/// [`PlanError::Stranded`] if pods have IDs outside the new pool; [`PlanError::Stuck`] if the kubelet starts now and
/// would not then.
pub fn check_pool(
    [first, before, after]: [&NodeIds; 3],
    desired: &DesiredIds,
) -> Result<Vec<Finding>, PlanError> {
    let unlisted = before.unlisted.clone();
    let [first, before, after] = [first, before, after].map(|node| Planner::new(node, desired));
    let (pool, found) = after.forecast();
    if let Some(why) = unlisted.filter(|_| pool != before.pool()) {
        return Err(PlanError::Unlisted(why));
    }
    let was_stuck = pool == NextPool::WontStart && first.pool() == NextPool::WontStart;
    if !was_stuck {
        starts_as_before(before.pool(), pool, &found, &before.stranded(pool))?;
    }
    Ok(found.into_iter().filter(|finding| finding.severity == Severity::Error).collect())
}

/// Refuses a change after which the kubelet would not start, or might not, if it would start now.
pub(super) fn starts_as_before(
    before: NextPool,
    after: NextPool,
    found: &[Finding],
    stranded: &[Stranded],
) -> Result<(), PlanError> {
    let is_worse = match after {
        NextPool::WontStart => before != NextPool::WontStart,
        NextPool::CannotTell => !matches!(before, NextPool::CannotTell | NextPool::WontStart),
        NextPool::Default(_) | NextPool::Line(..) => false,
    };
    if is_worse {
        let worst = found.iter().max_by_key(|finding| finding.severity);
        return Err(PlanError::Stuck(worst.map_or_else(String::new, |finding| finding.what.clone())));
    }
    if stranded.is_empty() || after == before { Ok(()) } else { Err(PlanError::Stranded(stranded.to_vec())) }
}
