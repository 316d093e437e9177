//! Under tonic: gRPC, whose responses end with trailers.

use axum::body::Body;
use farrier_hooks::Outcome;
use tower::ServiceBuilder;

use crate::Record;
use crate::support;

/// A unary call that succeeds and one of a service that there is not.
#[tokio::test]
async fn tonic() {
    let record = Record::default();
    let (_, health) = tonic_health::server::health_reporter();
    let bare = support::serve(health.clone()).await;
    let layered = support::serve(ServiceBuilder::new().layer(record.layer()).service(health)).await;
    // The health service's own request: no field is set, so the message is empty.
    let ask = |address, method: &str| {
        let request = hyper::Request::post(format!("http://test/grpc.health.v1.Health/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::from(vec![0_u8; 5]));
        support::send_h2(address, request.expect("a request"))
    };

    let wire = ask(layered, "Check").await;
    assert!(wire.contains(r#""grpc-status": "0""#), "{wire:?}");
    let post = record.only_post().await;
    assert_eq!(post.request, "POST /grpc.health.v1.Health/Check");
    // Five bytes of gRPC's frame, two of the message.
    assert_eq!((post.end.outcome, post.end.bytes), (Outcome::Finished, 7));
    assert_eq!(wire, ask(bare, "Check").await);

    let wire = ask(layered, "Nothing").await;
    assert!(wire.contains(r#""grpc-status": "12""#), "{wire:?}");
    assert_eq!(record.only_post().await.end.outcome, Outcome::Finished);
    assert_eq!(wire, ask(bare, "Nothing").await);
}
