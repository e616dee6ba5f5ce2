//! Which rights a request to S3, DynamoDB or SQS needs, by AWS's documentation.
//!
//! It never takes an operation that it does not know for harmless: that becomes a right that no role has. Names of
//! buckets, table and queues come out as the template names them.
//!
//! | what | source |
//! |---|---|
//! | operations of S3 | <https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html> |
//! | a missing object is 404 with `s3:ListBucket` on the bucket, else 403; `HeadObject` needs `s3:GetObject` | <https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html> |
//! | with a version `s3:GetObjectVersion`, and not `s3:GetObject` | <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html> |
//! | a copy reads its source and writes its target; tags are copied, with rights of their own, unless replaced | <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html> |
//! | multipart uploads, `If-Match` on a write | <https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html#mpuAndPermissions>, <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html> |
//! | a signed link may do what its signer may | <https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html> |
//! | transactions need the rights of their parts | <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html> |
//! | leading keys are the partition keys of the items | <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html> |

use axum::http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::roles::Right;
use giemsa_tests::lab::{INPUT, MODELS, RESULTS, TABLE};

/// Buckets of the laboratory, as the template names them.
pub const BUCKETS: [(&str, &str); 3] =
    [(INPUT, "${InputBucket}"), (MODELS, "${ModelBucket}"), (RESULTS, "${ResultsBucket}")];

fn bucket_arn(bucket: &str) -> String {
    let known = BUCKETS.iter().find(|(name, _)| *name == bucket);
    format!("arn:${{AWS::Partition}}:s3:::{}", known.map_or(bucket, |(_, name)| name))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().expect("the SDK sends UTF-8").into_owned()
}

/// Bucket and key of `/<bucket>/<key>` or `<bucket>/<key>`.
fn place(path: &str) -> (String, String) {
    let path = path.trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    (decoded(bucket), decoded(key))
}

/// What a request to S3 needs, that was answered with `status`.
pub fn of_s3(method: &Method, uri: &Uri, headers: &HeaderMap, status: u16) -> Vec<Right> {
    let (bucket, key) = place(uri.path());
    let of_bucket = bucket_arn(&bucket);
    let of_object = format!("{of_bucket}/{key}");
    let has = |name: &str| {
        let query = uri.query().unwrap_or_default().split('&');
        query.map(|pair| pair.split('=').next().unwrap_or_default()).any(|found| found == name)
    };
    let right = |action: &str, resource: String, because: &str| Right::new(action, resource, because);
    let read = |is_version: bool| if is_version { "s3:GetObjectVersion" } else { "s3:GetObject" };
    match (method.as_str(), key.is_empty()) {
        ("GET" | "HEAD", false) if !has("uploadId") && !has("tagging") => {
            let operation = if method == "GET" { "GetObject" } else { "HeadObject" };
            let mut rights = vec![right(read(has("versionId")), of_object, operation)];
            if status == 404 {
                let missing = format!("{operation} of what is missing ({key})");
                rights.push(right("s3:ListBucket", of_bucket, &missing));
            }
            rights
        }
        ("PUT", false) if headers.contains_key("x-amz-copy-source") => {
            let source = headers["x-amz-copy-source"].to_str().unwrap();
            let (path, version) = source.split_once('?').unwrap_or((source, ""));
            let (from, from_key) = place(path);
            let from = format!("{}/{from_key}", bucket_arn(&from));
            let mut rights = vec![
                right(read(version.starts_with("versionId=")), from.clone(), "CopyObject"),
                right("s3:PutObject", of_object.clone(), "CopyObject"),
            ];
            if headers.get("x-amz-tagging-directive").is_none_or(|directive| directive != "REPLACE") {
                rights.push(right("s3:GetObjectTagging", from, "CopyObject of an object with tags"));
                rights.push(right("s3:PutObjectTagging", of_object, "CopyObject of an object with tags"));
            }
            rights
        }
        ("PUT", false) if has("partNumber") => vec![right("s3:PutObject", of_object, "UploadPart")],
        ("PUT", false) if uri.query().is_none_or(|_| has("x-id") || has("X-Amz-Signature")) => {
            let mut rights = vec![right("s3:PutObject", of_object.clone(), "PutObject")];
            if headers.contains_key("if-match") {
                rights.push(right("s3:GetObject", of_object, "PutObject with If-Match"));
            }
            rights
        }
        ("POST", false) if has("uploads") => vec![right("s3:PutObject", of_object, "CreateMultipartUpload")],
        ("POST", false) if has("uploadId") => {
            vec![right("s3:PutObject", of_object, "CompleteMultipartUpload")]
        }
        ("DELETE", false) if has("uploadId") => {
            vec![right("s3:AbortMultipartUpload", of_object, "AbortMultipartUpload")]
        }
        ("GET", true) if has("list-type") => vec![right("s3:ListBucket", of_bucket, "ListObjectsV2")],
        ("GET", true) if has("versions") => {
            vec![right("s3:ListBucketVersions", of_bucket, "ListObjectVersions")]
        }
        ("GET", true) if has("versioning") => {
            vec![right("s3:GetBucketVersioning", of_bucket, "GetBucketVersioning")]
        }
        // A browser asks before it sends, without a signature; the bucket's CORS rules answer.
        ("OPTIONS", _) => Vec::new(),
        _ => vec![unknown("s3", &format!("{method} {uri}"))],
    }
}

