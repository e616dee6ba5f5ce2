//! What a network wants its input to be, as the model file or a person states it.
//!
//! [`InputSpecJson`] is what was written, [`InputSpec`] what is valid and complete; nothing computes with the first.
//! What the keys mean for pixels is in [`mod@super::preprocess`].

use serde::{Deserialize, Serialize};

/// Order of the dimensions of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Batch, channel, row, column: PyTorch.
    Nchw,
    /// Batch, row, column, channel: Keras.
    Nhwc,
}

/// Channels that a network reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorMode {
    /// Red, green, blue.
    Rgb,
    /// Luma.
    Gray,
}

impl std::fmt::Display for ColorMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rgb => "rgb",
            Self::Gray => "gray",
        })
    }
}

impl ColorMode {
    /// Number of channels, 3 or 1.
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Gray => 1,
        }
    }
}

/// How an image is brought to the size of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Both sides independently; the aspect ratio is lost.
    Stretch,
    /// The whole image, padded to the size.
    Fit,
    /// The centre of the image; what sticks out is dropped.
    Crop,
}

/// What a network wants its input to be; complete and valid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "InputSpecJson")]
pub struct InputSpec {
    /// Order of the dimensions.
    pub layout: Layout,
    /// Columns, 1 to 4096.
    pub width: u32,
    /// Rows, 1 to 4096.
    pub height: u32,
    /// Channels.
    pub color: ColorMode,
    /// How the size is reached.
    pub resize: Resize,
    /// Red, green and blue of the padding, 0 to 255.
    pub pad: [u8; 3],
    /// Factor on samples of 0 to 255.
    pub scale: f32,
    /// Subtracted after scaling, one for each channel.
    pub mean: Vec<f32>,
    /// Divided by after that, one for each channel, above 0.
    pub std: Vec<f32>,
}

/// [`InputSpec`] as people write it in JSON: what is missing comes from the network itself or from a default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpecJson {
    /// See [`InputSpec::layout`]; no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// See [`InputSpec::width`]; no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// See [`InputSpec::height`]; no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// See [`InputSpec::color`]; no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color: Option<ColorMode>,
    /// See [`InputSpec::resize`]; no default, since a wrong guess would cost accuracy unseen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// See [`InputSpec::pad`]; black by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad: Option<[u8; 3]>,
    /// See [`InputSpec::scale`]; 1/255 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// See [`InputSpec::mean`]; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    /// See [`InputSpec::std`]; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
}

/// What is wrong with a spec.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InputSpecError {
    /// A key without which nothing can be computed, and that the network does not tell either.
    #[error("the input has no {key:?}, and the network does not say it; add {example}")]
    Missing {
        /// The JSON key.
        key: &'static str,
        /// How it may look.
        example: &'static str,
    },
    /// A side outside 1 to 4096.
    #[error("the input's {key:?} is {found} px, expected 1 to {MAX_SIDE_PX}")]
    Side {
        /// The JSON key.
        key: &'static str,
        /// The value seen, in pixels.
        found: u32,
    },
    /// A list that does not have one value for each channel.
    #[error("the input's {key:?} holds {found} values, expected {expected}: one for each channel of {color}")]
    Length {
        /// The JSON key.
        key: &'static str,
        /// Values seen.
        found: usize,
        /// Values expected.
        expected: usize,
        /// The channels.
        color: ColorMode,
    },
    /// A number that gives no usable tensor.
    #[error("the input's {key:?} holds {found}, expected {expected}")]
    Number {
        /// The JSON key.
        key: &'static str,
        /// The value seen.
        found: f32,
        /// What is allowed, in words.
        expected: &'static str,
    },
}

/// Largest side of an input in pixels; larger ones are mistakes, and would cost memory.
const MAX_SIDE_PX: u32 = 4096;

