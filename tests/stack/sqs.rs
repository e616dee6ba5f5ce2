//! The SQS of the embedded stack and the client of commands against each other, by real HTTP and the real SDK.

use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageAttributeValue, MessageSystemAttributeName,
    QueueAttributeName, SendMessageBatchRequestEntry,
};
use chrono::Utc;
use giemsa_local::credentials;
use giemsa_local::queue::{Queue, QueueSettings};
use giemsa_local::sqs::SqsServer;
use giemsa_store::aws::sqs_client_at;
use giemsa_store::queues::QueueClient;

const QUEUE: &str = "classify-prod";

struct Bench {
    queue: Queue,
    server: SqsServer,
    sdk: Client,
    url: String,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue.sqlite")).unwrap();
        let settings = QueueSettings { visibility_timeout: Duration::from_secs(60), max_receive_count: 1 };
        queue.declare(QUEUE, settings).await.unwrap();
        let server = SqsServer::start(queue.clone(), 0).unwrap();
        let sdk = sqs_client_at(&server.url(), credentials());
        let url = format!("{}/000000000000/{QUEUE}", server.url());
        Self { queue, server, sdk, url, _folder: folder }
    }

    async fn client(&self) -> QueueClient {
        QueueClient::at(&self.server.url(), credentials(), QUEUE).await.unwrap()
    }

    async fn receive(&self, url: &str) -> Vec<Message> {
        let request = self.sdk.receive_message().queue_url(url).max_number_of_messages(10);
        let request = request.message_attribute_names("All");
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        request.send().await.unwrap().messages.unwrap_or_default()
    }

    /// Sends messages and lets them fail until they are dead.
    async fn bury(&self, bodies: &[String]) {
        self.client().await.send_batch(bodies).await.unwrap();
        for _ in bodies {
            for message in self.queue.receive(QUEUE, 1, Utc::now()).await.unwrap() {
                let receipt = &message.receipt_handle;
                assert!(self.queue.fail(receipt, "no model", Duration::ZERO, Utc::now()).await.unwrap());
            }
        }
        assert!(self.queue.receive(QUEUE, 10, Utc::now()).await.unwrap().is_empty());
        assert_eq!(self.queue.peek_dead_letters(QUEUE, usize::MAX).await.unwrap().len(), bodies.len());
    }
}

fn system(message: &Message, name: &MessageSystemAttributeName) -> String {
    message.attributes.as_ref().unwrap()[name].clone()
}

#[tokio::test]
async fn a_message_is_sent_received_hidden_and_deleted() {
    let bench = Bench::start().await;
    let before = Utc::now().timestamp_millis();
    let sent = bench.sdk.send_message().queue_url(&bench.url).message_body("hello ü").send().await.unwrap();
    // Of "hello ü" in UTF-8, by md5sum.
    assert_eq!(sent.md5_of_message_body.as_deref(), Some("0153c42b76bc37e33497dee300222bd1"));

    let received = bench.receive(&bench.url).await;
    assert_eq!(received.len(), 1);
    let message = &received[0];
    assert_eq!((message.body.as_deref(), &message.message_id), (Some("hello ü"), &sent.message_id));
    assert_eq!(message.md5_of_body, sent.md5_of_message_body);
    assert_eq!(system(message, &MessageSystemAttributeName::ApproximateReceiveCount), "1");
    let sent_ms: i64 = system(message, &MessageSystemAttributeName::SentTimestamp).parse().unwrap();
    assert!((before..=Utc::now().timestamp_millis()).contains(&sent_ms));
    assert!(bench.receive(&bench.url).await.is_empty(), "it is hidden");
    assert_eq!(bench.client().await.depth().await.unwrap().in_flight, 1);

    let receipt = message.receipt_handle.as_deref().unwrap();
    let change = || bench.sdk.change_message_visibility().queue_url(&bench.url).receipt_handle(receipt);
    change().visibility_timeout(600).send().await.unwrap();
    let delete = || bench.sdk.delete_message().queue_url(&bench.url).receipt_handle(receipt);
    delete().send().await.unwrap();
    delete().send().await.expect("deleting twice is not an error");
    assert_eq!(bench.client().await.depth().await.unwrap().total(), 0);
    let error = change().visibility_timeout(0).send().await.unwrap_err().into_service_error();
    assert!(error.is_message_not_inflight(), "{error:?}");
}

