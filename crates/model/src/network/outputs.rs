//! What a graph gives, by its names and shapes: scores of a classifier, or something else, which is named.
//!
//! A graph that passes has the output of the scores, and after it at most the outlier score.

use tract_onnx::pb;

use super::error::ModelError;
use super::{OUTLIER_OUTPUT, declared_shape};

const DETECTOR: &str = "a detector of objects";

const SEGMENTER: &str = "a segmenter";

/// Words in the names of the outputs of detectors.
const DETECTIONS: [&str; 5] = ["boxes", "bboxes", "num_dets", "num_detections", "detection_scores"];

/// Whether `graph` has the output of the outlier score beside that of the scores.
///
/// # Errors
/// [`ModelError::NotClassifier`] or [`ModelError::Outputs`].
pub(super) fn check(graph: &pb::GraphProto) -> Result<bool, ModelError> {
    let outputs = &graph.output[..];
    let names = || outputs.iter().map(|output| output.name.clone()).collect::<Vec<_>>();
    match outputs {
        [_] => return Ok(false),
        [_, second] if second.name == OUTLIER_OUTPUT => return Ok(true),
        _ => {}
    }
    if outputs.iter().any(|output| DETECTIONS.iter().any(|word| output.name.to_lowercase().contains(word))) {
        let found = format!("its outputs are {}", names().join(", "));
        return Err(ModelError::NotClassifier { kind: DETECTOR, found });
    }
    for output in outputs {
        check_dims(&output.name, &declared_shape(output))?;
    }
    Err(ModelError::Outputs { found: names() })
}

/// Names what a network is whose first output is not of the shape of scores, if that shows.
///
/// # Errors
/// [`ModelError::NotClassifier`].
pub(super) fn check_shape(shape: Option<&[usize]>) -> Result<(), ModelError> {
    let dims: Vec<_> = shape.unwrap_or_default().iter().copied().map(Some).collect();
    check_dims("its output", &dims)
}

/// One answer for each of many boxes has three dimensions, one for each pixel four.
fn check_dims(output: &str, dims: &[Option<usize>]) -> Result<(), ModelError> {
    let is_many = |dim: &Option<usize>| dim.is_none_or(|size| size > 1);
    let kind = match dims {
        [_, boxes, values] if is_many(boxes) && is_many(values) => DETECTOR,
        [_, first, second, third] if [first, second, third].iter().filter(|dim| is_many(dim)).count() > 1 => {
            SEGMENTER
        }
        _ => return Ok(()),
    };
    let shown: Vec<_> = dims.iter().map(|dim| dim.map_or("?".to_owned(), |size| size.to_string())).collect();
    Err(ModelError::NotClassifier { kind, found: format!("{output} has the shape [{}]", shown.join(", ")) })
}
