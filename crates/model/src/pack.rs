//! Writes `giemsa.*` metadata into the bytes of an ONNX file.
//!
//! It edits the outermost protobuf message only, and never decodes a graph or a weight. Every byte that is not a
//! replaced metadata entry comes out as it came in, and what comes out can serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{LoadLimits, Model, ModelError, OnnxFile, PROOF_KEY};
use giemsa_image::InputSpecJson;

/// Field number of `ModelProto.metadata_props` (onnx.proto3).
const METADATA_PROPS: u64 = 14;

/// Protobuf's wire type of strings and messages.
const LENGTH_DELIMITED: u8 = 2;

/// What to write; everything that is `None` or empty stays as the file has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetadataChanges {
    /// `giemsa.name`.
    pub name: Option<String>,
    /// `giemsa.version`.
    pub version: Option<String>,
    /// `giemsa.labels`, in the order of the scores.
    pub labels: Vec<String>,
    /// Keys of `giemsa.input`; those that are `None` stay.
    pub input: InputSpecJson,
    /// `giemsa.output`: `logits` or `probabilities`.
    pub output: Option<String>,
    /// `giemsa.temperature`, > 0.
    pub temperature: Option<f32>,
    /// `confidence_below` of `giemsa.review`, 0 to 1.
    pub review_below: Option<f64>,
    /// `label_above` of `giemsa.review`, 0 to 1 each; replaces the whole list.
    pub review_above: BTreeMap<String, f64>,
    /// `outlier_above` of `giemsa.review`, in the range of the network's outlier score.
    pub outlier_above: Option<f64>,
    /// `giemsa.positive`.
    pub positive: Vec<String>,
    /// `giemsa.proof`: its JSON.
    pub proof: Option<String>,
}

/// Why metadata cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The bytes are no protobuf message.
    #[error(
        "the file is not a whole ONNX model: the protobuf message breaks off at byte {offset} of {size_bytes}; \
         copy it again, or export it as ONNX"
    )]
    Broken {
        /// Where reading ended, bytes.
        offset: usize,
        /// Size of the file, bytes.
        size_bytes: usize,
    },
    /// A value that is in the file already cannot be completed.
    #[error("the file's {key} is {found:?}, which is not a JSON object and cannot be completed; {way_out}")]
    Existing {
        /// Metadata key.
        key: &'static str,
        /// Its value, cut to 200 characters.
        found: String,
        /// What to do.
        way_out: &'static str,
    },
    /// With this metadata the model could not serve.
    #[error("with this metadata the model would be refused")]
    Refused {
        /// Why.
        #[source]
        source: ModelError,
    },
}

/// Writes `changes` into an ONNX file, within the limits of the default configuration.
///
/// # Errors
/// As [`pack_within`].
pub fn pack(bytes: &[u8], changes: &MetadataChanges) -> Result<(Vec<u8>, Arc<Model>), PackError> {
    pack_within(bytes, changes, &LoadLimits::default())
}

/// Writes `changes` into an ONNX file, and loads the result as a function with `limits` would.
///
/// Returns the new bytes, and the model that they are.
///
/// # Errors
/// [`PackError`] if the file cannot be read, or would be refused with what it says then.
pub fn pack_within(
    bytes: &[u8],
    changes: &MetadataChanges,
    limits: &LoadLimits,
) -> Result<(Vec<u8>, Arc<Model>), PackError> {
    let refused = |source| PackError::Refused { source };
    let file = OnnxFile::parse_within(bytes, limits).map_err(refused)?;
    let packed = with_properties(bytes, &changes.properties(&file.properties())?)?;
    let model = Model::load_within(&packed, limits).map_err(refused)?;
    Ok((packed, model))
}

impl MetadataChanges {
    /// The metadata entries to write, by key, into a file that has `existing`.
    ///
    /// # Errors
    /// [`PackError::Existing`] if an existing value would have to be completed and cannot be.
    pub fn properties(
        &self,
        existing: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, PackError> {
        let texts = [
            ("giemsa.name", self.name.clone()),
            ("giemsa.version", self.version.clone()),
            ("giemsa.labels", list(&self.labels)),
            ("giemsa.output", self.output.clone()),
            ("giemsa.temperature", self.temperature.map(|t| t.to_string())),
            ("giemsa.positive", list(&self.positive)),
            (PROOF_KEY, self.proof.clone()),
        ];
        let mut properties: BTreeMap<String, String> =
            texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?))).collect();

        // Through text, in which a 32-bit number is as short as it was given.
        let input = serde_json::to_string(&self.input).expect("plain data");
        let input: Map<String, Value> = serde_json::from_str(&input).expect("a structure is a JSON object");
        if !input.is_empty() {
            const KEY: &str = "giemsa.input";
            let text =
                completed(existing, KEY, input, "give all of the input's settings with a fresh export")?;
            properties.insert(KEY.to_owned(), text);
        }
        let mut review = Map::new();
        if let Some(below) = self.review_below {
            review.insert("confidence_below".to_owned(), json!(below));
        }
        if !self.review_above.is_empty() {
            review.insert("label_above".to_owned(), json!(self.review_above));
        }
        if let Some(above) = self.outlier_above {
            review.insert("outlier_above".to_owned(), json!(above));
        }
        if !review.is_empty() {
            const KEY: &str = "giemsa.review";
            properties.insert(KEY.to_owned(), completed(existing, KEY, review, "export the model again")?);
        }
        Ok(properties)
    }
}

