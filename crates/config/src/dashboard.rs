//! What the dashboard is told from outside.
//!
//! Every stage that has a queue is one that is shown.

use std::collections::BTreeMap;

use super::{ConfigError, Limits, Settings, SignInSettings};

/// Everything the dashboard function is told from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct DashboardConfig {
    /// The stages, the one whose answers count first (`GIEMSA_STAGES`, by commas, default `prod`).
    pub stages: Vec<String>,
    /// Bucket that images are uploaded to (`GIEMSA_INPUT_BUCKET`).
    pub input_bucket: String,
    /// Bucket that models are copied to (`GIEMSA_MODEL_BUCKET`).
    pub model_bucket: String,
    /// Bucket that results are written to (`GIEMSA_RESULTS_BUCKET`).
    pub results_bucket: String,
    /// Key prefix of results, without a slash at its end (`GIEMSA_RESULTS_PREFIX`, default `results`).
    pub results_prefix: String,
    /// DynamoDB table (`GIEMSA_TABLE`).
    pub table: String,
    /// Queues by stage (`GIEMSA_QUEUE_URLS` and `GIEMSA_DLQ_URLS`, `<stage>=<URL>` by commas, default none).
    pub queues: BTreeMap<String, QueueUrls>,
    /// The gate's queue (`GIEMSA_GATE_QUEUE_URL` and `GIEMSA_GATE_DLQ_URL`, default none).
    pub gate: Option<QueueUrls>,
    /// Where people sign in (`GIEMSA_OIDC_ISSUER` and `GIEMSA_OIDC_CLIENT_ID`), and
    /// the origins that the page asks for tokens beside the issuer's own (`GIEMSA_OIDC_ORIGINS`, by commas).
    pub sign_in: SignInSettings,
    /// Bounds on images, by the same names as the classifier's.
    pub limits: Limits,
}

/// A queue and its dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueUrls {
    /// URL of the queue.
    pub queue: String,
    /// URL of its dead-letter queue.
    pub dead_letters: Option<String>,
}

impl DashboardConfig {
    /// Reads the process environment.
    ///
    /// # Errors
    /// As [`DashboardConfig::from_lookup`].
    #[expect(clippy::disallowed_methods, reason = "this is the one folder that reads the environment")]
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads settings by name from `lookup`, and checks them.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem there is, not only the first.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut settings = Settings { lookup, problems: Vec::new() };
        let stages = settings.stages(&[super::PRODUCTION_STAGE]);
        let queue_urls = settings.by_stage("GIEMSA_QUEUE_URLS", &stages);
        let mut dead_letter_urls = settings.by_stage("GIEMSA_DLQ_URLS", &stages);
        let with_dead_letters = |(stage, queue): (String, String)| {
            let dead_letters = dead_letter_urls.remove(&stage);
            (stage, QueueUrls { queue, dead_letters })
        };
        let queues = queue_urls.into_iter().map(with_dead_letters).collect();
        let dead_letters = settings.optional("GIEMSA_GATE_DLQ_URL");
        let gate = settings.optional("GIEMSA_GATE_QUEUE_URL").map(|queue| QueueUrls { queue, dead_letters });
        let input_bucket = settings.required("GIEMSA_INPUT_BUCKET", "the bucket that images are uploaded to");
        let model_bucket = settings.required("GIEMSA_MODEL_BUCKET", "the bucket that holds the models");
        let results_bucket = settings.required("GIEMSA_RESULTS_BUCKET", "the bucket for results");
        let results_prefix =
            settings.optional("GIEMSA_RESULTS_PREFIX").unwrap_or_else(|| "results".to_owned());
        let table = settings.required("GIEMSA_TABLE", "the DynamoDB table");
        let sign_in = settings.sign_in();
        let limits = settings.limits();
        let mut problems = settings.problems;
        limits.check_each(&mut problems);
        match sign_in {
            Some(sign_in) if problems.is_empty() => Ok(Self {
                stages,
                input_bucket,
                model_bucket,
                results_bucket,
                results_prefix,
                table,
                queues,
                gate,
                sign_in,
                limits,
            }),
            _ => Err(ConfigError { problems }),
        }
    }
}

