//! The states of an upload, how they are told apart, and their counts.
//!
//! An upload is called answered only by a record of that very upload.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use giemsa_store::{CurrentResult, FailureNote, Upload, UploadVersion};

/// What became of an upload in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Classified, and the table shows it.
    Answered,
    /// Rejected with a reason, and the table shows it.
    Rejected,
    /// No longer what S3 shows under its key, and answered: by its own result object, or, in a bucket without versions,
    /// overwritten by an upload that is answered.
    Replaced,
    /// Deleted since it was listed.
    Gone,
    /// Without a result and young enough to be in the queue.
    Waiting,
    /// Without a result.
    Unanswered,
    /// Without a current result: the table shows an older upload of the same key.
    Outdated,
}

impl State {
    /// All states, as they are counted and shown.
    pub const ALL: [Self; 7] = [
        Self::Answered,
        Self::Rejected,
        Self::Replaced,
        Self::Gone,
        Self::Waiting,
        Self::Unanswered,
        Self::Outdated,
    ];

    /// Whether nothing is missing.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Answered | Self::Rejected | Self::Replaced | Self::Gone)
    }

    /// As in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Rejected => "rejected",
            Self::Replaced => "replaced",
            Self::Gone => "gone",
            Self::Waiting => "waiting",
            Self::Unanswered => "unanswered",
            Self::Outdated => "outdated",
        }
    }
}

/// One upload and its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The upload, as S3 has it.
    pub upload: Upload,
    /// Its state.
    pub state: State,
    /// Code of the rejection, if it was rejected.
    pub reject_code: Option<String>,
    /// What the classifier noted of its failures, if it did.
    pub failure: Option<FailureNote>,
    /// Upload time of what the table shows in its place, if that is outdated.
    pub shown_instead: Option<DateTime<Utc>>,
    /// Whether the table says that it was gone, which it is not.
    pub is_back: bool,
    /// Whether its result counts though S3 shows no image under its key any more. It is answered all the same.
    pub is_deleted: bool,
}

impl Finding {
    /// An upload in a state, with nothing else known.
    pub fn new(upload: Upload, state: State) -> Self {
        Self {
            upload,
            state,
            reject_code: None,
            failure: None,
            shown_instead: None,
            is_back: false,
            is_deleted: false,
        }
    }

    pub(super) fn rejected(self, reject_code: Option<String>) -> Self {
        Self { reject_code, ..self }
    }

    /// Why it is in its state, in a sentence, if that takes one.
    pub fn reason(&self) -> Option<String> {
        if let Some(failure) = &self.failure {
            let times = if failure.tries == 1 { "once" } else { "times" };
            let tries = if failure.tries == 1 { String::new() } else { format!("{} ", failure.tries) };
            let last = failure.last_failed_at.format("%Y-%m-%d %H:%M:%S UTC");
            return Some(format!("tried {tries}{times}, the last time at {last}: {}", failure.reason));
        }
        match self.state {
            State::Waiting => Some("uploaded a short while ago: may still be in the queue".to_owned()),
            State::Unanswered if self.is_back => Some(
                "the table says that it was gone when it was to be read, but it is here: uploaded again since".to_owned(),
            ),
            State::Unanswered => {
                Some("no try is noted: its notification was lost, or is still to come".to_owned())
            }
            State::Outdated => Some(match self.shown_instead {
                Some(at) => format!("the table shows the upload of {}", at.format("%Y-%m-%d %H:%M:%S UTC")),
                None => "the table shows another upload".to_owned(),
            }),
            State::Answered | State::Rejected | State::Replaced | State::Gone => None,
        }
    }
}

/// How many uploads are in which state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Uploads in scope.
    pub uploads: u64,
    /// By state; every state is there.
    pub states: BTreeMap<State, u64>,
    /// Rejected ones by code.
    pub reject_codes: BTreeMap<String, u64>,
    /// Folder markers and own output, which are not uploads.
    pub left_out: u64,
    /// Sent to the queue again.
    pub sent: u64,
    /// Answered ones that count though their image was deleted. Only a bucket with versions tells.
    #[serde(default)]
    pub deleted: u64,
}

