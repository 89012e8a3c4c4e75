//! What goes wrong, as HTTP says it.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use taskbasis::{Error, ErrorKind};

use super::types::{ErrorBody, ErrorResponse};

/// An answer that is no success.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub kind: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// Seconds after which to ask again.
    pub retry_after: Option<u64>,
}

impl Failure {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), hint: None, retry_after: None }
    }

    /// The request is not one that can be understood.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidArgument.name(), message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub fn media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", message)
    }

    /// Nothing is wrong with the request, but its time is over.
    pub fn deadline() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline", "the request was not answered within its time")
            .hint("--timeout-ms sets it")
            .retry(1)
    }

    /// The server is ending.
    pub fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is ending, and takes no more requests")
            .retry(1)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Internal.name(), message)
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub fn retry(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Of the image at this place, which cannot be read.
    pub fn of_image(error: &Error, index: usize) -> Self {
        let failure = Self::from(error);
        match error.kind() {
            ErrorKind::Format | ErrorKind::Unsupported | ErrorKind::InvalidArgument => Self {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                message: format!("images[{index}]: {}", failure.message),
                ..failure
            },
            _ => failure,
        }
    }
}

impl From<&Error> for Failure {
    /// Without the file: where it lies is no client's business.
    fn from(error: &Error) -> Self {
        let status = match error.kind() {
            ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Format | ErrorKind::Unsupported | ErrorKind::NotRecoverable => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::OutOfMemory | ErrorKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let failure = Self::new(status, error.kind().name(), error.message());
        let failure = Self { hint: error.hint_text(), ..failure };
        if status == StatusCode::SERVICE_UNAVAILABLE { failure.retry(1) } else { failure }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, kind, message, hint, retry_after } = self;
        let mut response = (status, Json(ErrorResponse { error: ErrorBody { kind, message, hint } })).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
