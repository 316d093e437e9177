//! An exchange costs no allocation.

use std::convert::Infallible;
use std::future::ready;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use farrier_exchange::{Answer, End, Exchange, ResponseFuture};
use http::{Method, Response, Version};
use http_body::Body;

#[test]
fn none_per_exchange() {
    let mut ends = 0;
    let counted = allocation_counter::measure(|| {
        for _ in 0..1000 {
            let response = Response::new(Answer::from("hello"));
            let exchange = Exchange::begin(&Method::GET, Version::HTTP_11, |_: End| ends += 1);
            let mut future =
                pin!(ResponseFuture::new(ready(Ok::<_, Infallible>(response)), exchange));
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
                panic!("ready at once");
            };
            let mut body = pin!(response.into_body());
            while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
                assert!(frame.is_ok());
            }
        }
    });
    assert_eq!((ends, counted.count_total), (1000, 0));
}