fn list(items: &[String]) -> Option<String> {
    (!items.is_empty()).then(|| json!(items).to_string())
}

/// The JSON object that the file has under `key`, with `changes` in it.
fn completed(
    existing: &BTreeMap<String, String>,
    key: &'static str,
    changes: Map<String, Value>,
    way_out: &'static str,
) -> Result<String, PackError> {
    let mut object = match existing.get(key) {
        None => Map::new(),
        Some(text) => serde_json::from_str(text).map_err(|_| PackError::Existing {
            key,
            found: text.chars().take(200).collect(),
            way_out,
        })?,
    };
    object.extend(changes);
    Ok(Value::Object(object).to_string())
}

/// `bytes` of a `ModelProto` in which `properties` are set: entries of the same keys are left out, and the new ones
/// follow at the end.
///
/// # Errors
/// [`PackError::Broken`] if the bytes are no protobuf message.
fn with_properties(bytes: &[u8], properties: &BTreeMap<String, String>) -> Result<Vec<u8>, PackError> {
    let mut reader = Reader { bytes, offset: 0 };
    let mut packed = Vec::with_capacity(bytes.len() + 1024);
    while reader.offset < bytes.len() {
        let start = reader.offset;
        let (number, content) = reader.field()?;
        let is_replaced = number == METADATA_PROPS
            && content.and_then(entry_key).is_some_and(|key| properties.contains_key(key));
        if !is_replaced {
            packed.extend_from_slice(&bytes[start..reader.offset]);
        }
    }
    for (key, value) in properties {
        let mut entry = Vec::new();
        put_text(&mut entry, 1, key.as_bytes());
        put_text(&mut entry, 2, value.as_bytes());
        put_text(&mut packed, METADATA_PROPS, &entry);
    }
    Ok(packed)
}

/// The key of a `StringStringEntryProto`; the last of several counts, as protobuf says.
fn entry_key(entry: &[u8]) -> Option<&str> {
    let mut reader = Reader { bytes: entry, offset: 0 };
    let mut key = "";
    while reader.offset < entry.len() {
        if let (1, Some(text)) = reader.field().ok()? {
            key = std::str::from_utf8(text).ok()?;
        }
    }
    Some(key)
}

