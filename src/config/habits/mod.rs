//! What people write who come from another tool: it may work, so it is said and never refused.

mod placeholders;
mod programs;
#[cfg(test)]
mod tests;

pub(super) use self::placeholders::looked_up;
