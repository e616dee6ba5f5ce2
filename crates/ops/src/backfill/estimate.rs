//! What a backfill will take: images, dollars by list prices, time.
//!
//! A price is never below what the quantities of this file cost, and the embedded stack costs nothing.

use std::time::Duration;

use serde::Serialize;

use super::{Selection, Totals};
use giemsa_core::price::{
    Architecture, Charge, Estimate, GETS_OF_IMAGE, GETS_OF_INVOCATION, PUTS_OF_ANSWER, WRITE_UNITS_OF_NEW,
    WRITE_UNITS_OF_RENEWED,
};

/// GB of the template's functions.
const FUNCTION_GB: f64 = 1769.0 / 1024.0;

/// Time of one image where none was answered yet.
const UNKNOWN_IMAGE_TIME: Duration = Duration::from_millis(300);

/// Time of an invocation beside the steps that a record names: the look for a model, the two writes.
const INVOCATION_TIME: Duration = Duration::from_millis(100);

/// Read units of a look at one result, up to 4 KB, consistently.
const READ_UNITS_OF_LOOK: f64 = 1.0;

/// Keys of one page of a listing.
const KEYS_OF_LISTING: f64 = 1_000.0;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "way")]
pub enum Way {
    /// The embedded stack, on this machine.
    Local {
        /// Images answered at once.
        concurrency: u32,
    },
    /// The function of S3 Batch Operations.
    S3Batch {
        /// Images answered at once.
        concurrency: u32,
        /// Its processors.
        architecture: Architecture,
    },
}

/// A backfill before it starts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// What is asked for.
    #[serde(flatten)]
    pub selection: Selection,
    /// Who answers.
    #[serde(flatten)]
    pub way: Way,
    /// What the bucket holds of it.
    #[serde(flatten)]
    pub totals: Totals,
    /// Milliseconds that one image takes; measured on images of this bucket if there are any with a result.
    pub image_ms: f64,
    /// Images that this was measured on; 0 for the default.
    pub measured_images: u32,
    /// What it costs.
    pub price: Estimate,
    /// How long it takes, if nothing else is to be done.
    pub seconds: f64,
}

impl Plan {
    /// Reckons what `totals` will take; `measured` holds how long images of this bucket took.
    pub fn of(selection: Selection, totals: Totals, way: Way, measured: &[Duration]) -> Self {
        let count = u32::try_from(measured.len()).unwrap_or(u32::MAX);
        let steps = measured.iter().sum::<Duration>().checked_div(count).unwrap_or(UNKNOWN_IMAGE_TIME);
        let around = if matches!(way, Way::Local { .. }) { Duration::ZERO } else { INVOCATION_TIME };
        let image_s = (steps + around).as_secs_f64();
        let images = totals.pending as f64;
        let (concurrency, price) = match way {
            Way::Local { concurrency } => (concurrency, Estimate::of([])),
            Way::S3Batch { concurrency, architecture } => {
                (concurrency, price(totals, image_s, architecture, selection.model_sha256.is_some()))
            }
        };
        Self {
            image_ms: image_s * 1e3,
            measured_images: count,
            price,
            seconds: images * image_s / f64::from(concurrency.max(1)),
            selection,
            way,
            totals,
        }
    }
}

/// The formula of docs/backfill.md.
fn price(totals: Totals, image_s: f64, architecture: Architecture, renews: bool) -> Estimate {
    let (images, listed) = (totals.pending as f64, totals.images as f64);
    let write_units = if renews { WRITE_UNITS_OF_RENEWED } else { WRITE_UNITS_OF_NEW };
    Estimate::of([
        (architecture.gb_second(), images * image_s * FUNCTION_GB),
        (Charge::LambdaRequest, images),
        (Charge::S3Put, images * PUTS_OF_ANSWER + (listed / KEYS_OF_LISTING).ceil()),
        (Charge::S3Get, images * (GETS_OF_IMAGE + GETS_OF_INVOCATION)),
        (Charge::TableWriteUnit, images * write_units),
        (Charge::TableReadUnit, listed * READ_UNITS_OF_LOOK),
        (Charge::BatchJob, 1.0),
        (Charge::BatchObject, images),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(model: Option<&str>) -> Selection {
        Selection {
            stage: "prod".to_owned(),
            bucket: "b".to_owned(),
            prefix: String::new(),
            since: None,
            until: None,
            model_sha256: model.map(str::to_owned),
        }
    }

    #[test]
    fn a_million_images_cost_what_the_documentation_reckons() {
        let totals = Totals { images: 1_000_000, pending: 1_000_000 };
        let way = Way::S3Batch { concurrency: 10, architecture: Architecture::Arm64 };
        let plan = Plan::of(selection(None), totals, way, &[Duration::from_millis(200); 3]);
        // 0.3 s · 1.7275 GB · 0.0000133334 = 6.91; 0.20; 5.005; 1.20; 10.00; 0.125; 0.25; 1.00.
        assert!((plan.price.total_usd - 24.6905).abs() < 0.001, "{plan:#?}");
        assert!((plan.seconds - 30_000.0).abs() < 1e-6, "{plan:?}");
        assert_eq!((plan.image_ms.round(), plan.measured_images), (300.0, 3));
        let renewed = Plan::of(selection(Some("m")), totals, way, &[Duration::from_millis(200)]);
        assert!((renewed.price.total_usd - plan.price.total_usd - 8.0 * 0.625).abs() < 1e-9);
        let x86 = Way::S3Batch { concurrency: 10, architecture: Architecture::X86_64 };
        assert!(Plan::of(selection(None), totals, x86, &[]).price.total_usd > plan.price.total_usd);
    }

    #[test]
    fn the_embedded_stack_costs_nothing() {
        let totals = Totals { images: 1_000, pending: 100 };
        let plan = Plan::of(selection(None), totals, Way::Local { concurrency: 2 }, &[]);
        assert_eq!((plan.price.total_usd, plan.measured_images), (0.0, 0));
        assert!((plan.seconds - 15.0).abs() < 1e-9, "{plan:?}");
    }
}
