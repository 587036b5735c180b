//! Values that have one name in documents, logs and metrics.

/// A value with a name.
pub trait Word: Copy + PartialEq + 'static {
    /// The value of that name; `None` for a name of a later version.
    fn named(name: &str) -> Option<Self>;

    /// The name, the same in all versions.
    fn name(self) -> &'static str;
}

/// One of a few values, from which a configuration chooses.
pub trait Choice: Word {
    /// Every value, in the order in which documents list them.
    const ALL: &'static [Self];
}

/// Gives each value of an enum its name: makes `ALL`, every value in the order written here, `name`, `named`, and
/// [`Word`] and [`Choice`].
/// A value that is left out does not compile. The comment before the enum becomes that of `name`.
#[macro_export]
macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($value:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            pub const ALL: [$type; [$($name),+].len()] = [$($type::$value),+];

            $(#[$doc])*
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($type::$value => $name),+
                }
            }

            /// The value of that name; `None` for a name of a later version.
            #[must_use]
            pub fn named(name: &str) -> Option<$type> {
                $type::ALL.into_iter().find(|value| value.name() == name)
            }
        }

        impl $crate::words::Word for $type {
            fn named(name: &str) -> Option<$type> {
                $type::named(name)
            }

            fn name(self) -> &'static str {
                $type::name(self)
            }
        }

        impl $crate::words::Choice for $type {
            const ALL: &'static [$type] = &$type::ALL;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::Word;
    use crate::finding::{FindingId, Severity};

    fn all_are_found<T: Word + std::fmt::Debug>(all: impl IntoIterator<Item = T>) {
        for value in all {
            // The first of two values with one name is found for both.
            assert_eq!(T::named(value.name()), Some(value));
        }
        assert_eq!(T::named("later"), None);
    }

    #[test]
    fn a_value_is_found_by_its_name() {
        assert_eq!(Severity::ALL.map(Severity::name), ["note", "warning", "error"]);
        all_are_found(Severity::ALL);
        all_are_found(FindingId::ALL);
    }
}
