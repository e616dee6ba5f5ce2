//! Faults of the process itself: panics and freezes while an image is worked on, and SIGKILL.
//!
//! Never catches what it throws. Invariant: what ends the process was written down before.

use std::process::Command;
use std::sync::Arc;

use super::{Faults, Kind};
use crate::analysis::Step;
use crate::cpu_pool::FaultPoint;

impl Faults {
    /// What the pipeline of `stage` calls on the thread that works on an image, before each step.
    pub(in crate::local) fn fault_point(self: &Arc<Self>, stage: &str) -> FaultPoint {
        let (faults, stage) = (Arc::clone(self), stage.to_owned());
        FaultPoint::new(move |step, key| {
            let (name, panic) = match step {
                Step::Decode => ("decode", Kind::PanicDecode),
                Step::Infer => ("infer", Kind::PanicModel),
            };
            let Some(strike) =
                faults.strike(&[panic, Kind::Freeze, Kind::Kill], &format!("{name} {stage} {key}"))
            else {
                return;
            };
            match strike.kind {
                Kind::Freeze => std::thread::sleep(strike.duration),
                Kind::Kill => kill_process(),
                _ => panic!("a fault was injected: panic in {name}"),
            }
        })
    }
}

/// Ends this process as the system does when memory runs out: at once, with nothing cleaned up.
pub(super) fn kill_process() -> ! {
    // Without `unsafe` there is no call for it. Where there is no such command, aborting is as sudden.
    let _ = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
    std::process::abort()
}
