//! What a request to DynamoDB is about, what can happen to it, and how DynamoDB says that it fails.
//!
//! A batch of which a part is returned as unprocessed has had the rest done, and nothing of it is missing in both.

use axum::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::Kind;

/// What can happen to reads.
const READ: &[Kind] = &[
    Kind::Throughput,
    Kind::InternalError,
    Kind::Timeout,
    Kind::Reset,
    Kind::Truncate,
    Kind::Slow,
    Kind::LostAnswer,
    Kind::Kill,
];

/// What can happen to writes.
const WRITE: &[Kind] = &[
    Kind::Throughput,
    Kind::Conflict,
    Kind::InternalError,
    Kind::Timeout,
    Kind::Reset,
    Kind::Truncate,
    Kind::Slow,
    Kind::LostAnswer,
    Kind::Kill,
];

/// What can happen to the rest: tables are made and described at another rate.
const OTHER: &[Kind] =
    &[Kind::InternalError, Kind::Timeout, Kind::Reset, Kind::Slow, Kind::LostAnswer, Kind::Kill];

/// What can happen to an operation, e.g. `PutItem`.
pub fn kinds(operation: &str) -> &'static [Kind] {
    match operation {
        "GetItem" | "Query" | "Scan" | "BatchGetItem" | "TransactGetItems" => READ,
        "PutItem" | "UpdateItem" | "DeleteItem" | "BatchWriteItem" | "TransactWriteItems" => WRITE,
        _ => OTHER,
    }
}

/// Operation, table, and the item or the index range.
pub fn subject(operation: &str, request: &Value) -> String {
    let table = request["TableName"].as_str().unwrap_or_default();
    let what = match (request.get("Item").or_else(|| request.get("Key")), request.get("RequestItems")) {
        (Some(item), _) => item_name(item),
        (None, Some(Value::Object(tables))) => {
            let first = tables.iter().find_map(|(table, items)| Some((table, items_of(items)?.first()?)));
            first.map(|(table, item)| format!("{table} {}", item_name(key_part(item)))).unwrap_or_default()
        }
        _ => {
            let index = request["IndexName"].as_str().unwrap_or_default();
            let values = request["ExpressionAttributeValues"].as_object();
            // The first by name, which is the partition's; others may be times.
            let first =
                values.and_then(|values| values.values().next()).and_then(|value| value["S"].as_str());
            format!("{index} {}", first.unwrap_or_default())
        }
    };
    format!("{operation} {table} {what}")
}

/// An item by its key, without what differs from run to run: object versions and times.
fn item_name(item: &Value) -> String {
    let text = |name: &str| item[name]["S"].as_str();
    match (text("pk"), text("sk")) {
        (Some(pk), Some(sk)) if pk.starts_with("image#") || pk.starts_with("result#") => {
            format!("{pk} {}", sk.split('#').next().unwrap_or_default())
        }
        (Some(pk), _) => pk.to_owned(),
        // Somebody's own table.
        _ => item.as_object().and_then(|attributes| attributes.values().next()).unwrap_or(item).to_string(),
    }
}

/// The requests of a batch for one table, of either form.
fn items_of(items: &Value) -> Option<&Vec<Value>> {
    items.as_array().or_else(|| items["Keys"].as_array())
}

/// Item or key of one request of a batch.
fn key_part(request: &Value) -> &Value {
    let put_or_delete = request.pointer("/PutRequest/Item").or_else(|| request.pointer("/DeleteRequest/Key"));
    put_or_delete.unwrap_or(request)
}

/// Takes those items out of a batch that `is_held` says of, and returns them as they go into the answer; the first
/// item stays, because DynamoDB refuses the request where it can do nothing of it.
pub fn hold_back(request: &mut Value, mut is_held: impl FnMut(&str) -> bool) -> Option<Value> {
    let mut held_tables = Map::new();
    let mut is_first = true;
    for (table, items) in request.get_mut("RequestItems")?.as_object_mut()? {
        let rest = items.clone();
        let list = if items.is_array() { items.as_array_mut() } else { items["Keys"].as_array_mut() }?;
        let mut held = Vec::new();
        list.retain(|item| {
            let stays =
                std::mem::take(&mut is_first) || !is_held(&format!("{table} {}", item_name(key_part(item))));
            if !stays {
                held.push(item.clone());
            }
            stays
        });
        if !held.is_empty() {
            held_tables.insert(table.clone(), with_items(rest, held));
        }
    }
    // DynamoDB takes no empty list.
    request["RequestItems"]
        .as_object_mut()?
        .retain(|_, items| items_of(items).is_some_and(|list| !list.is_empty()));
    (!held_tables.is_empty()).then_some(Value::Object(held_tables))
}

