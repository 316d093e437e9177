//! A program has room for so many variables, and no more.

use farrier_shared::{Counter, Mutex, VariableError};

#[tokio::test]
async fn there_is_room_for_so_many_and_no_more() {
    for number in 0..1_023_u64 {
        Counter::named(&format!("counter {number}")).unwrap().add(number);
    }
    // The last one has a lock as the first does, and it is not another's.
    let (last, guard) = (Mutex::named("last").unwrap(), Mutex::named("last").unwrap());
    let guard = guard.lock().await.unwrap();
    assert!(last.try_lock().unwrap().is_none());
    let more = Counter::named("one more");
    assert!(matches!(more, Err(VariableError::TooMany(name)) if name == "one more"));
    drop(guard);
    assert!(last.try_lock().unwrap().is_some());
    for number in 0..1_023 {
        assert_eq!(Counter::named(&format!("counter {number}")).unwrap().get(), number);
    }
}
