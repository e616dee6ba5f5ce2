//! What images cost on AWS: by service and in all, beside other ways to have them classified; and which rate of uploads
//! reaches which limit of an account.
//!
//! Pure arithmetic on the prices of `price.rs`, the one table of them. Every quantity that is multiplied is shown, and
//! what each image is assumed to take stands in a named constant here.

mod alternatives;
mod rates;

use serde::Serialize;

pub use alternatives::{Alternative, CONTAINER_PEAK, alternatives};
pub use rates::{Assumptions, LIMITS, Limit, RATES, RateReport, Use, simulate, typical_record};

use giemsa_core::price::{
    Architecture, Charge, Estimate, GETS_OF_IMAGE, GETS_OF_INVOCATION, PUTS_OF_ANSWER, Service,
    WRITE_UNITS_OF_NEW,
};

/// Milliseconds of an invocation beside its images: the look for a model, the first download, the last writes.
pub const INVOCATION_MS: f64 = 100.0;

/// Messages that SQS gives or deletes by one request.
const MESSAGES_OF_REQUEST: f64 = 10.0;

/// Bytes of a record in the results prefix.
pub const RESULT_BYTES: f64 = 1_000.0;

/// Bytes of an answer in the table, with DynamoDB's overhead.
pub const TABLE_BYTES: f64 = 1_600.0;

/// Bytes of an answer in all indexes, with DynamoDB's overhead.
pub const INDEX_BYTES: f64 = 6_000.0;

/// Bytes of logs of one invocation: Lambda's own lines, the batch's line and its metrics.
const LOG_BYTES: f64 = 3_000.0;

/// Months that logs are kept, as in the template.
const LOG_MONTHS: f64 = 3.0;

/// Metrics of our own in each stage.
const METRICS_OF_STAGE: f64 = 17.0;

/// Metrics that alarms of one stage look at.
const ALARMS_OF_STAGE: f64 = 7.0;

/// Metrics that alarms of all stages together look at.
const ALARMS_OF_ALL: f64 = 9.0;

/// CloudWatch dashboards of the template.
const DASHBOARDS: f64 = 1.0;

/// Bytes of one line of a bucket's access log: about what the lines of AWS's documentation have.
const ACCESS_LOG_BYTES: f64 = 500.0;

/// Requests to an empty queue a month: five pollers that wait twenty seconds each, for 730 hours.
const EMPTY_POLLS: f64 = 5.0 * 3.0 * 60.0 * 730.0;

const BYTES_OF_GB: f64 = 1e9;

/// Images, and how they are answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Workload {
    /// How many, 1 or more.
    pub images: f64,
    /// Size of one file, MB.
    pub size_mb: f64,
    /// Milliseconds of one image on one processor, from download to score.
    pub image_ms: f64,
    /// Milliseconds that a handler in Python takes for one image.
    pub python_ms: f64,
    /// Size of the function, MB.
    pub memory_mb: u32,
    /// Its processors.
    pub architecture: Architecture,
    /// Stages that answer each image.
    pub stages: u32,
    /// Images of one invocation.
    pub batch: u32,
    /// Months that images are kept, reckoned into the price of their upload.
    pub image_months: f64,
    /// Months that results are kept.
    pub result_months: f64,
}

impl Workload {
    /// Answers: images times stages.
    pub fn answers(&self) -> f64 {
        self.images * f64::from(self.stages)
    }

    /// Invocations of all stages; a last batch that is not full counts as one.
    pub fn invocations(&self) -> f64 {
        (self.images / f64::from(self.batch)).ceil() * f64::from(self.stages)
    }

    /// Seconds that Lambda bills where one image takes `image_ms`.
    fn billed_s(&self, image_ms: f64) -> f64 {
        (self.answers() * image_ms + self.invocations() * INVOCATION_MS) / 1e3
    }

    fn function_gb(&self) -> f64 {
        f64::from(self.memory_mb) / 1024.0
    }
}

/// Images as they were measured; the milliseconds are those of `benches/results/`, on one `x86_64` processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Size of one file, MB.
    pub size_mb: f64,
    /// Milliseconds of one image by Giemsa.
    pub image_ms: f64,
    /// Milliseconds of one image by the tuned handler in Python.
    pub python_ms: f64,
}

