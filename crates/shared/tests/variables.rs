//! Variables: what threads and processes count together.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Barrier;
use std::thread;

use farrier_shared::{Counter, Gauge, Histogram, Mutex, Value, VariableError, adopt, share};

#[test]
fn all_threads_count_together() {
    let (counter, gauge) = (Counter::named("counted").unwrap(), Gauge::named("gauged").unwrap());
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
    let sizes = Histogram::named("sizes", &[1.0, 2.0, 5.0]).unwrap();
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
    let many: Vec<f64> = (0..47).map(f64::from).collect();
    for bounds in [&[][..], &[1.0, 1.0], &[2.0, 1.0], &[f64::NAN], &[1.0, f64::INFINITY], &many] {
        let refused = Histogram::named("other sizes", bounds);
        assert!(matches!(refused, Err(VariableError::Bounds(_))), "{bounds:?}");
    }
    Histogram::named("at zero", &[0.0]).unwrap();
    Histogram::named("at zero", &[-0.0]).unwrap();
    let largest = Histogram::named("other sizes", &many[..46]).unwrap();
    largest.record(45.5);
    assert_eq!(largest.read().buckets[46], 1);
}

#[test]
fn a_value_is_read_as_it_was_written() {
    let pair = Value::named("pair", [1_u32, 1]).unwrap();
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
    let total = Value::named("total", 0_i16).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| assert!(total.update(|total| total + 1) > 0)));
        }
    });
    assert_eq!(total.get(), 4_000);
    let none = Value::named("none", ()).unwrap();
    none.set(());
    let switch = Value::named("switch", true).unwrap();
    assert!(!switch.update(|is_on| !is_on));
    assert_eq!(format!("{total:?}"), r#"Value { name: "total", value: 4000 }"#);
}

#[test]
fn who_names_it_again_has_the_same() {
    Counter::named("same").unwrap().add(2);
    assert_eq!(Counter::named("same").unwrap().get(), 2);
    let value = Value::named("same value", 1_u32).unwrap();
    value.set(5);
    assert_eq!(Value::named("same value", 1_u32).unwrap().get(), 5, "it is as it was left");
    Histogram::named("same sizes", &[1.0, 2.0]).unwrap().record(1.5);
    assert_eq!(Histogram::named("same sizes", &[1.0, 2.0]).unwrap().read().buckets, [0, 1, 0]);
    // However many do so at once.
    let together = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for number in 0..50 {
                    together.wait();
                    Counter::named(&format!("at once {number}")).unwrap().add(1);
                }
            });
        }
    });
    for number in 0..50 {
        assert_eq!(Counter::named(&format!("at once {number}")).unwrap().get(), 8);
    }
}

#[test]
fn a_name_is_one_things() {
    let differs = |error, name: &str| matches!(error, Some(VariableError::Differs(n)) if n == name);
    Counter::named("one thing").unwrap();
    assert!(differs(Gauge::named("one thing").err(), "one thing"));
    assert!(differs(Mutex::named("one thing").err(), "one thing"));
    Value::named("a value", 1_u32).unwrap();
    assert!(differs(Value::named("a value", 1_i32).err(), "a value"));
    assert!(differs(Value::named("a value", 1_u64).err(), "a value"));
    Histogram::named("a histogram", &[1.0]).unwrap();
    assert!(differs(Histogram::named("a histogram", &[2.0]).err(), "a histogram"));
    assert!(differs(Histogram::named("a histogram", &[1.0, 2.0]).err(), "a histogram"));
    for name in ["", &"x".repeat(65)] {
        assert!(matches!(Counter::named(name), Err(VariableError::NoName(_))), "{name}");
    }
    // Names that begin alike, and one that is as long as it may be.
    let names = ["x".repeat(7), "x".repeat(8), "x".repeat(9), "x".repeat(64), "\u{e9}".repeat(32)];
    for (number, name) in (1..).zip(&names) {
        assert_eq!(Counter::named(name).unwrap().add(number), number);
    }
    assert_eq!(names.map(|name| Counter::named(&name).unwrap().get()), [1, 2, 3, 4, 5]);
}

#[test]
fn memory_of_something_else_is_refused() {
    let counter = Counter::named("before").unwrap();
    let other = OwnedFd::from(File::open("/proc/self/exe").unwrap());
    assert!(matches!(adopt(other), Err(VariableError::Unknown)));
    // Its own: there are variables already, and they stay.
    let again = share().unwrap().try_clone_to_owned().unwrap();
    assert!(matches!(adopt(again), Err(VariableError::Shared)));
    assert_eq!(counter.add(1), 1);
}
