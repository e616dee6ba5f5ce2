//! List prices of AWS, of one date and region, each with the page that states it.
//!
//! It never asks AWS, and knows no discount, no free tier and no tax. Invariant: an estimate names the date of its
//! prices and shows every quantity that it multiplies.

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
    /// One write unit of DynamoDB on demand: 1 KB.
    TableWriteUnit,
    /// One read unit of DynamoDB on demand: 4 KB, or 8 KB eventually consistent.
    TableReadUnit,
    /// One request to a standard queue.
    QueueRequest,
    /// One job of S3 Batch Operations.
    BatchJob,
    /// One object of a job of S3 Batch Operations.
    BatchObject,
}

/// What a charge costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// The charge.
    pub charge: Charge,
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
const DYNAMODB_PAGE: &str = "https://aws.amazon.com/dynamodb/pricing/on-demand/";
const SQS_PAGE: &str = "https://aws.amazon.com/sqs/pricing/";

/// All prices that this project reckons with.
pub const PRICES: [Price; 10] = [
    price(Charge::LambdaGbSecondArm64, "Lambda GB-seconds, arm64", 0.000_013_333_4, 1.0, LAMBDA_PAGE),
    price(Charge::LambdaGbSecondX86, "Lambda GB-seconds, x86_64", 0.000_016_666_7, 1.0, LAMBDA_PAGE),
    price(Charge::LambdaRequest, "Lambda requests", 0.20, 1e6, LAMBDA_PAGE),
    price(Charge::S3Put, "S3 PUT and LIST requests", 0.005, 1e3, S3_PAGE),
    price(Charge::S3Get, "S3 GET requests", 0.000_4, 1e3, S3_PAGE),
    price(Charge::TableWriteUnit, "DynamoDB write units", 0.625, 1e6, DYNAMODB_PAGE),
    price(Charge::TableReadUnit, "DynamoDB read units", 0.125, 1e6, DYNAMODB_PAGE),
    price(Charge::QueueRequest, "SQS requests", 0.40, 1e6, SQS_PAGE),
    price(Charge::BatchJob, "S3 Batch Operations jobs", 0.25, 1.0, S3_PAGE),
    price(Charge::BatchObject, "S3 Batch Operations objects", 1.00, 1e6, S3_PAGE),
];

const fn price(charge: Charge, name: &'static str, usd: f64, per: f64, source: &'static str) -> Price {
    Price { charge, name, usd, per, source }
}

impl Charge {
    /// What it costs.
    pub fn price(self) -> &'static Price {
        PRICES
            .iter()
            .find(|price| price.charge == self)
            .expect("every charge has a price, which a test checks")
    }
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
        let line = |(charge, quantity): (Charge, f64)| {
            let price = charge.price();
            EstimateLine { charge, quantity, usd: quantity / price.per * price.usd }
        };
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
}
