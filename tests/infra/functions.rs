//! Functions: what they are made of, told and given.

use giemsa_config::{Config, ConfigError, DashboardConfig, GateConfig};
use serde_yaml_ng::Value;

use super::template::{STAGES, Template, read};

const FUNCTION: &str = "AWS::Serverless::Function";

/// With what AWS puts into addresses, as an address has to be one.
pub fn as_deployed(text: &str) -> String {
    let replaced =
        text.replace("${AWS::Region}", "eu-central-1").replace("${AWS::URLSuffix}", "amazonaws.com");
    replaced
        .replace("${UserPool}", "eu-central-1_AbCdEfGhI")
        .replace("${UserPoolDomain}", "giemsa-51af3dc0")
        .replace("${UserPoolClient}", "1h57kf5cpq17m0eml12EXAMPLE")
}

/// Settings of a function, with what Lambda adds.
pub fn settings(template: &Template<'_>, function: &str) -> Vec<(String, String)> {
    let variables = template.properties(function)["Environment"]["Variables"].clone();
    let variables = variables.as_mapping().unwrap().iter();
    variables
        .map(|(name, value)| (name.as_str().unwrap().to_owned(), as_deployed(value.as_str().unwrap())))
        .chain([("AWS_LAMBDA_FUNCTION_MEMORY_SIZE".to_owned(), template.parameter("Memory"))])
        .collect()
}

fn found(settings: &[(String, String)], name: &str) -> Option<String> {
    settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

fn classifier(template: &Template<'_>, function: &str, without: &str) -> Result<Config, ConfigError> {
    let settings = settings(template, function);
    Config::from_lookup(|name| (name != without).then(|| found(&settings, name)).flatten())
}

/// What the classifier of a stage is told.
pub fn config(stage: &str) -> Config {
    classifier(&Template::default(), &format!("{stage}Classifier"), "").unwrap()
}

pub fn timeout_s(template: &Template<'_>, function: &str) -> u64 {
    let own = template.properties(function)["Timeout"].as_u64();
    own.unwrap_or_else(|| template.raw()["Globals"]["Function"]["Timeout"].as_u64().unwrap())
}

#[test]
fn every_memory_size_makes_configurations_that_fit_it() {
    let template = Template::default();
    let sizes = template.raw()["Parameters"]["Memory"]["AllowedValues"].as_sequence().unwrap();
    assert_eq!(template.parameter("Memory"), "1769", "one processor");
    for size in sizes.iter().map(|size| size.as_str().unwrap()) {
        let template = Template::with(&[("Memory", size)]);
        let size: u64 = size.parse().unwrap();
        for (prefix, stage) in STAGES {
            for kind in ["Classifier", "Backfill"] {
                let config = classifier(&template, &format!("{prefix}{kind}"), "").unwrap();
                assert_eq!(config.stage, stage);
                assert_eq!(config.results_prefix, "results");
                assert_eq!(config.limits.cpus.get() as u64, size / 1769, "1,769 MB are one processor");
            }
        }
        let settings = settings(&template, "Gate");
        let gate = GateConfig::from_lookup(|name| found(&settings, name)).unwrap();
        assert_eq!(gate.model_bucket, "${ModelBucket}");
    }
    // The sum is really done: a fraction of the memory is refused.
    assert!(classifier(&Template::with(&[("Memory", "512")]), "ProdClassifier", "").is_err());
}

#[test]
fn the_dashboard_knows_stages_and_queues() {
    for (stages, names) in [("prod,dev", &["prod", "dev"][..]), ("prod", &["prod"])] {
        let template = Template::with(&[("Stages", stages)]);
        let settings = settings(&template, "Dashboard");
        let config = DashboardConfig::from_lookup(|name| found(&settings, name)).unwrap();
        assert_eq!(config.stages, names);
        assert_eq!(config.queues.len(), names.len());
        assert_eq!(config.queues["prod"].dead_letters.as_deref(), Some("${ProdDeadLetterQueue}"));
        assert_eq!(config.limits.link_lifetime.as_secs(), 900);
        // A picture is made or given up before the API stops waiting.
        assert!(config.limits.image_timeout.as_secs() < timeout_s(&template, "Dashboard"));
    }
}

#[test]
fn existing_buckets_take_the_place_of_made_ones() {
    let template = Template::with(&[("ExistingInputBucket", "slides"), ("ExistingResultsBucket", "answers")]);
    for function in ["ProdClassifier", "DevBackfill", "Dashboard"] {
        let settings = settings(&template, function);
        assert_eq!(found(&settings, "GIEMSA_INPUT_BUCKET").unwrap(), "slides");
        assert_eq!(found(&settings, "GIEMSA_RESULTS_BUCKET").unwrap(), "answers");
        assert_eq!(found(&settings, "GIEMSA_MODEL_BUCKET").unwrap(), "${ModelBucket}");
    }
    let rule = template.properties("UploadRule");
    assert_eq!(rule["EventPattern"]["detail"]["bucket"]["name"][0], "slides");
    // No role has a right to a bucket that is not there.
    for role in template.of_type("AWS::IAM::Role") {
        let policy = serde_yaml_ng::to_string(&template.properties(&role)).unwrap();
        assert!(!policy.contains("${InputBucket") && !policy.contains("${ResultsBucket"), "{role}: {policy}");
    }
}

#[test]
fn functions_are_told_only_what_the_code_reads_and_all_that_it_needs() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("crates/config/src");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let code = files
        .map(|path| std::fs::read_to_string(path).unwrap())
        .fold(read("crates/config/src/lib.rs"), |a, b| a + &b);
    let template = Template::default();
    for function in template.of_type(FUNCTION) {
        for (name, _) in settings(&template, &function) {
            assert!(code.contains(&format!("\"{name}\"")), "{function}: nothing reads {name}");
        }
    }
    for required in [
        "GIEMSA_STAGE",
        "GIEMSA_INPUT_BUCKET",
        "GIEMSA_MODEL_BUCKET",
        "GIEMSA_RESULTS_BUCKET",
        "GIEMSA_TABLE",
    ] {
        let error = classifier(&template, "ProdClassifier", required).unwrap_err();
        assert!(error.to_string().contains(required), "{error}");
    }
}

