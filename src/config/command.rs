//! What commands read of the environment.
//!
//! It never guesses a name on AWS. Invariant: what a command works on is checked like what a function works on.

use super::{Config, ConfigError, has_own_s3_endpoint};

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

/// Who runs a command, for the history of releases: `GIEMSA_USER`, or else the name of the system's user.
#[expect(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]
pub fn user_name() -> Option<String> {
    let names = ["GIEMSA_USER", "USER", "LOGNAME", "USERNAME"];
    names.iter().filter_map(|name| std::env::var(name).ok()).find(|name| !name.trim().is_empty())
}