impl Counts {
    /// Counts a page.
    pub fn add(&mut self, findings: &[Finding], left_out: u64) {
        for state in State::ALL {
            self.states.entry(state).or_default();
        }
        for finding in findings {
            self.uploads += 1;
            self.deleted += u64::from(finding.is_deleted);
            *self.states.entry(finding.state).or_default() += 1;
            if let Some(code) = &finding.reject_code {
                *self.reject_codes.entry(code.clone()).or_default() += 1;
            }
        }
        self.left_out += left_out;
    }

    /// Uploads in a state.
    pub fn of(&self, state: State) -> u64 {
        self.states.get(&state).copied().unwrap_or_default()
    }

    /// Uploads without a terminal result.
    pub fn open(&self) -> u64 {
        State::ALL.iter().filter(|state| !state.is_fine()).map(|state| self.of(*state)).sum()
    }
}

/// What a listing and the table say of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The table's record is of it.
    Fine { state: State, reject_code: Option<String> },
    /// S3 shows another one, or none, under its key: its own result object has to be looked for.
    Replaced,
    /// It is what S3 shows, and has no result; outdated if an older upload has.
    Open { is_outdated: bool },
    /// The table's record is of another upload, which may be newer.
    LookAgain,
    /// The table says that it was gone: true only if it still is, since the same bytes can be uploaded again.
    CalledGone,
}

