//! A queue: between tasks, threads and processes.

use std::collections::BTreeSet;
use std::time::Duration;

use farrier_shared::{QueueError, RecvError, SendError, descriptors, queue, queue_with_buffer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Job {
    Nothing,
    Mail { to: String, copies: u32 },
}

#[tokio::test]
async fn messages_come_as_they_went() {
    let (sender, mut receiver) = queue::<Job>("jobs").unwrap();
    let jobs = [Job::Nothing, Job::Mail { to: "ann".into(), copies: 2 }, Job::Nothing];
    for job in &jobs {
        sender.send(job).await.unwrap();
    }
    for job in &jobs {
        assert_eq!(receiver.recv().await.unwrap(), *job);
    }
    assert!(matches!(receiver.try_recv(), Err(RecvError::Empty)));
    // One that is written as nothing at all is a message too.
    let (sender, mut receiver) = queue::<()>("bells").unwrap();
    sender.try_send(&()).unwrap();
    receiver.try_recv().unwrap();
    assert!(matches!(receiver.try_recv(), Err(RecvError::Empty)));
}

/// Behaviour Q1: who sends to a full queue waits, and nothing is lost.
#[tokio::test]
async fn a_full_queue_makes_its_senders_wait() {
    let (sender, mut receiver) = queue::<u64>("numbers").unwrap();
    let mut sent = 0;
    while sender.try_send(&sent).is_ok() {
        sent += 1;
    }
    assert!(matches!(sender.try_send(&sent), Err(SendError::Full)));
    assert!((100..10_000).contains(&sent), "{sent}");
    let late = tokio::spawn(async move {
        for number in sent..sent + 1_000 {
            sender.send(&number).await.unwrap();
        }
    });
    tokio::task::yield_now().await;
    assert!(!late.is_finished());
    for number in 0..sent + 1_000 {
        assert_eq!(timeout(SOON, receiver.recv()).await.unwrap().unwrap(), number);
    }
    late.await.unwrap();
}

/// Behaviour Q7: who waits has its turn before who comes later, as soon as there is room for one.
#[tokio::test]
async fn who_waits_for_room_is_before_who_comes_later() {
    let (sender, mut receiver) = queue::<u64>("in turn").unwrap();
    while sender.try_send(&0).is_ok() {}
    let first = tokio::spawn({
        let sender = sender.clone();
        async move { sender.send(&1).await }
    });
    tokio::task::yield_now().await;
    let mut others = Vec::new();
    for _ in 0..50 {
        let sender = sender.clone();
        others.push(tokio::spawn(async move { sender.send(&2).await }));
    }
    tokio::task::yield_now().await;
    receiver.recv().await.unwrap();
    timeout(SOON, first).await.expect("there is room for one").unwrap().unwrap();
    assert!(matches!(sender.try_send(&3), Err(SendError::Full)));
    let mut order = Vec::new();
    while order.len() < 51 {
        let received = timeout(SOON, receiver.recv()).await.expect("all are sent");
        order.extend(Some(received.unwrap()).filter(|&number| number > 0));
    }
    assert_eq!(order.iter().position(|&number| number == 1), Some(0));
}

/// A loop that always finds a message, or room, keeps no other task from its turn.
#[tokio::test]
async fn a_busy_loop_lets_others_have_a_turn() {
    let (sender, mut receiver) = queue::<u64>("busy").unwrap();
    let beside = tokio::spawn(async {});
    for number in 0..200 {
        sender.send(&number).await.unwrap();
    }
    assert!(beside.is_finished(), "the sender was alone");
    let beside = tokio::spawn(async {});
    for _ in 0..200 {
        receiver.recv().await.unwrap();
    }
    assert!(beside.is_finished(), "the receiver was alone");
}

/// Behaviour Q2: each message goes to exactly one of the receivers, whoever has sent it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_goes_to_one_receiver() {
    const SENDERS: u64 = 4;
    const EACH: u64 = 2_000;
    let (sender, receiver) = queue::<u64>("numbers of many").unwrap();
    let receivers: Vec<_> = (0..3)
        .map(|_| {
            let mut receiver = receiver.clone();
            tokio::spawn(async move {
                let mut got = Vec::new();
                while let Ok(number) = receiver.recv().await {
                    got.push(number);
                }
                got
            })
        })
        .collect();
    drop(receiver);
    let senders = (0..SENDERS).map(|first| {
        let sender = sender.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                sender.send(&(first * EACH + number)).await.unwrap();
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    drop(sender);
    let (mut all, mut count) = (BTreeSet::new(), 0);
    for receiver in receivers {
        let got = timeout(SOON, receiver).await.unwrap().unwrap();
        count += got.len() as u64;
        all.extend(got);
    }
    assert_eq!((count, all.len() as u64), (SENDERS * EACH, SENDERS * EACH));
}

/// Behaviour Q3: what does not fit is refused, and nothing else is harmed.
#[tokio::test]
async fn too_large_a_message_is_refused() {
    let (sender, mut receiver) = queue::<Vec<u8>>("blobs").unwrap();
    let Err(SendError::TooLarge { size, most }) = sender.send(&vec![7; 10 << 20]).await else {
        panic!("it is too large");
    };
    assert!(size > 10 << 20 && most < 10 << 20, "{size} {most}");
    for (length, fits) in [(most - 4, true), (most - 3, false)] {
        let message = vec![7; length];
        let sent = sender.try_send(&message);
        assert_eq!(sent.is_ok(), fits, "{length}: {sent:?}");
        if fits {
            assert_eq!(receiver.recv().await.unwrap(), message);
        }
    }
}

/// Behaviour Q4: closing is seen from both sides, after what was still in the queue.
#[tokio::test]
async fn an_end_that_is_gone_is_seen() {
    let (sender, mut receiver) = queue::<u8>("closing").unwrap();
    let waits = tokio::spawn({
        let mut receiver = receiver.clone();
        async move { receiver.recv().await }
    });
    let second = sender.clone();
    drop(sender);
    second.try_send(&1).unwrap();
    assert_eq!(timeout(SOON, waits).await.unwrap().unwrap().unwrap(), 1);
    second.try_send(&2).unwrap();
    drop(second);
    assert_eq!(receiver.recv().await.unwrap(), 2);
    assert!(matches!(receiver.recv().await, Err(RecvError::Closed)));
    assert!(matches!(receiver.try_recv(), Err(RecvError::Closed)));

    for unread in [false, true] {
        let (sender, receiver) = queue::<u64>("closing again").unwrap();
        if unread {
            while sender.try_send(&1).is_ok() {}
        }
        let late = tokio::spawn(async move {
            while sender.send(&1).await.is_ok() {}
            sender.send(&1).await
        });
        tokio::task::yield_now().await;
        drop(receiver);
        let sent = timeout(SOON, late).await.unwrap().unwrap();
        assert!(matches!(sent, Err(SendError::Closed)), "{sent:?}");
    }
}

/// Behaviour Q5: whoever stops waiting has taken nothing, and has sent nothing.
#[tokio::test]
async fn a_wait_that_is_given_up_costs_no_message() {
    let (sender, mut receiver) = queue::<u64>("given up").unwrap();
    for number in 0..100 {
        let brief = Duration::from_micros(fastrand::u64(0..200));
        assert!(timeout(brief, receiver.recv()).await.is_err());
        sender.send(&number).await.unwrap();
        let got = receiver.recv().await.unwrap();
        assert_eq!(got, number);
    }
    let mut sent = 0;
    while sender.try_send(&sent).is_ok() {
        sent += 1;
    }
    for _ in 0..100 {
        let brief = Duration::from_micros(fastrand::u64(0..200));
        assert!(timeout(brief, sender.send(&u64::MAX)).await.is_err());
    }
    for number in 0..sent {
        assert_eq!(receiver.recv().await.unwrap(), number);
    }
    assert!(matches!(receiver.try_recv(), Err(RecvError::Empty)));
}

/// Sent as two numbers by one image of the program, and read as text by another.
#[derive(Debug)]
struct Changed([u8; 2], String);

impl Serialize for Changed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Changed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self([0, 0], text))
    }
}

