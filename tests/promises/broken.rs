//! Short checks on what a failed deploy says.

use serde_json::Value;

/// The error of the last deploy.
pub fn error(status: &Value) -> String {
    status["last"]["error"].as_str().unwrap_or_default().to_owned()
}