/// What a request to DynamoDB or SQS needs, whose operation is in `target`.
pub fn of_json(target: &str, body: &Value) -> Vec<Right> {
    match target.split_once('.') {
        Some(("DynamoDB_20120810", operation)) => of_dynamodb(operation, body),
        Some(("AmazonSQS", operation)) => {
            let url = body["QueueUrl"].as_str().unwrap_or_default();
            let queue = url.rsplit('/').next().unwrap_or_default();
            vec![Right::new(&format!("sqs:{operation}"), format!("${{{queue}.Arn}}"), operation)]
        }
        _ => vec![unknown("aws", target)],
    }
}

fn of_dynamodb(operation: &str, body: &Value) -> Vec<Right> {
    let table = |table: &Value| match table.as_str() {
        Some(TABLE) => "${Table.Arn}".to_owned(),
        other => format!("{other:?}"),
    };
    let right = |action: &str, resource: String, keys: Vec<&Value>| {
        let keys =
            keys.into_iter().map(|key| key["S"].as_str().expect("partition keys are texts").to_owned());
        Right::new(&format!("dynamodb:{action}"), resource, operation).of_items(keys.collect())
    };
    match operation {
        "GetItem" | "UpdateItem" | "DeleteItem" => {
            vec![right(operation, table(&body["TableName"]), vec![&body["Key"]["pk"]])]
        }
        "PutItem" => vec![right(operation, table(&body["TableName"]), vec![&body["Item"]["pk"]])],
        "Query" => {
            let index = body["IndexName"].as_str().map(|index| format!("/index/{index}"));
            let resource = format!("{}{}", table(&body["TableName"]), index.unwrap_or_default());
            vec![right(operation, resource, vec![&body["ExpressionAttributeValues"][":pk"]])]
        }
        "BatchGetItem" => body["RequestItems"]
            .as_object()
            .into_iter()
            .flatten()
            .flat_map(|(name, asked)| {
                let keys = asked["Keys"].as_array().into_iter().flatten();
                keys.map(|key| right(operation, table(&name.as_str().into()), vec![&key["pk"]]))
            })
            .collect(),
        "TransactWriteItems" => body["TransactItems"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|item| item.as_object().into_iter().flatten())
            .map(|(part, item)| {
                let action =
                    if part == "ConditionCheck" { "ConditionCheckItem" } else { &format!("{part}Item") };
                let pk = if part == "Put" { &item["Item"]["pk"] } else { &item["Key"]["pk"] };
                right(action, table(&item["TableName"]), vec![pk])
            })
            .collect(),
        other => vec![unknown("dynamodb", other)],
    }
}

