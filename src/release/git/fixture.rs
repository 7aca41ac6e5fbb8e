//! An opening for tests.

use super::wire::Opening;

/// For a remote without any credentials.
pub fn opening(remote: &str) -> Opening {
    Opening {
        mirror: "/m".into(),
        remote: remote.into(),
        branch: "main".into(),
        fast_forward_only: None,
        ssh_key: None,
        known_hosts: None,
        token_file: None,
        ca_file: None,
        proxy: None,
        idle_proxy: None,
        user: None,
        home: "/nonexistent".into(),
        read_timeout_ms: 1000,
    }
}
