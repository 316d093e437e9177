//! Variables: what threads and processes count together.

use std::thread;

use farrier_shared::{Counter, Gauge, QueueError, VariableError, queue};

#[test]
fn all_threads_count_together() {
    let (counter, gauge) = (Counter::new("counted").unwrap(), Gauge::new("gauged").unwrap());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    counter.add(1);
                    gauge.add(2);
                    gauge.add(-1);
                }
            });
        }
    });
    assert_eq!((counter.get(), gauge.get()), (80_000, 80_000));
    gauge.set(i64::MIN);
    assert_eq!(gauge.get(), i64::MIN);
    assert_eq!(format!("{counter:?}"), r#"Counter { name: "counted", value: 80000 }"#);
}

#[test]
fn a_name_is_one_things() {
    let first = Counter::new("one thing").unwrap();
    let taken =
        |error| matches!(error, Some(VariableError::NameTaken(name)) if name == "one thing");
    assert!(taken(Counter::new("one thing").err()));
    assert!(taken(Gauge::new("one thing").err()));
    let error = queue::<u8>("one thing").err();
    assert!(matches!(error, Some(QueueError::NameTaken(_))), "{error:?}");
    first.add(1);
    for name in ["", &"x".repeat(65)] {
        assert!(matches!(Counter::new(name), Err(VariableError::NoName(_))), "{name}");
    }
    Counter::new(&"\u{e9}".repeat(32)).unwrap();
}
