//! Least privilege, shown: what the real functions ask of AWS, recorded, against what the template's roles allow.
//!
//! The programs of the packages run with the template's environment against the embedded servers. Each has proxies of its
//! own in front of these, so that each request belongs to one role, also one that a browser makes by a signed link.
//!
//! | file | what it holds |
//! |---|---|
//! | `cloud.rs` | servers, and functions as processes |
//! | `recorder.rs` | the proxies |
//! | `calls.rs` | which rights a request needs, by AWS's documentation |
//! | `roles.rs` | what a role allows, and what is wrong with it |
//! | `sources.rs` | which operations the code names, so that none is left out |
//! | `classifiers.rs`, `gate.rs`, `dashboard.rs` | what the functions live through |

mod calls;
mod classifiers;
mod cloud;
mod dashboard;
mod gate;
mod recorder;
mod roles;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use giemsa_store::leading_keys;

use super::template::{STAGES, Template, texts};
use cloud::{Cloud, Function};
use roles::{Condition, Right, Statement, allows, problems};

const FUNCTION: &str = "AWS::Serverless::Function";

fn role_of(template: &Template<'_>, function: &str) -> Vec<Statement> {
    template.statements(&format!("{function}Role")).iter().map(Statement::of).collect()
}

/// What Lambda does in the name of a function, so that no call of the function shows it: each with the property of the
/// template that makes Lambda do it.
///
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-intro-execution-role.html>,
/// <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html>,
/// <https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html>
fn needed_by_lambda(template: &Template<'_>, function: &str) -> Vec<Right> {
    let properties = template.properties(function);
    let log = texts(&properties["LoggingConfig"]["LogGroup"])[0].replace('}', ".Arn}");
    let mut rights = vec![
        Right::new("logs:CreateLogStream", &log, "LoggingConfig"),
        Right::new("logs:PutLogEvents", &log, "LoggingConfig"),
    ];
    if template.raw()["Globals"]["Function"]["Tracing"] == "Active" {
        // X-Ray knows no resources.
        rights.extend(
            ["PutTraceSegments", "PutTelemetryRecords"]
                .map(|action| Right::new(&format!("xray:{action}"), "*", "Tracing")),
        );
    }
    for event in properties["Events"].as_mapping().into_iter().flat_map(|events| events.values()) {
        assert_eq!(event["Type"], "SQS", "{function}: {event:?}");
        let queue = event["Properties"]["Queue"].as_str().unwrap();
        rights.extend(
            ["ReceiveMessage", "DeleteMessage", "GetQueueAttributes"]
                .map(|action| Right::new(&format!("sqs:{action}"), queue, "Events")),
        );
    }
    let failures = &properties["EventInvokeConfig"]["DestinationConfig"]["OnFailure"];
    if !failures.is_null() {
        assert_eq!(failures["Type"], "SQS", "{function}: {failures:?}");
        let queue = failures["Destination"].as_str().unwrap();
        rights.push(Right::new("sqs:SendMessage", queue, "EventInvokeConfig"));
    }
    rights
}

/// Rights that each function of the template needs.
type Needed = BTreeMap<String, Vec<Right>>;

fn of_all(needed: &Needed) -> Vec<Right> {
    Vec::from_iter(needed.values().flatten().cloned().collect::<BTreeSet<Right>>())
}

