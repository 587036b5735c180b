//! Counts the steps of a search in tests: a test of complexity must not measure time.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts one step, only in tests.
#[inline]
pub(crate) fn step() {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

/// The number of steps that this thread makes in `search`.
#[cfg(test)]
pub(crate) fn steps_of<T>(search: impl FnOnce() -> T) -> (T, u64) {
    let before = STEPS.with(std::cell::Cell::get);
    let found = search();
    (found, STEPS.with(std::cell::Cell::get) - before)
}
