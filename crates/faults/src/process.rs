//! Faults of the processes themselves: panics, freezes and aborts while an image is worked on, and SIGKILL.
//!
//! What ends the process was written down before.

use std::process::Command;

use crate::{Faults, Kind};
use giemsa_model::Work;

impl Faults {
    /// Does what is to go wrong with a piece of work of a stage, or of the gate, on the thread that is about to do it.
    pub fn strike_work(&self, stage: Option<&str>, work: Work<'_>) {
        let (name, panic, key) = match work {
            Work::Decode { key } => ("decode", Kind::PanicDecode, key),
            Work::Infer { key, sha256 } => {
                if self.aborts(sha256) {
                    tracing::warn!(%sha256, "a fault is injected: the model aborts");
                    std::process::abort();
                }
                ("infer", Kind::PanicModel, key)
            }
            Work::Load { .. } | Work::Nothing => return,
        };
        let Some(stage) = stage else { return };
        let kinds = [panic, Kind::Freeze, Kind::Kill];
        let Some(strike) = self.strike(&kinds, &format!("{name} {stage} {key}")) else { return };
        match strike.kind {
            Kind::Freeze => std::thread::sleep(strike.duration),
            Kind::Kill => self.kill_process(),
            _ => panic!("a fault was injected: panic in {name}"),
        }
    }

    /// Ends the stack as the system does when memory runs out: at once, with nothing cleaned up.
    pub fn kill_process(&self) -> ! {
        let own = std::process::id();
        let pids = self.ending_also.into_iter().chain([own]).map(|pid| pid.to_string());
        // Without `unsafe` there is no call for it. Where there is no such command, aborting is as sudden.
        let _ = Command::new("kill").arg("-KILL").args(pids).status();
        std::process::abort()
    }
}