async fn record_all(template: &Template<'_>, cloud: &Cloud) -> Needed {
    let gate = gate::live(cloud).await;
    let (production, development) =
        tokio::join!(classifiers::live(cloud, "Prod", "prod"), classifiers::live(cloud, "Dev", "dev"));
    let ([mut classifier, backfill], [mut other_classifier, other_backfill]) = (production, development);
    let dashboard = dashboard::live(cloud, &mut classifier, &mut other_classifier).await;
    let of = |function: &Function| {
        // One of each kind says it all.
        let seen: BTreeSet<Right> = function.rights.lock().unwrap().iter().cloned().collect();
        let mut rights = needed_by_lambda(template, &function.name);
        rights.extend(seen);
        (function.name.clone(), rights)
    };
    let classifiers = [classifier, backfill, other_classifier, other_backfill];
    classifiers.iter().map(|classifier| &classifier.function).chain([&gate, &dashboard]).map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_grant_what_functions_ask_for_and_nothing_else() {
    let template = Template::default();
    let cloud = Cloud::start().await;
    let needed = record_all(&template, &cloud).await;
    let functions: BTreeSet<String> = template.of_type(FUNCTION).into_iter().collect();
    assert_eq!(needed.keys().cloned().collect::<BTreeSet<_>>(), functions, "every function was run");
    let of_all = of_all(&needed);
    let problems_of =
        |(name, own): (&String, &Vec<Right>)| problems(name, &role_of(&template, name), own, &of_all);
    let found: BTreeSet<String> = needed.iter().flat_map(problems_of).collect();
    assert!(found.is_empty(), "{found:#?}");
    // What was left out of the recording would not be missed above.
    let operation = |right: &Right| right.because.split(' ').next().unwrap_or_default().to_owned();
    let mut recorded: BTreeMap<String, BTreeSet<String>> =
        needed.iter().map(|(name, rights)| (name.clone(), rights.iter().map(operation).collect())).collect();
    let left = sources::problems(&recorded);
    assert!(left.is_empty(), "{left:#?}");
    recorded.get_mut("Gate").unwrap().remove("ListObjectsV2");
    assert_eq!(sources::problems(&recorded).len(), 1);

    every_grant_is_needed(&template, &needed);
    every_surplus_is_named(&template, &needed);
    development_writes_nothing_of_production(&cloud).await;
}

/// Takes each action, each resource and each leading key out of each role: the report has to name what is lacking.
fn every_grant_is_needed(template: &Template<'_>, needed: &Needed) {
    for name in needed.keys() {
        let role = role_of(template, name);
        for (index, statement) in role.iter().enumerate() {
            let lacks = |change: &dyn Fn(&mut Statement), named: &str| {
                let mut role = role.clone();
                change(&mut role[index]);
                let found = problems(name, &role, &needed[name], &[]);
                let is_named = |problem: &String| {
                    problem.starts_with(&format!("{name} lacks"))
                        && named.split('*').all(|part| problem.contains(part))
                };
                assert!(found.iter().any(is_named), "{name} without {named} of {}: {found:?}", statement.sid);
            };
            for action in &statement.actions {
                lacks(&|changed| changed.actions.retain(|other| other != action), action);
            }
            for resource in &statement.resources {
                lacks(&|changed| changed.resources.retain(|other| other != resource), resource);
            }
            for pattern in statement.conditions.iter().flat_map(|condition| &condition.patterns) {
                let change =
                    |changed: &mut Statement| changed.conditions[0].patterns.retain(|other| other != pattern);
                lacks(&change, pattern);
            }
        }
    }
}

/// Gives each role more, in each way that a template can: the report has to name it.
fn every_surplus_is_named(template: &Template<'_>, needed: &Needed) {
    let of_all = of_all(needed);
    let surplus = |name: &str, change: &dyn Fn(&mut Vec<Statement>), named: &str| {
        let mut role = role_of(template, name);
        change(&mut role);
        let found = problems(name, &role, &needed[name], &of_all);
        let is_named = |problem: &String| problem.starts_with(name) && problem.contains(named);
        assert!(found.iter().any(is_named), "{name} with {named}: {found:?}");
    };
    for name in needed.keys() {
        for index in 0..role_of(template, name).len() {
            for action in ["s3:DeleteObject", "dynamodb:Scan", "sqs:PurgeQueue"] {
                surplus(name, &|role| role[index].actions.push(action.to_owned()), action);
            }
        }
    }
    fn of<'a>(role: &'a mut [Statement], sid: &str) -> &'a mut Statement {
        role.iter_mut().find(|statement| statement.sid == sid).unwrap_or_else(|| panic!("there is no {sid}"))
    }
    let bucket = |bucket: &str, keys: &str| format!("arn:${{AWS::Partition}}:s3:::${{{bucket}}}/{keys}");
    // Patterns that are used and too wide.
    let wide = bucket("ResultsBucket", "results/*");
    surplus(
        "DevClassifier",
        &|role| of(role, "WriteResults").resources = vec![wide.clone()],
        "results/stage=prod",
    );
    let wide = bucket("ModelBucket", "*");
    surplus("DevBackfill", &|role| of(role, "ReadModel").resources = vec![wide.clone()], "prod");
    surplus("Gate", &|role| of(role, "WriteReportsAndArchive").resources = vec![wide.clone()], "golden-sets");
    for (condition, named) in [
        (Vec::new(), "result#prod"),
        (
            vec!["result#*".to_owned(), "slide#dev#*".into(), "days#dev".into(), "model#dev".into()],
            "result#prod",
        ),
        ([leading_keys("dev"), vec!["model#*".into()]].concat(), "model#prod"),
    ] {
        let change = |role: &mut Vec<Statement>| {
            let statement = of(role, "ReadAndWriteTable");
            match condition.is_empty() {
                true => statement.conditions.clear(),
                false => statement.conditions[0].patterns.clone_from(&condition),
            }
        };
        surplus("DevClassifier", &change, named);
    }
    let all_items = |role: &mut Vec<Statement>| of(role, "WriteTable").conditions.clear();
    surplus("Dashboard", &all_items, "model#prod");
}

