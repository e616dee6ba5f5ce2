//! What a registry knows: what serves, what is in the stage's place, and what is on its way into memory or out of it.
//!
//! Invariant: a good model goes on serving whatever becomes of other files, and at most two models are in memory, counting
//! those that are being loaded and those that a batch still holds.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::RegistryError;
use giemsa_model::{Loading, Model};
use giemsa_store::FileFacts;

/// A batch that holds a replaced model for longer than this is worth a warning: no new file is loaded meanwhile.
const LONGEST_HOLD: Duration = Duration::from_secs(120);

/// A model and since when its file is in the bucket.
#[derive(Debug, Clone)]
pub struct Release {
    /// The model.
    pub model: Arc<Model>,
    /// Last-Modified of the object it was read from, or of the report that let it serve if that came later: the same for
    /// every function that serves it.
    pub released_at: DateTime<Utc>,
}

/// One write of the stage's file; the same content written again is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    etag: String,
    pub(super) modified_at: DateTime<Utc>,
}

/// The file in the stage's place, as it was looked at last.
#[derive(Debug, Default)]
pub(super) enum File {
    /// Nobody looked yet.
    #[default]
    Unseen,
    /// There is none.
    Absent,
    /// Its model serves.
    Serves(Seen),
    /// It does not serve until there is another file.
    Refused { seen: Seen, why: String },
    /// It does not serve until its report lets it; `why` is `None` while the report could not be asked for.
    AwaitsReport { seen: Seen, sha256: String, why: Option<String> },
    /// It is on its way into memory. The load belongs to the registry, not to who waits for it: an invocation that ends
    /// first must not leave the file to be loaded a second time.
    Loading { seen: Seen, released_at: DateTime<Utc>, loading: Loading },
}

/// What a batch is answered by.
#[derive(Debug, Default)]
pub(super) enum Serving {
    /// Nothing.
    #[default]
    Nothing,
    /// Nothing yet: the stage's file is refused, and a model that served before is on its way into memory.
    FallingBack { location: String, released_at: DateTime<Utc>, loading: Loading },
    /// The last good model.
    Model(Release),
}

/// A model that serves no more, or will not, and may still be in memory.
#[derive(Debug)]
enum Leaving {
    Held { model: Weak<Model>, since: Instant, said: bool },
    Load(Loading),
}

/// The state of a registry.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) file: File,
    pub(super) serving: Serving,
    leaving: Vec<Leaving>,
    /// Digests of models that served before and cannot be loaded any more, and why.
    pub(super) refused_fall_backs: HashMap<String, String>,
    /// Whether the log says what is wrong with the file as it is.
    pub(super) said: bool,
    /// When the bucket was last asked successfully.
    pub(super) checked_at: Option<Instant>,
}

impl Leaving {
    fn is_there(&mut self) -> bool {
        match self {
            Self::Load(loading) => !loading.is_over(),
            Self::Held { model, .. } if model.strong_count() == 0 => false,
            Self::Held { since, said, .. } => {
                let held = since.elapsed();
                if held > LONGEST_HOLD && !std::mem::replace(said, true) {
                    tracing::warn!(
                        held_s = held.as_secs(),
                        "an image holds a replaced model; no new one is loaded meanwhile"
                    );
                }
                true
            }
        }
    }
}

impl Seen {
    pub(super) fn of(facts: &FileFacts) -> Self {
        Self { etag: facts.etag.clone(), modified_at: facts.modified_at }
    }
}

impl State {
    /// The last good model.
    pub(super) fn release(&self) -> Option<&Release> {
        match &self.serving {
            Serving::Model(release) => Some(release),
            Serving::Nothing | Serving::FallingBack { .. } => None,
        }
    }

    /// Why the file does not serve, if it is refused.
    pub(super) fn refusal(&self) -> Option<&str> {
        match &self.file {
            File::Refused { why, .. } => Some(why),
            File::AwaitsReport { why, .. } => why.as_deref(),
            File::Unseen | File::Absent | File::Serves(_) | File::Loading { .. } => None,
        }
    }

