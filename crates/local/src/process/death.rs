//! How a process ended, and whether the model that it ran is to blame.
//!
//! Never blames a model for what a person or the stack did. What is certain is told from what is possible.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use chrono::{DateTime, Utc};

use super::protocol::{Begun, Role};
use giemsa::crashes::Crash;

/// Signals by which a program is ended for what it did, or for want of memory.
const SIGNALS: &[(i32, &str)] = &[
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (24, "SIGXCPU"),
    (31, "SIGSYS"),
];

/// Signals by which people end programs.
const STOPS: &[(i32, &str)] = &[(1, "SIGHUP"), (2, "SIGINT"), (3, "SIGQUIT"), (15, "SIGTERM")];

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    /// A sentence.
    pub reason: String,
    /// What is to be counted against a model.
    pub crash: Option<Crash>,
}

impl Death {
    /// Of a process that began at `began_at` and was about to do `work` on its threads.
    pub(super) fn of(
        role: &Role,
        status: io::Result<ExitStatus>,
        work: &[Begun],
        began_at: DateTime<Utc>,
    ) -> Self {
        let signal = status.as_ref().ok().and_then(|status| status.signal());
        let name_in = |names: &[(i32, &'static str)]| {
            names.iter().find(|(number, _)| Some(*number) == signal).map(|(_, name)| *name)
        };
        let cause = match (name_in(SIGNALS).or_else(|| name_in(STOPS)), status) {
            (Some(name), _) => name.to_owned(),
            (None, Ok(status)) => status.to_string(),
            (None, Err(error)) => error.to_string(),
        };
        let mut models = work.iter().filter_map(|work| match work {
            Begun::Load { sha256 } | Begun::Infer { sha256, .. } => Some(sha256),
            Begun::Decode { .. } | Begun::Nothing => None,
        });
        // What is being loaded is new, what runs has run before.
        let is_load = |work: &&Begun| matches!(work, Begun::Load { .. });
        let loaded = work.iter().find(is_load).and_then(|work| match work {
            Begun::Load { sha256 } => Some(sha256),
            _ => None,
        });
        let model = loaded.or_else(|| models.next_back());
        let decoded: Vec<&str> = work
            .iter()
            .filter_map(|work| match work {
                Begun::Decode { key } => Some(key.as_str()),
                _ => None,
            })
            .collect();
        let crash = model.filter(|_| name_in(STOPS).is_none()).map(|sha256| Crash {
            sha256: sha256.clone(),
            cause: cause.clone(),
            is_certain: decoded.is_empty() || *role == Role::Gate,
            upload: None,
            began_at,
        });
        let doing = match (model, decoded.as_slice()) {
            (None, []) => "while it waited".to_owned(),
            (None, keys) => format!("while it decoded {}", keys.join(", ")),
            (Some(sha256), []) => format!("while it ran the model {sha256}"),
            (Some(sha256), keys) => {
                format!("while it ran the model {sha256} and decoded {}", keys.join(", "))
            }
        };
        Self { reason: format!("the process of {} was ended by {cause} {doing}", role.name()), crash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_blamed_for_what_it_may_have_done_and_no_more() {
        let infer = |key: &str| Begun::Infer { key: key.to_owned(), sha256: "serving".to_owned() };
        let load = Begun::Load { sha256: "new".to_owned() };
        let decode = Begun::Decode { key: "s/a.png".to_owned() };
        let stage = Role::Stage("dev".to_owned());
        // Raw statuses of wait: a signal as such, an exit code in the second byte.
        for (name, role, raw, work, blamed, reason) in [
            (
                "a run",
                &stage,
                11,
                vec![infer("b")],
                Some(("serving", true)),
                "SIGSEGV while it ran the model serving",
            ),
            (
                "a load beside a run",
                &stage,
                6,
                vec![infer("b"), load.clone()],
                Some(("new", true)),
                "SIGABRT",
            ),
            (
                "a run beside a decoder",
                &stage,
                11,
                vec![decode.clone(), infer("b")],
                Some(("serving", false)),
                "ran the model serving and decoded s/a.png",
            ),
            (
                "golden images are known",
                &Role::Gate,
                11,
                vec![decode.clone(), infer("b")],
                Some(("serving", true)),
                "the process of gate",
            ),
            ("a decoder", &stage, 11, vec![decode], None, "SIGSEGV while it decoded s/a.png"),
            ("want of memory", &stage, 9, vec![load.clone()], Some(("new", true)), "SIGKILL"),
            ("a person", &stage, 15, vec![infer("b")], None, "SIGTERM"),
            ("nothing to do", &stage, 9, vec![], None, "SIGKILL while it waited"),
            ("an exit", &stage, 3 << 8, vec![load], Some(("new", true)), "exit status: 3"),
        ] {
            let death = Death::of(role, Ok(ExitStatus::from_raw(raw)), &work, DateTime::default());
            let found = death.crash.as_ref().map(|crash| (crash.sha256.as_str(), crash.is_certain));
            assert_eq!(found, blamed, "{name}");
            assert!(death.reason.contains(reason), "{name}: {}", death.reason);
        }
    }
}
