//! Conditional requests: `If-Match` and its relatives, judged against what the index knows of an object.
//!
//! The precedence is that of RFC 9110 and S3: an ETag condition overrides the date condition beside it.

use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Error, s3_error};

/// The conditions under which an object is read or used as the source of a copy.
#[derive(Debug, Default, Clone)]
pub(crate) struct ReadConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

/// The conditions under which an object is written or deleted.
#[derive(Debug, Default, Clone)]
pub(crate) struct WriteConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
}

/// What the conditions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Proceed,
    /// The reader has this version already.
    NotModified,
    Failed,
}

impl ReadConditions {
    /// Judges the conditions for an object with this ETag (without quotes) and time of last change.
    pub(crate) fn judge(&self, etag: &str, modified: &Timestamp) -> Verdict {
        let kept = match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) => matches(condition, etag),
            (None, Some(since)) => modified <= since,
            (None, None) => true,
        };
        if !kept {
            return Verdict::Failed;
        }
        let changed = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => !matches(condition, etag),
            (None, Some(since)) => modified > since,
            (None, None) => true,
        };
        if changed { Verdict::Proceed } else { Verdict::NotModified }
    }
}

impl WriteConditions {
    /// Whether the write may replace an object with this ETag (without quotes); `None` if there is no object.
    pub(crate) fn allow(&self, existing_etag: Option<&str>) -> bool {
        let holds = |condition: &ETagCondition| existing_etag.is_some_and(|etag| matches(condition, etag));
        self.if_match.as_ref().is_none_or(holds) && !self.if_none_match.as_ref().is_some_and(holds)
    }
}

/// The answer to a request whose conditions do not hold.
pub(crate) fn failed(key: &str) -> S3Error {
    s3_error!(PreconditionFailed, "the condition of the request does not hold for `{key}`")
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(ETag::Strong(wanted) | ETag::Weak(wanted)) => wanted == etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn tag(value: &str) -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong(value.to_owned())))
    }

    #[test]
    fn reads_follow_the_precedence_of_the_standard() {
        let none = ReadConditions::default;
        let table = [
            (none(), Verdict::Proceed),
            (ReadConditions { if_none_match: tag("a"), ..none() }, Verdict::NotModified),
            (ReadConditions { if_none_match: tag("b"), ..none() }, Verdict::Proceed),
            (ReadConditions { if_none_match: Some(ETagCondition::Any), ..none() }, Verdict::NotModified),
            (ReadConditions { if_match: tag("b"), ..none() }, Verdict::Failed),
            (
                ReadConditions { if_match: tag("a"), if_unmodified_since: Some(at(5)), ..none() },
                Verdict::Proceed,
            ),
            (ReadConditions { if_unmodified_since: Some(at(9)), ..none() }, Verdict::Failed),
            (ReadConditions { if_unmodified_since: Some(at(10)), ..none() }, Verdict::Proceed),
            (ReadConditions { if_modified_since: Some(at(10)), ..none() }, Verdict::NotModified),
            (ReadConditions { if_modified_since: Some(at(9)), ..none() }, Verdict::Proceed),
            (
                ReadConditions { if_none_match: tag("b"), if_modified_since: Some(at(10)), ..none() },
                Verdict::Proceed,
            ),
        ];
        for (conditions, verdict) in table {
            assert_eq!(conditions.judge("a", &at(10)), verdict, "{conditions:?}");
        }
    }

    #[test]
    fn writes_create_only_or_replace_only_what_is_known() {
        let any = || Some(ETagCondition::Any);
        let create_only = WriteConditions { if_none_match: any(), if_match: None };
        assert!(create_only.allow(None));
        assert!(!create_only.allow(Some("a")));
        let replace_only = WriteConditions { if_match: tag("a"), if_none_match: None };
        assert!(replace_only.allow(Some("a")));
        assert!(!replace_only.allow(Some("b")));
        assert!(!replace_only.allow(None));
        assert!(WriteConditions::default().allow(None));
    }
}
