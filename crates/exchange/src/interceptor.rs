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
/// [`ExchangeLayer`](crate::ExchangeLayer) makes a tower layer of it. A tuple of interceptors is one too, the first outermost: in the order of nested
/// layers and with their promises, but with one future and one body around the service's for all. `None` is one that does
/// nothing.
///
/// What differs between a tuple and nested layers: the time of the exchange begins when all have let the request through, and an
/// upgrade, which ends at its head, is seen by all before it ends for the first.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no `Interceptor`",
    note = "a tower layer of another kind stands around or inside of what is joined; more than four go into a tuple of tuples"
)]
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
pub struct Joined<T>(T);

impl<I: Interceptor> Interceptor for Option<I> {
    type Observer = I::Observer;

    #[inline]
    fn intercept(
        &self,
        request: &mut Parts,
        observer: &mut Option<I::Observer>,
    ) -> ControlFlow<Response<Answer>> {
        match self {
            Some(interceptor) => interceptor.intercept(request, observer),
            None => ControlFlow::Continue(()),
        }
    }
}

impl<T> fmt::Debug for Joined<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").finish_non_exhaustive()
    }
}

/// What is inside of a layer runs while its observer is entered: the service, and interceptors further in.
#[inline]
fn entered<O: Observer, T>(observer: &mut Option<O>, inside: impl FnOnce() -> T) -> T {
    match observer {
        Some(observer) => observer.enter(inside),
        None => inside(),
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
                let joined = observer.insert(Joined(Default::default()));
                joined!(@intercept self, request, joined, $($index)+)
            }
        }

        impl<$($name: Observer),+> Observer for Joined<($(Option<$name>,)+)> {
            #[inline]
            fn enter<T>(&mut self, poll: impl FnOnce() -> T) -> T {
                joined!(@enter self, poll, $($index)+)
            }

            #[inline]
            fn on_head(&mut self, status: StatusCode, headers: &HeaderMap) {
                joined!(@head self, status, headers, $($index)+);
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
    (@intercept $all:ident, $request:ident, $joined:ident, $last:tt) => {
        $all.$last.intercept($request, &mut $joined.0.$last)
    };
    (@intercept $all:ident, $request:ident, $joined:ident, $first:tt $($rest:tt)+) => {{
        $all.$first.intercept($request, &mut $joined.0.$first)?;
        entered(&mut $joined.0.$first, || joined!(@intercept $all, $request, $joined, $($rest)+))
    }};
    (@enter $joined:ident, $poll:ident, $last:tt) => {
        entered(&mut $joined.0.$last, $poll)
    };
    (@enter $joined:ident, $poll:ident, $first:tt $($rest:tt)+) => {
        entered(&mut $joined.0.$first, || joined!(@enter $joined, $poll, $($rest)+))
    };
    (@head $joined:ident, $status:ident, $headers:ident, $last:tt) => {
        if let Some(observer) = &mut $joined.0.$last {
            caught("head", || observer.on_head($status, $headers));
        }
    };
    (@head $joined:ident, $status:ident, $headers:ident, $first:tt $($rest:tt)+) => {{
        entered(&mut $joined.0.$first, || joined!(@head $joined, $status, $headers, $($rest)+));
        joined!(@head $joined, $status, $headers, $first)
    }};
}

joined!(A 0; 0);
joined!(A 0, B 1; 1, 0);
joined!(A 0, B 1, C 2; 2, 1, 0);
joined!(A 0, B 1, C 2, D 3; 3, 2, 1, 0);
