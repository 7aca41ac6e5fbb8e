//! The commands of one app and the shims that run them: release directories, environments, and the spec that a shim
//! gets. Used by the rooms; decides nothing.

use std::{path::PathBuf, sync::Arc};

use super::{Command, CommandError, Places, ReleaseContext, stop_command, trouble};
use crate::{
    config::{
        settings::{AppSettings, StopHow},
        template::Values,
    },
    rules::{
        app::Release,
        ids::{Color, ReleaseId},
        words::{Failure, Phase},
        workers::WorkerSlot,
    },
    shim::{Handle, LogSpec, Priority, Role, ShimError, Shims, Slot, Spec, StopRequest, StopSpec},
};

/// Size limit of one instance log file, in bytes; four files are kept.
const INSTANCE_LOG: u64 = 10 << 20;

/// The settings, directories and shims of one app.
#[derive(Debug, Clone)]
pub struct AppCommands {
    pub(crate) settings: Arc<AppSettings>,
    pub(crate) places: Places,
    pub(crate) shims: Shims,
}

impl AppCommands {
    /// The context of commands that run once for all instances (build, hooks): that of the first instance.
    pub(crate) fn context(&self, release: &Release, color: Color) -> ReleaseContext {
        self.context_of(release, Slot { color, index: 0 })
    }

    pub(crate) fn context_of(&self, release: &Release, slot: Slot) -> ReleaseContext {
        ReleaseContext {
            places: self.places.clone(),
            values: Values {
                address: self.settings.address_at(slot.color, slot.index),
                instance: slot.number(),
                color: slot.color,
                release: release.id.clone(),
                commit: release.commit.clone(),
            },
        }
    }

    /// The context of a worker's commands.
    pub(crate) fn worker_context(
        &self,
        release: &Release,
        color: Color,
        slot: &WorkerSlot,
    ) -> ReleaseContext {
        let mut context = self.context(release, color);
        context.values.instance = slot.number();
        context
    }

    /// The shim of this app with this role and release, running or with its exit still recorded.
    pub(crate) async fn shim(&self, role: &Role, release: &ReleaseId) -> Result<Option<Handle>, ShimError> {
        let all = self.shims.find(&self.settings.name).await?;
        Ok(all.into_iter().rfind(|handle| handle.role() == role && handle.release() == release))
    }

    pub(crate) fn instance_log(&self, slot: Slot) -> PathBuf {
        self.places.logs().join(format!("{slot}.log"))
    }

    pub(crate) fn build_log(&self, release: &ReleaseId) -> PathBuf {
        self.places.logs().join(format!("build-{release}.log"))
    }

    /// All shims of the app.
    pub(crate) async fn find_shims(&self, phase: Phase) -> Result<Vec<Handle>, Failure> {
        self.shims.find(&self.settings.name).await.map_err(|err| trouble(phase, &err))
    }

    pub(crate) fn spec(&self, role: Role, release: &Release, command: Command) -> Spec {
        let path = match role {
            Role::Instance(slot) => self.instance_log(slot),
            Role::Worker(_) => self.places.logs().join(format!("{role}.log")),
            Role::Cron(_) => self.places.logs().join(format!("{role}.log")),
            Role::Build => self.build_log(&release.id),
            Role::Hook(ref name) => self.places.hook_log(name, &release.id),
            Role::Task(ref name) => self.places.task_log(name, &release.id),
        };
        Spec {
            app: self.settings.name.clone(),
            role,
            release: release.id.clone(),
            argv: command.argv,
            cwd: command.cwd,
            env: command.env,
            user: command.user,
            new_privileges: command.new_privileges,
            log: LogSpec { path, max_bytes: INSTANCE_LOG, keep: 3 },
            stop: StopSpec {
                how: StopRequest::Signal(libc::SIGTERM),
                grace: self.settings.stop.grace,
                quiet: None,
            },
            time_limit: None,
            priority: Priority::Normal,
            limits: self.settings.limits,
            siblings: 1,
            claim: None,
        }
    }

    pub(crate) fn stop_request(&self, context: &ReleaseContext) -> Result<StopRequest, CommandError> {
        Ok(match (self.settings.stop.how.clone(), stop_command(&self.settings, context)?) {
            (_, Some(command)) => StopRequest::Command(command.argv),
            (StopHow::Signal(signal), None) => StopRequest::Signal(signal),
            (StopHow::Command(_), None) => StopRequest::Signal(libc::SIGTERM),
        })
    }
}