pub(super) fn judge(upload: &Upload, current: Option<&CurrentResult>) -> Judgement {
    if let Some(result) = current
        && upload.is_image(result.version_id.as_deref(), result.etag.as_deref())
    {
        if result.is_gone() {
            return Judgement::CalledGone;
        }
        let state = if result.reject_code.is_some() { State::Rejected } else { State::Answered };
        return Judgement::Fine { state, reject_code: result.reject_code.clone() };
    }
    if !upload.is_latest {
        return Judgement::Replaced;
    }
    let Some(result) = current else { return Judgement::Open { is_outdated: false } };
    // The time of a record comes from a header, which has whole seconds.
    let (uploaded, recorded) = (upload.uploaded_at.timestamp(), result.uploaded_at.timestamp());
    // Not a proof either way: within a second both orders are possible, and a multipart upload has the time at which it
    // began.
    if recorded >= uploaded || upload.version == UploadVersion::Unknown {
        return Judgement::LookAgain;
    }
    Judgement::Open { is_outdated: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use giemsa_core::record::GONE_CODE;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn upload(version: UploadVersion, etag: &str, seconds: i64, is_latest: bool) -> Upload {
        let uploaded_at = at(seconds);
        Upload {
            key: "a.png".to_owned(),
            version,
            etag: etag.to_owned(),
            size_bytes: 9,
            uploaded_at,
            is_latest,
        }
    }

    fn result(version_id: Option<&str>, etag: &str, seconds: i64) -> CurrentResult {
        CurrentResult {
            version_id: version_id.map(str::to_owned),
            etag: Some(etag.to_owned()),
            uploaded_at: at(seconds),
            reject_code: None,
            model_sha256: "m".to_owned(),
            is_withdrawn: false,
        }
    }

    #[test]
    fn only_a_record_of_the_very_upload_answers_it() {
        use UploadVersion::{Id, Null, Unknown};
        let fine = Judgement::Fine { state: State::Answered, reject_code: None };
        let v = |text: &str| Id(text.to_owned());
        for (what, upload, current, expected) in [
            ("same version", upload(v("2"), "e", 5, true), Some(result(Some("2"), "e", 5)), fine.clone()),
            (
                "older, still shown by the table",
                upload(v("1"), "e", 5, false),
                Some(result(Some("1"), "e", 5)),
                fine.clone(),
            ),
            (
                "same content, other version",
                upload(v("2"), "e", 5, true),
                Some(result(Some("1"), "e", 4)),
                Judgement::Open { is_outdated: true },
            ),
            (
                "same second, other version",
                upload(v("2"), "f", 5, true),
                Some(result(Some("1"), "e", 5)),
                Judgement::LookAgain,
            ),
            (
                "listing older than the table",
                upload(v("1"), "e", 4, true),
                Some(result(Some("2"), "f", 5)),
                Judgement::LookAgain,
            ),
            ("older version, no record", upload(v("1"), "e", 4, false), None, Judgement::Replaced),
            (
                "newest, called gone",
                upload(Null, "e", 4, true),
                Some(CurrentResult { reject_code: Some(GONE_CODE.to_owned()), ..result(None, "e", 4) }),
                Judgement::CalledGone,
            ),
            ("newest, no record", upload(v("1"), "e", 4, true), None, Judgement::Open { is_outdated: false }),
            ("no versions, same ETag", upload(Null, "e", 4, true), Some(result(None, "e", 9)), fine.clone()),
            (
                "no versions, overwritten",
                upload(Null, "f", 9, true),
                Some(result(None, "e", 4)),
                Judgement::Open { is_outdated: true },
            ),
            (
                "no versions, same second",
                upload(Null, "f", 9, true),
                Some(result(None, "e", 9)),
                Judgement::LookAgain,
            ),
            (
                "record has a version of its own",
                upload(Null, "e", 9, true),
                Some(result(Some("3"), "e", 5)),
                Judgement::Open { is_outdated: true },
            ),
            (
                "version not said, same ETag",
                upload(Unknown, "e", 9, true),
                Some(result(Some("3"), "e", 5)),
                fine,
            ),
            (
                "version not said, other ETag",
                upload(Unknown, "f", 9, true),
                Some(result(Some("3"), "e", 5)),
                Judgement::LookAgain,
            ),
        ] {
            assert_eq!(judge(&upload, current.as_ref()), expected, "{what}");
        }
    }

    #[test]
    fn counts_hold_every_state_and_what_is_open() {
        let mut counts = Counts::default();
        let one = |state| Finding::new(upload(UploadVersion::Null, "e", 0, true), state);
        let rejected = one(State::Rejected).rejected(Some("corrupt".to_owned()));
        counts.add(&[one(State::Answered), rejected, one(State::Waiting), one(State::Outdated)], 3);
        assert_eq!((counts.uploads, counts.open(), counts.left_out), (4, 2, 3));
        assert_eq!(counts.states.len(), State::ALL.len());
        assert_eq!(counts.reject_codes["corrupt"], 1);
        let json = serde_json::to_string(&counts).unwrap();
        assert!(json.contains("\"outdated\":1"), "{json}");
        assert_eq!(serde_json::from_str::<Counts>(&json).unwrap(), counts);
    }

    fn note(reason: &str, tries: u64) -> FailureNote {
        FailureNote {
            bucket: "in".to_owned(),
            key: "a.png".to_owned(),
            stage: "prod".to_owned(),
            object_version: "e".to_owned(),
            reason: reason.to_owned(),
            tries,
            first_failed_at: at(-60),
            last_failed_at: at(0),
        }
    }

    #[test]
    fn a_noted_failure_is_the_reason() {
        let mut finding = Finding::new(upload(UploadVersion::Null, "e", 0, true), State::Unanswered);
        assert!(finding.reason().unwrap().contains("lost"));
        finding.failure = Some(note("no model", 5));
        let reason = finding.reason().unwrap();
        assert_eq!(reason, "tried 5 times, the last time at 2023-11-14 22:13:20 UTC: no model");
        finding.failure.as_mut().unwrap().tries = 1;
        assert!(finding.reason().unwrap().starts_with("tried once, the last"));
    }
}
