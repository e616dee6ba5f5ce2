//! The table of the template is the one that the code makes and asks.

use std::collections::BTreeSet;

use giemsa_store::{
    ARRIVAL_INDEX, LABEL_INDEX, LISTING_INDEX, MODEL_INDEX, RECENT_INDEX, REVIEW_INDEX, SLIDE_INDEX,
    SUSPECT_INDEX,
};
use serde_yaml_ng::Value;

use super::template::{Template, texts};

/// An index: name, hash key, range key, what it holds beside keys.
type Index = (String, String, String, Vec<String>);

fn keys_of(schema: &Value) -> (String, String) {
    let [hash, range] = schema.as_sequence().unwrap().as_slice() else { panic!("two keys: {schema:?}") };
    assert_eq!((&hash["KeyType"], &range["KeyType"]), (&Value::from("HASH"), &Value::from("RANGE")));
    let name = |key: &Value| key["AttributeName"].as_str().unwrap().to_owned();
    (name(hash), name(range))
}

fn template_indexes(table: &Value) -> BTreeSet<Index> {
    let indexes = table["GlobalSecondaryIndexes"].as_sequence().unwrap();
    let index = |index: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let projection = &index["Projection"];
        let mut held = vec![text(&projection["ProjectionType"])];
        held.extend(projection["NonKeyAttributes"].as_sequence().into_iter().flatten().map(text));
        let (hash, range) = keys_of(&index["KeySchema"]);
        (text(&index["IndexName"]), hash, range, held)
    };
    indexes.iter().map(index).collect()
}

#[test]
fn table_has_the_indexes_that_queries_name() {
    let names: BTreeSet<String> = template_indexes(&Template::default().properties("Table"))
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    let of_records = [SLIDE_INDEX, LABEL_INDEX, REVIEW_INDEX, MODEL_INDEX];
    let of_the_dashboard = [LISTING_INDEX, RECENT_INDEX, SUSPECT_INDEX, ARRIVAL_INDEX];
    assert_eq!(names, of_records.into_iter().chain(of_the_dashboard).map(str::to_owned).collect());
}

#[test]
fn the_dashboard_may_ask_every_index_that_it_shows() {
    let template = Template::default();
    let statements = template.statements("DashboardRole");
    let asked = texts(&statements.iter().find(|s| s["Sid"] == "AskTable").unwrap()["Resource"]);
    let indexes = template_indexes(&template.properties("Table"));
    let expected = indexes.iter().map(|(name, ..)| format!("${{Table.Arn}}/index/{name}"));
    // Nothing that the dashboard shows is asked of the index of slides' records.
    let expected = expected.filter(|index| !index.ends_with(&format!("/{SLIDE_INDEX}")));
    let expected: BTreeSet<String> = expected.chain(["${Table.Arn}".to_owned()]).collect();
    assert_eq!(asked.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// The table as the code makes it, read back from a real server, against the template's.
#[tokio::test]
async fn table_is_the_one_that_the_code_makes() {
    use aws_sdk_dynamodb::types::KeySchemaElement;

    let lab = giemsa_tests::lab::Lab::without_model().await;
    let described = lab.clients.dynamodb.describe_table().table_name(giemsa_tests::lab::TABLE).send().await;
    let made = described.unwrap().table.unwrap();

    let keys = |schema: &[KeySchemaElement]| {
        (schema[0].attribute_name().to_owned(), schema[1].attribute_name().to_owned())
    };
    let table = Template::default().properties("Table");
    assert_eq!(keys_of(&table["KeySchema"]), keys(made.key_schema()));
    let made_indexes: BTreeSet<Index> = made
        .global_secondary_indexes()
        .iter()
        .map(|index| {
            let (hash, range) = keys(index.key_schema());
            let projection = index.projection().unwrap();
            let mut held = vec![projection.projection_type().unwrap().as_str().to_owned()];
            held.extend(projection.non_key_attributes().iter().cloned());
            (index.index_name().unwrap().to_owned(), hash, range, held)
        })
        .collect();
    assert_eq!(template_indexes(&table), made_indexes);
    let attributes: BTreeSet<(String, String)> = made
        .attribute_definitions()
        .iter()
        .map(|a| (a.attribute_name().to_owned(), a.attribute_type().as_str().to_owned()))
        .collect();
    let in_template: BTreeSet<(String, String)> = table["AttributeDefinitions"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|a| {
            let text = |name: &str| a[name].as_str().unwrap().to_owned();
            (text("AttributeName"), text("AttributeType"))
        })
        .collect();
    assert_eq!(in_template, attributes);
}
