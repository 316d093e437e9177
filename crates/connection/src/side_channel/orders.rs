//! What is to be said to the server next, and to whom its answer goes: decisions, without I/O.

use std::mem;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::side_connection::SideConnection;
use crate::Interruption;
use crate::back_off::back_off;

/// How long the side connection stays open for the next order.
const LINGER: Duration = Duration::from_secs(5);
/// Between two looks at the sessions that are awaited; doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// Before the next look, when the side connection has made room for another.
const ASIDE: Duration = Duration::from_millis(250);

/// Who is told what became of a session; dropped, that there is no side connection to be had.
pub(super) type Answer<C> = oneshot::Sender<Result<Interruption, <C as SideConnection>::Error>>;

/// The orders that are not answered, and who carries them out.
pub(super) struct Orders<C: SideConnection> {
    /// Those that nobody is carrying out.
    waiting: Vec<Order<C>>,
    first: Speaking<C>,
    /// Only while the first waits long for an answer.
    second: Speaking<C>,
    /// A connect of the pool was refused: the side connection takes somebody's place.
    make_room: bool,
    /// When the side connection may have that place again, to look.
    aside_until: Instant,
    /// Attempts to open a connection that failed, one after the other; and when the next one may.
    refusals: u32,
    open_at: Instant,
    closed: bool,
    /// When the last order was answered.
    quiet_since: Instant,
    look_at: Instant,
    pause: Duration,
}

struct Order<C: SideConnection> {
    session: C::SessionId,
    stage: Stage,
    /// Who gave the order; closed where they have given up.
    answers: Vec<Answer<C>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be killed. Exits: to `Awaited` when the server has marked the session; answered when there
    /// is none, or when that failed.
    Kill,
    /// It ends. Exits: answered when a look does not find it, or fails; dropped when nobody asks any
    /// more; to `Kill` when that is asked for and it is not `killed`.
    Awaited { killed: bool },
}

/// What a speaker is doing.
enum Speaking<C: SideConnection> {
    /// There is none. Exit: to `Free`, when it is wanted.
    Absent,
    /// Exits: to `Killing` with an order; to `Absent` when it ends.
    Free,
    /// It has sent a kill. Exits: to `Free` with the answer; to `Absent` when it is gone.
    Killing {
        order: Order<C>,
        /// It has waited long for the answer, and a second may speak.
        is_slow: bool,
    },
}

/// Who speaks to the server: each has at most one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    First,
    Second,
}

/// What a speaker does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<S> {
    Kill(S),
    /// See which of these are still there: sessions of one server.
    Look(Vec<S>),
    /// Close the connection, and ask again.
    Disconnect,
    /// Wait until then, or until something changes.
    Wait(Instant),
    /// Close the connection and end.
    End,
}

