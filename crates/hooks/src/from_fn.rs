//! Hooks made of closures.

use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;

use farrier_exchange::{Answer, End};
use http::Response;
use http::request::Parts;

use crate::hook::{BoxError, Pre, RequestHook, RequestInfo};
use crate::layer::RequestHookLayer;

/// A hook of two closures, from [`from_fn`].
pub struct FnHook<Before, After, C> {
    before: Before,
    after: After,
    context: PhantomData<fn() -> C>,
}

/// A [`RequestHookLayer`] of two closures, `pre_request` and `post_request`, of which the second is given what the first has made.
///
/// One alone is [`pre_request`] or [`post_request`].
///
/// # Example
///
/// ```
/// use farrier_hooks::{Pre, from_fn};
///
/// let by_customer = from_fn(
///     |request| Ok(Pre::Continue(request.headers.get("x-customer").cloned())),
///     |customer, request, end| println!("{customer:?} {} {:?}", request.uri, end.total),
/// );
/// # let _ = by_customer;
/// ```
pub fn from_fn<Before, After, C>(
    pre_request: Before,
    post_request: After,
) -> RequestHookLayer<FnHook<Before, After, C>>
where
    Before: Fn(&mut Parts) -> Result<Pre<C>, BoxError> + Send + Sync + 'static,
    After: Fn(C, &RequestInfo<'_>, &End) + Send + Sync + 'static,
    C: Send + 'static,
{
    RequestHookLayer::new(FnHook { before: pre_request, after: post_request, context: PhantomData })
}

/// A layer that only sees requests come: `before` may change the head, and answers at once with a `Break`.
///
/// # Example
///
/// ```
/// use std::ops::ControlFlow;
///
/// use farrier_hooks::{Answer, pre_request};
/// use http::{Response, StatusCode};
///
/// let only_known = pre_request(|request| {
///     if request.headers.contains_key("x-api-key") {
///         return ControlFlow::Continue(());
///     }
///     let mut response = Response::new(Answer::from("no key"));
///     *response.status_mut() = StatusCode::UNAUTHORIZED;
///     ControlFlow::Break(response)
/// });
/// # let _ = only_known;
/// ```
pub fn pre_request<Before>(before: Before) -> RequestHookLayer<impl RequestHook<Context = ()>>
where
    Before: Fn(&mut Parts) -> ControlFlow<Response<Answer>> + Send + Sync + 'static,
{
    let before = move |request: &mut Parts| {
        Ok(match before(request) {
            ControlFlow::Continue(()) => Pre::Continue(()),
            ControlFlow::Break(response) => Pre::Answer((), response),
        })
    };
    from_fn(before, |(), _, _| ())
}

/// A layer that only sees how requests end: once each, on every path.
///
/// # Example
///
/// ```
/// use farrier_hooks::post_request;
///
/// let log = post_request(|request, end| println!("{} {:?}", request.uri, end.outcome));
/// # let _ = log;
/// ```
pub fn post_request<After>(after: After) -> RequestHookLayer<impl RequestHook<Context = ()>>
where
    After: Fn(&RequestInfo<'_>, &End) + Send + Sync + 'static,
{
    from_fn(|_| Ok(Pre::Continue(())), move |(), request, end| after(request, end))
}

impl<Before, After, C> RequestHook for FnHook<Before, After, C>
where
    Before: Fn(&mut Parts) -> Result<Pre<C>, BoxError> + Send + Sync + 'static,
    After: Fn(C, &RequestInfo<'_>, &End) + Send + Sync + 'static,
    C: Send + 'static,
{
    type Context = C;

    fn pre_request(&self, request: &mut Parts) -> Result<Pre<C>, BoxError> {
        (self.before)(request)
    }

    fn post_request(&self, context: C, request: &RequestInfo<'_>, end: &End) {
        (self.after)(context, request, end);
    }
}

impl<Before, After, C> fmt::Debug for FnHook<Before, After, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnHook").finish_non_exhaustive()
    }
}
