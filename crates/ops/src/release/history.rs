//! What a stage served and who released it: what commands recorded, merged with what functions saw.
//!
//! It never drops what somebody did, not even an attempt that changed nothing. The model at a time is that of the last
//! entry up to it that is in effect.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use giemsa_core::record::ModelInfo;
use giemsa_store::{LedgerEntry, ReleaseEntry, ReleaseKind, ReleaseState};

/// What happened to a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// `giemsa model promote`.
    Promote,
    /// `giemsa model rollback`.
    Rollback,
    /// A release without a passing report.
    Force,
    /// Somebody copied a file there, and a function served it.
    Copy,
}

/// One line of a stage's history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryEntry {
    /// Since when the model's file is in its place and may serve, whole seconds; of an attempt without effect, when it
    /// began.
    pub at: DateTime<Utc>,
    /// What was done.
    pub event: Event,
    /// How far it came.
    pub state: ReleaseState,
    /// The model.
    pub model: ModelInfo,
    /// Digest of the model that it replaced, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_sha256: Option<String>,
    /// Who did it; unknown of a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Why, if it was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The history of one stage, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct History {
    /// Its lines.
    pub entries: Vec<HistoryEntry>,
}

/// An entry of a release and one of the ledger are of the same file within this time: the ledger's is that of S3, the
/// beginning of a release that of the command's machine.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(5);

impl History {
    /// Merges what commands recorded with what functions saw.
    ///
    /// A copy of the model that is in place already changes nothing and is left out.
    pub fn merge(ledger: &[LedgerEntry], releases: &[ReleaseEntry]) -> Self {
        let mut unmatched: Vec<&LedgerEntry> = ledger.iter().collect();
        // By time, and within a second of S3 by the command's clock.
        let mut lines: Vec<(DateTime<Utc>, HistoryEntry)> = Vec::new();
        for release in releases.iter().filter(|r| r.state == ReleaseState::Released) {
            let at = release.released_at.unwrap_or(release.started_at);
            unmatched.retain(|seen| (seen.released_at, &seen.model.sha256) != (at, &release.model.sha256));
            lines.push((release.started_at, line_of(release, at, ReleaseState::Released)));
        }
        for release in releases.iter().filter(|r| r.state != ReleaseState::Released) {
            // The command was ended after the file was in its place, if a function saw it there.
            let seen = unmatched.iter().position(|seen| {
                release.state == ReleaseState::Started
                    && seen.model.sha256 == release.model.sha256
                    && seen.released_at >= release.started_at - CLOCK_TOLERANCE
            });
            let line = match seen.map(|index| unmatched.remove(index)) {
                Some(seen) => line_of(release, seen.released_at, ReleaseState::Released),
                None => line_of(release, release.started_at, release.state),
            };
            lines.push((release.started_at, line));
        }
        lines.extend(unmatched.into_iter().map(|seen| (seen.released_at, copy_of(seen))));
        lines.sort_by(|(a_tie, a), (b_tie, b)| (a.at, a_tie).cmp(&(b.at, b_tie)));

        let mut history = Self::default();
        for (_, line) in lines {
            let is_in_place =
                history.in_effect().next_back().is_some_and(|last| last.model.sha256 == line.model.sha256);
            if !(is_in_place && line.event == Event::Copy) {
                history.entries.push(line);
            }
        }
        history
    }

    /// The line whose model was in its place at `time`.
    pub fn at(&self, time: DateTime<Utc>) -> Option<&HistoryEntry> {
        self.in_effect().take_while(|entry| entry.at <= time).last()
    }

