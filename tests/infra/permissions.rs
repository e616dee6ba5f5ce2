//! Rights: every function has a role of its own, whose statements name what they are about.

use std::collections::BTreeSet;

use giemsa_config::{BACKFILL_PREFIX, GatePolicy, PYRAMID_PREFIX, THUMBNAIL_PREFIX, model_key};
use serde_yaml_ng::Value;

use super::functions::config;
use super::template::{STAGES, Template, texts};

fn statement(template: &Template<'_>, role: &str, sid: &str) -> Value {
    let statements = template.statements(role);
    statements.into_iter().find(|s| s["Sid"] == sid).unwrap_or_else(|| panic!("{role} has no {sid}"))
}

fn below(bucket: &str, keys: &str) -> String {
    format!("arn:${{AWS::Partition}}:s3:::${{{bucket}}}/{keys}")
}

#[test]
fn each_function_has_its_own_role_and_log() {
    let template = Template::default();
    let (mut roles, mut logs) = (BTreeSet::new(), BTreeSet::new());
    let functions = template.of_type("AWS::Serverless::Function");
    for function in &functions {
        let properties = template.properties(function);
        assert_eq!(properties["Role"], format!("${{{function}Role.Arn}}"));
        assert_eq!(properties["LoggingConfig"]["LogGroup"], format!("${{{function}Log}}"));
        roles.insert(texts(&properties["Role"]));
        logs.insert(texts(&properties["LoggingConfig"]["LogGroup"]));
        // SAM adds to a role that it makes, and only to that.
        assert!(properties["Policies"].is_null());
        let own_log = texts(&statement(&template, &format!("{function}Role"), "WriteLog")["Resource"]);
        assert_eq!(own_log, [format!("${{{function}Log.Arn}}")]);
    }
    assert_eq!((roles.len(), logs.len()), (functions.len(), functions.len()));
}

#[test]
fn statements_name_actions_and_resources() {
    let template = Template::default();
    for role in template.of_type("AWS::IAM::Role") {
        assert!(template.properties(&role)["ManagedPolicyArns"].is_null(), "{role}");
        for statement in template.statements(&role) {
            assert_eq!(statement["Effect"], "Allow");
            for action in texts(&statement["Action"]) {
                assert!(!action.contains('*') && action.contains(':'), "{role}: {action}");
            }
            for resource in texts(&statement["Resource"]) {
                // X-Ray knows no resources.
                let is_named = resource.contains("${") || statement["Sid"] == "Trace";
                assert!(is_named, "{role}: {resource}");
            }
            if statement["Sid"] == "Trace" {
                assert!(texts(&statement["Action"]).iter().all(|action| action.starts_with("xray:Put")));
            }
        }
    }
}

#[test]
fn a_stage_reads_its_own_model_and_writes_its_own_results() {
    let template = Template::default();
    for (prefix, stage) in STAGES {
        let config = config(prefix);
        for kind in ["Classifier", "Backfill"] {
            let role = format!("{prefix}{kind}Role");
            let write = statement(&template, &role, "WriteResults");
            let results = format!("{}/stage={stage}/*", config.results_prefix);
            assert_eq!(texts(&write["Resource"]), [below("ResultsBucket", &results)]);
            let read = statement(&template, &role, "ReadModel");
            let mut readable = vec![config.model_key(), "reports/*".to_owned(), "archive/*".to_owned()];
            if config.gate == GatePolicy::Off {
                readable.remove(1);
            }
            let readable: Vec<String> = readable.iter().map(|keys| below("ModelBucket", keys)).collect();
            assert_eq!(texts(&read["Resource"]), readable);
            let table = statement(&template, &role, "ReadAndWriteTable");
            // Not the indexes, which its writes need no right for.
            assert_eq!(texts(&table["Resource"]), ["${Table.Arn}"]);
            let keys = texts(&table["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"]);
            assert_eq!(keys.len(), 4);
            for key in &keys {
                assert_eq!(key.split('#').nth(1), Some(stage), "{key} is of no one stage");
            }
            // Of the table only notes of failures are deleted; of a bucket nothing.
            let all = serde_yaml_ng::to_string(&template.statements(&role)).unwrap();
            assert!(!all.contains("s3:Delete") && !all.contains("dynamodb:Scan"), "{all}");
        }
    }
}