fn unknown(service: &str, what: &str) -> Right {
    Right::new(&format!("{service}:?"), "?", format!("{what}, whose rights are not known here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(method: &str, uri: &str, headers: &[(&'static str, &str)], status: u16) -> Vec<(String, String)> {
        let headers = headers.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        let rights = of_s3(&method.parse().unwrap(), &uri.parse().unwrap(), &headers.collect(), status);
        let short = |text: String| text.replace("arn:${AWS::Partition}:s3:::", "");
        rights.into_iter().map(|right| (right.action, short(right.resource))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(action, resource)| ((*action).to_owned(), (*resource).to_owned())).collect()
    }

    #[test]
    fn requests_to_s3_need_what_aws_documents() {
        let at = format!("/{INPUT}/a%20b.png");
        let (of_it, it) = ("${InputBucket}", "${InputBucket}/a b.png");
        for (method, query, status, expected) in [
            ("GET", "?x-id=GetObject", 200, vec![("s3:GetObject", it)]),
            ("GET", "?versionId=1&x-id=GetObject", 200, vec![("s3:GetObjectVersion", it)]),
            ("HEAD", "", 404, vec![("s3:GetObject", it), ("s3:ListBucket", of_it)]),
            ("PUT", "?x-id=PutObject", 200, vec![("s3:PutObject", it)]),
            ("PUT", "?partNumber=1&uploadId=u", 200, vec![("s3:PutObject", it)]),
            ("POST", "?uploads", 200, vec![("s3:PutObject", it)]),
            ("POST", "?uploadId=u", 200, vec![("s3:PutObject", it)]),
            ("DELETE", "?uploadId=u", 204, vec![("s3:AbortMultipartUpload", it)]),
            // Nothing here deletes, tags or reads access lists: such a request is not a right that a role has.
            ("DELETE", "", 204, vec![("s3:?", "?")]),
            ("GET", "?tagging", 200, vec![("s3:?", "?")]),
            ("PUT", "?acl", 200, vec![("s3:?", "?")]),
        ] {
            assert_eq!(
                s3(method, &format!("{at}{query}"), &[], status),
                pairs(&expected),
                "{method} {query}"
            );
        }
        for (query, action) in [
            ("list-type=2", "s3:ListBucket"),
            ("versions", "s3:ListBucketVersions"),
            ("versioning", "s3:GetBucketVersioning"),
        ] {
            assert_eq!(s3("GET", &format!("/{INPUT}/?{query}"), &[], 200), pairs(&[(action, of_it)]));
        }
        let source = format!("{INPUT}/a%20b.png?versionId=v");
        let copy = [("x-amz-copy-source", source.as_str()), ("x-amz-tagging-directive", "REPLACE")];
        let to = format!("/{MODELS}/golden-sets/c");
        let expected = [("s3:GetObjectVersion", it), ("s3:PutObject", "${ModelBucket}/golden-sets/c")];
        assert_eq!(s3("PUT", &to, &copy, 200), pairs(&expected));
        assert_eq!(s3("PUT", &to, &copy[..1], 200).len(), 4, "tags are copied with rights of their own");
    }

    #[test]
    fn transactions_and_batches_need_the_rights_of_their_parts() {
        let pk = |pk: &str| serde_json::json!({ "pk": { "S": pk }, "sk": { "S": "x" } });
        let body = serde_json::json!({ "TransactItems": [
            { "ConditionCheck": { "TableName": TABLE, "Key": pk("a") } },
            { "Put": { "TableName": TABLE, "Item": pk("b") } },
            { "Delete": { "TableName": TABLE, "Key": pk("c") } },
        ]});
        let found = of_json("DynamoDB_20120810.TransactWriteItems", &body);
        let found: Vec<(&str, &str)> =
            found.iter().map(|r| (r.action.as_str(), r.leading_keys[0].as_str())).collect();
        let expected =
            [("dynamodb:ConditionCheckItem", "a"), ("dynamodb:PutItem", "b"), ("dynamodb:DeleteItem", "c")];
        assert_eq!(found, expected);
        let batch = serde_json::json!({ "RequestItems": { TABLE: { "Keys": [pk("a"), pk("b")] } } });
        assert_eq!(of_json("DynamoDB_20120810.BatchGetItem", &batch).len(), 2);
        assert_eq!(of_json("DynamoDB_20120810.Scan", &body)[0].action, "dynamodb:?");
    }
}
