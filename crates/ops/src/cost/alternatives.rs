//! The same images by other means: a function in Python, a container that always runs, batch transform of SageMaker.
//!
//! Each way is charged for the same answers in the same bucket and table, so that only who makes them differs.

use serde::Serialize;

use super::{Workload, beside_lambda, lambda};
use giemsa_core::price::{Architecture, Charge, Estimate, Service};

/// Hours of a month.
const MONTH_HOURS: f64 = 730.0;

/// How many times the month's mean rate a container has to be able to answer: images come in working hours, and in bursts.
pub const CONTAINER_PEAK: f64 = 10.0;

/// GB of memory of a container for each of its processors, the least that Fargate has.
const CONTAINER_GB: f64 = 2.0;

/// Virtual processors of an ml.c5.xlarge.
const SAGEMAKER_VCPUS: f64 = 4.0;

/// Jobs of batch transform a month: one a day and stage.
const SAGEMAKER_JOBS: f64 = 30.0;

/// Minutes until a job of batch transform has its instance and container, which are charged.
const SAGEMAKER_START_MIN: f64 = 4.0;

/// One way to have images answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternative {
    /// Name for people.
    pub name: &'static str,
    /// US dollars of what computes.
    pub compute_usd: f64,
    /// US dollars of buckets, table, queues and logs.
    pub rest_usd: f64,
    /// What is assumed, in a sentence.
    pub assumption: String,
}

impl Alternative {
    /// US dollars in all.
    pub fn total_usd(&self) -> f64 {
        self.compute_usd + self.rest_usd
    }
}

/// What the images of a month cost by each way, Giemsa first.
pub fn alternatives(workload: &Workload) -> Vec<Alternative> {
    let rest = Estimate::of(beside_lambda(workload));
    let function = |name, image_ms, assumption| Alternative {
        name,
        compute_usd: Estimate::of(lambda(workload, image_ms)).total_usd,
        rest_usd: rest.total_usd,
        assumption,
    };
    vec![
        function(
            "Giemsa on Lambda",
            workload.image_ms,
            format!(
                "{} ms an image and {} ms an invocation; it costs nothing while nothing arrives.",
                workload.image_ms,
                super::INVOCATION_MS
            ),
        ),
        function(
            "Python on Lambda",
            workload.python_ms,
            format!(
                "The tuned handler of benches/ in the same function: {:.2} times the milliseconds of an image; its longer \
                 cold starts are not counted.",
                workload.python_ms / workload.image_ms
            ),
        ),
        container(workload, rest.total_usd),
        sagemaker(workload, &rest),
    ]
}

fn container(workload: &Workload, rest_usd: f64) -> Alternative {
    let busy_hours = workload.answers() * workload.image_ms / 1e3 / 3_600.0;
    let vcpus = (busy_hours / MONTH_HOURS * CONTAINER_PEAK).ceil();
    let (vcpu_hour, gb_hour) = match workload.architecture {
        Architecture::Arm64 => (Charge::FargateVcpuHourArm64, Charge::FargateGbHourArm64),
        Architecture::X86_64 => (Charge::FargateVcpuHourX86, Charge::FargateGbHourX86),
    };
    let hours = vcpus * MONTH_HOURS;
    let compute = Estimate::of([(vcpu_hour, hours), (gb_hour, hours * CONTAINER_GB)]);
    Alternative {
        name: "Container, always on",
        compute_usd: compute.total_usd,
        rest_usd,
        assumption: format!(
            "Giemsa's milliseconds on Fargate, {vcpus} vCPU with {CONTAINER_GB} GB each for all of a month: enough for \
             {CONTAINER_PEAK} times the month's mean rate."
        ),
    }
}

fn sagemaker(workload: &Workload, rest: &Estimate) -> Alternative {
    let busy_hours = workload.answers() * workload.image_ms / 1e3 / 3_600.0 / SAGEMAKER_VCPUS;
    let start_hours = SAGEMAKER_JOBS * f64::from(workload.stages) * SAGEMAKER_START_MIN / 60.0;
    let compute = Charge::SageMakerHour.usd(busy_hours + start_hours);
    let is_kept = |service| matches!(service, Service::S3 | Service::DynamoDb);
    let kept = rest.lines.iter().filter(|line| is_kept(line.charge.price().service));
    Alternative {
        name: "SageMaker batch transform",
        compute_usd: compute,
        rest_usd: kept.map(|line| line.usd).sum(),
        assumption: format!(
            "Giemsa's milliseconds on all {SAGEMAKER_VCPUS} vCPU of an ml.c5.xlarge, one job a day and stage with \
             {SAGEMAKER_START_MIN} minutes of start: answers come the next day, and your own program writes them to \
             the table."
        ),
    }
}
