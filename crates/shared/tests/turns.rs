//! A lock between processes is had in turn.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, io};

use farrier_shared::{Counter, Mutex, adopt, share};
use tokio::time::{sleep, timeout};

/// What says to this program that it is the one that wants the lock again and again.
const GREEDY: &str = "FARRIER_TEST_GREEDY";

const SOON: Duration = Duration::from_secs(20);

/// Longer than a process needs to begin to wait.
const HOLD: Duration = Duration::from_millis(10);

/// Behaviour V5: a process that wants a lock again and again leaves it to the others in between.
#[tokio::test]
async fn processes_have_a_lock_in_turn() {
    if env::var_os(GREEDY).is_some() {
        adopt(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    }
    share().unwrap();
    let (mutex, held) = (Mutex::named("mutex").unwrap(), Counter::named("held").unwrap());
    if env::var_os(GREEDY).is_some() {
        loop {
            let _guard = mutex.lock().await.unwrap();
            held.add(1);
            sleep(HOLD).await;
        }
    }
    let mut greedy = Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes_have_a_lock_in_turn", "--nocapture"])
        .env(GREEDY, "1")
        .stdin(share().unwrap().try_clone_to_owned().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let began = async {
        while held.get() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, began).await.unwrap();
    let mut between = Vec::new();
    for _ in 0..20 {
        let before = held.get();
        let guard = timeout(SOON, mutex.lock()).await.expect("it comes soon").unwrap();
        between.push(held.get() - before);
        // This process is as greedy.
        sleep(HOLD).await;
        drop(guard);
    }
    greedy.kill().unwrap();
    greedy.wait().unwrap();
    // Unless the machine is busy, each has it once, and then the other.
    let in_a_row = between.iter().filter(|&&others| others == 0).count();
    assert!(in_a_row <= 8, "this process came again at once: {between:?}");
    assert!(between.iter().sum::<u64>() <= 60, "the other one did: {between:?}");
}