#[tokio::test]
async fn errors_have_the_types_of_sqs() {
    let bench = Bench::start().await;
    let error = bench.sdk.get_queue_url().queue_name("nobody").send().await.unwrap_err().into_service_error();
    assert!(error.is_queue_does_not_exist(), "{error:?}");
    assert!(error.message().unwrap().contains("nobody"), "{error:?}");

    let delete =
        |receipt: &str| bench.sdk.delete_message().queue_url(&bench.url).receipt_handle(receipt).send();
    let foreign = format!("other#{}", "6f0f8f1e-7ab1-4d0e-9d6f-0d7b0a6d9a11");
    for receipt in ["nonsense", &foreign, ""] {
        let error = delete(receipt).await.unwrap_err().into_service_error();
        assert!(error.is_receipt_handle_is_invalid(), "{error:?}");
    }
    let many = bench.sdk.receive_message().queue_url(&bench.url).max_number_of_messages(11).send().await;
    let error = many.unwrap_err().into_service_error();
    assert_eq!(error.code(), Some("InvalidParameterValue"));
    assert!(error.message().unwrap().contains("11"), "{error:?}");

    let entry = |id: &str| SendMessageBatchRequestEntry::builder().id(id).message_body("b").build().unwrap();
    let send = |entries: Vec<_>| {
        bench.sdk.send_message_batch().queue_url(&bench.url).set_entries(Some(entries)).send()
    };
    assert!(send(vec![]).await.unwrap_err().into_service_error().is_empty_batch_request());
    let twice = send(vec![entry("a"), entry("a")]).await.unwrap_err().into_service_error();
    assert!(twice.is_batch_entry_ids_not_distinct());
    let eleven = (0..11).map(|id| entry(&id.to_string())).collect();
    assert!(send(eleven).await.unwrap_err().into_service_error().is_too_many_entries_in_batch_request());

    let created = bench.sdk.create_queue().queue_name("mine").send().await.unwrap_err().into_service_error();
    assert!(created.is_unsupported_operation(), "{created:?}");
    assert!(created.message().unwrap().contains("CreateQueue"), "{created:?}");

    let attribute = MessageAttributeValue::builder().data_type("String").string_value("v").build().unwrap();
    let carried = bench.sdk.send_message().queue_url(&bench.url).message_body("b");
    let carried = carried.message_attributes("kept", attribute).send().await;
    let error = carried.unwrap_err().into_service_error();
    assert!(error.message().unwrap().contains("kept"), "refused rather than dropped: {error:?}");
    assert_eq!(bench.client().await.depth().await.unwrap().total(), 0, "nothing of this was sent");
}

#[tokio::test]
async fn only_the_local_key_is_served() {
    let bench = Bench::start().await;
    let foreign = aws_sdk_sqs::config::Credentials::new("AKIAEXAMPLE", "secret", None, None, "test");
    let error = QueueClient::at(&bench.server.url(), foreign, QUEUE).await.unwrap_err().to_string();
    assert!(error.contains("AKIAEXAMPLE") && error.contains("AWS_ACCESS_KEY_ID=giemsa"), "{error}");
}

#[tokio::test]
async fn one_bad_entry_of_a_batch_leaves_the_others_alone() {
    let bench = Bench::start().await;
    let entry = |id: &str, body: &str| {
        SendMessageBatchRequestEntry::builder().id(id).message_body(body).build().unwrap()
    };
    let entries = vec![entry("good", "a"), entry("bad", "\u{1}"), entry("also-good", "b")];
    let request = bench.sdk.send_message_batch().queue_url(&bench.url).set_entries(Some(entries));
    let answer = request.send().await.unwrap();
    let good: Vec<&str> = answer.successful.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(good, ["good", "also-good"]);
    assert_eq!((answer.failed[0].id.as_str(), answer.failed[0].sender_fault), ("bad", true));
    assert!(answer.failed[0].message.as_deref().unwrap().contains("U+0001"));

    let received = bench.receive(&bench.url).await;
    let receipts = received.iter().map(|message| message.receipt_handle.clone().unwrap());
    let entries = receipts.chain(["nonsense".to_owned()]).enumerate().map(|(index, receipt)| {
        DeleteMessageBatchRequestEntry::builder()
            .id(index.to_string())
            .receipt_handle(receipt)
            .build()
            .unwrap()
    });
    let request = bench.sdk.delete_message_batch().queue_url(&bench.url).set_entries(Some(entries.collect()));
    let answer = request.send().await.unwrap();
    assert_eq!((answer.successful.len(), answer.failed.len()), (2, 1));
    assert_eq!(answer.failed[0].code, "ReceiptHandleIsInvalid");
    assert_eq!(bench.client().await.depth().await.unwrap().total(), 0);
}

#[tokio::test]
async fn a_long_poll_ends_with_the_message_or_with_the_server() {
    let bench = Bench::start().await;
    let poll = |seconds| bench.sdk.receive_message().queue_url(&bench.url).wait_time_seconds(seconds).send();
    let started = Instant::now();
    assert!(poll(1).await.unwrap().messages.is_none());
    assert!(started.elapsed() >= Duration::from_secs(1));

    let started = Instant::now();
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        bench.queue.send(QUEUE, "at last", Utc::now()).await.unwrap();
    };
    let (polled, ()) = tokio::join!(poll(20), later);
    assert_eq!(polled.unwrap().messages.unwrap()[0].body.as_deref(), Some("at last"));
    assert!(started.elapsed() < Duration::from_secs(15));

    let request = bench.sdk.receive_message().queue_url(&bench.url).wait_time_seconds(20).send();
    let waiting = tokio::spawn(request);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let started = Instant::now();
    bench.server.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(15), "a waiting client does not hold up the end");
    assert!(waiting.await.unwrap().unwrap().messages.is_none());
}