    /// Whether the file was looked at as it is.
    pub(super) fn has_seen(&self, now: &Seen) -> bool {
        match &self.file {
            File::Unseen | File::Absent => false,
            File::Serves(seen)
            | File::Refused { seen, .. }
            | File::AwaitsReport { seen, .. }
            | File::Loading { seen, .. } => seen == now,
        }
    }

    /// What a file that has not changed means for a batch.
    pub(super) fn settled(&self) -> Result<Release, RegistryError> {
        match (&self.file, self.release()) {
            (File::Serves(_), Some(release)) => Ok(release.clone()),
            _ => Err(RegistryError::StillRefused {
                earlier: self.refusal().unwrap_or("the model is refused").to_owned(),
            }),
        }
    }

    /// There is no file any more.
    pub(super) fn set_absent(&mut self) {
        if !matches!(self.file, File::Absent) {
            self.turn(File::Absent);
        }
        self.checked_at = None;
    }

    /// The file is refused.
    pub(super) fn refuse(&mut self, seen: Seen, why: String) {
        self.turn(File::Refused { seen, why });
    }

    /// The file's report does not let it serve (`why`), or cannot be asked for. Returns whether that was known.
    pub(super) fn await_report(&mut self, seen: Seen, sha256: &str, why: Option<String>) -> bool {
        let known = match &mut self.file {
            File::AwaitsReport { sha256: waiting, why, .. } if waiting == sha256 => why.take(),
            _ => None,
        };
        let is_known = why.is_some() && why == known;
        let sha256 = sha256.to_owned();
        self.turn(File::AwaitsReport { seen, sha256, why: why.or(known) });
        is_known
    }

    /// The file has the bytes of the model that serves, if it has: then that serves as the file's release.
    pub(super) fn take_same_bytes(&mut self, seen: &Seen, sha256: &str) -> Option<Release> {
        let model = self.release()?.model.clone();
        (model.sha256 == sha256).then(|| {
            let release = Release { model, released_at: seen.modified_at };
            self.serving = Serving::Model(release.clone());
            self.turn(File::Serves(seen.clone()));
            release
        })
    }

    /// The file is being loaded.
    pub(super) fn begin(&mut self, seen: Seen, released_at: DateTime<Utc>, loading: Loading) {
        self.turn(File::Loading { seen, released_at, loading });
    }

    /// The load of the file ended: its model serves from now on, or it is refused for the reason given.
    pub(super) fn end_load(&mut self, loaded: Result<Arc<Model>, String>) {
        match (std::mem::take(&mut self.file), loaded) {
            (File::Loading { seen, released_at, .. }, Ok(model)) => {
                self.serve(Release { model, released_at });
                self.turn(File::Serves(seen));
            }
            (File::Loading { seen, .. }, Err(why)) => self.refuse(seen, why),
            (file, _) => self.file = file,
        }
    }

    /// The load of a model that served before ended, well or not; a refused one is not loaded again.
    pub(super) fn end_fall_back(&mut self, loaded: Result<Arc<Model>, String>) {
        match (std::mem::take(&mut self.serving), loaded) {
            (Serving::FallingBack { released_at, .. }, Ok(model)) => {
                self.serve(Release { model, released_at });
            }
            (Serving::FallingBack { loading, .. }, Err(why)) => {
                self.refused_fall_backs.insert(loading.sha256, why);
            }
            (serving, _) => self.serving = serving,
        }
    }

    /// Lets the model of the digest `sha256` serve no longer, for the reason `why`. Returns whether it did until now.
    pub(super) fn withdraw(&mut self, sha256: &str, why: String) -> bool {
        if self.release().is_none_or(|release| release.model.sha256 != sha256) {
            return false;
        }
        if let Serving::Model(release) = std::mem::take(&mut self.serving) {
            self.leave(release);
        }
        // A file that is refused itself stays refused for its own reason, if another model served in its stead.
        if let File::Serves(seen) = &self.file {
            self.refuse(seen.clone(), why);
        }
        true
    }

    /// Whether fewer than two models are in memory, or on their way into it.
    pub(super) fn may_load(&mut self) -> bool {
        self.leaving.retain_mut(Leaving::is_there);
        let is_serving = !matches!(self.serving, Serving::Nothing);
        let is_loading = matches!(self.file, File::Loading { .. });
        self.leaving.len() + usize::from(is_serving) + usize::from(is_loading) < 2
    }

