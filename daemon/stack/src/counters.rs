//! Named counters: a struct of numbers, each with a name and a meaning taken from its comment.
//!
//! Owns: the macro that every kind makes its counters by. Must never: let a counter have no meaning.
#![forbid(unsafe_code)]

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $field:ident = $name:literal,)*) => {
        /// Counts since the stack was made.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Counters { $($(#[doc = $doc])* pub(crate) $field: u64,)* }

        /// Each counter's name and what it counts.
        pub(crate) const MEANINGS: &[(&str, &str)] = &[$(($name, concat!($($doc),*)),)*];

        impl Counters {
            /// Shows each counter with its name.
            pub(crate) fn show(&self, show: &mut dyn FnMut(&'static str, u64)) {
                $(show($name, self.$field);)*
            }
        }
    };
}

pub(crate) use counters;
