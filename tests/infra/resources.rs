//! Queues and buckets: nothing is lost, nothing is public.

use serde_yaml_ng::Value;

use super::functions::{config, timeout_s};
use super::template::{STAGES, Template, texts};

#[test]
fn every_upload_goes_to_the_queue_of_each_stage() {
    for (stages, expected) in [("prod,dev", &STAGES[..]), ("prod", &STAGES[..1])] {
        let template = Template::with(&[("Stages", stages)]);
        let targets = template.properties("UploadRule")["Targets"].as_sequence().unwrap().clone();
        assert_eq!(targets.len(), expected.len());
        for (target, (stage, _)) in targets.iter().zip(expected) {
            assert_eq!(target["Arn"], format!("${{{stage}Queue.Arn}}"));
            assert_eq!(target["DeadLetterConfig"]["Arn"], format!("${{{stage}DeadLetterQueue.Arn}}"));
            let policy = template.properties(&format!("{stage}QueuePolicy"));
            assert_eq!(policy["Queues"].as_sequence().unwrap().len(), 2);
            let allow = &policy["PolicyDocument"]["Statement"][0];
            assert_eq!(allow["Condition"]["ArnEquals"]["aws:SourceArn"], "${UploadRule.Arn}");
        }
    }
    for bucket in ["InputBucket", "ModelBucket"] {
        let enabled = &Template::default().properties(bucket)["NotificationConfiguration"];
        assert_eq!(enabled["EventBridgeConfiguration"]["EventBridgeEnabled"], true, "{bucket}");
    }
}

#[test]
fn no_message_is_lost_between_queue_and_classifier() {
    let template = Template::default();
    for (stage, _) in STAGES {
        let classifier = format!("{stage}Classifier");
        let uploads = template.properties(&classifier)["Events"]["Uploads"]["Properties"].clone();
        assert_eq!(uploads["Queue"], format!("${{{stage}Queue.Arn}}"));
        // The handler answers message by message.
        assert_eq!(texts(&uploads["FunctionResponseTypes"]), ["ReportBatchItemFailures"]);
        assert_eq!(uploads["ScalingConfig"]["MaximumConcurrency"], template.parameter("MaxConcurrency"));

        let timeout_s = timeout_s(&template, &classifier);
        let queue = template.properties(&format!("{stage}Queue"));
        let visibility_s = queue["VisibilityTimeout"].as_u64().unwrap();
        let window_s = uploads["MaximumBatchingWindowInSeconds"].as_u64().unwrap();
        assert!(visibility_s >= 6 * timeout_s, "{visibility_s} s for a timeout of {timeout_s} s");
        assert!(visibility_s > timeout_s + window_s);
        assert!(queue["RedrivePolicy"]["maxReceiveCount"].as_u64().unwrap() >= 5);
        let dead_letters = format!("{stage}DeadLetterQueue");
        assert_eq!(queue["RedrivePolicy"]["deadLetterTargetArn"], format!("${{{dead_letters}.Arn}}"));
        // Nothing in the dead-letter queue expires before a person could have seen the alarm.
        let kept_s = template.properties(&dead_letters)["MessageRetentionPeriod"].as_u64();
        assert_eq!(kept_s, Some(14 * 24 * 3600));

        // One image may take its whole time and the invocation still ends by itself.
        let limits = config(stage).limits;
        assert!(timeout_s > (limits.image_timeout + limits.deadline_margin).as_secs());
    }
}

#[test]
fn what_holds_data_outlives_the_stack() {
    let template = Template::default();
    let mut kept = template.of_type("AWS::S3::Bucket");
    kept.extend(["Table", "ProdDeadLetterQueue", "DevDeadLetterQueue"].map(str::to_owned));
    assert_eq!(kept.len(), 7);
    for resource in kept {
        for policy in ["DeletionPolicy", "UpdateReplacePolicy"] {
            assert_eq!(template.resource(&resource)[policy], "Retain", "{resource}");
        }
    }
}

#[test]
fn buckets_are_private_encrypted_by_tls_and_logged() {
    let template = Template::default();
    for bucket in template.of_type("AWS::S3::Bucket") {
        let properties = template.properties(&bucket);
        let private = properties["PublicAccessBlockConfiguration"].as_mapping().unwrap().clone();
        assert_eq!(private.len(), 4);
        assert!(private.values().all(|value| *value == true), "{bucket}");
        assert!(!properties["BucketEncryption"].is_null(), "{bucket}");

        let policy = template.properties(&format!("{bucket}Policy"));
        assert_eq!(policy["Bucket"], format!("${{{bucket}}}"));
        let deny = &policy["PolicyDocument"]["Statement"][0];
        assert_eq!((&deny["Effect"], &deny["Principal"]), (&"Deny".into(), &"*".into()));
        assert_eq!(deny["Condition"]["Bool"]["aws:SecureTransport"], "false");
        assert_eq!(texts(&deny["Resource"]), [format!("${{{bucket}.Arn}}"), format!("${{{bucket}.Arn}}/*")]);

        let rules = properties["LifecycleConfiguration"]["Rules"].as_sequence().unwrap().clone();
        let unfinished = &rules[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"];
        assert_eq!(unfinished.as_u64(), Some(7), "{bucket}");
        if bucket == "AccessLogBucket" {
            assert_eq!(rules[1]["ExpirationInDays"], template.parameter("RetentionDays"));
            continue;
        }
        assert_eq!(properties["VersioningConfiguration"]["Status"], "Enabled", "{bucket}");
        assert_eq!(properties["LoggingConfiguration"]["DestinationBucketName"], "${AccessLogBucket}");
        // Nothing that counts is ever expired by itself: old versions of what can be made again, and answers of Athena.
        for rule in &rules[1..] {
            assert_eq!(bucket, "ResultsBucket");
            let is_answers = rule["Prefix"] == "athena/";
            assert!(rule["ExpirationInDays"].is_null() || is_answers, "{rule:?}");
        }
    }
}

#[test]
fn the_page_may_send_files_to_the_input_bucket() {
    let template = Template::default();
    let cors =
        |bucket: &str| -> Value { template.properties(bucket)["CorsConfiguration"]["CorsRules"].clone() };
    let input = cors("InputBucket");
    let origin = &template.raw()["Outputs"]["DashboardUrl"]["Value"];
    let origin = template.answered(origin).as_str().unwrap().trim_end_matches('/').to_owned();
    assert_eq!(texts(&input[0]["AllowedOrigins"]), std::slice::from_ref(&origin));
    assert!(texts(&input[0]["AllowedMethods"]).contains(&"PUT".to_owned()));
    assert_eq!(texts(&input[0]["ExposedHeaders"]), ["ETag"]);
    assert_eq!(texts(&cors("ResultsBucket")[0]["AllowedOrigins"]), [origin]);
    assert!(cors("ModelBucket").is_null());
}
