//! What Giemsa writes itself, and that it is never taken for an upload.
//!
//! What is written lies in another bucket than what is read, and results in another folder than what is kept beside
//! them.

use super::Config;

/// Folder of the results bucket that holds what belongs to backfills: manifests, reports, the mark of a run.
pub const BACKFILL_PREFIX: &str = "backfill";

/// Folder of the results bucket that holds days of results as Parquet (`giemsa results compact`).
pub const COMPACTED_PREFIX: &str = "compacted";

/// Folder of the results bucket that holds small copies of images, made by the dashboard.
pub const THUMBNAIL_PREFIX: &str = "thumbnails";

/// Folder of the results bucket that holds the tiles of large images, made by the dashboard.
pub const PYRAMID_PREFIX: &str = "pyramids";

/// Folders of the results bucket that hold no results.
const OWN_FOLDERS: [(&str, &str); 4] = [
    (BACKFILL_PREFIX, "the manifests and reports of backfills"),
    (COMPACTED_PREFIX, "days of results as Parquet"),
    (THUMBNAIL_PREFIX, "the dashboard's small copies of images"),
    (PYRAMID_PREFIX, "the dashboard's tiles of large images"),
];

impl Config {
    /// Whether an object is something that Giemsa itself wrote: a result, a model, compacted results, what a backfill
    /// keeps or a copy for the dashboard, never input.
    pub fn is_own_output(&self, bucket: &str, key: &str) -> bool {
        let is_below = |folder: &str| key.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let is_output = bucket == self.results_bucket
            && (is_below(&self.results_prefix) || OWN_FOLDERS.iter().any(|(folder, _)| is_below(folder)));
        is_output || bucket == self.model_bucket
    }

    /// Problems with where results go.
    pub(super) fn check_outputs(&self, problems: &mut Vec<String>) {
        self.check_overlap(problems);
        let prefix = &self.results_prefix;
        if prefix.is_empty() || prefix.starts_with('/') || prefix.ends_with('/') || prefix.len() > 200 {
            problems.push(format!(
                "GIEMSA_RESULTS_PREFIX is {prefix:?}; expected 1 to 200 bytes with no slash at either end, \
                 e.g. results"
            ));
        } else if let Some((folder, holds)) =
            OWN_FOLDERS.iter().find(|(folder, _)| prefix.split('/').next() == Some(folder))
        {
            problems.push(format!(
                "GIEMSA_RESULTS_PREFIX is {prefix:?}; expected another folder than {folder}/, which holds {holds}, \
                 e.g. results"
            ));
        }
    }

    /// Results written where images are read would be classified in turn, for ever.
    fn check_overlap(&self, problems: &mut Vec<String>) {
        for (name, bucket) in
            [("GIEMSA_RESULTS_BUCKET", &self.results_bucket), ("GIEMSA_MODEL_BUCKET", &self.model_bucket)]
        {
            if !bucket.is_empty() && *bucket == self.input_bucket {
                problems.push(format!(
                    "{name} and GIEMSA_INPUT_BUCKET are both {bucket:?}; expected two buckets, or what is \
                     written would come back as input"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config_with;

    #[test]
    fn output_is_never_input() {
        let error = config_with(&[("GIEMSA_RESULTS_BUCKET", "in")]).unwrap_err();
        assert!(error.to_string().contains("GIEMSA_RESULTS_BUCKET and GIEMSA_INPUT_BUCKET"), "{error}");
        assert!(config_with(&[("GIEMSA_MODEL_BUCKET", "in")]).is_err());
    }

    #[test]
    fn own_output_is_recognised() {
        let config = config_with(&[]).unwrap();
        assert!(config.is_own_output("out", "results/stage=prod/x.json"));
        assert!(config.is_own_output("models", "dev/model.onnx"));
        assert!(config.is_own_output("out", "backfill/20261123/manifest.csv"));
        assert!(config.is_own_output("out", "compacted/stage=prod/date=2026-11-22/part-0001-0.parquet"));
        assert!(config.is_own_output("out", "thumbnails/0a.jpg"));
        assert!(config.is_own_output("out", "pyramids/0a/3/1_2.jpg"));
        assert!(config_with(&[("GIEMSA_RESULTS_PREFIX", "pyramids/x")]).is_err());
        assert!(!config.is_own_output("in", "thumbnails/x.png"));
        assert!(!config.is_own_output("out", "backfilled/x.png"));
        assert!(!config.is_own_output("in", "backfill/x.png"));
        assert!(!config.is_own_output("out", "results-of-tuesday/x.png"));
        assert!(!config.is_own_output("in", "results/x.png"));
    }
}
