//! The description of the API, for programs and for the test that holds it against the implementation.
//!
//! It is the file `docs/openapi.json`, byte for byte, so that what is promised to others changes only where somebody
//! sees it; the parameters and bodies in it are those that the code takes, which tests make of its types.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::routing::get;

use crate::Dashboard;
use crate::request::parameters::{Nothing, Query};

/// `docs/openapi.json`.
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/openapi.json", get(openapi))
}

async fn openapi(_: Query<Nothing>) -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeMap;

    use schemars::generate::SchemaSettings;
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde_json::{Map, Value, json};

    use crate::pictures::{links, pyramids};
    use crate::request::parameters::{Cursor, Date, Limit, Sha256, Slide, Stage, Text, Time, Whole};
    use crate::reviews::{agreement, golden_sets, withdrawals};
    use crate::slides::summary;
    use crate::uploads;
    use crate::{image, models, results, reviews, slides};

    /// A type of parameters and what the document says of it, its description included.
    macro_rules! described {
        ($(@[$($generics:tt)*])? $type:ty: $($schema:tt)+) => {
            impl$(<$($generics)*>)? JsonSchema for $type {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($($schema)+)
                }
            }
        };
    }

    described!(Stage: { "type": "string", "description": "A stage of `/api/settings`; the first unless it is given." });
    described!(Cursor: { "type": "string", "description": "`next` of the page before, with the same filters." });
    described!(Slide: {
        "type": "string", "maxLength": 1024, "description": "The folder of the images; empty for images without a folder."
    });
    described!(slides::Slides: {
        "type": "array", "items": { "type": "string", "maxLength": 1024 }, "minItems": 1, "maxItems": slides::MAX_COUNTED_SLIDES
    });
    described!(slides::Search: { "type": "string", "maxLength": slides::MAX_SEARCH_CHARS });
    described!(@[const LEAST: usize, const MOST: usize] Text<LEAST, MOST>: {
        "type": "string", "minLength": LEAST, "maxLength": MOST, "description": "The key of an image in the input bucket."
    });
    described!(@[const LEAST: u32, const MOST: u32] Whole<LEAST, MOST>: {
        "type": "integer", "minimum": LEAST, "maximum": MOST
    });
    described!(@[const DEFAULT: u32, const MOST: u32] Limit<DEFAULT, MOST>: {
        "type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT, "description": "Most entries of the page."
    });
    described!(Time: { "oneOf": [{ "type": "string", "format": "date-time" }, { "type": "string", "format": "date" }] });
    described!(Date: { "type": "string", "format": "date" });
    described!(Sha256: { "type": "string", "pattern": "^[0-9a-f]{64}$" });

    /// The words of `Status`, of which the lower crates make no schema.
    pub(crate) struct StatusWords;
    described!(StatusWords: { "type": "string", "enum": ["classified", "rejected"] });

    /// Those of `Order`.
    pub(crate) struct OrderWords;
    described!(OrderWords: { "type": "string", "enum": ["newest", "suspicion"], "default": "newest" });

    fn schema_of<T: JsonSchema>() -> Value {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        settings.into_generator().into_root_schema_for::<T>().to_value()
    }

    /// The fields of a body, what kind each is of, and which have to be there; bounds are checked by the routes.
    fn fields(schema: &Value) -> Value {
        let sorted = |list: &Value| -> Value {
            let one = std::slice::from_ref(list);
            let mut list = list.as_array().map_or(one, Vec::as_slice).to_vec();
            list.sort_by_key(Value::to_string);
            list.into()
        };
        match schema["type"].as_str() {
            Some("object") => json!({
                "required": sorted(schema.get("required").unwrap_or(&json!([]))),
                "is_closed": schema["additionalProperties"] == false,
                "fields": Map::from_iter(
                    schema["properties"].as_object().unwrap().iter().map(|(name, field)| (name.clone(), fields(field)))
                ),
            }),
            Some("array") => json!([fields(&schema["items"])]),
            _ => {
                json!({ "type": sorted(&schema["type"]), "enum": schema["enum"], "format": match schema["format"].as_str() {
                Some("date-time") => "date-time",
                _ => "any",
            } })
            }
        }
    }

    #[test]
    fn the_bodies_are_those_of_the_code() {
        let document: Value = serde_json::from_str(super::OPENAPI).unwrap();
        let made = BTreeMap::from([
            ("/api/golden-sets", schema_of::<golden_sets::NewSet>()),
            ("/api/links", schema_of::<links::Wanted>()),
            ("/api/reviews", schema_of::<reviews::NewReview>()),
            ("/api/reviews/undo", schema_of::<reviews::Undo>()),
            ("/api/uploads", schema_of::<uploads::Uploads>()),
            ("/api/uploads/abort", schema_of::<uploads::OpenUpload>()),
            ("/api/uploads/complete", schema_of::<uploads::Completion>()),
            ("/api/uploads/parts", schema_of::<uploads::MoreParts>()),
            ("/api/withdrawals", schema_of::<withdrawals::NewWithdrawal>()),
            ("/api/withdrawals/restore", schema_of::<withdrawals::Restoration>()),
        ]);
        let mut described = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            let body = methods.pointer("/post/requestBody/content/application~1json/schema/$ref");
            let Some(name) = body.and_then(Value::as_str) else { continue };
            let schema = document.pointer(name.trim_start_matches('#')).unwrap();
            assert_eq!(
                made.get(path.as_str()).map(fields),
                Some(fields(schema)),
                "{path}: docs/openapi.json is right"
            );
            described += 1;
        }
        assert_eq!(described, made.len());
    }

    /// The parameters of a route as a document has them, by name.
    fn parameters_of<T: JsonSchema>() -> BTreeMap<String, Value> {
        let schema = schema_of::<T>();
        assert_eq!(schema["additionalProperties"], false, "{schema}");
        let is_required =
            |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name));
        let properties = schema["properties"].as_object().unwrap();
        let parameter = |(name, schema): (&String, &Value)| {
            let mut schema = given(schema.as_object().unwrap());
            let mut parameter = Map::from_iter([
                ("name".to_owned(), name.as_str().into()),
                ("in".to_owned(), "query".into()),
            ]);
            parameter.extend(schema.remove_entry("description"));
            if is_required(name) {
                parameter.insert("required".to_owned(), true.into());
            }
            parameter.insert("schema".to_owned(), schema.into());
            (name.clone(), parameter.into())
        };
        properties.iter().map(parameter).collect()
    }

    /// The schema of a parameter that is there: what may be left out of a query is never null in it.
    fn given(schema: &Map<String, Value>) -> Map<String, Value> {
        let mut schema = schema.clone();
        let is_null = |value: &Value| *value == "null" || value["type"] == "null";
        if let Some(Value::Array(any)) = schema.remove("anyOf") {
            let one = any.iter().find(|one| !is_null(one)).unwrap().as_object().unwrap().clone();
            // What a field says of itself comes before what its type says.
            schema = one.into_iter().chain(schema).collect();
        }
        if let Some(Value::Array(words)) = schema.get_mut("enum") {
            words.retain(|word| !word.is_null());
        }
        if let Some(Value::Array(types)) = schema.get("type") {
            let one = types.iter().find(|one| !is_null(one)).unwrap().clone();
            schema.insert("type".to_owned(), one);
        }
        schema
    }

    #[test]
    fn the_parameters_are_those_of_the_code() {
        let mut document: Value = serde_json::from_str(super::OPENAPI).unwrap();
        let mut made = BTreeMap::from([
            ("/api/agreement", parameters_of::<agreement::AgreementQuery>()),
            ("/api/image", parameters_of::<image::ImageQuery>()),
            ("/api/image/tile", parameters_of::<pyramids::TileQuery>()),
            ("/api/models/compare", parameters_of::<models::ComparisonParameters>()),
            ("/api/models/report", parameters_of::<models::ReportQuery>()),
            ("/api/results", parameters_of::<results::ResultsQuery>()),
            ("/api/review/queue", parameters_of::<reviews::QueueQuery>()),
            ("/api/reviews", parameters_of::<reviews::ReviewsQuery>()),
            ("/api/slide", parameters_of::<slides::SlideQuery>()),
            ("/api/slide/cells", parameters_of::<slides::CellsQuery>()),
            ("/api/slides", parameters_of::<slides::SlidesQuery>()),
            ("/api/slides/unanswered", parameters_of::<slides::UnansweredQuery>()),
            ("/api/summary", parameters_of::<summary::SummaryQuery>()),
        ]);
        for (path, methods) in document["paths"].as_object_mut().unwrap() {
            let Some(Value::Array(parameters)) = methods.pointer_mut("/get/parameters") else { continue };
            let mut made = made.remove(path.as_str()).unwrap_or_default();
            parameters.retain(|parameter| parameter["in"] == "query");
            for parameter in parameters {
                let name = parameter["name"].as_str().unwrap().to_owned();
                // Examples are for readers, not of the code; nor is how a list is written.
                for more in ["example", "style", "explode"] {
                    parameter.as_object_mut().unwrap().remove(more);
                }
                assert_eq!(
                    made.remove(&name).as_ref(),
                    Some(&*parameter),
                    "{path}: docs/openapi.json is right"
                );
            }
            assert!(made.is_empty(), "{path}: docs/openapi.json does not describe {made:?}");
        }
        assert!(made.is_empty(), "docs/openapi.json does not describe {made:?}");
    }
}
