//! Where a proxy tells of itself: figures as Prometheus reads them or as JSON, and whether it takes requests.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::proxy::{Shared, Stage, StartError};
use crate::response_body::ResponseBody;
use crate::worker::reached;

/// Those who ask are few.
const CONNECTIONS: usize = 64;
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// A connection is for some questions, and then a new one may come.
const CONNECTION_LASTS: Duration = Duration::from_secs(300);

/// Listens, alone on its address.
pub(crate) fn listen(address: SocketAddr) -> Result<StdListener, StartError> {
    let listen = || {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|error| StartError::Listen { address, error })
}

/// Answers until the proxy has stopped.
pub(crate) async fn serve(shared: Arc<Shared>, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "figures can't be told"),
    };
    let mut stage = shared.stage.subscribe();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = reached(&mut stage, Stage::Stopped) => return,
        };
        let Ok((tcp, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (shared, mut stage) = (Arc::clone(&shared), shared.stage.subscribe());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&shared, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(16 * 1024);
            let connection = http.serve_connection(TokioIo::new(tcp), service);
            tokio::select! {
                _ = timeout(CONNECTION_LASTS, connection) => {}
                () = reached(&mut stage, Stage::Stopped) => {}
            }
            drop(place);
        });
    }
}

fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<ResponseBody> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are understood here\n");
    }
    match request.uri().path() {
        "/metrics" => {
            let mut response = text(StatusCode::OK, shared.figures().prometheus());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/figures" => match serde_json::to_string(&shared.figures()) {
            Ok(json) => {
                let mut response = text(StatusCode::OK, json + "\n");
                let kind = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/ready" if shared.stage() == Stage::Serving => text(StatusCode::OK, "ready\n"),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /figures (JSON) and /ready\n"),
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Text(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