    /// The model to go back to from the one with the digest `current`: what was served before it first came, however
    /// often somebody went back since.
    ///
    /// A model that was rolled back is not gone back to: promotions stack up, and a rollback takes off what is above
    /// its target.
    pub fn before(&self, current: &str) -> Option<&ModelInfo> {
        let mut stack: Vec<&ModelInfo> = Vec::new();
        for entry in self.in_effect() {
            let below = stack.iter().position(|model| model.sha256 == entry.model.sha256);
            match (entry.event, below) {
                (Event::Rollback, Some(index)) => stack.truncate(index + 1),
                (_, Some(index)) if index + 1 == stack.len() => {}
                _ => stack.push(&entry.model),
            }
        }
        // A file that was copied and not served yet is above all that is known.
        match stack.last() {
            Some(top) if top.sha256 == current => stack.iter().rev().nth(1).copied(),
            top => top.copied(),
        }
    }

    fn in_effect(&self) -> impl DoubleEndedIterator<Item = &HistoryEntry> {
        self.entries.iter().filter(|entry| entry.state == ReleaseState::Released)
    }
}

fn line_of(release: &ReleaseEntry, at: DateTime<Utc>, state: ReleaseState) -> HistoryEntry {
    HistoryEntry {
        at,
        event: match release.kind {
            ReleaseKind::Promote => Event::Promote,
            ReleaseKind::Rollback => Event::Rollback,
            ReleaseKind::Force => Event::Force,
        },
        state,
        model: release.model.clone(),
        previous_sha256: release.previous_sha256.clone(),
        who: Some(release.who.clone()),
        why: release.why.clone(),
    }
}

