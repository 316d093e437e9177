use std::sync::atomic::AtomicBool;
use std::thread;

use farrier_exchange::Exchange;
use http::request::Parts;
use http::{Method, Request, Version};
use proptest::prelude::*;

use super::*;

fn board() -> (Arc<Board>, RowId, BoardPulse) {
    let board = Arc::new(Board::new().unwrap());
    let row = board.take().unwrap();
    let pulse = BoardPulse::new(Arc::clone(&board), row);
    (board, row, pulse)
}

fn request(path: &str) -> Parts {
    Request::get(path).body(()).unwrap().into_parts().0
}

fn end() -> End {
    let mut seen = None;
    drop(Exchange::begin(&Method::GET, Version::HTTP_11, |end| seen = Some(end)));
    seen.unwrap()
}

fn named(board: &Board, row: RowId) -> Vec<String> {
    board.in_flight(row).into_iter().map(|request| request.request).collect()
}

#[test]
fn requests_in_flight_are_named_oldest_first_and_forgotten_at_their_end() {
    let (board, row, pulse) = board();
    let first = pulse.begin(RequestHead::of(&request("/first?secret=1")));
    let second = pulse.begin(RequestHead::of(&request("/second")));
    assert_eq!(named(&board, row), ["GET /first", "GET /second"]);
    pulse.end(first, &end());
    assert_eq!(named(&board, row), ["GET /second"]);
    pulse.end(second, &end());
    assert!(named(&board, row).is_empty());
    let reading = board.read(row);
    assert_eq!((reading.started, reading.finished), (2, 2));
}

#[test]
fn requests_beyond_the_table_are_counted() {
    let (board, row, pulse) = board();
    let tickets: Vec<_> =
        (0..ENTRIES + 10).map(|_| pulse.begin(RequestHead::of(&request("/x")))).collect();
    assert_eq!(named(&board, row).len(), ENTRIES);
    assert_eq!(board.read(row).started, ENTRIES as u64 + 10);
    for ticket in tickets {
        pulse.end(ticket, &end());
    }
    assert!(named(&board, row).is_empty());
    assert_eq!(board.read(row).finished, ENTRIES as u64 + 10);
}

#[test]
fn a_slot_that_is_taken_again_begins_empty() {
    let (board, row, pulse) = board();
    pulse.begin(RequestHead::of(&request("/lost")));
    pulse.set_state(State::Ready);
    board.free(row);
    let again = board.take().unwrap();
    assert_eq!(again, row);
    assert!(named(&board, again).is_empty());
    let reading = board.read(again);
    assert_eq!((reading.state, reading.started), (State::Booting, 0));
}

#[test]
fn the_board_has_an_end() {
    let board = Board::new().unwrap();
    let rows: Vec<_> = std::iter::from_fn(|| board.take()).collect();
    assert_eq!(rows.len(), ROWS);
    board.free(rows[5]);
    assert_eq!(board.take(), Some(rows[5]));
    assert_eq!(board.take(), None);
}

#[test]
fn slots_share_no_cache_line() {
    assert_eq!(align_of::<Row>(), 128);
    assert_eq!(size_of::<Entry>(), 128);
    assert_eq!(size_of::<Row>(), 128 + 128 * ENTRIES);
}

#[test]
fn beats_and_states_are_seen_by_the_reader() {
    let (board, row, pulse) = board();
    let before = board.read(row).beat;
    while before.elapsed() < Duration::from_millis(2) {
        thread::yield_now();
    }
    let age = pulse.beat_age();
    assert!(age >= Duration::from_millis(2), "{age:?}");
    pulse.beat();
    assert!(board.read(row).beat >= before + Duration::from_millis(2));
    for state in [State::Ready, State::Draining] {
        pulse.set_state(state);
        assert_eq!((pulse.state(), board.read(row).state), (state, state));
    }
}

#[test]
fn many_threads_share_a_slot() {
    let (board, row, pulse) = board();
    let (seen_enough, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !seen_enough.load(Ordering::Relaxed) {
                    begun.fetch_add(1, Ordering::Relaxed);
                    let ticket = pulse.begin(RequestHead::of(&request("/spinning")));
                    pulse.end(ticket, &end());
                }
            });
        }
        let mut seen = 0;
        while seen < 200 {
            let now = named(&board, row);
            assert!(now.iter().all(|request| request == "GET /spinning"), "{now:?}");
            assert!(now.len() <= 4, "{now:?}");
            seen += now.len();
        }
        seen_enough.store(true, Ordering::Relaxed);
    });
    assert!(named(&board, row).is_empty());
    assert_eq!(board.read(row).finished, begun.into_inner());
}

proptest! {
    /// Whatever the path is, the entry holds as much of it as fits.
    #[test]
    fn text_is_cut_to_fit(path in "/[a-z0-9%/]{0,300}") {
        let (board, row, pulse) = board();
        pulse.begin(RequestHead::of(&request(&path)));
        let whole = format!("GET {path}");
        let fits = whole.len().min(TEXT_WORDS * 8);
        prop_assert_eq!(named(&board, row), vec![whole[..fits].to_owned()]);
    }
}
