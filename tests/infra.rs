//! The template and the code agree: environment, memory, table, timeouts, answers.

#[cfg(feature = "local")]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use giemsa::config::{BACKFILL_PREFIX, Config, GateConfig};
use giemsa::store::{
    ARRIVAL_INDEX, LABEL_INDEX, LISTING_INDEX, MODEL_INDEX, RECENT_INDEX, REVIEW_INDEX, SLIDE_INDEX,
    SUSPECT_INDEX,
};
use serde_yaml_ng::Value;

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn template() -> Value {
    serde_yaml_ng::from_str(&read("infra/template.yaml")).unwrap()
}

fn properties(resource: &str) -> Value {
    template()["Resources"][resource]["Properties"].clone()
}

/// Without its CloudFormation tag (`!Ref`, `!GetAtt`, …).
fn untagged(value: &Value) -> &Value {
    match value {
        Value::Tagged(tagged) => &tagged.value,
        other => other,
    }
}

/// What a setting becomes: a parameter its default, a resource its name in lower case.
fn deployed(value: &Value) -> String {
    let Value::Tagged(reference) = value else { return value.as_str().unwrap().to_owned() };
    assert_eq!(reference.tag, "Ref");
    let name = reference.value.as_str().unwrap();
    match &template()["Parameters"][name]["Default"] {
        Value::Null => {
            assert!(!template()["Resources"][name].is_null(), "{name} is neither parameter nor resource");
            name.to_lowercase()
        }
        default => default.as_str().unwrap().to_owned(),
    }
}

fn environment() -> Vec<(String, String)> {
    let variables = properties("Classifier")["Environment"]["Variables"].clone();
    let variables = variables.as_mapping().unwrap();
    variables.iter().map(|(name, value)| (name.as_str().unwrap().to_owned(), deployed(value))).collect()
}

fn config_on(memory_mb: &str, without: &str) -> Result<Config, giemsa::config::ConfigError> {
    let mut settings = environment();
    settings.push(("AWS_LAMBDA_FUNCTION_MEMORY_SIZE".to_owned(), memory_mb.to_owned()));
    settings.retain(|(name, _)| name != without);
    Config::from_lookup(|name| settings.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()))
}

#[test]
fn environment_makes_a_configuration_that_fits_the_memory() {
    let memory_mb = properties("Classifier")["MemorySize"].as_u64().unwrap();
    let config = config_on(&memory_mb.to_string(), "").unwrap();
    assert_eq!(config.stage, "prod");
    assert_eq!(config.limits.cpus.get() as u64, memory_mb / 1769, "1,769 MB are one processor");
    // The sum is really done: a fraction of the memory is refused.
    assert!(config_on(&(memory_mb / 4).to_string(), "").is_err());
}

#[test]
fn environment_has_only_names_that_the_code_reads() {
    let code = read("src/config.rs");
    for (name, _) in environment() {
        assert!(code.contains(&format!("\"{name}\"")), "config.rs does not read {name}");
    }
    for required in [
        "GIEMSA_STAGE",
        "GIEMSA_INPUT_BUCKET",
        "GIEMSA_MODEL_BUCKET",
        "GIEMSA_RESULTS_BUCKET",
        "GIEMSA_TABLE",
    ] {
        let error = config_on("1769", required).unwrap_err();
        assert!(error.to_string().contains(required), "{error}");
    }
}

#[test]
fn classifier_is_what_make_package_builds() {
    let classifier = properties("Classifier");
    assert_eq!(classifier["Runtime"], "provided.al2023");
    assert_eq!(classifier["Handler"], "bootstrap");
    let makefile = read("Makefile");
    let package = classifier["CodeUri"].as_str().unwrap().strip_prefix("../").unwrap().to_owned();
    assert!(makefile.contains(&format!("PACKAGE := {package}\n")), "{package}");
    let architectures = &template()["Parameters"]["Architecture"];
    assert_eq!(architectures["Default"], "arm64");
    for architecture in architectures["AllowedValues"].as_sequence().unwrap() {
        let target = format!("TARGET_{} := ", architecture.as_str().unwrap());
        assert!(makefile.contains(&target), "{target}");
    }
}

