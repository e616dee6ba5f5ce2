//! `docs/openapi.json` against the implementation: routes, schemas that are kept elsewhere as well, and requests that
//! schemathesis makes of it, sent to a running `giemsa up` with real results.
//!
//! Without the tool the test says SKIPPED, and fails with `CI=true`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use aws_sdk_s3::primitives::ByteStream;
use giemsa_local::INPUT_BUCKET;
use serde_json::Value;

use giemsa_tests::running_stack::{RunningStack, project};

fn json_file(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(project(path)).unwrap()).unwrap()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let openapi = json_file("docs/openapi.json");
    let mut described = BTreeSet::new();
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        described.extend(methods.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
    }
    let mut routes = BTreeSet::new();
    for entry in walkdir::WalkDir::new(project("crates/dashboard/src")) {
        let path = entry.unwrap().into_path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        for route in text.split(".route(\"/api/").skip(1) {
            let (path, handlers) = route.split_once('"').unwrap();
            let handlers = handlers.lines().next().unwrap();
            for method in ["get", "post", "put", "patch", "delete"] {
                if handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}(")) {
                    routes.insert(format!("{method} /api/{path}"));
                }
            }
        }
    }
    assert!(routes.len() > 20, "{routes:?}");
    assert_eq!(routes, described);
}

#[test]
fn schemas_are_those_of_the_records_and_reports() {
    let openapi = json_file("docs/openapi.json");
    let schemas = &openapi["components"]["schemas"];
    for (name, file) in [("Record", "docs/record.schema.json"), ("Report", "docs/report.schema.json")] {
        let mut expected = json_file(file);
        let own = expected.as_object_mut().unwrap();
        own.remove("$schema");
        own.remove("$id");
        let parts = own.remove("$defs").unwrap_or(Value::Object(serde_json::Map::new()));
        let moved = |value: &Value| -> Value {
            let text = value.to_string().replace("#/$defs/", &format!("#/components/schemas/{name}_"));
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(schemas[name], moved(&expected), "components.schemas.{name} is not {file}");
        for (part, schema) in parts.as_object().unwrap() {
            assert_eq!(
                schemas[format!("{name}_{part}")],
                moved(schema),
                "{name}_{part} is not that of {file}"
            );
        }
    }
}

/// Where schemathesis is.
#[expect(
    clippy::disallowed_methods,
    reason = "where the tools are is a setting of the test run, not of the program"
)]
fn schemathesis() -> Option<PathBuf> {
    let found = std::env::var_os("GIEMSA_TEST_SCHEMATHESIS").map(PathBuf::from);
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(found.is_some() || !is_ci, "GIEMSA_TEST_SCHEMATHESIS has to name schemathesis with CI=true");
    if found.is_none() {
        eprintln!(
            "SKIPPED: docs/openapi.json against the running API: GIEMSA_TEST_SCHEMATHESIS is not set (make test)"
        );
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_made_of_the_description_find_nothing() {
    let Some(schemathesis) = schemathesis() else { return };
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(&folder.path().join("data"), &[]);
    let s3 = stack.clients().s3;
    // Under the names that the examples have, so that they are found.
    for (key, sample) in [
        ("slide-001/cell.png", "slide-002-falciparum/cell-08.png"),
        ("slide-001/another.png", "slide-001-healthy/cell-01.png"),
        ("slide-001/empty.png", "slide-005-trouble/empty.png"),
    ] {
        let body = ByteStream::from(std::fs::read(project("sample-images").join(sample)).unwrap());
        s3.put_object().bucket(INPUT_BUCKET).key(key).body(body).send().await.unwrap();
    }
    stack.wait_until_answered();
    let output = Command::new(schemathesis)
        .arg("--config-file")
        .arg(project("tests/data/schemathesis.toml"))
        .args(["run", "--no-color"])
        .arg(format!("http://{}/api/openapi.json", stack.dashboard_address()))
        // It keeps what it finds beside where it runs.
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Tested: 26"), "not every operation was tried: {said}");
    assert!(!stack.stderr().contains("panicked"), "{}", stack.stderr());
}
