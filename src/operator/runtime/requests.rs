//! Counts what the API server is asked, as client-go does: `rest_client_requests_total{code, method}`.

use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::{Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tower::{Layer, Service};

/// Code and method of a request. Both are closed sets: nothing of a path or a name is a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabel {
    code: String,
    method: String,
}

/// The layer that counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(pub(super) Family<RequestLabel, Counter>);

impl<S> Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.clone() }
    }
}

/// A client whose requests are counted when they are answered.
#[derive(Debug, Clone)]
pub(super) struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S, B, A> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.method().to_string();
        let requests = self.requests.clone();
        self.inner
            .call(request)
            .inspect(move |answer| {
                let code = answer.as_ref().map_or_else(|_| "<error>".to_owned(), |a| a.status().as_str().to_owned());
                requests.0.get_or_create(&RequestLabel { code, method }).inc();
            })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_code_and_method() {
        let requests = Requests::default();
        let answered = tower::service_fn(async |request: Request<u16>| {
            let code = request.into_body();
            if code == 0 {
                return Err("no connection");
            }
            Ok(Response::builder().status(code).body(()).unwrap())
        });
        let mut client = requests.layer(answered);
        for code in [200, 200, 409, 0] {
            let _ = client.call(Request::get("/").body(code).unwrap()).await;
        }
        let count = |code: &str| {
            let label = RequestLabel { code: code.into(), method: "GET".into() };
            requests.0.get_or_create(&label).get()
        };
        assert_eq!((count("200"), count("409"), count("<error>")), (2, 1, 1));
    }
}