impl InputSpecJson {
    /// Completes the spec: first from what the network's graph tells, then from the defaults.
    ///
    /// # Errors
    /// [`InputSpecError`] if a key is missing in both, or a value is out of range.
    pub fn resolve(self, graph: Self) -> Result<InputSpec, InputSpecError> {
        fn required<T>(
            value: Option<T>,
            key: &'static str,
            example: &'static str,
        ) -> Result<T, InputSpecError> {
            value.ok_or(InputSpecError::Missing { key, example })
        }

        let color = required(self.color.or(graph.color), "color", r#""color": "rgb" (or "gray")"#)?;
        let channels = color.channels();
        let spec = InputSpec {
            layout: required(self.layout.or(graph.layout), "layout", r#""layout": "nchw" (or "nhwc")"#)?,
            width: required(self.width.or(graph.width), "width", r#""width": 224"#)?,
            height: required(self.height.or(graph.height), "height", r#""height": 224"#)?,
            color,
            resize: required(
                self.resize.or(graph.resize),
                "resize",
                r#""resize": "stretch" (or "fit" or "crop"), the one that the training used"#,
            )?,
            pad: self.pad.or(graph.pad).unwrap_or([0; 3]),
            scale: self.scale.or(graph.scale).unwrap_or(1.0 / 255.0),
            mean: self.mean.or(graph.mean).unwrap_or_else(|| vec![0.0; channels]),
            std: self.std.or(graph.std).unwrap_or_else(|| vec![1.0; channels]),
        };
        spec.validate()?;
        Ok(spec)
    }
}

impl TryFrom<InputSpecJson> for InputSpec {
    type Error = InputSpecError;

    fn try_from(json: InputSpecJson) -> Result<Self, InputSpecError> {
        json.resolve(InputSpecJson::default())
    }
}

impl InputSpec {
    /// Checks sizes, lengths and numbers.
    ///
    /// # Errors
    /// [`InputSpecError`] names the first key that is out of range.
    pub fn validate(&self) -> Result<(), InputSpecError> {
        for (key, found) in [("width", self.width), ("height", self.height)] {
            if !(1..=MAX_SIDE_PX).contains(&found) {
                return Err(InputSpecError::Side { key, found });
            }
        }
        let expected = self.color.channels();
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != expected {
                return Err(InputSpecError::Length { key, found: values.len(), expected, color: self.color });
            }
        }
        if let Some(&found) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return Err(InputSpecError::Number { key: "mean", found, expected: "finite numbers" });
        }
        if let Some(&found) = self.std.iter().find(|std| !std.is_finite() || **std <= 0.0) {
            return Err(InputSpecError::Number { key: "std", found, expected: "finite numbers above 0" });
        }
        if !self.scale.is_finite() || self.scale == 0.0 {
            return Err(InputSpecError::Number {
                key: "scale",
                found: self.scale,
                expected: "a finite number other than 0",
            });
        }
        // A divisor may be so small that it divides to infinity.
        for (channel, table) in self.tables().iter().enumerate() {
            if table.iter().any(|value| !value.is_finite()) {
                let found = self.std[channel];
                return Err(InputSpecError::Number {
                    key: "std",
                    found,
                    expected: "a value that keeps samples finite",
                });
            }
        }
        Ok(())
    }

    /// Shape of the input of one image: `[1, C, h, w]` or `[1, h, w, C]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        let (width, height, channels) = (self.width as usize, self.height as usize, self.color.channels());
        match self.layout {
            Layout::Nchw => [1, channels, height, width],
            Layout::Nhwc => [1, height, width, channels],
        }
    }

    /// The value of each of the 256 levels, for each channel.
    pub(super) fn tables(&self) -> Vec<[f32; 256]> {
        let table = |(mean, std): (&f32, &f32)| {
            std::array::from_fn(|level| {
                let level = u8::try_from(level).expect("256 levels");
                (f32::from(level) * self.scale - mean) / std
            })
        };
        self.mean.iter().zip(&self.std).map(table).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keys_are_those_of_the_model() {
        let json = r#"{"layout":"nhwc","width":96,"height":64,"color":"gray","resize":"crop","pad":[1,2,3],
                       "scale":0.5,"mean":[0.25],"std":[2]}"#;
        let spec: InputSpec = serde_json::from_str(json).unwrap();
        assert_eq!((spec.layout, spec.color, spec.resize), (Layout::Nhwc, ColorMode::Gray, Resize::Crop));
        assert_eq!((spec.width, spec.height, spec.pad), (96, 64, [1, 2, 3]));
        assert_eq!((spec.scale, spec.mean.as_slice(), spec.std.as_slice()), (0.5, &[0.25][..], &[2.0][..]));
        let again: InputSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn what_json_leaves_out_comes_from_the_network_then_from_defaults() {
        let json: InputSpecJson = serde_json::from_str(r#"{"resize":"fit","width":50}"#).unwrap();
        let graph = InputSpecJson {
            layout: Some(Layout::Nchw),
            width: Some(224),
            height: Some(60),
            color: Some(ColorMode::Rgb),
            ..InputSpecJson::default()
        };
        let spec = json.resolve(graph).unwrap();
        assert_eq!((spec.width, spec.height, spec.pad, spec.scale), (50, 60, [0; 3], 1.0 / 255.0));
        assert_eq!((spec.mean, spec.std), (vec![0.0; 3], vec![1.0; 3]));
    }

    #[test]
    fn wrong_json_is_refused_by_name() {
        let valid = r#""layout":"nchw","width":9,"height":9,"color":"rgb","resize":"fit""#;
        let cases = [
            (r#"{"widht":224}"#.to_owned(), "unknown field `widht`"),
            (r#"{"layout":"nchw","width":9,"height":9,"resize":"fit"}"#.to_owned(), "no \"color\""),
            (r#"{"layout":"nchw","width":9,"height":9,"color":"rgb"}"#.to_owned(), "no \"resize\""),
            (valid.replace("9,\"height", "0,\"height"), "\"width\" is 0 px, expected 1 to 4096"),
            (valid.replace("\"height\":9", "\"height\":5000"), "\"height\" is 5000 px"),
            (valid.replace("fit", "zoom"), "unknown variant `zoom`"),
            (format!("{valid},\"mean\":[0.5]"), "\"mean\" holds 1 values, expected 3"),
            (format!("{valid},\"std\":[1,0,1]"), "\"std\" holds 0, expected finite numbers above 0"),
            (format!("{valid},\"std\":[1,1,-2]"), "\"std\" holds -2"),
            (format!("{valid},\"std\":[1,1e-37,1],\"scale\":1e6"), "keeps samples finite"),
            (format!("{valid},\"scale\":0"), "\"scale\" holds 0"),
            (format!("{valid},\"pad\":[0,0,256]"), "invalid value: integer `256`"),
        ];
        for (json, message) in cases {
            let json = if json.starts_with('{') { json } else { format!("{{{json}}}") };
            let error = serde_json::from_str::<InputSpec>(&json).expect_err(&json).to_string();
            assert!(error.contains(message), "{json}: {error}");
        }
    }
}
