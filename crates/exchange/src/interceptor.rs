//! What a layer does to each exchange, as a value; and several of them as one.

use std::fmt;

use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};

use crate::answer::Answer;
use crate::exchange::{End, Observer, caught};

/// What a layer does to each exchange: it sees the head of the request, may change it or answer at once, and leaves an
/// [`Observer`] for the rest.
///
/// [`ExchangeLayer`](crate::ExchangeLayer) makes a tower layer of it. A tuple of interceptors is one too, the first outermost:
/// in the order of nested layers and with their promises, but with one future and one body around the service's for all.
pub trait Interceptor {
    /// What is kept of it for one exchange.
    type Observer: Observer;

    /// Called with the head of each request, before the service is.
    ///
    /// A panic in it passes through the layer, as the service's own would.
    fn intercept(&self, request: &mut Parts) -> Intercepted<Self::Observer>;
}

/// What becomes of a request.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a middleware must know what becomes of its request")]
pub enum Intercepted<O> {
    /// On to the next interceptor and the service.
    Continue(O),
    /// Answered at once: interceptors inside this one and the service are skipped, those outside see the response. The
    /// observer is `None` if this interceptor does not want to see the end of it.
    Answer(Option<O>, Response<Answer>),
}

/// The observers of a tuple of interceptors; one that was not reached is `None`.
pub struct Joined<T: Ends>(T);

/// A tuple of observers that can end, each for itself.
pub trait Ends {
    /// From the innermost to the outermost, those that are there.
    fn end(&mut self, end: End);
}

impl<T: Ends> Drop for Joined<T> {
    fn drop(&mut self) {
        // Nobody is left, unless an interceptor further in has panicked before there was an exchange.
        self.0.end(End::before_the_service());
    }
}

impl<T: Ends> fmt::Debug for Joined<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").finish_non_exhaustive()
    }
}

macro_rules! joined {
    ($($name:ident $index:tt),+; $($back:tt),+) => {
        impl<$($name: Interceptor),+> Interceptor for ($($name,)+) {
            type Observer = Joined<($(Option<$name::Observer>,)+)>;

            #[inline]
            fn intercept(&self, request: &mut Parts) -> Intercepted<Self::Observer> {
                let mut joined: Self::Observer = Joined(Default::default());
                $(
                    match self.$index.intercept(request) {
                        Intercepted::Continue(observer) => joined.0.$index = Some(observer),
                        Intercepted::Answer(observer, response) => {
                            joined.0.$index = observer;
                            return Intercepted::Answer(Some(joined), response);
                        }
                    }
                )+
                Intercepted::Continue(joined)
            }
        }

        impl<$($name: Observer),+> Ends for ($(Option<$name>,)+) {
            #[inline]
            fn end(&mut self, end: End) {
                $(
                    if let Some(observer) = self.$back.take() {
                        caught("end", || observer.on_end(end));
                    }
                )+
            }
        }

        impl<$($name: Observer),+> Observer for Joined<($(Option<$name>,)+)> {
            #[inline]
            fn enter<T>(&mut self, poll: impl FnOnce() -> T) -> T {
                joined!(@enter self, poll, $($index)+)
            }

            #[inline]
            fn on_head(&mut self, status: StatusCode, headers: &HeaderMap) {
                $(
                    if let Some(observer) = &mut self.0.$back {
                        caught("head", || observer.on_head(status, headers));
                    }
                )+
            }

            #[inline]
            fn on_end(mut self, end: End) {
                self.0.end(end);
            }
        }
    };
    (@enter $joined:ident, $poll:expr, $first:tt $($rest:tt)*) => {
        {
            let rest = || joined!(@enter $joined, $poll, $($rest)*);
            match &mut $joined.0.$first {
                Some(observer) => observer.enter(rest),
                None => rest(),
            }
        }
    };
    (@enter $joined:ident, $poll:expr,) => { $poll() };
}

joined!(A 0; 0);
joined!(A 0, B 1; 1, 0);
joined!(A 0, B 1, C 2; 2, 1, 0);
joined!(A 0, B 1, C 2, D 3; 3, 2, 1, 0);
