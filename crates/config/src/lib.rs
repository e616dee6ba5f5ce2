//! Environment to validated `Config`; the only file that reads the environment, with its folder.
//!
//! It never falls back silently: everything that is missing or wrong is named in one message.
//! Invariant: a `Config` that exists fits the function's memory, and its output is never its input.

mod batch;
mod command;
mod dashboard;
mod limits;
pub mod local;
mod outputs;
mod process;
mod sign_in;

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

pub use batch::{BatchSettings, has_own_queue_endpoint, own_control_endpoint};
pub use command::{QueueNames, stages_of_command, user_name};
pub use dashboard::{DashboardConfig, QueueUrls};
pub use outputs::{BACKFILL_PREFIX, COMPACTED_PREFIX, PYRAMID_PREFIX, THUMBNAIL_PREFIX};
pub use process::ProcessInfo;
pub use sign_in::{SignInSettings, SignInSettingsError, secure_origin};

/// Bytes that decoding may need for each pixel that is allowed: a 16-bit RGBA source (8) and the RGB
/// result (3), and one for the decoder itself.
pub const DECODED_BYTES_PER_PIXEL: u64 = 12;

/// Bytes of a decoded image for each pixel, once decoding is over.
const RGB_BYTES_PER_PIXEL: u64 = 3;

/// What a run of a network may take for each pixel that an image may have: what decoding has let go of by then.
pub const RUN_BYTES_PER_PIXEL: u64 = DECODED_BYTES_PER_PIXEL - RGB_BYTES_PER_PIXEL;

/// What decoding one image may hold beside its pixels: tables that a damaged WebP or the tags of a TIFF claim.
const DECODER_OVERHEAD_BYTES: u64 = 20 << 20;

/// Copies of the file that decoding may hold beside the one that was downloaded.
const DECODER_FILE_COPIES: u64 = 2;

/// Memory of the process beside images and models: code, runtime, SDK clients, sockets.
const BASE_MEMORY_BYTES: u64 = 96 << 20;

/// Memory a model may need for each byte of its file: the file, the reader's copy and what it reads, while it is
/// parsed; then its weights, the weights packed for the kernels, and what a probe holds. `model/network/memory.rs`
/// refuses a model that would need more, before it takes it.
pub const MODEL_MEMORY_FACTOR: u64 = 3;

/// Everything the classifier is told from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Stage whose model is served and under which results are stored, e.g. `prod` (`GIEMSA_STAGE`).
    pub stage: String,
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
    /// Which models the stage may serve (`GIEMSA_GATE`, default `required` for the stage `prod`, else `off`).
    pub gate: GatePolicy,
    /// Memory of the function, MB, on Lambda (`AWS_LAMBDA_FUNCTION_MEMORY_SIZE`).
    pub memory_mb: Option<u32>,
    /// Bounds on work and memory.
    pub limits: Limits,
}

/// How long a link may live, seconds: no longer than the credentials that a role signs with.
const LINK_SECONDS: std::ops::RangeInclusive<u64> = 1..=43_200;

/// The stage whose answers count for people; its models need a passing golden report unless the setting says otherwise.
pub const PRODUCTION_STAGE: &str = "prod";

/// The stage in which a model is tried on the same uploads.
pub const DEVELOPMENT_STAGE: &str = "dev";

/// The stages of the embedded stack, and those that commands take for all unless `GIEMSA_STAGES` names them.
pub const DEFAULT_STAGES: [&str; 2] = [PRODUCTION_STAGE, DEVELOPMENT_STAGE];

/// Which models a stage may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatePolicy {
    /// Those whose golden report lets them serve.
    Required,
    /// All that load and answer a probe.
    Off,
}

/// What the gate function is told from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct GateConfig {
    /// Bucket that models are copied to (`GIEMSA_MODEL_BUCKET`).
    pub model_bucket: String,
    /// Bounds on work and memory, by the same names as the classifier's.
    pub limits: Limits,
}

