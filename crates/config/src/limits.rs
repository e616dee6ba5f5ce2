//! Whether limits make sense, each for itself and all together against the memory of a function.

use super::{BASE_MEMORY_BYTES, DECODED_BYTES_PER_PIXEL, LINK_SECONDS, Limits, MODEL_MEMORY_FACTOR};

impl Limits {
    /// Each limit for itself, and all together against the function's memory.
    pub(super) fn check(&self, memory_mb: Option<u64>, problems: &mut Vec<String>) {
        self.check_each(problems);
        if let Some(memory_mb) = memory_mb {
            self.check_memory(memory_mb, problems);
        }
    }

    pub(super) fn check_each(&self, problems: &mut Vec<String>) {
        let limits = self;
        for (name, value) in [
            ("GIEMSA_MAX_OBJECT_BYTES", limits.max_object_bytes),
            ("GIEMSA_MAX_WIDTH_PX", limits.max_width_px.into()),
            ("GIEMSA_MAX_HEIGHT_PX", limits.max_height_px.into()),
            ("GIEMSA_MAX_PIXELS", limits.max_pixels),
            ("GIEMSA_MAX_MODEL_BYTES", limits.max_model_bytes),
            ("GIEMSA_IMAGE_TIMEOUT_MS", limits.image_timeout.as_millis() as u64),
        ] {
            if value == 0 {
                problems.push(format!("{name} is 0; expected at least 1"));
            }
        }
        if !LINK_SECONDS.contains(&limits.link_lifetime.as_secs()) {
            problems.push(format!(
                "GIEMSA_LINK_SECONDS is {}; expected {} to {}",
                limits.link_lifetime.as_secs(),
                LINK_SECONDS.start(),
                LINK_SECONDS.end()
            ));
        }
    }

    fn check_memory(&self, memory_mb: u64, problems: &mut Vec<String>) {
        let limits = self;
        let needed = limits.peak_memory_bytes();
        if needed > memory_mb << 20 {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            problems.push(format!(
                "the function has {memory_mb} MB (AWS_LAMBDA_FUNCTION_MEMORY_SIZE) and may need {} MB: {} base \
                 + {} for {} objects in flight of GIEMSA_MAX_OBJECT_BYTES + {} for {} images decoded at once of \
                 GIEMSA_MAX_PIXELS at {DECODED_BYTES_PER_PIXEL} bytes, with their file and tables, + {} for two models of \
                 GIEMSA_MAX_MODEL_BYTES at {MODEL_MEMORY_FACTOR} times their file; give it more memory or lower one \
                 of these",
                mib(needed),
                mib(BASE_MEMORY_BYTES),
                mib(limits.in_flight_bytes()),
                limits.fetch_concurrency,
                mib(limits.decoded_bytes()),
                limits.cpus,
                mib(limits.model_bytes()),
            ));
        }
    }
}
