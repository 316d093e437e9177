//! Variables: what threads and processes count together.

use std::thread;

use farrier_shared::{Counter, Gauge, Histogram, QueueError, Value, VariableError, queue};

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
fn a_histogram_counts_each_size_in_its_bucket() {
    let sizes = Histogram::new("sizes", &[1.0, 2.0, 5.0]).unwrap();
    for size in [-1.0, 0.5, 1.0, 1.1, 2.0, 5.0, 5.1, 1e300, f64::NAN, f64::INFINITY] {
        sizes.record(size);
    }
    let read = sizes.read();
    assert_eq!(read.buckets, [3, 2, 1, 4]);
    assert_eq!((read.count(), read.sum, &*read.bounds), (10, 1e300, &[1.0, 2.0, 5.0][..]));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|_| sizes.record(2.0)));
        }
    });
    assert_eq!(sizes.read().buckets[1], 40_002);
    let many: Vec<f64> = (0..23).map(f64::from).collect();
    for bounds in [&[][..], &[1.0, 1.0], &[2.0, 1.0], &[f64::NAN], &[1.0, f64::INFINITY], &many] {
        let refused = Histogram::new("other sizes", bounds);
        assert!(matches!(refused, Err(VariableError::Bounds(_))), "{bounds:?}");
    }
    let largest = Histogram::new("other sizes", &many[..22]).unwrap();
    largest.record(21.5);
    assert_eq!(largest.read().buckets[22], 1);
}

#[test]
fn a_value_is_read_as_it_was_written() {
    let pair = Value::new("pair", [1_u32, 1]).unwrap();
    thread::scope(|scope| {
        for number in 2..6 {
            scope.spawn(move || (0..20_000).for_each(|_| pair.set([number, number])));
        }
        scope.spawn(|| {
            for _ in 0..20_000 {
                let [one, two] = pair.get();
                assert_eq!(one, two, "parts of two");
            }
        });
    });
    let total = Value::new("total", 0_i16).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| assert!(total.update(|total| total + 1) > 0)));
        }
    });
    assert_eq!(total.get(), 4_000);
    let none = Value::new("none", ()).unwrap();
    none.set(());
    assert_eq!(format!("{total:?}"), r#"Value { name: "total", value: 4000 }"#);
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