fn copy_of(seen: &LedgerEntry) -> HistoryEntry {
    HistoryEntry {
        at: seen.released_at,
        event: Event::Copy,
        state: ReleaseState::Released,
        model: seen.model.clone(),
        previous_sha256: None,
        who: None,
        why: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn second(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + n, 0).unwrap()
    }

    fn model(sha256: &str) -> ModelInfo {
        ModelInfo { name: format!("model {sha256}"), version: "1".to_owned(), sha256: sha256.to_owned() }
    }

    fn release(at: i64, kind: ReleaseKind, state: ReleaseState, sha256: &str) -> ReleaseEntry {
        ReleaseEntry {
            stage: "prod".to_owned(),
            started_at: second(at) + TimeDelta::milliseconds(200),
            released_at: (state == ReleaseState::Released).then(|| second(at)),
            kind,
            state,
            model: model(sha256),
            previous_sha256: None,
            who: "ada".to_owned(),
            why: None,
        }
    }

    fn seen(at: i64, sha256: &str) -> LedgerEntry {
        LedgerEntry { stage: "prod".to_owned(), released_at: second(at), model: model(sha256) }
    }

    fn served(history: &History, at: i64) -> Option<&str> {
        history.at(second(at)).map(|entry| entry.model.sha256.as_str())
    }

    #[test]
    fn a_release_that_was_served_is_one_line_and_a_copy_is_its_own() {
        use ReleaseKind::{Promote, Rollback};
        use ReleaseState::{Lost, Released};
        let releases = [
            release(10, Promote, Released, "b"),
            release(11, Promote, Lost, "c"),
            release(30, Rollback, Released, "a"),
        ];
        let ledger = [seen(0, "a"), seen(10, "b"), seen(20, "x"), seen(30, "a"), seen(40, "a")];
        let history = History::merge(&ledger, &releases);
        let lines: Vec<_> = history.entries.iter().map(|e| (e.event, e.model.sha256.as_str())).collect();
        let expected = [
            (Event::Copy, "a"),
            (Event::Promote, "b"),
            (Event::Promote, "c"),
            (Event::Copy, "x"),
            (Event::Rollback, "a"),
        ];
        assert_eq!(lines, expected, "the copy at 40 is of what is in place");
        assert_eq!(served(&history, -1), None);
        assert_eq!(served(&history, 10), Some("b"));
        assert_eq!(served(&history, 12), Some("b"), "who lost changed nothing");
        assert_eq!(served(&history, 29), Some("x"));
        assert_eq!(served(&history, 99), Some("a"));
    }

    #[test]
    fn a_command_that_was_ended_counts_if_its_model_was_seen() {
        let started = release(10, ReleaseKind::Promote, ReleaseState::Started, "b");
        let history = History::merge(&[seen(0, "a")], std::slice::from_ref(&started));
        assert_eq!(served(&history, 50), Some("a"));
        assert_eq!(history.entries[1].state, ReleaseState::Started);
        let history = History::merge(&[seen(0, "a"), seen(10, "b")], &[started]);
        assert_eq!(served(&history, 50), Some("b"));
        assert_eq!(history.entries.len(), 2);
        assert_eq!(history.entries[1].who.as_deref(), Some("ada"));
    }

    #[test]
    fn going_back_never_returns_to_what_was_rolled_back() {
        use ReleaseKind::{Promote, Rollback};
        use ReleaseState::Released;
        let mut releases = vec![
            release(1, Promote, Released, "a"),
            release(2, Promote, Released, "b"),
            release(3, Promote, Released, "c"),
        ];
        let back = |releases: &[ReleaseEntry], current: &str| {
            History::merge(&[], releases).before(current).map(|m| m.sha256.clone())
        };
        assert_eq!(back(&releases, "c").as_deref(), Some("b"));
        releases.push(release(4, Rollback, Released, "b"));
        assert_eq!(back(&releases, "b").as_deref(), Some("a"), "not forward to c");
        releases.push(release(5, Rollback, Released, "a"));
        assert_eq!(back(&releases, "a"), None);
        releases.push(release(6, Promote, Released, "c"));
        assert_eq!(back(&releases, "c").as_deref(), Some("a"));
        assert_eq!(back(&releases, "copied").as_deref(), Some("c"), "a copy that was not served yet");
    }

    /// One thing that happens to a stage in a random history.
    #[derive(Debug, Clone)]
    enum Step {
        Release { kind: ReleaseKind, state: ReleaseState, model: u8, is_served: bool },
        Copy { model: u8 },
    }

    fn step() -> impl Strategy<Value = Step> {
        use ReleaseKind::{Force, Promote, Rollback};
        use ReleaseState::{Failed, Lost, Released};
        let kinds = prop::sample::select(vec![Promote, Rollback, Force]);
        let states = prop::sample::select(vec![Released, Released, Released, Lost, Failed]);
        prop_oneof![
            4 => (kinds, states, 0..5_u8, any::<bool>()).prop_map(|(kind, state, model, is_served)| {
                Step::Release { kind, state, model, is_served }
            }),
            1 => (0..5_u8).prop_map(|model| Step::Copy { model }),
        ]
    }

    proptest! {
        #[test]
        fn every_time_of_a_random_history_has_the_model_of_the_oracle(
            steps in prop::collection::vec((step(), 1..4_i64), 1..40), asked in prop::collection::vec(-2..170_i64, 20),
        ) {
            let (mut ledger, mut releases, mut oracle) = (Vec::new(), Vec::new(), Vec::new());
            let mut at = 0;
            for (step, pause) in &steps {
                at += pause;
                match step {
                    Step::Release { kind, state, model, is_served } => {
                        let sha256 = model.to_string();
                        releases.push(release(at, *kind, *state, &sha256));
                        if *state == ReleaseState::Released {
                            oracle.push((at, sha256.clone()));
                            if *is_served {
                                ledger.push(seen(at, &sha256));
                            }
                        }
                    }
                    Step::Copy { model } => {
                        oracle.push((at, model.to_string()));
                        ledger.push(seen(at, &model.to_string()));
                    }
                }
            }
            let history = History::merge(&ledger, &releases);
            for time in asked {
                let expected = oracle.iter().take_while(|(at, _)| *at <= time).last();
                prop_assert_eq!(served(&history, time), expected.map(|(_, sha256)| sha256.as_str()), "at {}", time);
            }
            let attempts = history.entries.iter().filter(|entry| entry.event != Event::Copy).count();
            prop_assert_eq!(attempts, releases.len(), "nothing that was tried is forgotten");
        }
    }
}
