use std::io;

use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A session's number, and its server.
type Session = (u32, &'static str);

struct Side;

impl SideConnection for Side {
    type Options = ();
    type SessionId = Session;
    type ServerId = str;
    type Error = io::Error;

    async fn open((): &()) -> io::Result<Self> {
        Ok(Self)
    }

    fn server(&self) -> Option<&str> {
        Some("a")
    }

    fn server_of(session: &Session) -> &str {
        session.1
    }

    async fn kill(&mut self, _: &Session) -> io::Result<bool> {
        Ok(true)
    }

    async fn present(&mut self, _: &[Session]) -> io::Result<Vec<Session>> {
        Ok(Vec::new())
    }

    fn is_lost(_: &io::Error) -> bool {
        true
    }

    async fn close(self) -> io::Result<()> {
        Ok(())
    }
}

const ONE: Session = (1, "a");
const TWO: Session = (2, "a");
const THERE: Session = (1, "b");

type Answered = oneshot::Receiver<io::Result<Interruption>>;

fn order(orders: &mut Orders<Side>, session: Session, kill: bool, now: Instant) -> Answered {
    let (answer, answered) = oneshot::channel();
    orders.take(&session, kill, answer, now);
    answered
}

fn is(mut answered: Answered, interruption: Interruption) -> bool {
    matches!(answered.try_recv(), Ok(Ok(answer)) if answer == interruption)
}

fn is_closed(mut answered: Answered) -> bool {
    matches!(answered.try_recv(), Err(TryRecvError::Closed))
}

#[test]
fn a_killed_session_is_awaited_until_a_look_does_not_find_it() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let first = order(&mut orders, ONE, true, now);
    let second = order(&mut orders, TWO, false, now);
    assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
    assert_eq!(orders.speaker_wanted(), None);
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill(ONE));
    orders.killed(&ONE, true, now);
    assert_eq!(orders.next(Speaker::First, true, now), Next::Wait(now + MS));
    let now = now + MS;
    assert_eq!(orders.next(Speaker::First, true, now), Next::Look(vec![TWO, ONE]));
    orders.looked(&[TWO, ONE], &[ONE], now);
    assert!(is(second, Interruption::Gone));
    assert_eq!(orders.next(Speaker::First, true, now), Next::Wait(now + MS));
    orders.looked(&[ONE], &[], now + MS);
    assert!(is(first, Interruption::Gone));
    assert_eq!(orders.next(Speaker::First, true, now + MS), Next::Wait(now + MS + LINGER));
    assert_eq!(orders.next(Speaker::First, true, now + MS + LINGER), Next::End);
}

#[test]
fn an_order_given_again_joins_the_one_under_way() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    drop(order(&mut orders, ONE, true, now));
    orders.speaker_wanted();
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill(ONE));
    let again = order(&mut orders, ONE, true, now);
    orders.killed(&ONE, false, now);
    assert!(is(again, Interruption::Gone));
}

#[test]
fn who_is_told_of_a_kill_gets_it_done_and_who_only_waits_may_give_up() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    drop(order(&mut orders, TWO, false, now));
    drop(order(&mut orders, ONE, true, now));
    orders.speaker_wanted();
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill(ONE));
    orders.killed(&ONE, true, now);
    assert_eq!(orders.next(Speaker::First, true, now), Next::Wait(now + LINGER));
}

#[test]
fn a_second_speaks_only_while_the_first_waits_for_an_answer() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let _first = order(&mut orders, ONE, true, now);
    assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
    orders.next(Speaker::First, true, now);
    orders.is_slow(Speaker::First);
    assert_eq!(orders.speaker_wanted(), None, "there is nothing to do");
    let _second = order(&mut orders, TWO, true, now);
    assert_eq!(orders.speaker_wanted(), Some(Speaker::Second));
    assert_eq!(orders.speaker_wanted(), None);
    assert_eq!(orders.next(Speaker::Second, true, now), Next::Kill(TWO));
    orders.killed(&TWO, false, now);
    assert!(matches!(orders.next(Speaker::Second, true, now), Next::Wait(_)));
    orders.killed(&ONE, true, now);
    assert_eq!(orders.next(Speaker::Second, true, now), Next::End);
    assert!(orders.may_end(Speaker::Second));
}

/// Its runtime has ended, or it has panicked.
#[test]
fn who_waits_for_a_speaker_that_is_gone_asks_again() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let killed = order(&mut orders, ONE, true, now);
    let waits = order(&mut orders, TWO, false, now);
    orders.speaker_wanted();
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill(ONE));
    orders.is_slow(Speaker::First);
    orders.speaker_gone(Speaker::First);
    assert!(!orders.has_speakers());
    assert!(is_closed(killed) && is_closed(waits));
    let again = order(&mut orders, ONE, true, now);
    assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
    assert_eq!(orders.speaker_wanted(), None);
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill(ONE));
    orders.killed(&ONE, false, now);
    assert!(is(again, Interruption::Gone));
}

#[test]
fn a_second_that_is_refused_leaves_all_to_the_first() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let _first = order(&mut orders, ONE, true, now);
    orders.speaker_wanted();
    orders.next(Speaker::First, true, now);
    orders.is_slow(Speaker::First);
    let refused = order(&mut orders, TWO, true, now);
    let mut waits = order(&mut orders, (3, "a"), true, now);
    assert_eq!(orders.speaker_wanted(), Some(Speaker::Second));
    assert_eq!(orders.next(Speaker::Second, true, now), Next::Kill(TWO));
    orders.failed(&[TWO], io::Error::other("full"), now);
    orders.refused(Speaker::Second, now);
    assert!(!is_closed(refused));
    assert_eq!(orders.next(Speaker::Second, true, now), Next::End);
    assert!(orders.may_end(Speaker::Second));
    assert_eq!(orders.speaker_wanted(), None);
    assert!(waits.try_recv().is_err_and(|error| error == TryRecvError::Empty));
    orders.killed(&ONE, false, now);
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill((3, "a")));
}