impl GateConfig {
    /// Reads the process environment.
    ///
    /// # Errors
    /// As [`GateConfig::from_lookup`].
    #[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads settings by name from `lookup`, and checks them.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem there is, not only the first.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut settings = Settings { lookup, problems: Vec::new() };
        let model_bucket = settings.required("GIEMSA_MODEL_BUCKET", "the bucket that holds the models");
        let config = Self { model_bucket, limits: settings.limits() };
        let memory_mb: Option<u64> = settings.parsed("AWS_LAMBDA_FUNCTION_MEMORY_SIZE");
        let mut problems = settings.problems;
        config.limits.check(memory_mb, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }
}

/// Bounds on work and memory; each has a default.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Largest object that is downloaded, bytes (`GIEMSA_MAX_OBJECT_BYTES`, default 32 MiB).
    pub max_object_bytes: u64,
    /// Widest image, pixels (`GIEMSA_MAX_WIDTH_PX`, default 20,000).
    pub max_width_px: u32,
    /// Highest image, pixels (`GIEMSA_MAX_HEIGHT_PX`, default 20,000).
    pub max_height_px: u32,
    /// Most pixels of an image (`GIEMSA_MAX_PIXELS`, default 40,000,000).
    pub max_pixels: u64,
    /// Largest model file, bytes (`GIEMSA_MAX_MODEL_BYTES`, default 100 MiB).
    pub max_model_bytes: u64,
    /// Images in flight at once: downloading, waiting, being classified or stored
    /// (`GIEMSA_FETCH_CONCURRENCY`, default 10: a whole batch of SQS).
    pub fetch_concurrency: NonZeroUsize,
    /// Images decoded and classified at once (`GIEMSA_CPUS`, default the processors of the machine).
    pub cpus: NonZeroUsize,
    /// Longest time on a processor for one image (`GIEMSA_IMAGE_TIMEOUT_MS`, default 30,000).
    pub image_timeout: Duration,
    /// Time kept back at the end of an invocation: nothing is started in it
    /// (`GIEMSA_DEADLINE_MARGIN_MS`, default 2,000).
    pub deadline_margin: Duration,
    /// Shortest time between two looks for a new model (`GIEMSA_MODEL_CHECK_MS`, default 0: every batch).
    pub model_check_interval: Duration,
    /// How long the dashboard's links to images live (`GIEMSA_LINK_SECONDS`, default 900, 1 to 43,200).
    pub link_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_object_bytes: 32 << 20,
            max_width_px: 20_000,
            max_height_px: 20_000,
            max_pixels: 40_000_000,
            max_model_bytes: 100 << 20,
            fetch_concurrency: NonZeroUsize::new(10).expect("10 is not zero"),
            cpus: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            image_timeout: Duration::from_secs(30),
            deadline_margin: Duration::from_secs(2),
            model_check_interval: Duration::ZERO,
            link_lifetime: Duration::from_secs(900),
        }
    }
}

impl Limits {
    /// The limits of a command: those that the environment sets, each with its default.
    ///
    /// # Errors
    /// [`ConfigError`] with every value that cannot be used.
    #[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
    pub fn from_env() -> Result<Self, ConfigError> {
        let mut settings = Settings { lookup: |name: &str| std::env::var(name).ok(), problems: Vec::new() };
        let limits = settings.limits();
        let mut problems = settings.problems;
        limits.check(None, &mut problems);
        if problems.is_empty() { Ok(limits) } else { Err(ConfigError { problems }) }
    }

    /// The most memory that decoding one image may take, bytes, the file itself not counted.
    pub fn max_decoded_bytes(&self) -> u64 {
        self.max_pixels.saturating_mul(DECODED_BYTES_PER_PIXEL)
    }

