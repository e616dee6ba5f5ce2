//! Athena's table and questions: columns are those of records, and the SQL answers over real result files.
//!
//! Needs a Python with sqlglot, which knows Athena's SQL, and duckdb, which answers it, in `GIEMSA_TEST_PYTHON`; without it
//! the questions are not asked, which is said aloud, and is a failure where `CI` is `true`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::functions::config;
use super::template::{Template, read};

fn columns() -> BTreeMap<String, String> {
    let table = Template::default().properties("ResultsTable")["TableInput"].clone();
    let columns = table["StorageDescriptor"]["Columns"].as_sequence().unwrap().clone();
    let text = |value: &serde_yaml_ng::Value| value.as_str().unwrap().to_owned();
    columns.iter().map(|column| (text(&column["Name"]), text(&column["Type"]))).collect()
}

/// The type of Glue for what the schema says of a member of a record.
fn glue_type(schema: &Json) -> String {
    if let Some(members) = schema["properties"].as_object() {
        let members = members.iter().map(|(name, member)| format!("{name}:{}", glue_type(member)));
        let mut members: Vec<String> = members.collect();
        members.sort();
        return format!("struct<{}>", members.join(","));
    }
    match schema["type"].as_str() {
        Some("object") => format!("map<string,{}>", glue_type(&schema["additionalProperties"])),
        Some("integer") => "int".to_owned(),
        Some("number") => "double".to_owned(),
        Some("boolean") => "boolean".to_owned(),
        Some("string") | None => "string".to_owned(),
        Some(other) => panic!("{other} is not known here"),
    }
}

/// A struct's members in one order; a file's size is a large number.
fn in_order(glue: &str) -> String {
    let Some(members) = glue.strip_prefix("struct<").and_then(|rest| rest.strip_suffix('>')) else {
        return glue.to_owned();
    };
    let mut members: Vec<String> = members.split(',').map(|member| member.replace("bigint", "int")).collect();
    members.sort();
    format!("struct<{}>", members.join(","))
}

#[test]
fn columns_are_what_result_files_hold() {
    let schema: Json = serde_json::from_str(&read("docs/record.schema.json")).unwrap();
    let mut expected: BTreeMap<String, String> = schema["properties"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, member)| (name.clone(), glue_type(member)))
        .collect();
    // In the files none of them is; the stage is told by the partition.
    for left_out in ["timings_ms", "classified_at", "withdrawn", "stage"] {
        expected.remove(left_out).unwrap();
    }
    let found: BTreeMap<String, String> =
        columns().into_iter().map(|(name, glue)| (name, in_order(&glue))).collect();
    assert_eq!(found, expected);
}

#[test]
fn partitions_are_the_folders_of_results() {
    let template = Template::default();
    let table = template.properties("ResultsTable")["TableInput"].clone();
    let parameters = &table["Parameters"];
    assert_eq!(parameters["projection.stage.values"], template.parameter("Stages"));
    let prefix = config("Prod").results_prefix;
    assert_eq!(
        parameters["storage.location.template"],
        format!("s3://${{ResultsBucket}}/{prefix}/stage=${{!stage}}/date=${{!date}}/")
    );
    let keys = table["PartitionKeys"].as_sequence().unwrap().clone();
    assert_eq!((&keys[0]["Name"], &keys[1]["Name"]), (&"stage".into(), &"date".into()));
}

#[cfg(unix)]
mod questions {
    use std::fs;
    use std::process::Command;

    use serde_json::{Value as Json, json};

    use super::{Template, columns};
    use giemsa_tests::lab::events::{self, Upload};
    use giemsa_tests::lab::{Lab, config, file, sample_model_with};

    /// The answers of the template's questions over the result files in a folder, or `None` without a Python.
    #[allow(clippy::disallowed_methods, reason = "Python's path is a setting of the machine that tests")]
    fn answers(folder: &std::path::Path) -> Option<Json> {
        let Some(python) = std::env::var_os("GIEMSA_TEST_PYTHON") else {
            let message = "GIEMSA_TEST_PYTHON is not set; expected a Python with sqlglot and duckdb (tests/requirements.txt)";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
            eprintln!("\n*** SKIPPED: Athena's questions: {message} ***\n");
            return None;
        };
        let template = Template::default();
        let questions: serde_json::Map<String, Json> = template
            .of_type("AWS::Athena::NamedQuery")
            .into_iter()
            .map(|name| {
                let sql = template.properties(&name)["QueryString"].as_str().unwrap().to_owned();
                (name, sql.into())
            })
            .collect();
        let task = folder.join("task.json");
        fs::write(&task, json!({"columns": columns(), "questions": questions}).to_string()).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/infra/ask_athena.py");
        let output = Command::new(python).arg(script).arg(&task).arg(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(serde_json::from_slice(&output.stdout).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn athena_answers_over_what_both_stages_wrote() {
        let lab = Lab::start().await;
        // Says of each cell the contrary.
        let contrary = sample_model_with("giemsa.labels", r#"["uninfected","parasitized"]"#);
        lab.put_model("dev", &contrary).await;
        let mut bodies = Vec::new();
        for (key, path) in [
            ("slide é/cell.png", "sample-images/slide-001-healthy/cell-01.png"),
            ("slide é/ring.png", "sample-images/slide-002-falciparum/cell-01.png"),
            ("slide é/notes.txt", "sample-images/slide-005-trouble/notes.txt"),
        ] {
            let bytes = file(path);
            let etag = lab.put(key, &bytes).await;
            bodies.push(events::s3(&Upload::new(key, &etag, bytes.len())).to_string());
        }
        for stage in ["prod", "dev"] {
            let handler = lab.handler_of(config(stage), lab.clients.clone());
            let answer = handler.handle(&events::sqs(bodies.clone()), None).await.unwrap();
            assert_eq!(answer["batchItemFailures"], json!([]));
        }
        let folder = tempfile::tempdir().unwrap();
        for (key, bytes) in lab.result_objects().await {
            let path = folder.path().join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let Some(answers) = answers(folder.path()) else { return };

        let slides = answers["PositivesPerSlideAndDay"].as_array().unwrap();
        let of = |stage: &str| slides.iter().find(|row| row["stage"] == stage).unwrap();
        for row in [of("prod"), of("dev")] {
            assert_eq!((&row["slide"], &row["images"]), (&json!("slide é"), &json!(3)), "{row}");
            assert_eq!(row["rejected"], 1);
            assert_eq!(row["cells"].as_i64().unwrap() + row["outliers"].as_i64().unwrap(), 2);
        }
        let disagreements = answers["StagesDisagree"].as_array().unwrap();
        assert_eq!(disagreements.len(), 2, "{disagreements:?}");
        for row in disagreements {
            assert_ne!(row["prod_answer"], row["dev_answer"]);
            assert_ne!(row["prod_model"], row["dev_model"]);
        }
        let rejected = answers["RejectedByReason"].as_array().unwrap();
        assert_eq!(rejected.len(), 2);
        for row in rejected {
            assert_eq!(
                (&row["code"], &row["images"], &row["slides"]),
                (&json!("not_an_image"), &json!(1), &json!(1))
            );
            assert!(row["example"].as_str().unwrap().contains("not an image"), "{row}");
        }
    }
}
