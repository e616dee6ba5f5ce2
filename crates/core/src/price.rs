//! List prices of AWS, of one date and region, each with the page that states it.
//!
//! It never asks AWS, and knows no discount, no free tier and no tax. There is no other table of prices in this
//! project; an estimate names the date of its prices and shows every quantity that it multiplies.

use std::time::Duration;

use serde::Serialize;

/// Month of the prices.
pub const PRICES_AS_OF: &str = "2026-11";

/// Region of the prices.
pub const PRICES_REGION: &str = "us-east-1";

/// Something that AWS charges for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// One second of a function of 1 GB on arm64.
    LambdaGbSecondArm64,
    /// One second of a function of 1 GB on `x86_64`.
    LambdaGbSecondX86,
    /// One invocation of a function.
    LambdaRequest,
    /// One PUT, COPY, POST or LIST of S3.
    S3Put,
    /// One GET or HEAD of S3.
    S3Get,
    /// One GB kept in S3 Standard for a month.
    S3GbMonth,
    /// One event that S3 sends to EventBridge, up to 64 KB: as an event that was opted in to.
    UploadEvent,
    /// One request to a standard queue.
    QueueRequest,
    /// One write unit of DynamoDB on demand: 1 KB.
    TableWriteUnit,
    /// One read unit of DynamoDB on demand: 4 KB, or 8 KB eventually consistent.
    TableReadUnit,
    /// One GB kept in a table or its indexes for a month.
    TableGbMonth,
    /// One GB of a table that can be restored to any second, for a month.
    TableBackupGbMonth,
    /// One GB written to CloudWatch logs.
    LogGb,
    /// One GB of logs kept for a month.
    LogGbMonth,
    /// One metric of our own for a month.
    MetricMonth,
    /// One metric that an alarm looks at, for a month.
    AlarmMonth,
    /// One dashboard of CloudWatch for a month.
    DashboardMonth,
    /// One invocation of which X-Ray keeps a trace.
    Trace,
    /// One job of S3 Batch Operations.
    BatchJob,
    /// One object of a job of S3 Batch Operations.
    BatchObject,
    /// One hour of one virtual processor of a container on arm64.
    FargateVcpuHourArm64,
    /// One hour of one virtual processor of a container on `x86_64`.
    FargateVcpuHourX86,
    /// One hour of one GB of a container on arm64.
    FargateGbHourArm64,
    /// One hour of one GB of a container on `x86_64`.
    FargateGbHourX86,
    /// One hour of an ml.c5.xlarge, four virtual processors, in a job of batch transform.
    SageMakerHour,
}

/// A service as the bill names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// Functions.
    Lambda,
    /// Buckets, and jobs over them.
    S3,
    /// The way of an event from bucket to queue.
    EventBridge,
    /// Queues.
    Sqs,
    /// The table.
    DynamoDb,
    /// Logs, metrics, alarms.
    CloudWatch,
    /// Traces.
    XRay,
    /// Containers.
    Fargate,
    /// Jobs of machine learning.
    SageMaker,
}

impl Service {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lambda => "Lambda",
            Self::S3 => "S3",
            Self::EventBridge => "EventBridge",
            Self::Sqs => "SQS",
            Self::DynamoDb => "DynamoDB",
            Self::CloudWatch => "CloudWatch",
            Self::XRay => "X-Ray",
            Self::Fargate => "Fargate",
            Self::SageMaker => "SageMaker",
        }
    }
}

/// What a charge costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// The charge.
    pub charge: Charge,
    /// The service that charges it.
    pub service: Service,
    /// Name for people.
    pub name: &'static str,
    /// US dollars for `per` of it.
    pub usd: f64,
    /// How many of it the dollars are for.
    pub per: f64,
    /// The page of AWS that states it.
    pub source: &'static str,
}

const LAMBDA_PAGE: &str = "https://aws.amazon.com/lambda/pricing/";
const S3_PAGE: &str = "https://aws.amazon.com/s3/pricing/";
const EVENTBRIDGE_PAGE: &str = "https://aws.amazon.com/eventbridge/pricing/";
const SQS_PAGE: &str = "https://aws.amazon.com/sqs/pricing/";
const DYNAMODB_PAGE: &str = "https://aws.amazon.com/dynamodb/pricing/on-demand/";
const CLOUDWATCH_PAGE: &str = "https://aws.amazon.com/cloudwatch/pricing/";
const XRAY_PAGE: &str = "https://aws.amazon.com/xray/pricing/";
const FARGATE_PAGE: &str = "https://aws.amazon.com/fargate/pricing/";
const SAGEMAKER_PAGE: &str = "https://aws.amazon.com/sagemaker/pricing/";

