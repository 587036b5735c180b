//! Where facts, rules and effects meet: observe → plan → apply.

pub mod delegate;