/// `items` with another list of requests in it.
fn with_items(mut items: Value, list: Vec<Value>) -> Value {
    if items.is_array() {
        return Value::Array(list);
    }
    items["Keys"] = Value::Array(list);
    items
}

/// The answer to a batch, with `held` among what it says is unprocessed.
pub fn with_unprocessed(operation: &str, answer: &mut Value, held: Value) {
    let name = if operation == "BatchGetItem" { "UnprocessedKeys" } else { "UnprocessedItems" };
    // The embedded DynamoDB does all that it takes, so there is nothing to merge with.
    answer[name] = held;
}

/// The answer of a DynamoDB that refuses.
pub fn refusal(kind: Kind) -> Response<Body> {
    let (status, name, message) = match kind {
        Kind::Throughput => (
            StatusCode::BAD_REQUEST,
            "ProvisionedThroughputExceededException",
            "The level of configured provisioned throughput for the table was exceeded.",
        ),
        Kind::Conflict => {
            (StatusCode::BAD_REQUEST, "TransactionConflictException", "Transaction is ongoing for the item.")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "Internal server error"),
    };
    let body = json!({
        "__type": format!("com.amazonaws.dynamodb.v20120810#{name}"),
        "message": format!("{message} (a fault was injected)"),
    });
    let mut answer = Response::new(Body::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_items_without_versions_and_times() {
        let text = |text: &str| json!({"S": text});
        let table = [
            (
                "PutItem",
                json!({"TableName": "t", "Item": {"pk": text("result#prod#b/k#1"), "sk": text("result"), "x": text("y")}}),
                "PutItem t result#prod#b/k#1 result",
            ),
            (
                "DeleteItem",
                json!({"TableName": "t", "Key": {"pk": text("result#prod#b/k"), "sk": text("failure#v1")}}),
                "DeleteItem t result#prod#b/k failure",
            ),
            (
                "PutItem",
                json!({"TableName": "t", "Item": {"pk": text("model#prod"), "sk": text("2026-11-22T10:00:00Z#ab")}}),
                "PutItem t model#prod",
            ),
            (
                "Query",
                json!({"TableName": "t", "IndexName": "slide", "ExpressionAttributeValues":
                    {":pk": text("prod#s1"), ":since": text("2026")}}),
                "Query t slide prod#s1",
            ),
            (
                "BatchWriteItem",
                json!({"RequestItems": {"t": [{"DeleteRequest": {"Key": {"pk": text("p")}}}]}}),
                "BatchWriteItem  t p",
            ),
            ("GetItem", json!({"TableName": "u", "Key": {"id": text("7")}}), "GetItem u {\"S\":\"7\"}"),
        ];
        for (operation, request, expected) in table {
            assert_eq!(subject(operation, &request), expected);
        }
    }

    #[test]
    fn what_is_held_back_is_in_the_rest_and_nothing_is_in_both() {
        let put = |pk: &str| json!({"PutRequest": {"Item": {"pk": {"S": pk}}}});
        let mut request = json!({"RequestItems": {"t": [put("a"), put("b"), put("c")], "u": [put("b")]}});
        let held = hold_back(&mut request, |subject| subject.ends_with(" b")).unwrap();
        assert_eq!(request, json!({"RequestItems": {"t": [put("a"), put("c")]}}));
        assert_eq!(held, json!({"t": [put("b")], "u": [put("b")]}));
        assert_eq!(hold_back(&mut request, |_| false), None);

        let key = |pk: &str| json!({"pk": {"S": pk}});
        let mut request =
            json!({"RequestItems": {"t": {"Keys": [key("a"), key("b")], "ConsistentRead": true}}});
        let held = hold_back(&mut request, |_| true).unwrap();
        assert_eq!(request["RequestItems"]["t"]["Keys"], json!([key("a")]), "the first is done");
        assert_eq!(held, json!({"t": {"Keys": [key("b")], "ConsistentRead": true}}));
        let mut answer = json!({"Responses": {}, "UnprocessedKeys": {}});
        with_unprocessed("BatchGetItem", &mut answer, held.clone());
        assert_eq!(answer["UnprocessedKeys"], held);
    }
}