#[test]
fn functions_are_what_make_package_builds() {
    let template = Template::default();
    let makefile = read("infra/Makefile");
    let line = makefile.lines().find_map(|line| line.strip_prefix("PACKAGES := ")).unwrap();
    let built: Vec<&str> = line.split(' ').collect();
    for function in template.of_type(FUNCTION) {
        let code = template.properties(&function)["CodeUri"].as_str().unwrap().to_owned();
        let name = code.strip_prefix("../target/lambda/").unwrap().strip_suffix(".zip").unwrap();
        assert!(built.contains(&name), "{function}: {name}");
        let expected = match function.trim_start_matches("Prod").trim_start_matches("Dev") {
            "Classifier" | "Backfill" => "classifier",
            "Gate" => "gate",
            "Dashboard" => "dashboard",
            other => panic!("{other} is new"),
        };
        assert_eq!(name, expected, "{function}");
    }
    let globals = &template.raw()["Globals"]["Function"];
    assert_eq!((&globals["Runtime"], &globals["Handler"]), (&"provided.al2023".into(), &"bootstrap".into()));
    let architectures = &template.raw()["Parameters"]["Architecture"];
    assert_eq!(architectures["Default"], "arm64");
    for architecture in architectures["AllowedValues"].as_sequence().unwrap() {
        let target = format!("TARGET_{} := ", architecture.as_str().unwrap());
        assert!(makefile.contains(&target), "{target}");
    }
}

#[test]
fn production_and_development_differ_only_in_names() {
    let template = Template::default();
    let resources = template.raw()["Resources"].as_mapping().unwrap();
    let names = || resources.keys().map(|name| name.as_str().unwrap());
    let mut compared = 0;
    for prod in names().filter(|name| name.starts_with("Prod")) {
        let dev = prod.replacen("Prod", "Dev", 1);
        let text = serde_yaml_ng::to_string(&template.resource(prod)).unwrap();
        // Only production asks whether a model has a golden report.
        let of_both = |line: &&str| !line.contains("/reports/*");
        let text: String = text.lines().filter(of_both).map(|line| format!("{line}\n")).collect();
        let expected = text.replace("Prod", "Dev").replace("prod", "dev");
        let expected: Value = serde_yaml_ng::from_str(&expected).unwrap();
        let mut found = template.resource(&dev);
        if let Some(condition) = found.as_mapping_mut().unwrap().remove("Condition") {
            assert_eq!(condition, "HasDev", "{dev}");
        } else {
            panic!("{dev} has no condition");
        }
        assert_eq!(found, expected, "{dev}");
        compared += 1;
    }
    assert!(compared >= 10, "{compared}");
    assert_eq!(names().filter(|name| name.starts_with("Dev")).count(), compared);
}

#[test]
fn a_backfill_is_the_classifier_with_a_concurrency_of_its_own() {
    let template = Template::default();
    for (stage, _) in STAGES {
        let classifier = template.properties(&format!("{stage}Classifier"));
        let backfill = template.properties(&format!("{stage}Backfill"));
        for same in ["CodeUri", "Environment"] {
            assert_eq!(backfill[same], classifier[same], "{same}");
        }
        // Reserved, unlike the classifier's, whose trigger is bounded instead.
        assert_eq!(backfill["ReservedConcurrentExecutions"], template.parameter("BackfillConcurrency"));
        assert_eq!(template.parameter("BackfillConcurrency"), "10", "as GIEMSA_BACKFILL_CONCURRENCY");
        assert!(classifier["ReservedConcurrentExecutions"].is_null());
        let none = Template::with(&[("BackfillConcurrency", "0")]).properties(&format!("{stage}Backfill"));
        assert!(none["ReservedConcurrentExecutions"].is_null());
        // Nothing but a job invokes it, and it takes nothing from the queue of live uploads.
        assert!(backfill["Events"].is_null(), "{backfill:?}");
        let mut rights = template.statements(&format!("{stage}ClassifierRole"));
        let of_the_queue = ["TakeUploads", "WriteLog", "ForgetFailures"];
        rights.retain(|statement| of_the_queue.iter().all(|sid| statement["Sid"] != *sid));
        let mut own = template.statements(&format!("{stage}BackfillRole"));
        own.retain(|statement| statement["Sid"] != "WriteLog");
        assert_eq!(own, rights);
        for (output, value) in [("BatchRole", "BatchRole.Arn"), ("BackfillFunction", "Backfill.Arn")] {
            let outputs = &template.raw()["Outputs"][format!("{stage}{output}")]["Value"];
            assert_eq!(template.answered(outputs), format!("${{{stage}{value}}}"));
        }
    }
}