#[tokio::test]
async fn queues_are_listed_with_their_attributes() {
    let bench = Bench::start().await;
    let urls = bench.sdk.list_queues().send().await.unwrap().queue_urls.unwrap();
    assert_eq!(urls, [bench.url.clone(), format!("{}-dlq", bench.url)]);
    let first = bench.sdk.list_queues().max_results(1).send().await.unwrap();
    assert_eq!(first.queue_urls.unwrap(), urls[..1]);
    let second =
        bench.sdk.list_queues().set_next_token(first.next_token).max_results(1).send().await.unwrap();
    assert_eq!((second.queue_urls.unwrap(), second.next_token), (urls[1..].to_vec(), None));

    let request = bench.sdk.get_queue_attributes().queue_url(&bench.url);
    let all = request.attribute_names(QueueAttributeName::All).send().await.unwrap().attributes.unwrap();
    assert_eq!(all[&QueueAttributeName::VisibilityTimeout], "60");
    assert_eq!(all[&QueueAttributeName::QueueArn], "arn:aws:sqs:us-east-1:000000000000:classify-prod");
    let policy: serde_json::Value = serde_json::from_str(&all[&QueueAttributeName::RedrivePolicy]).unwrap();
    assert_eq!(policy["maxReceiveCount"], 1);
    let dead = bench.client().await.dead_letters().await.unwrap();
    assert_eq!(dead.queue().url(), urls[1]);
}

#[tokio::test]
async fn a_dead_letter_tells_its_story_and_looking_changes_nothing() {
    let bench = Bench::start().await;
    bench.bury(&["poison".to_owned()]).await;
    let dead_url = format!("{}-dlq", bench.url);
    let client = bench.client().await;
    for _ in 0..3 {
        let mut letters = client.dead_letters().await.unwrap();
        let page = letters.next_page().await.unwrap();
        assert_eq!(page.len(), 1);
        let letter = &page[0];
        assert_eq!((letter.body.as_str(), letter.tries, letter.process_deaths), ("poison", Some(1), Some(0)));
        assert_eq!(letter.last_failure.as_deref(), Some("no model"));
        assert!(letter.dead_since >= letter.sent_at && letter.sent_at.is_some(), "{letter:?}");
        assert!(letters.next_page().await.unwrap().is_empty(), "no letter is seen twice in a pass");
        assert!(bench.receive(&dead_url).await.is_empty(), "it is held back meanwhile");
        letters.release_all().await.unwrap();
    }
    let received = bench.receive(&dead_url).await;
    let source = system(&received[0], &MessageSystemAttributeName::DeadLetterQueueSourceArn);
    assert_eq!(source, "arn:aws:sqs:us-east-1:000000000000:classify-prod");
    assert!(received[0].md5_of_message_attributes.is_some());
}

#[tokio::test]
async fn letters_that_are_not_redriven_stay_and_those_that_are_come_once() {
    let bench = Bench::start().await;
    let bodies: Vec<String> = (0..205).map(|number| format!("letter {number}")).collect();
    bench.bury(&bodies).await;
    let client = bench.client().await;
    for _ in 0..2 {
        let mut letters = client.dead_letters().await.unwrap();
        let mut order = Vec::new();
        loop {
            let page = letters.next_page().await.unwrap();
            if page.is_empty() {
                break;
            }
            order.extend(page.into_iter().map(|letter| letter.body));
        }
        letters.release_all().await.unwrap();
        assert_eq!(order, bodies, "looking leaves the order as it was");
    }
    let mut letters = client.dead_letters().await.unwrap();
    let mut seen = 0;
    loop {
        let page = letters.next_page().await.unwrap();
        if page.is_empty() {
            break;
        }
        seen += page.len();
        let wanted: Vec<_> = page.into_iter().filter(|letter| letter.body.ends_with('7')).collect();
        letters.redrive(&wanted).await.unwrap();
    }
    letters.release_all().await.unwrap();
    assert_eq!(seen, 205);
    let again = bench.queue.receive(QUEUE, usize::MAX, Utc::now()).await.unwrap();
    let again: Vec<String> = again.into_iter().map(|message| message.body).collect();
    let expected: Vec<String> = bodies.iter().filter(|body| body.ends_with('7')).cloned().collect();
    assert_eq!(again, expected);
    let left = bench.queue.depth("classify-prod-dlq", Utc::now()).await.unwrap();
    assert_eq!((left.visible, left.in_flight), (205 - expected.len() as u64, 0));
}

#[tokio::test]
async fn sending_says_how_many_were_not_sent() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let mut bodies = vec!["fine".to_owned(); 25];
    bodies[12] = "not \u{0} fine".to_owned();
    let error = client.send_batch(&bodies).await.unwrap_err().to_string();
    // The first batch, and the nine others of the second.
    assert!(error.contains("6 of 25") && error.contains("U+0000"), "{error}");
    assert_eq!(client.depth().await.unwrap().visible, 19);
    client.purge().await.unwrap();
    assert_eq!(client.depth().await.unwrap().total(), 0);
}