#[test]
fn a_stage_may_touch_the_keys_that_the_code_names_and_no_others() {
    let template = Template::default();
    for (prefix, stage) in STAGES {
        let other = if stage == "dev" { "prod" } else { "dev" };
        for kind in ["Classifier", "Backfill"] {
            let role = role_of(&template, &format!("{prefix}{kind}"));
            let of_table: Vec<&Statement> = role
                .iter()
                .filter(|s| s.actions.iter().any(|action| action.starts_with("dynamodb:")))
                .collect();
            let condition = Condition {
                operator: "ForAllValues:StringLike".into(),
                key: "dynamodb:LeadingKeys".into(),
                patterns: leading_keys(stage),
            };
            assert_eq!(of_table[0].conditions, [condition], "{prefix}{kind}");
            let may = |action: &str, resource: &str, key: &str| {
                let keys = if key.is_empty() { Vec::new() } else { vec![key.to_owned()] };
                allows(&role, &Right::new(action, resource, "").of_items(keys))
            };
            for key in ["result#STAGE#in/s/a.png", "slide#STAGE#s", "days#STAGE", "model#STAGE"] {
                for action in
                    ["PutItem", "UpdateItem", "GetItem", "Query"].map(|name| format!("dynamodb:{name}"))
                {
                    assert!(may(&action, "${Table.Arn}", &key.replace("STAGE", stage)), "{action} {key}");
                    let foreign = key.replace("STAGE", other);
                    assert!(!may(&action, "${Table.Arn}", &foreign), "{action} {foreign}");
                }
                assert!(!may("dynamodb:DeleteItem", "${Table.Arn}", &key.replace("STAGE", other)), "{key}");
            }
            // What people decide is for no function that answers images to change.
            for key in ["image#in/s/a.png", "release#prod", "release#dev", "layout"] {
                assert!(!may("dynamodb:PutItem", "${Table.Arn}", key), "{key}");
            }
            let results = |stage: &str| {
                format!(
                    "arn:${{AWS::Partition}}:s3:::${{ResultsBucket}}/results/stage={stage}/date=2026-11-22/a.json"
                )
            };
            for action in ["s3:PutObject", "s3:GetObject"] {
                assert!(may(action, &results(stage), "") && !may(action, &results(other), ""), "{action}");
            }
        }
    }
}

/// Development's program, told that it were production, behind development's role as IAM would enforce it: whichever of
/// production's doors is opened for it, the next one is closed.
async fn development_writes_nothing_of_production(cloud: &Cloud) {
    let own = role_of(&Template::default(), "DevClassifier");
    let of_bucket = |action: &str, bucket: &str, keys: &str| Statement {
        sid: "Opened".to_owned(),
        actions: vec![action.to_owned()],
        resources: vec![format!("arn:${{AWS::Partition}}:s3:::${{{bucket}}}/{keys}")],
        conditions: Vec::new(),
    };
    let model = of_bucket("s3:GetObject", "ModelBucket", "prod/model.onnx");
    let crashes = Statement {
        actions: vec!["dynamodb:GetItem".to_owned()],
        resources: vec!["${Table.Arn}".to_owned()],
        ..model.clone()
    };
    let results = of_bucket("s3:PutObject", "ResultsBucket", "results/stage=prod/*");
    for (stage, opened, refused) in [
        ("dev", vec![], None),
        ("prod", vec![], Some(("s3:GetObject", "prod/model.onnx"))),
        ("prod", vec![model.clone()], Some(("dynamodb:GetItem", "model#prod"))),
        ("prod", vec![model.clone(), crashes.clone()], Some(("s3:PutObject", "results/stage=prod/"))),
        ("prod", vec![model, crashes, results], Some(("dynamodb:PutItem", "result#prod#"))),
    ] {
        let role = [own.clone(), opened.clone()].concat();
        let changed = [("GIEMSA_STAGE", stage), ("GIEMSA_GATE", "off")];
        let mut function = Function::start_as(cloud, "DevClassifier", Some(role.clone()), &changed).await;
        let key = format!("enforced/{stage}-{}.png", opened.len());
        let is_answered = classifiers::answer_one(cloud, &mut function, &key).await;
        assert_eq!(is_answered, refused.is_none(), "{stage}: {}", function.log());
        let history = cloud.lab.table().image(giemsa_tests::lab::INPUT, &key, &[stage]).await.unwrap();
        assert_eq!((history.results.len(), history.failures.len()), (usize::from(is_answered), 0), "{key}");
        if let Some((action, what)) = refused {
            let asked = function.rights.lock().unwrap().clone();
            let is_it = |right: &&Right| {
                let keys = right.leading_keys.iter().any(|key| key.starts_with(what));
                right.action == action && (right.resource.contains(what) || keys)
            };
            let right = asked
                .iter()
                .find(is_it)
                .unwrap_or_else(|| panic!("{key}: {action} was not tried: {asked:?}"));
            assert!(!allows(&role, right), "{right:?}");
        }
    }
}