impl<L: Fn(&str) -> Option<String>> Settings<L> {
    /// The stages of `GIEMSA_STAGES`, by commas, or else `default`.
    pub(super) fn stages(&mut self, default: &[&str]) -> Vec<String> {
        let named = self.optional("GIEMSA_STAGES").unwrap_or_else(|| default.join(","));
        let stages: Vec<String> = named.split(',').map(|stage| stage.trim().to_owned()).collect();
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        for (index, stage) in stages.iter().enumerate() {
            let is_stage = (1..=32).contains(&stage.len()) && stage.bytes().all(is_name);
            if !is_stage || stages[..index].contains(stage) {
                self.problems.push(format!(
                    "GIEMSA_STAGES names the stage {stage:?}; expected different stages of up to 32 lower-case letters, \
                     digits and hyphens, by commas, e.g. prod,dev"
                ));
            }
        }
        stages
    }

    /// A list of `<stage>=<value>`.
    fn by_stage(&mut self, name: &str, stages: &[String]) -> BTreeMap<String, String> {
        let text = self.optional(name).unwrap_or_default();
        let mut values = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((stage, value)) if stages.iter().any(|known| known == stage) && !value.is_empty() => {
                    values.insert(stage.to_owned(), value.to_owned());
                }
                _ => self.problems.push(format!(
                    "{name} holds {part:?}; expected <stage>=<URL> of a stage of GIEMSA_STAGES, e.g. \
                     prod=https://sqs.eu-central-1.amazonaws.com/111122223333/classify"
                )),
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(changes: &[(&str, &str)]) -> Result<DashboardConfig, ConfigError> {
        let complete = [
            ("GIEMSA_INPUT_BUCKET", "in"),
            ("GIEMSA_MODEL_BUCKET", "models"),
            ("GIEMSA_RESULTS_BUCKET", "out"),
            ("GIEMSA_TABLE", "giemsa"),
            ("GIEMSA_OIDC_ISSUER", "https://id.example"),
            ("GIEMSA_OIDC_CLIENT_ID", "page"),
        ];
        DashboardConfig::from_lookup(|name| {
            let mut all = changes.iter().chain(&complete);
            all.find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn stages_have_their_queues() {
        assert_eq!(of(&[]).unwrap().stages, ["prod"]);
        let config = of(&[
            ("GIEMSA_STAGES", "prod, dev"),
            ("GIEMSA_QUEUE_URLS", "prod=https://q/a,dev=https://q/b"),
            ("GIEMSA_DLQ_URLS", "prod=https://q/dead"),
        ]);
        let config = config.unwrap();
        assert_eq!(config.stages, ["prod", "dev"]);
        assert_eq!(config.queues["prod"].dead_letters.as_deref(), Some("https://q/dead"));
        assert_eq!(config.queues["dev"], QueueUrls { queue: "https://q/b".to_owned(), dead_letters: None });
    }

    #[test]
    fn a_dashboard_without_sign_in_does_not_start() {
        let sign_in = of(&[]).unwrap().sign_in;
        assert_eq!((sign_in.issuer(), sign_in.client_id()), ("https://id.example", "page"));
        let sign_in = of(&[("GIEMSA_OIDC_ORIGINS", "https://auth.example")]).unwrap().sign_in;
        assert_eq!(sign_in.origins(), ["https://id.example", "https://auth.example"]);
        // A forgotten setting must not open the page to everybody.
        let (issuer, client) = (("GIEMSA_OIDC_ISSUER", ""), ("GIEMSA_OIDC_CLIENT_ID", ""));
        for (changes, missing) in [
            (vec![issuer, client], "GIEMSA_OIDC_ISSUER and GIEMSA_OIDC_CLIENT_ID not set"),
            (vec![client], "GIEMSA_OIDC_CLIENT_ID not set"),
            (vec![issuer], "GIEMSA_OIDC_ISSUER not set"),
            (vec![("GIEMSA_OIDC_ISSUER", "http://id.example")], "http://id.example"),
        ] {
            let message = of(&changes).unwrap_err().to_string();
            assert!(message.contains(missing), "{message}");
        }
    }

    #[test]
    fn the_message_names_all_that_is_wrong() {
        let settings =
            [("GIEMSA_STAGES", "prod,Prod,prod"), ("GIEMSA_QUEUE_URLS", "beta=x"), ("GIEMSA_TABLE", "")];
        let message = of(&settings).unwrap_err().to_string();
        for part in ["stage \"Prod\"", "stage \"prod\"", "\"beta=x\"", "GIEMSA_TABLE is not set"] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }
}
