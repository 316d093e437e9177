//! Hooks made of closures.

use std::fmt;
use std::marker::PhantomData;

use farrier_exchange::End;
use http::request::Parts;

use crate::hook::{BoxError, Pre, RequestHook, RequestInfo};
use crate::layer::RequestHookLayer;

/// A hook of two closures, from [`from_fn`].
pub struct FnHook<Before, After, C> {
    before: Before,
    after: After,
    context: PhantomData<fn() -> C>,
}

/// A [`RequestHookLayer`] of two closures: `pre_request` and `post_request`.
///
/// # Example
///
/// ```
/// use farrier_hooks::{Answer, Pre, from_fn};
/// use http::{Response, StatusCode};
///
/// let only_known = from_fn(
///     |request| {
///         if request.headers.contains_key("x-api-key") {
///             return Ok(Pre::Continue(()));
///         }
///         let mut response = Response::new(Answer::from("no key"));
///         *response.status_mut() = StatusCode::UNAUTHORIZED;
///         Ok(Pre::Answer((), response))
///     },
///     |(), request, end| println!("{} {} {:?}", request.method, request.uri, end.status),
/// );
/// # let _ = only_known;
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
