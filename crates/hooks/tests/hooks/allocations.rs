//! A hook of closures costs no allocation for a request.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use farrier_hooks::{Answer, Pre, from_async_fn, from_fn};
use http::{Request, Response, Uri};
use http_body::Body;
use tower::{Layer, Service};

/// A service that allocates nothing itself.
#[derive(Clone, Debug)]
struct Hello;

impl Service<Request<()>> for Hello {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(Answer::from("hello"))))
    }
}

/// Allocations of 1000 requests through `layer`.
fn count<L, B>(layer: &L) -> u64
where
    L: Layer<Hello, Service: Service<Request<()>, Response = Response<B>, Error = Infallible>>,
    B: Body<Error = Infallible>,
{
    let mut service = layer.layer(Hello);
    let uri = Uri::from_static("/some/path?and=query");
    let counted = allocation_counter::measure(|| {
        for _ in 0..1000 {
            let mut request = Request::new(());
            *request.uri_mut() = uri.clone();
            let mut cx = Context::from_waker(Waker::noop());
            assert!(service.poll_ready(&mut cx).is_ready());
            let mut future = pin!(service.call(request));
            let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
                panic!("ready at once");
            };
            let mut body = pin!(response.into_body());
            while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
                assert!(frame.is_ok());
            }
        }
    });
    counted.count_total
}

#[test]
fn none_per_request() {
    let sync = from_fn(|request| Ok(Pre::Continue(request.version)), |_, _, _| {});
    assert_eq!(count(&sync), 0, "closures");
    let at_once =
        from_fn(|_| Ok(Pre::Answer((), Response::new(Answer::from("no")))), |(), _, _| {});
    assert_eq!(count(&at_once), 0, "an answer at once");
    let waits = from_async_fn(|request| ready(Ok((request, Pre::Continue(())))), |(), _, _| {});
    assert_eq!(count(&waits), 0, "async closures, over a service whose clone is free");
}
