//! What routes the public traffic to a color. `route` says what is asked of a front; each front is a folder that
//! knows nothing of the others. Called by the engine's interpreter; decides nothing by itself.

pub mod builtin;
pub mod haproxy;
pub mod nginx;
pub mod route;
pub mod traffic;