    /// The most memory that these limits allow: base + images in flight + images decoded + two models
    /// (the one that serves and the one being loaded).
    pub fn peak_memory_bytes(&self) -> u64 {
        BASE_MEMORY_BYTES
            .saturating_add(self.in_flight_bytes())
            .saturating_add(self.decoded_bytes())
            .saturating_add(self.model_bytes())
    }

    fn in_flight_bytes(&self) -> u64 {
        self.max_object_bytes.saturating_mul(self.fetch_concurrency.get() as u64)
    }

    fn decoded_bytes(&self) -> u64 {
        let pixels = self.max_decoded_bytes();
        let file_copies = self.max_object_bytes.saturating_mul(DECODER_FILE_COPIES);
        let image = pixels.saturating_add(file_copies).saturating_add(DECODER_OVERHEAD_BYTES);
        image.saturating_mul(self.cpus.get() as u64)
    }

    fn model_bytes(&self) -> u64 {
        self.model_memory_bytes().saturating_mul(2)
    }

    /// The most memory that one model may take while it is loaded and probed.
    pub fn model_memory_bytes(&self) -> u64 {
        self.max_model_bytes.saturating_mul(MODEL_MEMORY_FACTOR)
    }

    /// The most memory that a network may take for one image beside its weights: what decoding has let go of by then,
    /// which is all but the RGB result.
    pub fn run_memory_bytes(&self) -> u64 {
        self.max_pixels.saturating_mul(RUN_BYTES_PER_PIXEL)
    }
}

/// All that is wrong with a configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:\n  - {}", problems.join("\n  - "))]
pub struct ConfigError {
    /// One sentence for each problem; each names the variable, what was found and what was expected.
    pub problems: Vec<String>,
}

impl Config {
    /// Reads the process environment.
    ///
    /// # Errors
    /// As [`Config::from_lookup`].
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// The configuration of the embedded stack: names are given, limits come from the process environment.
    ///
    /// # Errors
    /// [`ConfigError`] if a limit is wrong.
    #[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
    pub fn embedded(stage: &str, buckets: [&str; 3], table: &str) -> Result<Self, ConfigError> {
        let [input, model, results] = buckets;
        Self::from_lookup(|name| match name {
            "GIEMSA_STAGE" => Some(stage.to_owned()),
            "GIEMSA_INPUT_BUCKET" => Some(input.to_owned()),
            "GIEMSA_MODEL_BUCKET" => Some(model.to_owned()),
            "GIEMSA_RESULTS_BUCKET" => Some(results.to_owned()),
            "GIEMSA_RESULTS_PREFIX" => None,
            "GIEMSA_TABLE" => Some(table.to_owned()),
            limit => std::env::var(limit).ok(),
        })
    }

    /// Reads settings by name from `lookup`, and checks them, alone and together.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem there is, not only the first.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut settings = Settings { lookup, problems: Vec::new() };
        let mut config = Config {
            stage: settings.required("GIEMSA_STAGE", "the stage, e.g. prod or dev"),
            input_bucket: settings.required("GIEMSA_INPUT_BUCKET", "the bucket that images are uploaded to"),
            model_bucket: settings.required("GIEMSA_MODEL_BUCKET", "the bucket that holds the models"),
            results_bucket: settings.required("GIEMSA_RESULTS_BUCKET", "the bucket for results"),
            results_prefix: settings
                .optional("GIEMSA_RESULTS_PREFIX")
                .unwrap_or_else(|| "results".to_owned()),
            table: settings.required("GIEMSA_TABLE", "the DynamoDB table"),
            gate: GatePolicy::Off,
            memory_mb: None,
            limits: settings.limits(),
        };
        config.gate = settings.gate_policy(&config.stage);
        let memory_mb: Option<u64> = settings.parsed("AWS_LAMBDA_FUNCTION_MEMORY_SIZE");
        config.memory_mb = memory_mb.and_then(|memory_mb| memory_mb.try_into().ok());
        let mut problems = settings.problems;
        config.check_stage(&mut problems);
        config.check_outputs(&mut problems);
        config.limits.check(memory_mb, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }

