//! `make deploy` and `make destroy`, with a stand-in for the account and the real S3 and DynamoDB clients.
//!
//! Needs the aws client's path in `GIEMSA_TEST_AWS`; without it nothing is tested, which is said aloud, and is a failure
//! where `CI` is `true`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use giemsa_tests::lab::{INPUT, Lab, MODELS, RESULTS, TABLE, uninfected_cell};
use tempfile::TempDir;

/// A folder with the scripts, what they need beside them, and what the stand-in answers.
struct Desk {
    folder: TempDir,
    real_aws: PathBuf,
    endpoints: Vec<(&'static str, String)>,
}

#[allow(clippy::disallowed_methods, reason = "the client's path is a setting of the machine that tests")]
fn desk(lab: Option<&Lab>) -> Option<Desk> {
    let Some(real_aws) = std::env::var_os("GIEMSA_TEST_AWS").map(PathBuf::from) else {
        let message = "GIEMSA_TEST_AWS is not set; expected the path of the aws client (pip install awscli)";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
        eprintln!("\n*** SKIPPED: make deploy and make destroy: {message} ***\n");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    fs::create_dir_all(folder.path().join("models/golden/parasitized")).unwrap();
    for model in ["thin-smear.onnx", "golden/README.md", "golden/parasitized/ring-early-01.png"] {
        symlink(root.join("models").join(model), folder.path().join("models").join(model)).unwrap();
    }
    // Copied: the scripts find what they need beside themselves.
    fs::create_dir_all(folder.path().join("infra")).unwrap();
    for script in ["account.sh", "deploy", "destroy", "template.yaml"] {
        fs::copy(root.join("infra").join(script), folder.path().join("infra").join(script)).unwrap();
    }
    fs::create_dir_all(folder.path().join("target/lambda")).unwrap();
    for package in ["classifier", "gate", "dashboard"] {
        fs::write(folder.path().join(format!("target/lambda/{package}.zip")), "").unwrap();
    }
    let desk = Desk { folder, real_aws, endpoints: lab.map(Lab::endpoints).into_iter().flatten().collect() };
    fs::create_dir(desk.path("stub")).unwrap();
    let outputs = [("InputBucket", INPUT), ("ModelBucket", MODELS), ("ResultsBucket", RESULTS)];
    let lines: Vec<String> = outputs.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
    desk.answer("outputs", &lines.concat());
    desk.answer("tells", "True");
    Some(desk)
}

impl Desk {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn answer(&self, name: &str, text: &str) {
        fs::write(self.path("stub").join(name), text).unwrap();
    }

    /// What was asked of AWS since the last time.
    fn asked(&self) -> String {
        let log = self.path("stub/log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(log);
        text
    }

    /// Runs a script with `answers` to its questions: whether it succeeded, and all that it said.
    fn run(&self, script: &str, settings: &[(&str, &str)], answers: &str) -> (bool, String) {
        let mut command = Command::new(self.path("infra").join(script));
        command
            .env_remove("AWS_PROFILE")
            .env("AWS", Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/infra/aws_stub"))
            .env("STUB", self.path("stub"))
            .env("REAL_AWS", &self.real_aws)
            .env("AWS_ACCESS_KEY_ID", "giemsa")
            .env("AWS_SECRET_ACCESS_KEY", "giemsa-local")
            .env("AWS_REGION", "eu-central-1")
            .env("GIEMSA_DEPLOY_PAUSE", "0")
            .envs(self.endpoints.iter().cloned())
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may end before it has read all of it.
        let _ = child.stdin.take().unwrap().write_all(answers.as_bytes());
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].map(|part| String::from_utf8(part).unwrap()).concat();
        (output.status.success(), said)
    }
}

#[test]
fn what_is_missing_is_named_with_the_way_out() {
    let Some(desk) = desk(None) else { return };
    let says = |settings: &[(&str, &str)], parts: &[&str]| {
        for script in ["deploy", "destroy"] {
            let (done, said) = desk.run(script, settings, "");
            assert!(!done, "{said}");
            for part in parts {
                assert!(said.contains(part), "{script}: {part:?} is not in {said}");
            }
        }
    };
    says(&[("AWS", "/no/such/aws")], &["the aws client is not installed", "pip install awscli"]);
    says(&[("AWS_REGION", "")], &["no region is set", "export AWS_REGION=eu-central-1"]);
    says(&[("AWS_REGION", "Frankfurt")], &["the region is \"Frankfurt\"", "eu-central-1"]);
    says(&[("STACK", "my stack")], &["STACK is \"my stack\""]);
    desk.answer("refusal", "Unable to locate credentials");
    says(&[], &["AWS does not know who you are", "aws configure", "Unable to locate credentials"]);
    desk.answer(
        "refusal",
        "Could not connect to the endpoint URL: \"https://sts.eu-nowhere-9.amazonaws.com/\"",
    );
    says(&[("AWS_REGION", "eu-nowhere-9")], &["does not answer in the region \"eu-nowhere-9\""]);
    fs::remove_file(desk.path("stub/refusal")).unwrap();

    let refused = |parameters: &str, part: &str| {
        let (done, said) = desk.run("deploy", &[("PARAMETERS", parameters)], "");
        assert!(!done && said.contains(part), "{part:?} is not in {said}");
    };
    refused("Stages", "expected Name=value");
    refused("Stage=prod", "no parameter \"Stage\"; expected one of");
    // Uploads to it would never be answered, and nobody would be told.
    desk.answer("tells", "False");
    refused("ExistingInputBucket=lab-input", "does not tell EventBridge of uploads");
    fs::remove_file(desk.path("target/lambda/gate.zip")).unwrap();
    refused("", "make package ARCH=arm64");
    let asked = desk.asked();
    for change in ["deploy", "delete", "execute", "create"] {
        assert!(!asked.contains(&format!("cloudformation {change}")), "{asked}");
    }
    let (done, said) = desk.run("destroy", &[], "");
    assert!(!done && said.contains("there is no stack giemsa in account 111122223333"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_shows_what_would_change_and_fills_an_empty_model_bucket() {
    let lab = Lab::without_model().await;
    let Some(desk) = desk(Some(&lab)) else { return };
    let (done, said) = desk.run("deploy", &[], "y\nn\n");
    assert!(!done && said.contains("nothing was changed"), "{said}");
    for shown in ["add      Table", "modify   InputBucket", "REPLACED: the new one is empty"] {
        assert!(said.contains(shown), "{shown:?} is not in {said}");
    }
    let asked = desk.asked();
    // The stand-in's account is new: nothing can be reserved in it.
    assert!(
        asked.contains("BackfillConcurrency=0") && said.contains("this account runs 10 functions"),
        "{said}"
    );
    assert!(!asked.contains("execute-change-set") && asked.contains("delete-change-set"), "{asked}");
    assert!(asked.contains("delete-stack"), "a stack that was never made is left behind: {asked}");

    let settings =
        [("PARAMETERS", "Stages=prod AlarmEmail=lab@example.org"), ("YES", "1"), ("ARCH", "x86_64")];
    let (done, said) = desk.run("deploy", &settings, "");
    assert!(done, "{said}");
    let given = "Architecture=x86_64 Stages=prod AlarmEmail=lab@example.org BackfillConcurrency=0";
    assert!(desk.asked().contains(given));
    assert!(
        said.contains(&format!("aws s3 cp sample-images/slide-002-falciparum/cell-01.png s3://{INPUT}/")),
        "{said}"
    );
    let model = giemsa_tests::lab::sample_model();
    for stage in ["dev", "prod"] {
        assert_eq!(lab.model_object(&format!("{stage}/model.onnx")).await.as_ref(), Some(&model), "{stage}");
    }
    assert!(lab.model_object("golden/parasitized/ring-early-01.png").await.is_some());
    assert!(lab.model_object("golden/README.md").await.is_none());

    // Again, with a model of the lab's own: it stays.
    lab.put_in_models("prod/model.onnx", b"own").await;
    desk.answer("same", "");
    let (done, said) = desk.run("deploy", &[], "");
    assert!(done && said.contains("nothing to change"), "{said}");
    assert_eq!(lab.model_object("prod/model.onnx").await.unwrap(), b"own");
}

#[tokio::test(flavor = "multi_thread")]
async fn destroy_deletes_data_only_for_two_answers_of_which_one_is_its_name() {
    let lab = Lab::without_model().await;
    let Some(desk) = desk(Some(&lab)) else { return };
    lab.put("s/1.png", &uninfected_cell()).await;
    lab.put("s/2 é+&.png", &uninfected_cell()).await;
    let put = lab.clients.s3.put_object().bucket(RESULTS).key("results/a b.json");
    put.body(aws_sdk_s3::primitives::ByteStream::from_static(b"{}")).send().await.unwrap();
    let rows = [
        ("AWS::S3::Bucket", "InputBucket", INPUT),
        ("AWS::S3::Bucket", "ModelBucket", MODELS),
        ("AWS::S3::Bucket", "ResultsBucket", RESULTS),
        ("AWS::DynamoDB::Table", "Table", TABLE),
        ("AWS::SQS::Queue", "ProdQueue", "https://sqs/1/giemsa-ProdQueue"),
        ("AWS::SQS::Queue", "ProdDeadLetterQueue", "https://sqs/1/giemsa-ProdDeadLetterQueue"),
    ];
    let rows = rows.map(|(kind, logical, name)| format!("{kind}\t{logical}\t{name}\tCREATE_COMPLETE\n"));
    desk.answer("resources", &rows.concat());
    desk.answer("state", "CREATE_COMPLETE");

    // Without a yes, and also where YES=1 answers deploy, nothing happens.
    let (done, said) = desk.run("destroy", &[("YES", "1")], "");
    assert!(!done && said.contains("nothing was changed"), "{said}");
    assert!(!desk.asked().contains("delete"));

    // The input bucket: a yes and a wrong name. Models: empty. Results: a yes and the name. The table and dead letters: no.
    let answers = format!("y\ny\nyes\ny\ny\n{RESULTS}\nn\nn\n");
    let (done, said) = desk.run("destroy", &[], &answers);
    assert!(done, "{said}");
    for part in [
        format!("The bucket {INPUT} holds 2 objects"),
        format!("To delete the 2 objects (old versions count) of the bucket {INPUT}, type its name"),
        format!("The bucket {MODELS} is empty"),
        format!("The bucket {RESULTS} holds 1 objects"),
        format!("bucket {INPUT}: 2 objects"),
        "dead-letter queue giemsa-ProdDeadLetterQueue: 3 messages".to_owned(),
    ] {
        assert!(said.contains(&part), "{part:?} is not in {said}");
    }
    assert!(!said.contains("giemsa-ProdQueue"));
    let listed = lab.clients.s3.list_buckets().send().await.unwrap();
    let left: Vec<&str> = listed.buckets().iter().filter_map(|bucket| bucket.name()).collect();
    assert!(left.contains(&INPUT) && !left.contains(&MODELS) && !left.contains(&RESULTS), "{left:?}");
    let objects = lab.clients.s3.list_objects_v2().bucket(INPUT).send().await.unwrap();
    assert_eq!(objects.contents().len(), 2);
    assert!(lab.clients.dynamodb.describe_table().table_name(TABLE).send().await.is_ok());
}