#[test]
fn gate_is_what_make_package_builds_and_writes_no_model_of_a_stage() {
    let gate = properties("Gate");
    let package = gate["CodeUri"].as_str().unwrap().strip_prefix("../").unwrap().to_owned();
    assert!(read("Makefile").contains(&format!("GATE_PACKAGE := {package}\n")), "{package}");
    let settings: Vec<(String, String)> = gate["Environment"]["Variables"]
        .as_mapping()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str().unwrap().to_owned(), deployed(value)))
        .chain([(
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE".to_owned(),
            gate["MemorySize"].as_u64().unwrap().to_string(),
        )])
        .collect();
    let lookup = |name: &str| settings.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let config = GateConfig::from_lookup(lookup).unwrap();
    assert_eq!(config.model_bucket, "modelbucket");

    let statements = gate["Policies"][0]["Statement"].as_sequence().unwrap().clone();
    for statement in &statements {
        let actions = serde_yaml_ng::to_string(&statement["Action"]).unwrap();
        if actions.contains("Put") {
            let resources = statement["Resource"].as_sequence().unwrap().iter();
            let written: Vec<&str> = resources.map(|resource| untagged(resource).as_str().unwrap()).collect();
            assert_eq!(written, ["${ModelBucket.Arn}/reports/*", "${ModelBucket.Arn}/archive/*"]);
        }
        assert!(!actions.contains(":*") && !actions.contains("Delete"), "{actions}");
    }
    let pattern = gate["Events"]["ModelCopied"]["Properties"]["Pattern"]["detail"].clone();
    let suffix = pattern["object"]["key"][0]["suffix"].as_str().unwrap().to_owned();
    assert!(giemsa::config::model_key("dev").ends_with(&suffix), "{suffix}");
    let enabled = &properties("ModelBucket")["NotificationConfiguration"]["EventBridgeConfiguration"];
    assert_eq!(enabled["EventBridgeEnabled"], true);
}

#[test]
fn no_message_is_lost_between_queue_and_classifier() {
    let uploads = properties("Classifier")["Events"]["Uploads"]["Properties"].clone();
    let answers = uploads["FunctionResponseTypes"].as_sequence().unwrap();
    assert_eq!(*answers, [Value::from("ReportBatchItemFailures")], "the handler answers message by message");
    assert!(!uploads["ScalingConfig"]["MaximumConcurrency"].is_null());
    assert!(properties("Classifier")["ReservedConcurrentExecutions"].is_null());

    let timeout_s = template()["Globals"]["Function"]["Timeout"].as_u64().unwrap();
    let queue = properties("Queue");
    let visibility_s = queue["VisibilityTimeout"].as_u64().unwrap();
    let window_s = uploads["MaximumBatchingWindowInSeconds"].as_u64().unwrap();
    assert!(visibility_s >= 6 * timeout_s, "{visibility_s} s for a timeout of {timeout_s} s");
    assert!(visibility_s > timeout_s + window_s);
    assert!(queue["RedrivePolicy"]["maxReceiveCount"].as_u64().unwrap() >= 5);
    assert_eq!(*untagged(&queue["RedrivePolicy"]["deadLetterTargetArn"]), Value::from("DeadLetterQueue.Arn"));
    // Nothing in the dead-letter queue expires before a person could have seen the alarm.
    assert_eq!(properties("DeadLetterQueue")["MessageRetentionPeriod"].as_u64(), Some(14 * 24 * 3600));

    // One image may take its whole time and the invocation still ends by itself.
    let limits = config_on("1769", "").unwrap().limits;
    assert!(timeout_s > (limits.image_timeout + limits.deadline_margin).as_secs());
}

#[test]
fn what_holds_results_outlives_the_stack() {
    for resource in ["InputBucket", "ModelBucket", "ResultsBucket", "Table", "DeadLetterQueue"] {
        assert_eq!(template()["Resources"][resource]["DeletionPolicy"], "Retain", "{resource}");
    }
}

#[test]
fn role_writes_under_the_prefix_and_stage_that_the_code_writes_to() {
    let config = config_on("1769", "").unwrap();
    let statements = properties("Classifier")["Policies"][0]["Statement"].clone();
    let resource_of = |sid: &str| -> String {
        let statements = statements.as_sequence().unwrap();
        let statement = statements.iter().find(|s| s["Sid"] == sid).unwrap_or_else(|| panic!("{sid}"));
        untagged(&statement["Resource"]).as_str().unwrap().replace("${Stage}", &config.stage)
    };
    let results = format!("${{ResultsBucket.Arn}}/{}/stage={}/*", config.results_prefix, config.stage);
    assert_eq!(resource_of("WriteResults"), results);
    assert_eq!(resource_of("ReadModel"), format!("${{ModelBucket.Arn}}/{}", config.model_key()));
    let all_actions = serde_yaml_ng::to_string(&statements).unwrap();
    // Of the table only notes of failures are deleted; of a bucket nothing.
    assert!(!all_actions.contains(":*") && !all_actions.contains("s3:Delete"), "{all_actions}");
}

