//! What crosses the control socket: one JSON line a request, then zero or more `Progress` lines and exactly one
//! `Done` or `Refused`. Shared by server and client; nothing here acts.

mod answer;
mod exit;
mod request;
mod status;

pub use answer::{Answer, ExecPlan, FlipReport, Progress, Refusal, Reply, Why};
pub use exit::Exit;
pub use request::{LogSource, Request};
pub use status::{
    AppReport, BarrierReport, CanaryReport, CronLast, CronReport, CronRunning, DaemonReport, DeployReport,
    GateReport, HoldReport, IdleReport, InstanceReport, LastReport, LeavingReport, LiveReport, RemoteReport,
    RollbackReport, Status, TaskReport, UnconfiguredReport, WorkerInstanceReport, WorkerReport,
};

use crate::store::record;
pub use crate::store::record::{
    DeployDetail, DeployRecord, EventRecord, LastRun, MeterRecord, StepRecord, TaskRecord,
};
