//! Hooks made of closures whose `pre_request` waits.

use std::fmt;
use std::marker::PhantomData;

use farrier_exchange::End;
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use crate::async_layer::AsyncRequestHookLayer;
use crate::hook::{BoxError, Pre, RequestInfo};
use crate::post::PostHook;

/// The `post_request` of a hook from [`from_async_fn`].
pub struct FnPost<After, C> {
    after: After,
    context: PhantomData<fn() -> C>,
}

/// A layer of two closures, of which the first is async.
///
/// It owns the request's head while it waits and gives it back; see [`from_async_hook`](crate::from_async_hook) for hooks
/// that borrow it.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use farrier_hooks::{Pre, from_async_fn};
///
/// let slowed = from_async_fn(
///     |mut request| async move {
///         tokio::time::sleep(Duration::from_millis(1)).await;
///         request.extensions.insert("slowed");
///         Ok((request, Pre::Continue(())))
///     },
///     |(), request, end| println!("{} {:?}", request.uri, end.outcome),
/// );
/// # let _ = slowed;
/// ```
pub fn from_async_fn<Before, Fut, After, C>(
    pre_request: Before,
    post_request: After,
) -> AsyncRequestHookLayer<Before, FnPost<After, C>>
where
    Before: Fn(Parts) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(Parts, Pre<C>), BoxError>> + Send,
    After: Fn(C, &RequestInfo<'_>, &End) + Send + Sync + 'static,
    C: Send + 'static,
{
    let post = FnPost { after: post_request, context: PhantomData };
    AsyncRequestHookLayer::new(pre_request, post)
}

impl<After, C> PostHook for FnPost<After, C>
where
    After: Fn(C, &RequestInfo<'_>, &End) + Send + Sync + 'static,
    C: Send + 'static,
{
    type Context = C;

    fn head(&self, _: &mut C, _: StatusCode, _: &HeaderMap) {}

    fn post(&self, context: C, request: &RequestInfo<'_>, end: &End) {
        (self.after)(context, request, end);
    }
}

impl<After, C> fmt::Debug for FnPost<After, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnPost").finish_non_exhaustive()
    }
}
