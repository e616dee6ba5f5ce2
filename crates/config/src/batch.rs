//! What a backfill on AWS reads of the environment.
//!
//! It never guesses a role or a function. Settings that exist name one account, in which jobs are made.

use super::ConfigError;

/// What a backfill by S3 Batch Operations works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSettings {
    /// Role that S3 Batch Operations takes on (`GIEMSA_BATCH_ROLE_ARN`).
    pub role_arn: String,
    /// Function that it invokes (`GIEMSA_BACKFILL_FUNCTION_ARN`).
    pub function_arn: String,
    /// Account of the function.
    pub account_id: String,
    /// How many images the function answers at once (`GIEMSA_BACKFILL_CONCURRENCY`, default 10, as the template's).
    pub concurrency: u32,
}

impl BatchSettings {
    /// Reads the process environment.
    ///
    /// # Errors
    /// As [`BatchSettings::from_lookup`].
    #[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
    pub fn from_env() -> Result<Option<Self>, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads settings by name from `lookup`; none if neither role nor function is set.
    ///
    /// # Errors
    /// [`ConfigError`] if only one of them is set, or one of them is not an ARN of its kind.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        const ROLE: &str = "GIEMSA_BATCH_ROLE_ARN";
        const FUNCTION: &str = "GIEMSA_BACKFILL_FUNCTION_ARN";
        const CONCURRENCY: &str = "GIEMSA_BACKFILL_CONCURRENCY";
        let text = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let (role_arn, function_arn) = (text(ROLE), text(FUNCTION));
        if role_arn.is_none() && function_arn.is_none() {
            return Ok(None);
        }
        let mut problems = Vec::new();
        let mut checked = |name: &str, value: Option<String>, service: &str, kind: &str| {
            let value = value.unwrap_or_default();
            let parts: Vec<&str> = value.splitn(6, ':').collect();
            let account = match parts[..] {
                ["arn", _, found, _, account, resource]
                    if found == service
                        && resource.starts_with(kind)
                        && account.len() == 12
                        && account.bytes().all(|b| b.is_ascii_digit()) =>
                {
                    account.to_owned()
                }
                _ => {
                    problems.push(format!(
                        "{name} is {value:?}; expected the ARN that the stack's outputs name, \
                         arn:aws:{service}:…:<account>:{kind}…"
                    ));
                    String::new()
                }
            };
            (value, account)
        };
        let (role_arn, _) = checked(ROLE, role_arn, "iam", "role/");
        let (function_arn, account_id) = checked(FUNCTION, function_arn, "lambda", "function:");
        let concurrency = match text(CONCURRENCY).map(|value| (value.parse(), value)) {
            None => 10,
            Some((Ok(concurrency @ 1..), _)) => concurrency,
            Some((_, value)) => {
                problems.push(format!("{CONCURRENCY} is {value:?}; expected a whole number from 1 on"));
                1
            }
        };
        if problems.is_empty() {
            Ok(Some(Self { role_arn, function_arn, account_id, concurrency }))
        } else {
            Err(ConfigError { problems })
        }
    }
}

/// URL of an S3 Control other than AWS's, if the SDK's environment names one.
#[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
pub fn own_control_endpoint() -> Option<String> {
    let names = ["AWS_ENDPOINT_URL_S3_CONTROL", "AWS_ENDPOINT_URL"];
    names.iter().find_map(|name| std::env::var(name).ok()).filter(|url| !url.is_empty())
}

/// Whether the SDK's environment names queues other than AWS's.
#[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
pub fn has_own_queue_endpoint() -> bool {
    ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"].iter().any(|name| std::env::var_os(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::123456789012:role/giemsa-BatchRole-1";
    const FUNCTION: &str = "arn:aws:lambda:eu-central-1:123456789012:function:giemsa-Backfill-1";

    fn settings(pairs: &[(&str, &str)]) -> Result<Option<BatchSettings>, ConfigError> {
        BatchSettings::from_lookup(|name| {
            pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_job_needs_a_role_and_a_function() {
        assert_eq!(settings(&[]), Ok(None));
        let both = [("GIEMSA_BATCH_ROLE_ARN", ROLE), ("GIEMSA_BACKFILL_FUNCTION_ARN", FUNCTION)];
        let found = settings(&both).unwrap().unwrap();
        assert_eq!((&*found.account_id, found.concurrency), ("123456789012", 10));
        for (name, value, part) in [
            ("GIEMSA_BATCH_ROLE_ARN", ROLE, "GIEMSA_BACKFILL_FUNCTION_ARN is \"\""),
            ("GIEMSA_BACKFILL_FUNCTION_ARN", FUNCTION, "GIEMSA_BATCH_ROLE_ARN is \"\""),
            ("GIEMSA_BATCH_ROLE_ARN", FUNCTION, "arn:aws:iam:"),
        ] {
            let error = settings(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let wrong = [both[0], both[1], ("GIEMSA_BACKFILL_CONCURRENCY", "0")];
        assert!(settings(&wrong).unwrap_err().to_string().contains("expected a whole number"));
    }
}