/// PNG files of one cell each.
pub const CROPS: Preset = Preset { size_mb: 0.0173, image_ms: 3.33, python_ms: 5.04 };

/// JPEG files of 4000 x 3000 pixels.
pub const FIELDS: Preset = Preset { size_mb: 2.114, image_ms: 91.1, python_ms: 111.1 };

/// What images cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bill {
    /// What each image adds.
    pub images: Estimate,
    /// What a month costs in which none arrives.
    pub idle_month: Estimate,
}

/// Metrics that the alarms of so many stages look at; one that reckons with several is charged for each.
pub fn alarm_metrics(stages: u32) -> f64 {
    f64::from(stages) * ALARMS_OF_STAGE + ALARMS_OF_ALL
}

/// Reckons what `workload` costs.
pub fn bill(workload: &Workload) -> Bill {
    let quantities = lambda(workload, workload.image_ms).into_iter().chain(beside_lambda(workload));
    let stages = f64::from(workload.stages);
    let idle = [
        (Charge::QueueRequest, stages * EMPTY_POLLS),
        (Charge::MetricMonth, stages * METRICS_OF_STAGE),
        (Charge::AlarmMonth, alarm_metrics(workload.stages)),
        (Charge::DashboardMonth, DASHBOARDS),
    ];
    Bill { images: Estimate::of(quantities), idle_month: Estimate::of(idle) }
}

/// The function alone, where one image takes `image_ms`.
fn lambda(workload: &Workload, image_ms: f64) -> [(Charge, f64); 2] {
    let gb_seconds = workload.billed_s(image_ms) * workload.function_gb();
    [(workload.architecture.gb_second(), gb_seconds), (Charge::LambdaRequest, workload.invocations())]
}

/// Everything but the function: the same whatever program answers.
fn beside_lambda(workload: &Workload) -> Vec<(Charge, f64)> {
    let (images, answers, invocations) = (workload.images, workload.answers(), workload.invocations());
    let requests_of_batch = 2.0 * (f64::from(workload.batch) / MESSAGES_OF_REQUEST).ceil();
    let result_months = workload.result_months;
    let log_gb = invocations * LOG_BYTES / BYTES_OF_GB;
    let puts = images + answers * PUTS_OF_ANSWER;
    let gets = answers * GETS_OF_IMAGE + invocations * GETS_OF_INVOCATION;
    let access_log_gb = (puts + gets) * ACCESS_LOG_BYTES / BYTES_OF_GB;
    vec![
        (Charge::S3Put, puts),
        (Charge::S3Get, gets),
        (
            Charge::S3GbMonth,
            images * workload.size_mb / 1e3 * workload.image_months
                + answers * RESULT_BYTES / BYTES_OF_GB * result_months
                + access_log_gb * LOG_MONTHS,
        ),
        (Charge::UploadEvent, images),
        // EventBridge sends each stage a message; each batch is received and deleted.
        (Charge::QueueRequest, answers + invocations * requests_of_batch),
        (Charge::TableWriteUnit, answers * WRITE_UNITS_OF_NEW),
        (Charge::TableGbMonth, answers * (TABLE_BYTES + INDEX_BYTES) / BYTES_OF_GB * result_months),
        (Charge::TableBackupGbMonth, answers * TABLE_BYTES / BYTES_OF_GB * result_months),
        (Charge::LogGb, log_gb),
        (Charge::LogGbMonth, log_gb * LOG_MONTHS),
        // X-Ray takes the first of each second and 5 % of the others: all of them, where they trickle in.
        (Charge::Trace, invocations),
    ]
}

/// US dollars of an estimate by service, the largest first.
pub fn by_service(estimate: &Estimate) -> Vec<(Service, f64)> {
    let mut sums: Vec<(Service, f64)> = Vec::new();
    for line in &estimate.lines {
        let service = line.charge.price().service;
        match sums.iter_mut().find(|(known, _)| *known == service) {
            Some((_, usd)) => *usd += line.usd,
            None => sums.push((service, line.usd)),
        }
    }
    sums.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    sums
}

#[cfg(test)]
mod tests;