/// All prices that this project reckons with.
#[rustfmt::skip]
pub const PRICES: [Price; 25] = [
    price(Charge::LambdaGbSecondArm64, Service::Lambda, "Lambda GB-seconds, arm64", 0.000_013_333_4, 1.0, LAMBDA_PAGE),
    price(Charge::LambdaGbSecondX86, Service::Lambda, "Lambda GB-seconds, x86_64", 0.000_016_666_7, 1.0, LAMBDA_PAGE),
    price(Charge::LambdaRequest, Service::Lambda, "Lambda requests", 0.20, 1e6, LAMBDA_PAGE),
    price(Charge::S3Put, Service::S3, "S3 PUT and LIST requests", 0.005, 1e3, S3_PAGE),
    price(Charge::S3Get, Service::S3, "S3 GET requests", 0.000_4, 1e3, S3_PAGE),
    price(Charge::S3GbMonth, Service::S3, "S3 GB-months", 0.023, 1.0, S3_PAGE),
    price(Charge::UploadEvent, Service::EventBridge, "EventBridge events", 1.00, 1e6, EVENTBRIDGE_PAGE),
    price(Charge::QueueRequest, Service::Sqs, "SQS requests", 0.40, 1e6, SQS_PAGE),
    price(Charge::TableWriteUnit, Service::DynamoDb, "DynamoDB write units", 0.625, 1e6, DYNAMODB_PAGE),
    price(Charge::TableReadUnit, Service::DynamoDb, "DynamoDB read units", 0.125, 1e6, DYNAMODB_PAGE),
    price(Charge::TableGbMonth, Service::DynamoDb, "DynamoDB GB-months", 0.25, 1.0, DYNAMODB_PAGE),
    price(Charge::TableBackupGbMonth, Service::DynamoDb, "DynamoDB point-in-time GB-months", 0.20, 1.0, DYNAMODB_PAGE),
    price(Charge::LogGb, Service::CloudWatch, "CloudWatch log GB", 0.50, 1.0, CLOUDWATCH_PAGE),
    price(Charge::LogGbMonth, Service::CloudWatch, "CloudWatch log GB-months", 0.03, 1.0, CLOUDWATCH_PAGE),
    price(Charge::MetricMonth, Service::CloudWatch, "CloudWatch metrics", 0.30, 1.0, CLOUDWATCH_PAGE),
    price(Charge::AlarmMonth, Service::CloudWatch, "CloudWatch alarms", 0.10, 1.0, CLOUDWATCH_PAGE),
    price(Charge::DashboardMonth, Service::CloudWatch, "CloudWatch dashboard", 3.00, 1.0, CLOUDWATCH_PAGE),
    price(Charge::Trace, Service::XRay, "X-Ray traces", 5.00, 1e6, XRAY_PAGE),
    price(Charge::BatchJob, Service::S3, "S3 Batch Operations jobs", 0.25, 1.0, S3_PAGE),
    price(Charge::BatchObject, Service::S3, "S3 Batch Operations objects", 1.00, 1e6, S3_PAGE),
    price(Charge::FargateVcpuHourArm64, Service::Fargate, "Fargate vCPU-hours, arm64", 0.032_38, 1.0, FARGATE_PAGE),
    price(Charge::FargateVcpuHourX86, Service::Fargate, "Fargate vCPU-hours, x86_64", 0.040_48, 1.0, FARGATE_PAGE),
    price(Charge::FargateGbHourArm64, Service::Fargate, "Fargate GB-hours, arm64", 0.003_56, 1.0, FARGATE_PAGE),
    price(Charge::FargateGbHourX86, Service::Fargate, "Fargate GB-hours, x86_64", 0.004_445, 1.0, FARGATE_PAGE),
    price(Charge::SageMakerHour, Service::SageMaker, "SageMaker ml.c5.xlarge hours", 0.204, 1.0, SAGEMAKER_PAGE),
];

const fn price(
    charge: Charge,
    service: Service,
    name: &'static str,
    usd: f64,
    per: f64,
    source: &'static str,
) -> Price {
    Price { charge, service, name, usd, per, source }
}

impl Charge {
    /// What it costs.
    pub fn price(self) -> &'static Price {
        PRICES
            .iter()
            .find(|price| price.charge == self)
            .expect("every charge has a price, which a test checks")
    }

    /// US dollars for `quantity` of it.
    pub fn usd(self, quantity: f64) -> f64 {
        let price = self.price();
        quantity / price.per * price.usd
    }
}

/// Processors that a function runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// arm64, the template's default.
    Arm64,
    /// `x86_64`.
    X86_64,
}

impl Architecture {
    /// Name as AWS writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86_64 => "x86_64",
        }
    }

    /// A second of a function of 1 GB.
    pub fn gb_second(self) -> Charge {
        match self {
            Self::Arm64 => Charge::LambdaGbSecondArm64,
            Self::X86_64 => Charge::LambdaGbSecondX86,
        }
    }
}

/// Write units of one image without a result: an item of up to 2 KB (2), two indexes that copy it (4), four of rows or keys
/// (4), the index of what needs a human look (2), and that its slide (3) and its day (1) are told.
///
/// Of images that need no look, and of batches of one slide, it is less; nothing here is ever reckoned too low.
pub const WRITE_UNITS_OF_NEW: f64 = 16.0;

/// Write units where a result is replaced: an entry that moves within an index is deleted and written.
pub const WRITE_UNITS_OF_RENEWED: f64 = 24.0;

