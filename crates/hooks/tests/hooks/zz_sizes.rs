#[test]
fn sizes() {
    use farrier_hooks::*;
    use std::mem::size_of;
    type E = farrier_exchange::Exchange<
        PostRequest<FnPost<fn((), &RequestInfo<'_>, &End), ()>, Unmatched>,
    >;
    println!(
        "method {} uri {} Parts {} Response<Answer> {} Response<Body> {} Exchange {} PostRequest {}",
        size_of::<http::Method>(),
        size_of::<http::Uri>(),
        size_of::<http::request::Parts>(),
        size_of::<http::Response<Answer>>(),
        size_of::<http::Response<axum::body::Body>>(),
        size_of::<E>(),
        size_of::<PostRequest<FnPost<fn((), &RequestInfo<'_>, &End), ()>, Unmatched>>()
    );
    println!(
        "RF<ready> {} exchange closure {}",
        size_of::<
            ResponseFuture<
                axum::routing::future::RouteFuture<std::convert::Infallible>,
                FnPost<fn((), &RequestInfo<'_>, &End), ()>,
                Unmatched,
            >,
        >(),
        size_of::<farrier_exchange::Exchange<fn(End)>>()
    );
    println!(
        "RouteFuture {} body {}",
        size_of::<axum::routing::future::RouteFuture<std::convert::Infallible>>(),
        size_of::<farrier_exchange::ResponseBody<axum::body::Body, fn(End)>>()
    );
}