impl<C: SideConnection> Orders<C> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            waiting: Vec::new(),
            first: Speaking::Absent,
            second: Speaking::Absent,
            make_room: false,
            aside_until: now,
            refusals: 0,
            open_at: now,
            closed: false,
            quiet_since: now,
            look_at: now,
            pause: PAUSE.0,
        }
    }

    /// Takes an order: to end a session, or only to see it go.
    pub(super) fn take(
        &mut self,
        session: &C::SessionId,
        kill: bool,
        answer: Answer<C>,
        now: Instant,
    ) {
        if !kill {
            if now < self.aside_until {
                // Its slot is not worth waiting for: the server itself keeps count.
                return;
            }
            self.look_soon(now);
        }
        let stage = if kill { Stage::Kill } else { Stage::Awaited { killed: false } };
        let Self { waiting, first, second, .. } = self;
        let mut orders = waiting.iter_mut().chain(first.order_mut()).chain(second.order_mut());
        match orders.find(|order| order.session == *session) {
            // It was given before, as a rule by somebody who has given up: what is under way goes on.
            Some(order) => {
                if order.stage == (Stage::Awaited { killed: false }) {
                    order.stage = stage;
                }
                order.answers.retain(|answer| !answer.is_closed());
                order.answers.push(answer);
            }
            None => {
                let answers = vec![answer];
                waiting.push(Order { session: session.clone(), stage, answers });
            }
        }
        self.closed = false;
    }

    /// Who is to be started, if anybody; it is counted from now on.
    pub(super) fn speaker_wanted(&mut self) -> Option<Speaker> {
        let speaker = match (&self.first, &self.second) {
            (Speaking::Absent, _) => Speaker::First,
            (_, Speaking::Absent) if self.second_has_work() => Speaker::Second,
            _ => return None,
        };
        *self.speaking(speaker) = Speaking::Free;
        Some(speaker)
    }

    /// Whether a speaker that was told to end may: not if an order came while it disconnected.
    pub(super) fn may_end(&mut self, speaker: Speaker) -> bool {
        let has_work = match speaker {
            Speaker::First => !self.waiting.is_empty(),
            Speaker::Second => self.second_has_work(),
        };
        if !has_work {
            self.speaker_gone(speaker);
        }
        !has_work
    }

    /// A speaker is no more. Who waits for it asks again, which starts another.
    pub(super) fn speaker_gone(&mut self, speaker: Speaker) {
        *self.speaking(speaker) = Speaking::Absent;
        if speaker == Speaker::First {
            self.waiting.clear();
            self.make_room = false;
        }
    }

    pub(super) fn has_speakers(&self) -> bool {
        !matches!((&self.first, &self.second), (Speaking::Absent, Speaking::Absent))
    }

    pub(super) fn next(
        &mut self,
        speaker: Speaker,
        is_connected: bool,
        now: Instant,
    ) -> Next<C::SessionId> {
        let is_second = speaker == Speaker::Second;
        if is_second && !self.first_is_slow() {
            return Next::End;
        }
        if !is_connected && now < self.open_at && !self.waiting.is_empty() {
            return Next::Wait(self.open_at);
        }
        if let Some(place) = self.waiting.iter().position(|order| order.stage == Stage::Kill) {
            let order = self.waiting.remove(place);
            let session = order.session.clone();
            *self.speaking(speaker) = Speaking::Killing { order, is_slow: false };
            return Next::Kill(session);
        }
        if self.make_room && !is_second {
            self.make_room = false;
            self.aside_until = now + ASIDE;
            self.look_at = self.look_at.max(self.aside_until);
            return Next::Disconnect;
        }
        // Whoever still wants to know asks again.
        self.waiting.retain(|order| order.answers.iter().any(|answer| !answer.is_closed()));
        if let Some(first) = self.waiting.first() {
            if now < self.look_at {
                return Next::Wait(self.look_at);
            }
            let server = C::server_of(&first.session);
            let here = self.waiting.iter().filter(|order| C::server_of(&order.session) == server);
            return Next::Look(here.map(|order| order.session.clone()).collect());
        }
        if self.first.is_killing() || self.second.is_killing() {
            // The other's, whose answer changes something.
            return Next::Wait(now + LINGER);
        }
        let until = self.quiet_since + LINGER;
        if self.closed || now >= until { Next::End } else { Next::Wait(until) }
    }

    /// The kill that a speaker has sent takes long.
    pub(super) fn is_slow(&mut self, speaker: Speaker) {
        if let Speaking::Killing { is_slow, .. } = self.speaking(speaker) {
            *is_slow = true;
        }
    }

    /// The server has marked the session that it was told to end, or knows none.
    pub(super) fn killed(&mut self, session: &C::SessionId, is_there: bool, now: Instant) {
        if !is_there {
            return self.answer(session, Ok(Interruption::Gone), now);
        }
        self.look_soon(now);
        if let Some(order) = self.remove(session) {
            self.waiting.push(Order { stage: Stage::Awaited { killed: true }, ..order });
        }
    }

    /// Of the sessions that were looked for, these are there.
    pub(super) fn looked(
        &mut self,
        sought: &[C::SessionId],
        present: &[C::SessionId],
        now: Instant,
    ) {
        for session in sought.iter().filter(|session| !present.contains(session)) {
            self.answer(session, Ok(Interruption::Gone), now);
        }
        if !present.is_empty() {
            // Those of another server come first the next time.
            let seen = |order: &Order<C>| present.contains(&order.session);
            let (seen, others): (Vec<_>, _) = self.waiting.drain(..).partition(seen);
            self.waiting = others;
            self.waiting.extend(seen);
            self.look_at = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
    }

    /// The side connection leads to another server than these sessions.
    pub(super) fn elsewhere(&mut self, sessions: &[C::SessionId], now: Instant) {
        for session in sessions {
            self.answer(session, Ok(Interruption::OtherServer), now);
        }
    }

    /// What was said about these sessions failed: the first is told why, the others that it did.
    pub(super) fn failed(&mut self, sessions: &[C::SessionId], error: C::Error, now: Instant) {
        if let Some((first, others)) = sessions.split_first() {
            self.answer(first, Err(error), now);
            for session in others {
                self.remove(session);
            }
        }
    }

    /// A speaker has a connection.
    pub(super) fn opened(&mut self) {
        self.refusals = 0;
    }

    /// A speaker has none: those who wait share the next attempt. After the second's, all is left to the
    /// first.
    pub(super) fn refused(&mut self, speaker: Speaker, now: Instant) {
        match (speaker, &mut self.first) {
            (Speaker::First, _) => {
                self.open_at = now + back_off(self.refusals);
                self.refusals += 1;
            }
            (Speaker::Second, Speaking::Killing { is_slow, .. }) => *is_slow = false,
            (Speaker::Second, Speaking::Absent | Speaking::Free) => {}
        }
    }

    /// A connect of the pool was refused: the side connection takes somebody's place, and so may those
    /// who only wait for a session to be gone.
    pub(super) fn make_room(&mut self, now: Instant) {
        self.waiting.retain(|order| order.stage != Stage::Awaited { killed: false });
        let has_first = !matches!(self.first, Speaking::Absent);
        self.make_room |= has_first && now >= self.aside_until;
    }

    /// Forgets the orders; the speakers end.
    pub(super) fn close(&mut self) {
        self.waiting.clear();
        for order in self.first.order_mut().into_iter().chain(self.second.order_mut()) {
            order.answers.clear();
        }
        self.closed = true;
    }

    fn speaking(&mut self, speaker: Speaker) -> &mut Speaking<C> {
        match speaker {
            Speaker::First => &mut self.first,
            Speaker::Second => &mut self.second,
        }
    }

    fn first_is_slow(&self) -> bool {
        matches!(self.first, Speaking::Killing { is_slow: true, .. })
    }

    fn second_has_work(&self) -> bool {
        self.first_is_slow() && !self.waiting.is_empty()
    }

    /// One more is to be awaited. It takes a moment to end, and others may end meanwhile: one look is for
    /// all of them.
    fn look_soon(&mut self, now: Instant) {
        let soon = now + PAUSE.0;
        let is_first = self.waiting.iter().all(|order| order.stage == Stage::Kill);
        if is_first || self.look_at > soon {
            self.look_at = soon.max(self.aside_until);
        }
        self.pause = PAUSE.0;
    }

    fn answer(
        &mut self,
        session: &C::SessionId,
        answer: Result<Interruption, C::Error>,
        now: Instant,
    ) {
        self.quiet_since = now;
        let Some(order) = self.remove(session) else { return };
        let mut waiting = order.answers.into_iter().filter(|answer| !answer.is_closed());
        match answer {
            Ok(interruption) => waiting.for_each(|waiting| drop(waiting.send(Ok(interruption)))),
            // One waits, as a rule; the others ask again.
            Err(error) => drop(waiting.next().map(|waiting| waiting.send(Err(error)))),
        }
    }

    fn remove(&mut self, session: &C::SessionId) -> Option<Order<C>> {
        if let Some(place) = self.waiting.iter().position(|order| order.session == *session) {
            return Some(self.waiting.remove(place));
        }
        let speaking = [&mut self.first, &mut self.second];
        speaking.into_iter().find_map(|speaking| match speaking {
            Speaking::Killing { order, .. } if order.session == *session => {
                mem::replace(speaking, Speaking::Free).into_order()
            }
            _ => None,
        })
    }
}

impl<C: SideConnection> Speaking<C> {
    fn is_killing(&self) -> bool {
        matches!(self, Self::Killing { .. })
    }

    fn order_mut(&mut self) -> Option<&mut Order<C>> {
        match self {
            Self::Killing { order, .. } => Some(order),
            Self::Absent | Self::Free => None,
        }
    }

    fn into_order(self) -> Option<Order<C>> {
        match self {
            Self::Killing { order, .. } => Some(order),
            Self::Absent | Self::Free => None,
        }
    }
}

#[cfg(test)]
mod tests;
