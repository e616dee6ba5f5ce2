//! What became of the objects of one call, and what else is to be done for it.

use crate::outcome::{Outcome, StoredResult};
use giemsa_core::record::{Record, TimingsMs};
use giemsa_store::metrics::StepTimes;
use giemsa_store::{Counter, Placement};

/// What became of the objects of one call.
#[derive(Debug, Default)]
pub struct Batch {
    /// The outcomes, in the order of the objects.
    pub outcomes: Vec<Outcome>,
    /// How long the steps took for those that were answered now.
    pub step_times: StepTimes,
}

/// One object's outcome on its way.
pub(super) struct Answered {
    pub(super) outcome: Outcome,
    /// The counts that it makes old.
    pub(super) counters: Vec<Counter>,
    /// How long the steps took, and storing, milliseconds; `None` for an answer that was there before.
    times: Option<(TimingsMs, f64)>,
}

impl Answered {
    pub(super) fn of(record: Record, placement: Placement, times: Option<(TimingsMs, f64)>) -> Self {
        let outcome = Outcome::Answered(StoredResult {
            result_id: record.result_id,
            label: record.label,
            reject: record.reject.map(|reject| (reject.code, reject.message)),
        });
        let counters = match placement {
            Placement::Current(counters) => counters,
            Placement::Superseded => Vec::new(),
        };
        Self { outcome, counters, times }
    }
}

impl From<Outcome> for Answered {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, counters: Vec::new(), times: None }
    }
}

impl FromIterator<Answered> for Batch {
    fn from_iter<T: IntoIterator<Item = Answered>>(answered: T) -> Self {
        let mut batch = Self::default();
        for Answered { outcome, times, .. } in answered {
            if let (Outcome::Answered(_), Some((steps, store_ms))) = (&outcome, times) {
                let StepTimes { fetch, decode, preprocess, infer, store } = &mut batch.step_times;
                // 0 stands for a step that the image did not reach.
                let reached = |ms: f64| Some(ms).filter(|ms| *ms > 0.0);
                fetch.extend(reached(steps.fetch));
                decode.extend(reached(steps.decode));
                preprocess.extend(reached(steps.preprocess));
                infer.extend(reached(steps.infer));
                store.push(store_ms);
            }
            batch.outcomes.push(outcome);
        }
        batch
    }
}
