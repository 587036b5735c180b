//! Steps of a search, counted while it is tested: a test of how the work grows must not measure time.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts one step, in tests alone.
#[inline]
pub(crate) fn step() {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

/// The steps that this thread makes in `search`.
#[cfg(test)]
pub(crate) fn steps_of<T>(search: impl FnOnce() -> T) -> (T, u64) {
    let before = STEPS.with(std::cell::Cell::get);
    let found = search();
    (found, STEPS.with(std::cell::Cell::get) - before)
}