/// Or those that come would put it off for ever.
#[test]
fn a_look_that_is_due_is_not_put_off() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let _one = order(&mut orders, ONE, false, now);
    orders.speaker_wanted();
    let late = now + 2 * MS;
    let _two = order(&mut orders, TWO, false, late);
    assert_eq!(orders.next(Speaker::First, true, late), Next::Look(vec![ONE, TWO]));
}

#[test]
fn all_who_gave_an_order_are_told_and_a_kill_is_sent_to_one_that_was_only_awaited() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let awaited = order(&mut orders, ONE, false, now);
    orders.speaker_wanted();
    assert!(matches!(orders.next(Speaker::First, true, now), Next::Wait(_)));
    let kills = [(); 2].map(|()| order(&mut orders, ONE, true, now));
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill(ONE));
    orders.killed(&ONE, true, now);
    let again = order(&mut orders, ONE, true, now);
    assert!(matches!(orders.next(Speaker::First, true, now), Next::Wait(_)), "it was killed");
    orders.looked(&[ONE], &[], now);
    assert!(is(awaited, Interruption::Gone) && is(again, Interruption::Gone));
    assert!(kills.into_iter().all(|kill| is(kill, Interruption::Gone)));
}

#[test]
fn an_order_that_comes_while_the_speaker_disconnects_is_not_forgotten() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    drop(order(&mut orders, ONE, true, now));
    assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
    orders.next(Speaker::First, true, now);
    orders.killed(&ONE, false, now);
    let late = now + LINGER;
    assert_eq!(orders.next(Speaker::First, true, late), Next::End);
    let _answered = order(&mut orders, ONE, true, late);
    assert_eq!(orders.speaker_wanted(), None);
    assert!(!orders.may_end(Speaker::First));
    assert_eq!(orders.next(Speaker::First, true, late), Next::Kill(ONE));
    orders.killed(&ONE, false, late);
    assert!(orders.may_end(Speaker::First));
    assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
}

#[test]
fn sessions_of_two_servers_are_looked_for_in_turn() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let _here = order(&mut orders, ONE, false, now);
    let there = order(&mut orders, THERE, false, now);
    let now = now + MS;
    assert_eq!(orders.next(Speaker::First, true, now), Next::Look(vec![ONE]));
    orders.looked(&[ONE], &[ONE], now);
    let now = now + MS;
    assert_eq!(orders.next(Speaker::First, true, now), Next::Look(vec![THERE]));
    orders.elsewhere(&[THERE], now);
    assert!(is(there, Interruption::OtherServer));
}

#[test]
fn the_side_connection_makes_room_and_looks_again_later() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let _killed = order(&mut orders, ONE, true, now);
    let ends = order(&mut orders, TWO, false, now);
    orders.speaker_wanted();
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill(ONE));
    orders.killed(&ONE, true, now);
    orders.make_room(now);
    assert!(is_closed(ends), "nobody waits who need not");
    assert_eq!(orders.next(Speaker::First, true, now), Next::Disconnect);
    for early in [now, now + ASIDE / 2] {
        // Refused again, which does not put off the look; nor is one promised to anybody else.
        orders.make_room(early);
        assert!(is_closed(order(&mut orders, TWO, false, early)));
        assert_eq!(orders.next(Speaker::First, false, early), Next::Wait(now + ASIDE));
    }
    assert_eq!(orders.next(Speaker::First, false, now + ASIDE), Next::Look(vec![ONE]));
}

#[test]
fn those_who_wait_share_the_attempts_to_connect() {
    let mut now = Instant::now();
    let mut orders = Orders::new(now);
    let mut waits = order(&mut orders, TWO, true, now);
    orders.speaker_wanted();
    for pause in [10, 20, 40, 80, 160, 320, 500, 500] {
        let _told = order(&mut orders, ONE, true, now);
        let Next::Kill(session) = orders.next(Speaker::First, false, now) else {
            panic!("nothing to do")
        };
        orders.failed(&[session], io::Error::other("refused"), now);
        orders.refused(Speaker::First, now);
        let _again = order(&mut orders, session, true, now);
        assert_eq!(orders.next(Speaker::First, false, now), Next::Wait(now + pause * MS));
        now += pause * MS;
    }
    orders.opened();
    orders.refused(Speaker::First, now);
    let _one = order(&mut orders, ONE, true, now);
    assert_eq!(orders.next(Speaker::First, false, now), Next::Wait(now + 10 * MS));
    assert!(matches!(orders.next(Speaker::First, true, now), Next::Kill(_)));
    let _ = waits.try_recv();
}

#[test]
fn a_closed_channel_ends_when_nothing_is_under_way() {
    let now = Instant::now();
    let mut orders = Orders::new(now);
    let answered = order(&mut orders, ONE, true, now);
    orders.speaker_wanted();
    assert_eq!(orders.next(Speaker::First, true, now), Next::Kill(ONE));
    orders.close();
    assert!(is_closed(answered));
    orders.killed(&ONE, true, now);
    assert_eq!(orders.next(Speaker::First, true, now), Next::End);
    assert!(orders.may_end(Speaker::First));
}
