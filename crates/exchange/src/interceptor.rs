//! What a layer does to each exchange, as a value; and several of them as one.

use std::fmt;
use std::ops::ControlFlow;

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
    /// What it leaves in `observer`, which is `None` before, sees the rest of the exchange. With a response it answers at once:
    /// interceptors inside this one and the service are skipped, and those outside see that response.
    ///
    /// A panic in it passes through the layer, as the service's own would.
    fn intercept(
        &self,
        request: &mut Parts,
        observer: &mut Option<Self::Observer>,
    ) -> ControlFlow<Response<Answer>>;
}

/// The observers of a tuple of interceptors; one that was not reached is `None`.
#[derive(Default)]
pub struct Joined<T>(T);

impl<T> fmt::Debug for Joined<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").finish_non_exhaustive()
    }
}

macro_rules! joined {
    ($($name:ident $index:tt),+; $($back:tt),+) => {
        impl<$($name: Interceptor),+> Interceptor for ($($name,)+) {
            type Observer = Joined<($(Option<$name::Observer>,)+)>;

            #[inline]
            fn intercept(
                &self,
                request: &mut Parts,
                observer: &mut Option<Self::Observer>,
            ) -> ControlFlow<Response<Answer>> {
                let joined = observer.insert(Joined::default());
                $( self.$index.intercept(request, &mut joined.0.$index)?; )+
                ControlFlow::Continue(())
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
                $(
                    let observer = &mut self.0.$back;
                    caught("end", || {
                        if let Some(observer) = observer.take() {
                            observer.on_end(end);
                        }
                    });
                )+
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
