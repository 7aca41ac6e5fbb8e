//! The TCP probe: the port or unix socket accepts a connection. That the instance has been up for a while is checked
//! by the caller.

use std::time::Duration;

use tokio::time::timeout;

use super::{Outcome, Reason, stream::connect};
use crate::rules::address::Address;

/// Connects once.
pub(super) async fn ask(address: &Address, limit: Duration) -> Outcome {
    let reason = match timeout(limit, connect(address)).await {
        Ok(Ok(_)) => return Ok(String::new()),
        Ok(Err(reason)) => reason,
        Err(_) => Reason::NoAnswer { limit },
    };
    Err((reason, String::new()))
}
