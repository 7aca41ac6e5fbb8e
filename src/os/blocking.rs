//! Blocking work, off the runtime's own threads.

/// Runs `work` on a thread for blocking work. A panic in it goes on in the caller. Dropping the future does not stop
/// the work; its result is dropped.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(err) => match err.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down and drops this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}
