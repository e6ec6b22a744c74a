//! What the proxy answers by itself.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::guard::Fault;
use crate::head::HeadFault;
use crate::response_body::ResponseBody;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// An answer of the proxy's own: what happened, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
    /// Whether trying again in a second may help.
    pub(crate) later: bool,
    /// Whether nothing that follows on this connection can be trusted.
    pub(crate) close: bool,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, reason: impl ToString) -> Self {
        Answer { status, reason: reason.to_string(), later: false, close: false }
    }

    pub(crate) fn later(self) -> Self {
        Answer { later: true, ..self }
    }

    pub(crate) fn closing(self) -> Self {
        Answer { close: true, ..self }
    }

    /// As a response: gRPC has its own way to say it.
    pub(crate) fn response(self, grpc: bool) -> Response<ResponseBody> {
        let mut response = if grpc { self.for_grpc() } else { self.for_http() };
        if self.later {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    fn for_http(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::Text(Bytes::from(format!("{}\n", self.reason))));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn for_grpc(&self) -> Response<ResponseBody> {
        let code = match self.status {
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => 4,
            StatusCode::PAYLOAD_TOO_LARGE => 8,
            status if status.is_client_error() => 13,
            _ => 14,
        };
        let mut response = Response::new(ResponseBody::Text(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(code));
        headers.insert(GRPC_MESSAGE, percent_encoded(&self.reason));
        response
    }
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        let status = match fault {
            Fault::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Fault::Encoding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        };
        Answer::new(status, fault).closing()
    }
}

impl From<HeadFault> for Answer {
    fn from(fault: HeadFault) -> Self {
        let status = match fault {
            HeadFault::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            HeadFault::Connect => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        };
        Answer::new(status, fault).closing()
    }
}

/// As gRPC wants messages: printable ASCII without `%`.
fn percent_encoded(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_has_its_own_way_to_say_it() {
        let answer = Answer::new(StatusCode::SERVICE_UNAVAILABLE, "100 % gone — wait").later();
        let response = answer.clone().response(true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "100 %25 gone %E2%80%94 wait");
        let response = answer.response(false);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