    fn turn(&mut self, file: File) {
        if let File::Loading { loading, .. } = std::mem::replace(&mut self.file, file) {
            self.leaving.push(Leaving::Load(loading));
        }
        (self.said, self.checked_at) = (false, Some(Instant::now()));
    }

    fn serve(&mut self, release: Release) {
        match std::mem::replace(&mut self.serving, Serving::Model(release)) {
            Serving::Nothing => {}
            Serving::FallingBack { loading, .. } => self.leaving.push(Leaving::Load(loading)),
            Serving::Model(before) => self.leave(before),
        }
    }

    fn leave(&mut self, release: Release) {
        let model = Arc::downgrade(&release.model);
        self.leaving.push(Leaving::Held { model, since: Instant::now(), said: false });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What may happen to a registry, in any order.
    #[derive(Debug, Clone)]
    enum Step {
        /// Somebody copied the file of this number: it is refused, waits for its report, or is loaded.
        Copied(u8, Verdict),
        Deleted,
        /// The load of the file ended.
        Loaded(bool),
        FallBack,
        FellBack(bool),
        /// What serves is withdrawn.
        Withdrawn,
        BatchBegins,
        BatchesEnd,
    }

    #[derive(Debug, Clone)]
    enum Verdict {
        Refused,
        NoReport,
        Loads,
    }

    fn step() -> impl Strategy<Value = Step> {
        let verdict = prop_oneof![Just(Verdict::Refused), Just(Verdict::NoReport), Just(Verdict::Loads)];
        prop_oneof![
            4 => (0..4_u8, verdict).prop_map(|(number, verdict)| Step::Copied(number, verdict)),
            1 => Just(Step::Deleted),
            3 => any::<bool>().prop_map(Step::Loaded),
            2 => Just(Step::FallBack),
            2 => any::<bool>().prop_map(Step::FellBack),
            1 => Just(Step::Withdrawn),
            2 => Just(Step::BatchBegins),
            1 => Just(Step::BatchesEnd),
        ]
    }

    fn toy() -> Arc<Model> {
        let path = format!("{}/tests/data/golden/toy_nchw.onnx", env!("CARGO_MANIFEST_DIR"));
        Model::load(&std::fs::read(path).unwrap()).unwrap()
    }

    fn model_of(toy: &Model, number: u8) -> Arc<Model> {
        Arc::new(Model { sha256: format!("{number}"), ..toy.clone() })
    }

    async fn check(toy: &Model, steps: &[Step]) -> Result<(), TestCaseError> {
        let mut state = State::default();
        let (mut models, mut batches) = (Vec::new(), Vec::new());
        let mut load = |number: u8| {
            let model = model_of(toy, number);
            models.push(Arc::downgrade(&model));
            let sha256 = model.sha256.clone();
            (Loading::of(&sha256, move || Ok(model)), models.clone())
        };
        let mut known: Vec<Weak<Model>> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let before = state.release().map(|release| release.model.sha256.clone());
            match step {
                Step::Copied(number, verdict) if state.may_load() => {
                    let modified_at = DateTime::from_timestamp(at as i64, 0).unwrap();
                    let seen = Seen { etag: format!("{number}"), modified_at };
                    let sha256 = format!("{number}");
                    if state.take_same_bytes(&seen, &sha256).is_none() {
                        match verdict {
                            Verdict::Refused => state.refuse(seen.clone(), "it is bad".to_owned()),
                            Verdict::NoReport => {
                                state.await_report(seen.clone(), &sha256, None);
                            }
                            Verdict::Loads => {
                                let (loading, all) = load(*number);
                                known = all;
                                state.begin(seen.clone(), modified_at, loading);
                            }
                        }
                    }
                    prop_assert!(state.has_seen(&seen), "it would be read again");
                    let other = Seen { modified_at: DateTime::from_timestamp(-1, 0).unwrap(), ..seen };
                    prop_assert!(!state.has_seen(&other), "the same bytes copied again are another write");
                }
                Step::Deleted => state.set_absent(),
                Step::Loaded(is_good) => {
                    let File::Loading { loading, seen, .. } = &mut state.file else { continue };
                    let seen = seen.clone();
                    let loaded = loading.wait(Duration::MAX).await.unwrap().unwrap();
                    let sha256 = loaded.sha256.clone();
                    state.end_load(if *is_good { Ok(loaded) } else { Err("it is bad".to_owned()) });
                    let serves = state.settled().ok().map(|release| release.model.sha256.clone());
                    prop_assert_eq!(serves, is_good.then_some(sha256));
                    prop_assert_eq!(state.refusal().is_some(), !is_good);
                    prop_assert!(state.has_seen(&seen), "it would be read again");
                }
                Step::FallBack if matches!(state.serving, Serving::Nothing) && state.may_load() => {
                    let (loading, all) = load(9);
                    known = all;
                    let (location, released_at) = (String::new(), DateTime::default());
                    state.serving = Serving::FallingBack { location, released_at, loading };
                }
                Step::FellBack(is_good) => {
                    let Serving::FallingBack { loading, .. } = &mut state.serving else { continue };
                    let loaded = loading.wait(Duration::MAX).await.unwrap().unwrap();
                    state.end_fall_back(if *is_good { Ok(loaded) } else { Err("it is bad".to_owned()) });
                    prop_assert_eq!(state.release().is_some(), *is_good);
                    prop_assert_eq!(state.refused_fall_backs.remove("9").is_some(), !is_good);
                }
                Step::Withdrawn => {
                    let Some(sha256) = &before else { continue };
                    prop_assert!(state.withdraw(sha256, "it crashed".to_owned()));
                    prop_assert!(state.release().is_none() && state.settled().is_err());
                }
                Step::BatchBegins => batches.extend(state.release().cloned()),
                Step::BatchesEnd => batches.clear(),
                _ => {}
            }
            let in_memory = known.iter().filter(|model| model.strong_count() > 0).count();
            prop_assert!(in_memory <= 2, "{in_memory} models are in memory after {step:?}");
            if before.is_some() && !matches!(step, Step::Withdrawn) {
                prop_assert!(state.release().is_some(), "{step:?} took the last good model away");
            }
            if let File::Serves(seen) = &state.file {
                let serves = state.release().map(|release| release.model.sha256.as_str());
                prop_assert_eq!(serves, Some(seen.etag.as_str()));
            }
        }
        Ok(())
    }

