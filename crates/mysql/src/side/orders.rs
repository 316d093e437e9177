//! What is to be said to the server next, and to whom its answer goes: decisions, without I/O.

use std::io;
use std::time::Duration;

use farrier_connection::Interruption;
use mysql_async::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::MySqlSessionId;

/// How long the side connection stays open for the next order.
const LINGER: Duration = Duration::from_secs(5);
/// Between two looks at the sessions that are awaited; doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// Before the next look, when the side connection has made room for another.
const ASIDE: Duration = Duration::from_millis(250);

pub(super) type Answer = oneshot::Sender<Result<Interruption, Error>>;

/// The orders that are not answered, and who carries them out.
#[derive(Debug)]
pub(super) struct Orders {
    list: Vec<Order>,
    /// Which speakers there are.
    first: bool,
    second: bool,
    /// The first speaker has waited long for an answer of the server.
    unanswered: bool,
    /// A connect of the pool was refused: the side connection takes somebody's place.
    make_room: bool,
    /// When the side connection may have that place again, to look.
    aside_until: Instant,
    closed: bool,
    /// When the last order was answered.
    quiet_since: Instant,
    look_at: Instant,
    pause: Duration,
}

#[derive(Debug)]
struct Order {
    session: MySqlSessionId,
    stage: Stage,
    /// Who gave the order; those who have given up are found when they are answered.
    answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be killed. Exit: to `Killing`, when a speaker takes it.
    Kill,
    /// A speaker has sent the kill. Exits: to `Awaited` when the server has marked the session;
    /// answered when there is none, or when that failed.
    Killing,
    /// It ends by itself. Exit: answered when a look does not find it, or fails.
    Awaited,
}

/// Who speaks to the server: each has at most one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    First,
    /// Only while the first waits long for an answer.
    Second,
}

/// What a speaker does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Kill(MySqlSessionId),
    /// See which of these are still there: sessions of one server.
    Look(Vec<MySqlSessionId>),
    /// Close the connection, and ask again.
    Disconnect,
    /// Wait until then, or until something changes.
    Wait(Instant),
    /// Close the connection and end.
    End,
}

// === impl Orders ===