#[test]
fn the_gate_writes_no_model_of_a_stage() {
    let template = Template::default();
    let writing = |statement: &Value| texts(&statement["Action"]).iter().any(|a| a.starts_with("s3:Put"));
    for role in template.of_type("AWS::IAM::Role") {
        for statement in template.statements(&role).iter().filter(|statement| writing(statement)) {
            for resource in texts(&statement["Resource"]) {
                let key = resource.split_once("${ModelBucket}/").map(|(_, key)| key);
                let is_allowed =
                    key.is_none_or(|key| ["reports/*", "archive/*", "golden-sets/*"].contains(&key));
                assert!(is_allowed, "{role} writes {resource}");
            }
        }
    }
    let pattern = template.properties("ModelRule")["EventPattern"]["detail"]["object"].clone();
    let suffix = pattern["key"][0]["suffix"].as_str().unwrap().to_owned();
    assert!(model_key("dev").ends_with(&suffix), "{suffix}");
    let failures = template.properties("Gate")["EventInvokeConfig"]["DestinationConfig"]["OnFailure"].clone();
    assert_eq!(failures["Destination"], "${GateDeadLetterQueue.Arn}");
    assert_eq!(
        statement(&template, "GateRole", "SetFailuresAside")["Resource"],
        "${GateDeadLetterQueue.Arn}"
    );
}

#[test]
fn the_dashboard_keeps_pictures_and_golden_sets_and_measures_queues() {
    for (stages, queues) in [("prod,dev", 4), ("prod", 2)] {
        let template = Template::with(&[("Stages", stages)]);
        let pictures =
            [THUMBNAIL_PREFIX, PYRAMID_PREFIX].map(|prefix| below("ResultsBucket", &format!("{prefix}/*")));
        assert_eq!(texts(&statement(&template, "DashboardRole", "KeepPictures")["Resource"]), pictures);
        let measured = texts(&statement(&template, "DashboardRole", "MeasureQueues")["Resource"]);
        assert_eq!(measured.len(), queues, "{measured:?}");
        assert!(queues == 4 || !measured.concat().contains("Dev"));
    }
}

#[test]
fn role_of_a_backfill_may_invoke_one_function_read_manifests_and_write_reports() {
    let template = Template::default();
    for (stage, _) in STAGES {
        let name = format!("{stage}BatchRole");
        let trust = template.properties(&name)["AssumeRolePolicyDocument"]["Statement"].clone();
        assert_eq!(trust.as_sequence().unwrap().len(), 1);
        assert_eq!(trust[0]["Principal"]["Service"], "batchoperations.s3.amazonaws.com");
        assert_eq!(trust[0]["Condition"]["StringEquals"]["aws:SourceAccount"], "${AWS::AccountId}");
        let granted: Vec<(String, String)> = template
            .statements(&name)
            .iter()
            .map(|s| (texts(&s["Action"]).join(" "), texts(&s["Resource"]).join(" ")))
            .collect();
        let own = |rest: &str| below("ResultsBucket", &format!("{BACKFILL_PREFIX}/*/{rest}"));
        let expected = [
            ("lambda:InvokeFunction", format!("${{{stage}Backfill.Arn}}")),
            ("s3:GetObject", own("manifest.csv")),
            ("s3:PutObject", own("report/*")),
        ];
        assert_eq!(granted, expected.map(|(action, resource)| (action.to_owned(), resource)));
    }
    assert_eq!(giemsa_ops::backfill::Manifest::key_of("x"), format!("{BACKFILL_PREFIX}/x/manifest.csv"));
    // It reads and writes beside the results, which the classifier does not take for input.
    let config = config("Prod");
    assert!(config.is_own_output(&config.results_bucket, &format!("{BACKFILL_PREFIX}/x/report/job-1/y.csv")));
    assert!(!BACKFILL_PREFIX.starts_with(&config.results_prefix));
}