    /// Key of the model that this stage serves: `<stage>/model.onnx`.
    pub fn model_key(&self) -> String {
        model_key(&self.stage)
    }

    fn check_stage(&self, problems: &mut Vec<String>) {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        // An empty stage is reported as missing already.
        if self.stage.len() > 32 || !self.stage.bytes().all(is_name) {
            problems.push(format!(
                "GIEMSA_STAGE is {:?}; expected up to 32 lower-case letters, digits and hyphens, e.g. prod",
                self.stage
            ));
        }
    }
}

/// Whether the SDK's environment names an S3 endpoint other than AWS's.
#[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
pub fn has_own_s3_endpoint() -> bool {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().any(|name| std::env::var_os(name).is_some())
}

/// Key of the model that `stage` serves.
pub fn model_key(stage: &str) -> String {
    format!("{stage}/model.onnx")
}

/// Raw settings, and what was found wrong with them so far.
struct Settings<L> {
    lookup: L,
    problems: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Settings<L> {
    fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str, meaning: &str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.problems.push(format!("{name} is not set; expected {meaning}"));
            String::new()
        })
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.optional(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.problems.push(format!("{name} is {text:?}; expected a whole number in its range"));
        }
        value
    }

    fn number<T: FromStr + Display>(&mut self, name: &str, default: T) -> T {
        self.parsed(name).unwrap_or(default)
    }

    fn milliseconds(&mut self, name: &str, default: Duration) -> Duration {
        self.parsed(name).map_or(default, Duration::from_millis)
    }

    fn gate_policy(&mut self, stage: &str) -> GatePolicy {
        match self.optional("GIEMSA_GATE").as_deref() {
            Some("required") => GatePolicy::Required,
            Some("off") => GatePolicy::Off,
            None if stage == PRODUCTION_STAGE => GatePolicy::Required,
            None => GatePolicy::Off,
            Some(text) => {
                self.problems.push(format!(
                    "GIEMSA_GATE is {text:?}; expected required (a model needs a passing golden report) or off"
                ));
                GatePolicy::Required
            }
        }
    }

    /// The limits, each with its default.
    fn limits(&mut self) -> Limits {
        let defaults = Limits::default();
        Limits {
            max_object_bytes: self.number("GIEMSA_MAX_OBJECT_BYTES", defaults.max_object_bytes),
            max_width_px: self.number("GIEMSA_MAX_WIDTH_PX", defaults.max_width_px),
            max_height_px: self.number("GIEMSA_MAX_HEIGHT_PX", defaults.max_height_px),
            max_pixels: self.number("GIEMSA_MAX_PIXELS", defaults.max_pixels),
            max_model_bytes: self.number("GIEMSA_MAX_MODEL_BYTES", defaults.max_model_bytes),
            fetch_concurrency: self.number("GIEMSA_FETCH_CONCURRENCY", defaults.fetch_concurrency),
            cpus: self.number("GIEMSA_CPUS", defaults.cpus),
            image_timeout: self.milliseconds("GIEMSA_IMAGE_TIMEOUT_MS", defaults.image_timeout),
            deadline_margin: self.milliseconds("GIEMSA_DEADLINE_MARGIN_MS", defaults.deadline_margin),
            model_check_interval: self.milliseconds("GIEMSA_MODEL_CHECK_MS", defaults.model_check_interval),
            link_lifetime: self
                .parsed("GIEMSA_LINK_SECONDS")
                .map_or(defaults.link_lifetime, Duration::from_secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [(&str, &str); 5] = [
        ("GIEMSA_STAGE", "prod"),
        ("GIEMSA_INPUT_BUCKET", "in"),
        ("GIEMSA_MODEL_BUCKET", "models"),
        ("GIEMSA_RESULTS_BUCKET", "out"),
        ("GIEMSA_TABLE", "giemsa"),
    ];

    pub(super) fn config_with(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| {
            let of =
                |list: &[(&str, &str)]| list.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            of(changes).or_else(|| of(&COMPLETE))
        })
    }

    #[test]
    fn five_settings_are_enough() {
        let config = config_with(&[]).unwrap();
        assert_eq!(config.results_prefix, "results");
        assert_eq!(config.model_key(), "prod/model.onnx");
    }

    #[test]
    fn the_message_names_all_that_is_wrong() {
        let error = Config::from_lookup(|name| match name {
            "GIEMSA_STAGE" => Some("Prod!".to_owned()),
            "GIEMSA_MAX_PIXELS" => Some("many".to_owned()),
            "GIEMSA_CPUS" => Some("0".to_owned()),
            _ => None,
        })
        .unwrap_err();
        let message = error.to_string();
        for part in [
            "GIEMSA_STAGE is \"Prod!\"",
            "GIEMSA_INPUT_BUCKET is not set",
            "GIEMSA_MODEL_BUCKET is not set",
            "GIEMSA_RESULTS_BUCKET is not set",
            "GIEMSA_TABLE is not set",
            "GIEMSA_MAX_PIXELS is \"many\"",
            "GIEMSA_CPUS is \"0\"",
        ] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
        assert_eq!(error.problems.len(), 7);
    }

    #[test]
    fn production_needs_a_report_unless_the_setting_says_otherwise() {
        for (stage, setting, policy) in [
            ("prod", "", GatePolicy::Required),
            ("prod", "off", GatePolicy::Off),
            ("dev", "", GatePolicy::Off),
            ("dev", "required", GatePolicy::Required),
        ] {
            let config = config_with(&[("GIEMSA_STAGE", stage), ("GIEMSA_GATE", setting)]).unwrap();
            assert_eq!(config.gate, policy, "{stage} {setting:?}");
        }
        let error = config_with(&[("GIEMSA_GATE", "no")]).unwrap_err();
        assert!(error.to_string().contains("GIEMSA_GATE is \"no\""), "{error}");
    }

    #[test]
    fn links_live_for_a_while_and_not_for_ever() {
        let seconds = |text| config_with(&[("GIEMSA_LINK_SECONDS", text)]);
        assert_eq!(seconds("").unwrap().limits.link_lifetime, Duration::from_secs(900));
        assert_eq!(seconds("2").unwrap().limits.link_lifetime, Duration::from_secs(2));
        for wrong in ["0", "43201", "a day"] {
            assert!(seconds(wrong).unwrap_err().to_string().contains("GIEMSA_LINK_SECONDS is "), "{wrong}");
        }
    }

    #[test]
    fn gate_needs_a_bucket_and_fits_its_memory() {
        let gate = |memory: &str| {
            GateConfig::from_lookup(|name| match name {
                "GIEMSA_MODEL_BUCKET" => Some("models".to_owned()),
                "GIEMSA_CPUS" => Some("1".to_owned()),
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" => Some(memory.to_owned()),
                _ => None,
            })
        };
        assert_eq!(gate("1769").unwrap().model_bucket, "models");
        assert!(gate("512").unwrap_err().to_string().contains("512 MB"));
        assert!(
            GateConfig::from_lookup(|_| None)
                .unwrap_err()
                .to_string()
                .contains("GIEMSA_MODEL_BUCKET is not set")
        );
    }

    #[test]
    fn what_does_not_fit_the_memory_is_refused_with_the_sum() {
        let memory = ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769");
        let one_cpu = ("GIEMSA_CPUS", "1");
        assert!(config_with(&[memory, one_cpu]).is_ok());
        let error = config_with(&[memory, one_cpu, ("GIEMSA_MAX_PIXELS", "400000000")]).unwrap_err();
        assert!(error.to_string().contains("may need 5678 MB"), "{error}");
        assert!(config_with(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"), one_cpu]).is_err());
    }
}
