//! What commands read of the environment.
//!
//! It never guesses a name on AWS. What a command works on is checked like what a function works on.

use super::{Config, ConfigError, DEFAULT_STAGES, Settings, has_own_s3_endpoint};

impl Config {
    /// The configuration of a command that works on `stage`: as the classifier's, but against an endpoint other than
    /// AWS's, names that are not set are those of the embedded stack, `defaults`: buckets for images, models and
    /// results, and the table.
    ///
    /// # Errors
    /// As [`Config::from_lookup`].
    #[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
    pub fn for_command(stage: &str, defaults: [&str; 4]) -> Result<Self, ConfigError> {
        let [input, model, results, table] = defaults;
        // On AWS bucket names belong to whoever took them first: there is no safe guess.
        let is_local = has_own_s3_endpoint();
        Self::from_lookup(|name| {
            let default = match name {
                "GIEMSA_STAGE" => return Some(stage.to_owned()),
                "GIEMSA_INPUT_BUCKET" => input,
                "GIEMSA_MODEL_BUCKET" => model,
                "GIEMSA_RESULTS_BUCKET" => results,
                "GIEMSA_TABLE" => table,
                _ => return std::env::var(name).ok(),
            };
            std::env::var(name).ok().or_else(|| is_local.then(|| default.to_owned()))
        })
    }
}

/// Which queues a command works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueNames {
    /// URL of the main queue, if `GIEMSA_QUEUE_URL` gives it.
    pub queue_url: Option<String>,
    /// Name of the main queue where its URL is not given: that of the embedded stack.
    pub queue_name: String,
    /// URL of its dead-letter queue, if `GIEMSA_DLQ_URL` gives it; else the main queue's redrive policy tells.
    pub dead_letter_url: Option<String>,
}

impl QueueNames {
    /// The queues of a command that works on `stage`: on AWS they have to be named, against an endpoint other than
    /// AWS's they default to those of the embedded stack.
    ///
    /// # Errors
    /// [`ConfigError`] if nothing says which queue.
    #[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
    pub fn for_command(stage: &str) -> Result<Self, ConfigError> {
        Self::from_lookup(stage, |name| std::env::var(name).ok())
    }

    /// As [`for_command`](Self::for_command), with settings by name from `lookup`.
    ///
    /// # Errors
    /// [`ConfigError`] if nothing says which queue.
    pub fn from_lookup(stage: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let set = |name| lookup(name).filter(|value| !value.trim().is_empty());
        let queue_url = set("GIEMSA_QUEUE_URL");
        let is_local = set("AWS_ENDPOINT_URL_SQS").or_else(|| set("AWS_ENDPOINT_URL")).is_some();
        if queue_url.is_none() && !is_local {
            return Err(ConfigError {
                problems: vec![format!(
                    "GIEMSA_QUEUE_URL is not set; expected the URL of the queue of the stage {stage:?} on AWS, or \
                     AWS_ENDPOINT_URL_SQS as `giemsa up` prints it"
                )],
            });
        }
        Ok(Self {
            queue_url,
            queue_name: format!("classify-{stage}"),
            dead_letter_url: set("GIEMSA_DLQ_URL"),
        })
    }
}

/// All stages, for commands that tell of an image in each: those of `GIEMSA_STAGES`, by commas, or else `prod` and `dev`.
///
/// # Errors
/// [`ConfigError`] if one has no name that a stage may have.
#[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
pub fn stages_of_command() -> Result<Vec<String>, ConfigError> {
    stages_from(|name| std::env::var(name).ok())
}

fn stages_from(lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, ConfigError> {
    let mut settings = Settings { lookup, problems: Vec::new() };
    let stages = settings.stages(&DEFAULT_STAGES);
    let problems = settings.problems;
    if problems.is_empty() { Ok(stages) } else { Err(ConfigError { problems }) }
}

/// Who runs a command, for the history of releases: `GIEMSA_USER`, or else the name of the system's user.
#[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
pub fn user_name() -> Option<String> {
    let names = ["GIEMSA_USER", "USER", "LOGNAME", "USERNAME"];
    names.iter().filter_map(|name| std::env::var(name).ok()).find(|name| !name.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_asks_the_stages_that_are_named() {
        let named = |text: &'static str| stages_from(move |_| Some(text.to_owned()));
        assert_eq!(stages_from(|_| None).unwrap(), ["prod", "dev"]);
        assert_eq!(named("prod, trial").unwrap(), ["prod", "trial"]);
        let error = named("prod,a#b").unwrap_err().to_string();
        assert!(error.contains("a#b") && error.contains("GIEMSA_STAGES"), "{error}");
    }

    #[test]
    fn queues_are_named_on_aws_and_known_by_name_here() {
        let names = |settings: &[(&str, &str)]| {
            let found =
                |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            QueueNames::from_lookup("dev", found)
        };
        let error = names(&[("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")]).unwrap_err().to_string();
        assert!(error.contains("GIEMSA_QUEUE_URL") && error.contains("AWS_ENDPOINT_URL_SQS"), "{error}");
        let local = names(&[("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9324")]).unwrap();
        assert_eq!(
            (local.queue_name.as_str(), local.queue_url, local.dead_letter_url),
            ("classify-dev", None, None)
        );
        let aws = names(&[("GIEMSA_QUEUE_URL", "https://q"), ("GIEMSA_DLQ_URL", "https://d")]).unwrap();
        assert_eq!(
            (aws.queue_url.as_deref(), aws.dead_letter_url.as_deref()),
            (Some("https://q"), Some("https://d"))
        );
    }
}