#[test]
fn a_backfill_is_the_classifier_with_a_concurrency_of_its_own() {
    let (classifier, backfill) = (properties("Classifier"), properties("Backfill"));
    for same in ["CodeUri", "Handler", "Runtime", "Architectures", "MemorySize", "Environment", "Policies"] {
        assert!(!backfill[same].is_null(), "{same}");
        assert_eq!(backfill[same], classifier[same], "{same}");
    }
    let template = template();
    let concurrency = &template["Parameters"]["BackfillConcurrency"];
    let reserved = &backfill["ReservedConcurrentExecutions"];
    assert_eq!(*untagged(reserved), Value::from("BackfillConcurrency"));
    assert_eq!(concurrency["Default"], 10, "the default of GIEMSA_BACKFILL_CONCURRENCY");
    // Nothing but a job invokes it, and it takes nothing from the queue of live uploads.
    assert!(backfill["Events"].is_null(), "{backfill:?}");
    for (output, attribute) in [("BatchRole", "BatchRole.Arn"), ("BackfillFunction", "Backfill.Arn")] {
        assert_eq!(*untagged(&template["Outputs"][output]["Value"]), Value::from(attribute));
    }
}

#[test]
fn role_of_a_backfill_may_invoke_one_function_read_manifests_and_write_reports() {
    let role = properties("BatchRole");
    let trust = role["AssumeRolePolicyDocument"]["Statement"].as_sequence().unwrap().clone();
    assert_eq!(trust.len(), 1);
    assert_eq!(trust[0]["Principal"]["Service"], "batchoperations.s3.amazonaws.com");
    let account = untagged(&trust[0]["Condition"]["StringEquals"]["aws:SourceAccount"]).clone();
    assert_eq!(account, Value::from("AWS::AccountId"));
    assert_eq!(role["Policies"].as_sequence().unwrap().len(), 1);
    let statements = role["Policies"][0]["PolicyDocument"]["Statement"].as_sequence().unwrap().clone();
    let granted: Vec<(&str, &str)> = statements
        .iter()
        .map(|s| (s["Action"].as_str().unwrap(), untagged(&s["Resource"]).as_str().unwrap()))
        .collect();
    let below = |rest: &str| format!("${{ResultsBucket.Arn}}/{BACKFILL_PREFIX}/*/{rest}");
    assert_eq!(
        granted,
        [
            ("lambda:InvokeFunction", "Backfill.Arn"),
            ("s3:GetObject", &*below("manifest.csv")),
            ("s3:PutObject", &*below("report/*")),
        ]
    );
    #[cfg(feature = "local")]
    assert_eq!(giemsa::backfill::Manifest::key_of("x"), format!("{BACKFILL_PREFIX}/x/manifest.csv"));
    // It reads and writes beside the results, which the classifier does not take for input.
    let config = config_on("1769", "").unwrap();
    assert!(config.is_own_output(&config.results_bucket, &format!("{BACKFILL_PREFIX}/x/report/job-1/y.csv")));
    assert!(!BACKFILL_PREFIX.starts_with(&config.results_prefix));
    let rules = properties("ResultsBucket")["LifecycleConfiguration"]["Rules"].clone();
    assert!(rules[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"].as_u64().unwrap() >= 1);
}

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
    let names: BTreeSet<String> =
        template_indexes(&properties("Table")).into_iter().map(|(name, ..)| name).collect();
    let of_records = [SLIDE_INDEX, LABEL_INDEX, REVIEW_INDEX, MODEL_INDEX];
    let of_the_dashboard = [LISTING_INDEX, RECENT_INDEX, SUSPECT_INDEX, ARRIVAL_INDEX];
    assert_eq!(names, of_records.into_iter().chain(of_the_dashboard).map(str::to_owned).collect());
}

/// The table as the code makes it, read back from a real server, against the template's.
#[cfg(feature = "local")]
#[tokio::test]
async fn table_is_the_one_that_the_code_makes() {
    use aws_sdk_dynamodb::types::KeySchemaElement;

    let lab = common::Lab::without_model().await;
    let described = lab.clients.dynamodb.describe_table().table_name(common::TABLE).send().await;
    let made = described.unwrap().table.unwrap();

    let keys = |schema: &[KeySchemaElement]| {
        (schema[0].attribute_name().to_owned(), schema[1].attribute_name().to_owned())
    };
    let table = properties("Table");
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