impl Orders {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            list: Vec::new(),
            first: false,
            second: false,
            unanswered: false,
            make_room: false,
            aside_until: now,
            closed: false,
            quiet_since: now,
            look_at: now,
            pause: PAUSE.0,
        }
    }

    /// Takes an order: to end a session, or only to see it go.
    pub(super) fn take(
        &mut self,
        session: &MySqlSessionId,
        kill: bool,
        answer: Answer,
        now: Instant,
    ) {
        let stage = if kill { Stage::Kill } else { Stage::Awaited };
        match self.list.iter_mut().find(|order| order.session == *session) {
            // It was given before, by somebody who has given up: what is under way goes on.
            Some(order) => order.answers.push(answer),
            None => {
                let answers = vec![answer];
                self.list.push(Order { session: session.clone(), stage, answers });
            }
        }
        if !kill {
            self.look_soon(now);
        }
        self.closed = false;
    }

    /// Who is to be started, if anybody; it is counted from now on.
    pub(super) fn speaker_wanted(&mut self) -> Option<Speaker> {
        if !self.first {
            self.first = true;
            Some(Speaker::First)
        } else if self.unanswered && !self.second && self.has_work() {
            self.second = true;
            Some(Speaker::Second)
        } else {
            None
        }
    }

    /// Whether a speaker that was told to end may: not if an order came while it disconnected.
    pub(super) fn may_end(&mut self, speaker: Speaker) -> bool {
        let may_end = speaker == Speaker::Second || !self.has_work();
        if may_end {
            self.speaker_gone(speaker);
        }
        may_end
    }

    pub(super) fn speaker_gone(&mut self, speaker: Speaker) {
        match speaker {
            Speaker::First => {
                self.first = false;
                self.make_room = false;
                self.unanswered = false;
            }
            Speaker::Second => self.second = false,
        }
    }

    pub(super) fn has_speakers(&self) -> bool {
        self.first || self.second
    }

    pub(super) fn next(&mut self, speaker: Speaker, now: Instant) -> Next {
        let is_second = speaker == Speaker::Second;
        if is_second && !self.unanswered {
            return Next::End;
        }
        if let Some(order) = self.list.iter_mut().find(|order| order.stage == Stage::Kill) {
            order.stage = Stage::Killing;
            return Next::Kill(order.session.clone());
        }
        if self.make_room && !is_second {
            self.make_room = false;
            self.aside_until = now + ASIDE;
            self.look_at = self.look_at.max(self.aside_until);
            return Next::Disconnect;
        }
        if let Some(first) = self.awaited().next() {
            if now < self.look_at {
                return Next::Wait(self.look_at);
            }
            let here = |session: &&MySqlSessionId| session.server == first.server;
            return Next::Look(self.awaited().filter(here).cloned().collect());
        }
        if !self.list.is_empty() {
            // The other speaker's, whose answer changes something.
            return Next::Wait(now + LINGER);
        }
        let until = self.quiet_since + LINGER;
        if self.closed || now >= until { Next::End } else { Next::Wait(until) }
    }

    /// The server has marked the session that it was told to end, or knows none.
    pub(super) fn killed(&mut self, session: &MySqlSessionId, is_gone: bool, now: Instant) {
        if is_gone {
            return self.answer(session, Ok(Interruption::Gone), now);
        }
        if let Some(order) = self.list.iter_mut().find(|order| order.session == *session) {
            order.stage = Stage::Awaited;
        }
        self.look_soon(now);
    }

    /// Of the sessions that were looked for, those with these numbers are there.
    pub(super) fn looked(&mut self, sought: &[MySqlSessionId], found: &[u32], now: Instant) {
        let mut all_gone = true;
        for session in sought {
            if found.contains(&session.number) {
                all_gone = false;
            } else {
                self.answer(session, Ok(Interruption::Gone), now);
            }
        }
        if !all_gone {
            self.look_at = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
    }

    /// The side connection leads to another server than these sessions.
    pub(super) fn elsewhere(&mut self, sessions: &[MySqlSessionId], now: Instant) {
        for session in sessions {
            self.answer(session, Ok(Interruption::OtherServer), now);
        }
    }

    /// What was said about these sessions failed.
    pub(super) fn failed(&mut self, sessions: &[MySqlSessionId], error: &Error, now: Instant) {
        for session in sessions {
            self.answer(session, Err(error), now);
        }
    }

    /// There is no side connection to be had: who waits may ask again later.
    pub(super) fn refused(&mut self, error: &Error, now: Instant) {
        let sessions: Vec<_> = self.waiting().map(|order| order.session.clone()).collect();
        self.failed(&sessions, error, now);
    }

    pub(super) fn set_unanswered(&mut self, unanswered: bool) {
        self.unanswered = unanswered;
    }

    pub(super) fn make_room(&mut self, now: Instant) {
        self.make_room |= self.first && now >= self.aside_until;
    }

    /// Forgets the orders; the speakers end.
    pub(super) fn close(&mut self) {
        self.list.clear();
        self.closed = true;
    }

    fn awaited(&self) -> impl Iterator<Item = &MySqlSessionId> {
        let awaited = self.list.iter().filter(|order| order.stage == Stage::Awaited);
        awaited.map(|order| &order.session)
    }

    /// The orders that no speaker is carrying out.
    fn waiting(&self) -> impl Iterator<Item = &Order> {
        self.list.iter().filter(|order| order.stage != Stage::Killing)
    }

    fn has_work(&self) -> bool {
        self.waiting().next().is_some()
    }

    /// A session takes a moment to end, and others may end meanwhile: one look is for all of them.
    fn look_soon(&mut self, now: Instant) {
        let soon = now + PAUSE.0;
        if self.look_at <= now || self.look_at > soon {
            self.look_at = soon;
        }
        self.pause = PAUSE.0;
    }

    fn answer(
        &mut self,
        session: &MySqlSessionId,
        answer: Result<Interruption, &Error>,
        now: Instant,
    ) {
        self.quiet_since = now;
        if let Some(place) = self.list.iter().position(|order| order.session == *session) {
            for waiting in self.list.remove(place).answers {
                let _ = waiting.send(answer.map_err(again));
            }
        }
    }
}

