//! `/livez`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::context::Context;
use super::readiness::Readiness;
use crate::operator::decide;

/// A client that sends nothing for so long is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Binds the address.
pub(super) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, context: Arc<Context>, readiness: Arc<Readiness>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (context, readiness) = (context.clone(), readiness.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let answered = answer(request.uri().path(), &context, &readiness);
                async move { Ok::<_, Infallible>(answered) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
}

fn answer(path: &str, context: &Context, readiness: &Readiness) -> Response<Full<Bytes>> {
    let (status, kind, text) = match path {
        "/livez" | "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/readyz" => match readiness.missing().as_slice() {
            [] => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            missing => {
                let text = format!("waiting for the first list of {}\n", missing.join(", "));
                (StatusCode::SERVICE_UNAVAILABLE, "text/plain", text)
            }
        },
        "/metrics" => {
            let objects = context.store.state();
            let states = objects.iter().filter_map(|o| o.0.as_ref().ok()?.status.as_ref()).filter_map(decide::state);
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, kind, context.metrics.text(states))
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "there are /livez, /readyz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