/// GETs for one image.
pub const GETS_OF_IMAGE: f64 = 1.0;

/// GETs for one invocation: the look for a new model, the look at its report.
pub const GETS_OF_INVOCATION: f64 = 2.0;

/// PUTs for one answer: its record.
pub const PUTS_OF_ANSWER: f64 = 1.0;

/// What one invocation of the classifier is charged: its time, its request, and what it reads and writes for the images
/// that it answered.
///
/// `duration` is the time that Lambda bills, `memory_mb` the size of the function (128 to 10,240), `answered` the images of
/// which a result was written. Queue, events, logs and storage are not in it.
pub fn invocation_quantities(
    architecture: Architecture,
    memory_mb: u32,
    duration: Duration,
    answered: u64,
) -> [(Charge, f64); 5] {
    let images = answered as f64;
    [
        (architecture.gb_second(), duration.as_secs_f64() * f64::from(memory_mb) / 1024.0),
        (Charge::LambdaRequest, 1.0),
        (Charge::S3Put, images * PUTS_OF_ANSWER),
        (Charge::S3Get, images * GETS_OF_IMAGE + GETS_OF_INVOCATION),
        (Charge::TableWriteUnit, images * WRITE_UNITS_OF_NEW),
    ]
}

/// US dollars of one invocation, for [`invocation_quantities`].
pub fn batch_cost(architecture: Architecture, memory_mb: u32, duration: Duration, answered: u64) -> f64 {
    let quantities = invocation_quantities(architecture, memory_mb, duration, answered);
    quantities.into_iter().map(|(charge, quantity)| charge.usd(quantity)).sum()
}

/// One line of an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EstimateLine {
    /// What is charged.
    pub charge: Charge,
    /// How much of it.
    pub quantity: f64,
    /// US dollars.
    pub usd: f64,
}

/// What some work will cost, by list prices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// US dollars in all.
    pub total_usd: f64,
    /// Month of the prices, [`PRICES_AS_OF`].
    pub prices_as_of: &'static str,
    /// Region of the prices, [`PRICES_REGION`].
    pub region: &'static str,
    /// What it is made of; empty where nothing is charged.
    pub lines: Vec<EstimateLine>,
}

impl Estimate {
    /// What quantities of charges cost together.
    pub fn of(quantities: impl IntoIterator<Item = (Charge, f64)>) -> Self {
        let line =
            |(charge, quantity): (Charge, f64)| EstimateLine { charge, quantity, usd: charge.usd(quantity) };
        let lines: Vec<EstimateLine> = quantities.into_iter().map(line).collect();
        Self {
            // The sum of nothing is -0.0, which would be shown as such.
            total_usd: lines.iter().map(|line| line.usd).sum::<f64>() + 0.0,
            prices_as_of: PRICES_AS_OF,
            region: PRICES_REGION,
            lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_charge_has_one_price_and_a_page() {
        for (index, price) in PRICES.iter().enumerate() {
            assert_eq!(price.charge.price(), price, "{index}: twice");
            assert!(price.usd > 0.0 && price.per >= 1.0, "{price:?}");
            assert!(price.source.starts_with("https://aws.amazon.com/"), "{price:?}");
        }
    }

    #[test]
    fn an_estimate_is_the_sum_of_its_lines() {
        let estimate = Estimate::of([
            (Charge::BatchJob, 1.0),
            (Charge::BatchObject, 2e6),
            (Charge::S3Put, 4_000.0),
            (Charge::LambdaGbSecondArm64, 100_000.0),
        ]);
        let usd: Vec<f64> = estimate.lines.iter().map(|line| line.usd).collect();
        for (found, expected) in usd.iter().zip([0.25, 2.0, 0.02, 1.333_34]) {
            assert!((found - expected).abs() < 1e-9, "{usd:?}");
        }
        assert!((estimate.total_usd - 3.603_34).abs() < 1e-9, "{estimate:?}");
        assert!(Estimate::of([]).total_usd.is_sign_positive());
    }

    #[test]
    fn an_invocation_costs_its_time_its_request_and_what_it_reads_and_writes() {
        let cost = |architecture, answered| {
            batch_cost(architecture, 1024, Duration::from_millis(500), answered) * 1e6
        };
        // A million invocations: 500,000 GB-seconds 6.6667, requests 0.20, 2 GETs 0.80.
        assert!((cost(Architecture::Arm64, 0) - 7.6667).abs() < 1e-9);
        // And for each of ten images: PUT 5.00, GET 0.40, 16 write units 10.00.
        assert!((cost(Architecture::Arm64, 10) - 161.6667).abs() < 1e-9);
        // x86_64: 8.33335 instead of 6.6667.
        assert!((cost(Architecture::X86_64, 0) - 9.333_35).abs() < 1e-9);
        let twice = batch_cost(Architecture::Arm64, 2048, Duration::from_millis(500), 0) * 1e6;
        assert!((twice - 7.6667 - 6.6667).abs() < 1e-9);
    }
}
