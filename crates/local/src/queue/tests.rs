//! The queue against its promises: nothing lost, nothing held twice, nothing tried for ever, nothing forgotten by a restart.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

const QUEUE: &str = "classify-prod";
const SETTINGS: QueueSettings =
    QueueSettings { visibility_timeout: Duration::from_secs(60), max_receive_count: 3 };

struct Bench {
    _folder: tempfile::TempDir,
    path: PathBuf,
    queue: Queue,
}

async fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.sqlite");
    let queue = Queue::open(&path).unwrap();
    queue.declare(QUEUE, SETTINGS).await.unwrap();
    Bench { _folder: folder, path, queue }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

async fn receive_one(queue: &Queue, now: DateTime<Utc>) -> Option<Message> {
    queue.receive(QUEUE, 1, now).await.unwrap().pop()
}

#[tokio::test]
async fn a_held_message_is_hidden_until_its_timeout_and_then_counted() {
    let Bench { queue, _folder, .. } = bench().await;
    let id = queue.send(QUEUE, "body", at(0)).await.unwrap();
    let first = receive_one(&queue, at(1)).await.unwrap();
    assert_eq!((first.id.as_str(), first.body.as_str(), first.receive_count), (id.as_str(), "body", 1));
    assert_eq!((first.sent_at, first.first_received_at), (at(0), at(1)));
    assert_eq!(receive_one(&queue, at(60)).await, None);

    let second = receive_one(&queue, at(61)).await.unwrap();
    assert_eq!((second.id, second.receive_count, second.first_received_at), (id, 2, at(1)));
    assert!(!queue.delete(&first.receipt_handle).await.unwrap(), "a stale receipt must not delete");
    assert!(!queue.change_visibility(&first.receipt_handle, Duration::ZERO, at(62)).await.unwrap());
    assert!(queue.delete(&second.receipt_handle).await.unwrap());
    assert_eq!(queue.depth(QUEUE, at(999)).await.unwrap(), Depth::default());
}