#[tokio::test]
async fn what_is_of_another_type_is_no_message() {
    let (sender, mut receiver) = queue::<Changed>("changed").unwrap();
    sender.try_send(&Changed([200, 200], String::new())).unwrap();
    assert!(matches!(receiver.recv().await, Err(RecvError::Malformed(_))));
    sender.try_send(&Changed([1, b'x'], String::new())).unwrap();
    assert_eq!(receiver.recv().await.unwrap().1, "x", "the next one is read");
}

#[test]
fn a_name_is_one_queues_and_is_listed_with_its_descriptors() {
    let (sender, receiver) = queue::<u8>("named").unwrap();
    let Err(QueueError::NameTaken(name)) = queue::<u16>("named") else { panic!("it is taken") };
    assert_eq!(name, "named");
    assert_eq!(descriptors()["named"].len(), 2);
    drop(sender);
    assert_eq!(descriptors()["named"].len(), 1);
    drop(receiver);
    assert!(!descriptors().contains_key("named"));
    queue::<u16>("named").unwrap();
}

#[test]
fn a_buffer_is_what_was_asked_for_or_refused() {
    let count = |buffer| {
        let (sender, _receiver) = queue_with_buffer::<u64>("sized", buffer).unwrap();
        (0..).take_while(|number| sender.try_send(number).is_ok()).count()
    };
    let (small, large) = (count(20_000), count(200_000));
    assert!(small * 5 < large, "{small} {large}");
    let refused = queue_with_buffer::<u64>("sized", usize::MAX / 4);
    assert!(matches!(refused, Err(QueueError::BufferTooLarge { .. })), "{refused:?}");
}