    #[test]
    fn no_order_of_events_loads_a_third_model_or_loses_the_last_good_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let toy = toy();
        proptest!(ProptestConfig::with_cases(512), |(steps in prop::collection::vec(step(), 1..40))| {
            runtime.block_on(check(&toy, &steps))?;
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_load_that_was_given_up_counts_until_it_ends() {
        let mut state = State::default();
        let toy = toy();
        let ends: Vec<_> = (0..2_u8)
            .map(|number| {
                assert!(state.may_load(), "{number} models are on their way");
                let (end, ended) = std::sync::mpsc::channel::<()>();
                let seen = Seen { etag: number.to_string(), modified_at: DateTime::default() };
                let model = model_of(&toy, number);
                let loading = Loading::of(&number.to_string(), move || {
                    let _ = ended.recv();
                    Ok(model)
                });
                state.begin(seen, DateTime::default(), loading);
                end
            })
            .collect();
        assert!(!state.may_load(), "two models are on their way");
        drop(ends);
        while !state.may_load() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn the_same_reason_is_said_once_and_one_that_cannot_be_asked_for_is_none() {
        let seen = |seconds| Seen {
            etag: "a".to_owned(),
            modified_at: DateTime::from_timestamp(seconds, 0).unwrap(),
        };
        let mut state = State::default();
        assert!(!state.await_report(seen(1), "ab", None));
        assert_eq!(state.refusal(), None, "a report that could not be asked for refuses nothing");
        let failed = || Some("it failed".to_owned());
        assert!(!state.await_report(seen(1), "ab", failed()));
        assert!(state.await_report(seen(1), "ab", failed()));
        assert!(!state.await_report(seen(1), "ab", None));
        assert!(state.await_report(seen(1), "ab", failed()), "it is known however often S3 fails between");
        assert!(!state.await_report(seen(2), "cd", failed()));
    }
}