#[tokio::test]
async fn two_receivers_never_hold_the_same_message() {
    let Bench { queue, _folder, .. } = bench().await;
    for number in 0..50 {
        queue.send(QUEUE, &number.to_string(), at(0)).await.unwrap();
    }
    let receivers = (0..4).map(|_| {
        let queue = queue.clone();
        tokio::spawn(async move {
            let mut bodies = Vec::new();
            loop {
                let messages = queue.receive(QUEUE, 3, at(1)).await.unwrap();
                if messages.is_empty() {
                    return bodies;
                }
                bodies.extend(messages.into_iter().map(|message| message.body));
            }
        })
    });
    let mut all: Vec<u32> = Vec::new();
    for receiver in receivers.collect::<Vec<_>>() {
        all.extend(receiver.await.unwrap().iter().map(|body| body.parse::<u32>().unwrap()));
    }
    all.sort_unstable();
    assert_eq!(all, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_poison_message_goes_to_the_dead_letter_queue_with_its_story_and_comes_back_by_redrive() {
    let Bench { queue, _folder, .. } = bench().await;
    let id = queue.send(QUEUE, "poison", at(0)).await.unwrap();
    for round in 0..3_i64 {
        let message = receive_one(&queue, at(round * 10)).await.unwrap();
        assert!(
            queue
                .fail(&message.receipt_handle, "no model", Duration::from_secs(5), at(round * 10))
                .await
                .unwrap()
        );
        let depth = queue.depth(QUEUE, at(round * 10)).await.unwrap();
        assert_eq!((depth.delayed, depth.in_flight, depth.visible), (1, 0, 0));
        assert_eq!(receive_one(&queue, at(round * 10 + 4)).await, None);
    }
    queue.send(QUEUE, "healthy", at(40)).await.unwrap();
    assert_eq!(
        receive_one(&queue, at(50)).await.unwrap().body,
        "healthy",
        "the poison is set aside on the way"
    );

    let messages = queue.peek_dead_letters(QUEUE, 10).await.unwrap();
    assert_eq!(messages.len(), 1);
    let message = &messages[0];
    assert_eq!(
        (message.id.as_str(), message.receive_count, message.last_failure.as_deref()),
        (id.as_str(), 3, Some("no model"))
    );
    assert_eq!((message.sent_at, message.first_received_at, message.dead_at), (at(0), Some(at(0)), at(50)));
    assert_eq!(queue.depth(&dead_letter_queue(QUEUE), at(50)).await.unwrap().visible, 1);

    assert_eq!(queue.redrive(QUEUE, at(60)).await.unwrap(), 1);
    assert!(queue.peek_dead_letters(QUEUE, 10).await.unwrap().is_empty());
    let again = receive_one(&queue, at(60)).await.unwrap();
    assert_eq!((again.id, again.receive_count), (id, 1));
}

#[tokio::test]
async fn after_a_crash_what_was_in_flight_is_received_at_once_and_not_counted() {
    let Bench { queue, path, _folder } = bench().await;
    queue.send(QUEUE, "held", at(0)).await.unwrap();
    queue.send(QUEUE, "waiting", at(0)).await.unwrap();
    let held = receive_one(&queue, at(1)).await.unwrap();
    drop(queue);

    let queue = Queue::open(&path).unwrap();
    assert_eq!(receive_one(&queue, at(2)).await.unwrap().body, "waiting");
    assert_eq!(queue.release_in_flight(QUEUE, at(3)).await.unwrap(), 2);
    assert!(!queue.delete(&held.receipt_handle).await.unwrap(), "the receipt died with its process");
    let mut bodies: Vec<_> = queue
        .receive(QUEUE, 10, at(3))
        .await
        .unwrap()
        .into_iter()
        .map(|m| (m.body, m.receive_count))
        .collect();
    bodies.sort();
    assert_eq!(bodies, [("held".to_owned(), 1), ("waiting".to_owned(), 1)]);
}

#[tokio::test]
async fn an_image_that_kills_the_process_does_not_do_so_for_ever() {
    let Bench { queue, _folder, .. } = bench().await;
    queue.send(QUEUE, "killer", at(0)).await.unwrap();
    for death in 0..MAX_INTERRUPTIONS {
        assert!(receive_one(&queue, at(1)).await.is_some(), "death {death}");
        queue.release_in_flight(QUEUE, at(1)).await.unwrap();
    }
    assert_eq!(receive_one(&queue, at(1)).await, None);
    let messages = queue.peek_dead_letters(QUEUE, 10).await.unwrap();
    assert_eq!((messages[0].interrupted_count, messages[0].receive_count), (MAX_INTERRUPTIONS, 0));
}

#[tokio::test]
async fn an_image_that_kills_the_process_takes_no_others_with_it() {
    let Bench { queue, _folder, .. } = bench().await;
    for body in ["a", "b", "killer", "c"] {
        queue.send(QUEUE, body, at(0)).await.unwrap();
    }
    // Whatever is in flight with it, the process dies of it; what comes without it is answered.
    let mut answered = Vec::new();
    for _ in 0..100 {
        let batch = queue.receive(QUEUE, 10, at(1)).await.unwrap();
        if batch.iter().any(|message| message.body == "killer") {
            queue.release_in_flight(QUEUE, at(1)).await.unwrap();
            continue;
        }
        for message in batch {
            assert!(queue.delete(&message.receipt_handle).await.unwrap());
            answered.push(message.body);
        }
    }
    answered.sort();
    assert_eq!(answered, ["a", "b", "c"]);
    let messages = queue.peek_dead_letters(QUEUE, 10).await.unwrap();
    assert_eq!(messages.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["killer"]);
}

#[tokio::test]
async fn given_back_untried_is_visible_at_once_and_not_counted() {
    let Bench { queue, _folder, .. } = bench().await;
    queue.send(QUEUE, "x", at(0)).await.unwrap();
    for _ in 0..10 {
        let message = receive_one(&queue, at(1)).await.unwrap();
        assert_eq!(message.receive_count, 1);
        assert!(queue.give_back(&message.receipt_handle, None, Duration::ZERO, at(1)).await.unwrap());
    }
}

#[tokio::test]
async fn working_longer_keeps_the_message_hidden() {
    let Bench { queue, _folder, .. } = bench().await;
    queue.send(QUEUE, "x", at(0)).await.unwrap();
    let message = receive_one(&queue, at(0)).await.unwrap();
    assert!(
        queue.change_visibility(&message.receipt_handle, Duration::from_secs(300), at(50)).await.unwrap()
    );
    let depth = queue.depth(QUEUE, at(349)).await.unwrap();
    assert_eq!((depth.in_flight, depth.oldest_age), (1, Some(Duration::from_secs(349))));
    assert_eq!(receive_one(&queue, at(349)).await, None);
    assert!(receive_one(&queue, at(350)).await.is_some());
}

#[tokio::test]
async fn waiting_ends_when_a_message_is_sent_and_when_one_becomes_visible() {
    let Bench { queue, _folder, .. } = bench().await;
    let limit = Duration::from_secs(10);
    let waiter = tokio::spawn({
        let queue = queue.clone();
        async move { queue.wait(QUEUE).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiter.is_finished(), "nothing to receive yet");
    queue.send(QUEUE, "x", Utc::now()).await.unwrap();
    tokio::time::timeout(limit, waiter).await.expect("woken by the send").unwrap();

    let message = receive_one(&queue, Utc::now()).await.unwrap();
    let started = std::time::Instant::now();
    queue.fail(&message.receipt_handle, "r", Duration::from_millis(80), Utc::now()).await.unwrap();
    tokio::time::timeout(limit, queue.wait(QUEUE)).await.expect("woken by the delay").unwrap();
    assert!(started.elapsed() >= Duration::from_millis(70));
    assert!(receive_one(&queue, Utc::now()).await.is_some());
}

#[tokio::test]
async fn unknown_queues_and_impossible_settings_are_refused() {
    let Bench { queue, _folder, .. } = bench().await;
    assert!(matches!(queue.send("other", "x", at(0)).await, Err(QueueError::Undeclared { .. })));
    assert!(matches!(queue.receive("other", 1, at(0)).await, Err(QueueError::Undeclared { .. })));
    for settings in [
        QueueSettings { visibility_timeout: Duration::ZERO, ..SETTINGS },
        QueueSettings { max_receive_count: 0, ..SETTINGS },
    ] {
        assert!(matches!(queue.declare("new", settings).await, Err(QueueError::Settings { .. })));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send,
    Receive(usize),
    Delete(usize),
    Fail(usize, u64),
    GiveBack(usize),
    Extend(usize, u64),
    Pass(i64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Send),
        4 => (1_usize..4).prop_map(Step::Receive),
        2 => (0_usize..9).prop_map(Step::Delete),
        2 => (0_usize..9, 0_u64..90).prop_map(|(which, delay)| Step::Fail(which, delay)),
        1 => (0_usize..9).prop_map(Step::GiveBack),
        1 => (0_usize..9, 0_u64..90).prop_map(|(which, delay)| Step::Extend(which, delay)),
        3 => (1_i64..70).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..50)
}

/// A message as the model sees it.
#[derive(Debug, Clone, Default)]
struct Model {
    visible: i64,
    failures: u32,
    interruptions: u32,
    receipt: Option<String>,
    dead: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A plain map, written without looking at the SQL, must agree with the queue after every step.
    #[test]
    fn behaves_like_a_plain_map(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let Bench { mut queue, path, _folder } = bench().await;
            let (mut now, mut model, mut receipts) = (0, BTreeMap::<String, Model>::new(), Vec::<String>::new());
            for step in steps {
                let holder = |which: usize, model: &BTreeMap<String, Model>| {
                    let receipt = receipts.get(which)?.clone();
                    let id = model.iter().find(|(_, m)| m.receipt.as_ref() == Some(&receipt)).map(|(id, _)| id.clone());
                    Some((receipt, id))
                };
                match step {
                    Step::Send => {
                        let id = queue.send(QUEUE, "x", at(now)).await.unwrap();
                        model.insert(id, Model { visible: now, ..Model::default() });
                    }
                    Step::Receive(max) => {
                        let messages = queue.receive(QUEUE, max, at(now)).await.unwrap();
                        let ready = |m: &Model| !m.dead && m.visible <= now;
                        let poison = |m: &Model| m.failures >= 3 || m.interruptions >= MAX_INTERRUPTIONS;
                        let healthy = model.values().filter(|m| ready(m) && !poison(m)).count();
                        let suspect = |m: &Model| m.interruptions >= SUSPECT_INTERRUPTIONS;
                        if model.values().any(|m| ready(m) && !poison(m) && suspect(m)) {
                            assert!((healthy.min(1).min(max)..=healthy.min(max)).contains(&messages.len()));
                        } else {
                            assert_eq!(messages.len(), healthy.min(max));
                        }
                        assert!(messages.len() <= 1 || !messages.iter().any(|m| suspect(&model[&m.id])));
                        for message in queue.peek_dead_letters(QUEUE, 999).await.unwrap() {
                            let entry = model.get_mut(&message.id).unwrap();
                            assert!(entry.dead || (ready(entry) && poison(entry)));
                            *entry = Model { dead: true, ..Model::default() };
                        }
                        for message in messages {
                            let entry = model.get_mut(&message.id).unwrap();
                            assert!(ready(entry) && !poison(entry));
                            entry.failures += 1;
                            assert_eq!(message.receive_count, entry.failures);
                            entry.visible = now + 60;
                            entry.receipt = Some(message.receipt_handle.clone());
                            receipts.push(message.receipt_handle);
                        }
                    }
                    Step::Delete(which) => if let Some((receipt, id)) = holder(which, &model) {
                        assert_eq!(queue.delete(&receipt).await.unwrap(), id.is_some());
                        if let Some(id) = id { model.remove(&id); }
                    },
                    Step::Fail(which, delay) => if let Some((receipt, id)) = holder(which, &model) {
                        assert_eq!(queue.fail(&receipt, "r", Duration::from_secs(delay), at(now)).await.unwrap(), id.is_some());
                        if let Some(entry) = id.and_then(|id| model.get_mut(&id)) {
                            entry.visible = now + i64::try_from(delay).unwrap();
                            entry.receipt = None;
                        }
                    },
                    Step::GiveBack(which) => if let Some((receipt, id)) = holder(which, &model) {
                        assert_eq!(queue.give_back(&receipt, None, Duration::ZERO, at(now)).await.unwrap(), id.is_some());
                        if let Some(entry) = id.and_then(|id| model.get_mut(&id)) {
                            entry.visible = now;
                            entry.failures -= 1;
                            entry.receipt = None;
                        }
                    },
                    Step::Extend(which, delay) => if let Some((receipt, id)) = holder(which, &model) {
                        let delay_s = Duration::from_secs(delay);
                        assert_eq!(queue.change_visibility(&receipt, delay_s, at(now)).await.unwrap(), id.is_some());
                        if let Some(entry) = id.and_then(|id| model.get_mut(&id)) {
                            entry.visible = now + i64::try_from(delay).unwrap();
                        }
                    },
                    Step::Pass(seconds) => now += seconds,
                    Step::Restart => {
                        drop(queue);
                        queue = Queue::open(&path).unwrap();
                        queue.release_in_flight(QUEUE, at(now)).await.unwrap();
                        for entry in model.values_mut().filter(|entry| entry.receipt.is_some()) {
                            entry.receipt = None;
                            entry.visible = entry.visible.min(now);
                            entry.failures -= 1;
                            entry.interruptions += 1;
                        }
                    }
                }
                let depth = queue.depth(QUEUE, at(now)).await.unwrap();
                let dead = queue.depth(&dead_letter_queue(QUEUE), at(now)).await.unwrap();
                let alive = model.values().filter(|m| !m.dead);
                let visible = alive.clone().filter(|m| m.visible <= now).count();
                assert_eq!(depth.visible, visible as u64);
                assert_eq!(depth.total(), alive.count() as u64);
                assert_eq!(depth.total() + dead.total(), model.len() as u64, "no message is ever lost");
            }
        });
    }
}

#[tokio::test]
async fn a_dead_letter_queue_is_received_from_without_moving_or_counting_anything() {
    let Bench { queue, _folder, .. } = bench().await;
    let dead = dead_letter_queue(QUEUE);
    queue.send(QUEUE, "poison", at(0)).await.unwrap();
    for second in 0..3 {
        let message = receive_one(&queue, at(second)).await.unwrap();
        queue.fail(&message.receipt_handle, "no model", Duration::ZERO, at(second)).await.unwrap();
    }
    assert_eq!(receive_one(&queue, at(3)).await, None);
    let sent_directly = queue.send(&dead, "by hand", at(4)).await.unwrap();
    for round in 0..20 {
        let now = at(10 + round);
        let messages = queue.receive(&dead, 10, now).await.unwrap();
        let bodies: Vec<&str> = messages.iter().map(|message| message.body.as_str()).collect();
        assert_eq!(bodies, ["poison", "by hand"], "in the same order each time");
        assert_eq!(messages[0].receive_count, 3, "looking does not count");
        let death = messages[0].death.as_ref().unwrap();
        assert_eq!((death.dead_at, death.last_failure.as_deref()), (at(3), Some("no model")));
        assert_eq!((&messages[1].id, &messages[1].death), (&sent_directly, &None));
        for message in messages.iter().rev() {
            assert!(queue.change_visibility(&message.receipt_handle, Duration::ZERO, now).await.unwrap());
        }
    }
    assert_eq!(queue.peek_dead_letters(QUEUE, 10).await.unwrap().len(), 2);
    let held = queue.receive(&dead, 1, at(40)).await.unwrap();
    assert_eq!(queue.receive(&dead, 10, at(69)).await.unwrap().len(), 1, "held for half a minute");
    assert_eq!(queue.receive(&dead, 10, at(70)).await.unwrap()[0].body, held[0].body);
    let nobody = queue.receive("nobody-dlq", 1, at(70)).await.unwrap_err();
    assert!(matches!(nobody, QueueError::Undeclared { .. }), "{nobody}");
}

#[tokio::test]
async fn a_message_received_without_hiding_it_comes_once_a_receive() {
    let Bench { queue, _folder, .. } = bench().await;
    queue.send(QUEUE, "seen", at(0)).await.unwrap();
    let received = queue.receive_hidden(QUEUE, 10, Some(Duration::ZERO), at(1)).await.unwrap();
    assert_eq!(received.len(), 1);
    assert_eq!(receive_one(&queue, at(2)).await.unwrap().receive_count, 2, "and is visible at once");
}

#[tokio::test]
async fn messages_sent_together_are_there_after_their_delays() {
    let Bench { queue, _folder, .. } = bench().await;
    let message =
        |body: &str, seconds| NewMessage { body: body.to_owned(), delay: Duration::from_secs(seconds) };
    let ids = queue.send_all(QUEUE, vec![message("late", 30), message("now", 0)], at(0)).await.unwrap();
    let first = receive_one(&queue, at(1)).await.unwrap();
    assert_eq!((first.body.as_str(), &first.id), ("now", &ids[1]));
    assert_eq!(receive_one(&queue, at(29)).await, None);
    assert_eq!(receive_one(&queue, at(30)).await.unwrap().body, "late");
    assert_eq!(queue.purge(QUEUE).await.unwrap(), 2);
    assert_eq!(queue.depth(QUEUE, at(31)).await.unwrap(), Depth::default());
}