/// The driver's errors cannot be cloned; this one says the same.
fn again(error: &Error) -> Error {
    match error {
        Error::Server(error) => Error::Server(error.clone()),
        error => io::Error::other(error.to_string()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session_id::ServerId;

    const MS: Duration = Duration::from_millis(1);

    fn session(number: u32, server: &str) -> MySqlSessionId {
        MySqlSessionId { number, server: ServerId::new(server) }
    }

    type Answered = oneshot::Receiver<Result<Interruption, Error>>;

    fn order(orders: &mut Orders, session: &MySqlSessionId, kill: bool, now: Instant) -> Answered {
        let (answer, answered) = oneshot::channel();
        orders.take(session, kill, answer, now);
        answered
    }

    #[test]
    fn a_killed_session_is_awaited_until_a_look_does_not_find_it() {
        let now = Instant::now();
        let mut orders = Orders::new(now);
        let (one, two) = (session(1, "a"), session(2, "a"));
        let mut first = order(&mut orders, &one, true, now);
        let mut second = order(&mut orders, &two, false, now);
        assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
        assert_eq!(orders.speaker_wanted(), None);
        assert_eq!(orders.next(Speaker::First, now), Next::Kill(one.clone()));
        assert_eq!(orders.next(Speaker::First, now), Next::Wait(now + MS));
        orders.killed(&one, false, now);
        let now = now + MS;
        let both = vec![one, two];
        assert_eq!(orders.next(Speaker::First, now), Next::Look(both.clone()));
        orders.looked(&both, &[7, 1], now);
        assert!(matches!(second.try_recv(), Ok(Ok(Interruption::Gone))));
        assert_eq!(orders.next(Speaker::First, now), Next::Wait(now + MS));
        orders.looked(&both[..1], &[7], now + MS);
        assert!(matches!(first.try_recv(), Ok(Ok(Interruption::Gone))));
        assert_eq!(orders.next(Speaker::First, now + MS), Next::Wait(now + MS + LINGER));
        assert_eq!(orders.next(Speaker::First, now + MS + LINGER), Next::End);
    }

    #[test]
    fn an_order_given_again_joins_the_one_under_way() {
        let now = Instant::now();
        let mut orders = Orders::new(now);
        let one = session(1, "a");
        drop(order(&mut orders, &one, true, now));
        assert_eq!(orders.next(Speaker::First, now), Next::Kill(one.clone()));
        let mut again = order(&mut orders, &one, true, now);
        assert!(matches!(orders.next(Speaker::First, now), Next::Wait(_)));
        orders.killed(&one, true, now);
        assert!(matches!(again.try_recv(), Ok(Ok(Interruption::Gone))));
    }

    #[test]
    fn a_second_speaks_only_while_the_first_waits_for_an_answer() {
        let now = Instant::now();
        let mut orders = Orders::new(now);
        let (one, two) = (session(1, "a"), session(2, "a"));
        let _first = order(&mut orders, &one, true, now);
        assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
        orders.next(Speaker::First, now);
        orders.set_unanswered(true);
        assert_eq!(orders.speaker_wanted(), None, "there is nothing to do");
        let _second = order(&mut orders, &two, true, now);
        assert_eq!(orders.speaker_wanted(), Some(Speaker::Second));
        assert_eq!(orders.speaker_wanted(), None);
        assert_eq!(orders.next(Speaker::Second, now), Next::Kill(two));
        assert!(matches!(orders.next(Speaker::Second, now), Next::Wait(_)));
        orders.set_unanswered(false);
        assert_eq!(orders.next(Speaker::Second, now), Next::End);
    }

    #[test]
    fn an_order_that_comes_while_the_speaker_disconnects_is_not_forgotten() {
        let now = Instant::now();
        let mut orders = Orders::new(now);
        let one = session(1, "a");
        drop(order(&mut orders, &one, true, now));
        assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
        orders.next(Speaker::First, now);
        orders.killed(&one, true, now);
        let late = now + LINGER;
        assert_eq!(orders.next(Speaker::First, late), Next::End);
        let _answered = order(&mut orders, &one, true, late);
        assert_eq!(orders.speaker_wanted(), None);
        assert!(!orders.may_end(Speaker::First));
        assert_eq!(orders.next(Speaker::First, late), Next::Kill(one.clone()));
        orders.killed(&one, true, late);
        assert!(orders.may_end(Speaker::First));
        assert_eq!(orders.speaker_wanted(), Some(Speaker::First));
    }

    #[test]
    fn sessions_of_two_servers_are_looked_for_apart() {
        let now = Instant::now();
        let mut orders = Orders::new(now);
        let (here, there) = (session(1, "a"), session(1, "b"));
        let _here = order(&mut orders, &here, false, now);
        let mut answered = order(&mut orders, &there, false, now);
        let now = now + MS;
        assert_eq!(orders.next(Speaker::First, now), Next::Look(vec![here.clone()]));
        orders.looked(&[here], &[], now);
        assert_eq!(orders.next(Speaker::First, now), Next::Look(vec![there.clone()]));
        orders.elsewhere(&[there], now);
        assert!(matches!(answered.try_recv(), Ok(Ok(Interruption::OtherServer))));
    }

    #[test]
    fn the_side_connection_makes_room_and_looks_again_later() {
        let now = Instant::now();
        let mut orders = Orders::new(now);
        let one = session(1, "a");
        let _answered = order(&mut orders, &one, false, now);
        orders.speaker_wanted();
        orders.make_room(now);
        assert_eq!(orders.next(Speaker::First, now), Next::Disconnect);
        for early in [now, now + ASIDE / 2] {
            // Refused again, which does not put off the look.
            orders.make_room(early);
            assert_eq!(orders.next(Speaker::First, early), Next::Wait(now + ASIDE));
        }
        assert_eq!(orders.next(Speaker::First, now + ASIDE), Next::Look(vec![one]));
    }
}
