//! Warnings for users of other tools. Their habits may work, so bgd warns and never refuses.

mod placeholders;
mod programs;
#[cfg(test)]
mod tests;

pub(super) use self::placeholders::looked_up;