/// Reads the fields of one protobuf message.
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// The next field's number, and its content if that is a string or a message.
    fn field(&mut self) -> Result<(u64, Option<&'a [u8]>), PackError> {
        let tag = self.varint()?;
        let content = match (tag & 7) as u8 {
            0 => {
                self.varint()?;
                None
            }
            1 => self.skip(8).map(|_| None)?,
            LENGTH_DELIMITED => {
                let length = usize::try_from(self.varint()?).map_err(|_| self.broken())?;
                Some(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| None)?,
            _ => return Err(self.broken()),
        };
        Ok((tag >> 3, content))
    }

    fn skip(&mut self, length: usize) -> Result<&'a [u8], PackError> {
        let end = self.offset.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.broken())?;
        let skipped = &self.bytes[self.offset..end];
        self.offset = end;
        Ok(skipped)
    }

    fn varint(&mut self) -> Result<u64, PackError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.skip(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.broken())
    }

    fn broken(&self) -> PackError {
        PackError::Broken { offset: self.offset, size_bytes: self.bytes.len() }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, field: u64, text: &[u8]) {
    put_varint(out, field << 3 | u64::from(LENGTH_DELIMITED));
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use giemsa_image::Resize;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/thin-smear.onnx")).unwrap()
    }

    fn texts(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    /// The file without any metadata, as an exporter writes it.
    fn bare(bytes: &[u8]) -> Vec<u8> {
        let mut reader = Reader { bytes, offset: 0 };
        let mut bare = Vec::new();
        while reader.offset < bytes.len() {
            let start = reader.offset;
            if reader.field().unwrap().0 != METADATA_PROPS {
                bare.extend_from_slice(&bytes[start..reader.offset]);
            }
        }
        bare
    }

    #[test]
    fn a_bare_export_gets_what_it_lacks_and_keeps_the_rest() {
        let exported = bare(&sample());
        assert!(Model::load(&exported).is_err(), "an export without metadata cannot serve");
        let changes = MetadataChanges {
            name: Some("mine".to_owned()),
            labels: texts(&["parasitized", "uninfected"]),
            input: InputSpecJson {
                resize: Some(Resize::Fit),
                mean: Some(vec![0.485, 0.456, 0.406]),
                std: Some(vec![0.229, 0.224, 0.225]),
                ..InputSpecJson::default()
            },
            output: Some("logits".to_owned()),
            temperature: Some(1.5),
            review_below: Some(0.9),
            review_above: [("parasitized".to_owned(), 0.1)].into(),
            outlier_above: Some(0.25),
            positive: texts(&["parasitized"]),
            ..MetadataChanges::default()
        };
        let (packed, model) = pack(&exported, &changes).unwrap();
        assert_eq!(&packed[..exported.len()], &exported[..], "all else is as it was");
        let metadata = &model.metadata;
        assert_eq!((metadata.name.as_str(), metadata.version.as_str()), ("mine", "0"));
        assert_eq!(metadata.labels, ["parasitized", "uninfected"]);
        assert_eq!(metadata.input.mean, [0.485, 0.456, 0.406]);
        assert_eq!((metadata.temperature, metadata.review.confidence_below), (1.5, 0.9));
        assert_eq!(metadata.positive, ["parasitized"]);
        // As it was written, not as 32 bits have it.
        let properties = OnnxFile::parse(&packed).unwrap().properties();
        assert_eq!(
            properties["giemsa.review"],
            r#"{"confidence_below":0.9,"label_above":{"parasitized":0.1},"outlier_above":0.25}"#
        );
        assert!(properties["giemsa.input"].contains("[0.485,0.456,0.406]"), "{properties:?}");
        // The same scores, for the same weights.
        assert_eq!(bare(&packed), exported);
    }

    #[test]
    fn one_change_leaves_the_other_entries() {
        let sample = sample();
        let before = OnnxFile::parse(&sample).unwrap().properties();
        let changes = MetadataChanges { version: Some("2".to_owned()), ..MetadataChanges::default() };
        let (packed, _) = pack(&sample, &changes).unwrap();
        let mut expected = before.clone();
        expected.insert("giemsa.version".to_owned(), "2".to_owned());
        assert_eq!(OnnxFile::parse(&packed).unwrap().properties(), expected);
        // Once more with the same: the same bytes.
        assert_eq!(pack(&packed, &changes).unwrap().0, packed);

        let input = InputSpecJson { pad: Some([9, 8, 7]), ..InputSpecJson::default() };
        let (packed, model) =
            pack(&sample, &MetadataChanges { input, ..MetadataChanges::default() }).unwrap();
        let was = Model::load(&sample).unwrap();
        assert_eq!(model.metadata.input.pad, [9, 8, 7]);
        assert_eq!(model.metadata.input.mean, was.metadata.input.mean);
        assert_ne!(packed, sample);
    }

    #[test]
    fn what_would_be_refused_is_not_packed() {
        let sample = sample();
        let changes = MetadataChanges::default;
        type Case = (MetadataChanges, &'static str);
        let cases: [Case; 9] = [
            (
                MetadataChanges {
                    labels: texts(&["a", "b", "c"]),
                    review_above: [("a".into(), 0.1)].into(),
                    positive: texts(&["a"]),
                    ..changes()
                },
                "names 3 labels",
            ),
            (MetadataChanges { labels: texts(&["a"]), ..changes() }, "two or more different"),
            (MetadataChanges { labels: texts(&["a", "a"]), ..changes() }, "two or more different"),
            (
                MetadataChanges { output: Some("scores".into()), ..changes() },
                "expected logits or probabilities",
            ),
            (MetadataChanges { temperature: Some(0.0), ..changes() }, "expected a number above 0"),
            (MetadataChanges { temperature: Some(f32::NAN), ..changes() }, "expected a number above 0"),
            (MetadataChanges { positive: texts(&["unknown"]), ..changes() }, "none of the labels"),
            (MetadataChanges { review_below: Some(7.0), ..changes() }, "not a probability"),
            (
                MetadataChanges {
                    input: InputSpecJson { width: Some(3), ..InputSpecJson::default() },
                    ..changes()
                },
                "width is 3",
            ),
        ];
        for (changes, expected) in cases {
            let error = pack(&sample, &changes).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert!(source.contains(expected), "{expected:?} is not in {source:?}");
        }
    }

    #[test]
    fn a_value_that_is_no_object_is_not_completed() {
        let existing = [("giemsa.review".to_owned(), "[1]".to_owned())].into();
        let changes = MetadataChanges { review_below: Some(0.9), ..MetadataChanges::default() };
        let message = changes.properties(&existing).unwrap_err().to_string();
        assert!(message.contains("giemsa.review is \"[1]\""), "{message}");
    }

    #[test]
    fn a_cut_file_is_refused_at_every_place() {
        let sample = sample();
        for length in [1, 10, 1000, sample.len() / 2, sample.len() - 1] {
            assert!(with_properties(&sample[..length], &BTreeMap::new()).is_err(), "{length}");
        }
        assert_eq!(with_properties(&sample, &BTreeMap::new()).unwrap(), sample);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let properties = [("giemsa.name".to_owned(), "x".to_owned())].into();
            if let Ok(packed) = with_properties(&bytes, &properties) {
                prop_assert!(packed.len() > "giemsa.name".len());
            }
        }
    }
}
