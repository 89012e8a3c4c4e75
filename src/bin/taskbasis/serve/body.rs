//! What a request says: JSON, a form, or the bytes of an image. Nothing in it is ever opened as a path or an address.

use std::time::Instant;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Multipart, Query, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::app::App;
use super::failure::Failure;
use super::types::{ClassifyRequest, EmbedRequest, ImageData, OneOrMany, OpenAiRequest};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is asked for.
#[derive(Debug, Default)]
pub struct Question {
    pub weights: Option<String>,
    pub heads: Vec<String>,
    pub top: Option<u32>,
    /// Image files.
    pub images: Vec<Bytes>,
    /// The memory that they take, which others have after them.
    pub room: Option<OwnedSemaphorePermit>,
}

/// A body, all of it, and the head before it.
pub struct Received {
    head: Parts,
    bytes: Bytes,
    room: Option<OwnedSemaphorePermit>,
}

/// The types of bodies, by their first part.
enum Content {
    Json,
    Form,
    Image,
}

impl Received {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// 413 for one that is too large, 408 for one that does not come, 429 where there is no room for it, 415 for one
    /// that is packed.
    pub async fn read(app: &App, request: Request, deadline: Instant) -> Result<Self, Failure> {
        let (head, body) = request.into_parts();
        let header = |name| head.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        if header(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(Failure::media_type("a body is sent as it is, without a Content-Encoding"));
        }
        let most = app.max_body;
        let too_large = || {
            Failure::too_large(format!("the body is too large: at most {most} bytes"))
                .hint("Send fewer images, or start the server with a larger --max-body")
        };
        let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let length = length.map_or(most, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if length > most {
            return Err(too_large());
        }
        let room = app.room_for_body(length)?;
        match tokio::time::timeout_at(deadline.into(), to_bytes(body, most)).await {
            Ok(Ok(bytes)) => Ok(Self { head, bytes, room: Some(room) }),
            Ok(Err(e)) if is_length_limit(&e) => Err(too_large()),
            Ok(Err(_)) => Err(Failure::invalid("the body ended before its end")),
            Err(_) => {
                app.metrics.dropped("deadline");
                Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "deadline", "the body did not come in time"))
            }
        }
    }

    /// The question in a body for `/v1/embed`.
    ///
    /// # Errors
    /// 400, naming what is wrong; 415 for another type.
    pub async fn embed(self) -> Result<Question, Failure> {
        let question =
            |EmbedRequest { weights, images }| Ok(Question { weights, images: files(images)?, ..Question::default() });
        self.question(false, question).await
    }

    /// The question in a body for `/v1/classify`.
    ///
    /// # Errors
    /// As [`Received::embed`].
    pub async fn classify(self) -> Result<Question, Failure> {
        let question = |ClassifyRequest { weights, heads, top, images }| {
            Ok(Question { weights, heads, top: checked(top)?, images: files(images)?, room: None })
        };
        self.question(true, question).await
    }

    /// The question in a body of any type; `understand` takes that of JSON.
    async fn question<T: DeserializeOwned>(
        mut self,
        has_heads: bool,
        understand: impl FnOnce(T) -> Result<Question, Failure> + Send + 'static,
    ) -> Result<Question, Failure> {
        let room = self.room.take();
        let question = match self.content()? {
            Content::Json => {
                self.without_query()?;
                self.json(understand).await
            }
            Content::Form => self.form(has_heads).await,
            Content::Image => self.image(has_heads),
        };
        question?.with_images(room)
    }

    /// A request as OpenAI's clients make it, and its images.
    ///
    /// # Errors
    /// As [`Received::embed`]; 400 for what is no data URL.
    pub async fn openai(mut self) -> Result<(OpenAiRequest, Question), Failure> {
        let room = self.room.take();
        match self.content()? {
            Content::Json => {}
            _ => return Err(Failure::media_type("this is JSON alone: Content-Type: application/json")),
        }
        self.without_query()?;
        let (asked, question) = self
            .json(|mut asked: OpenAiRequest| {
                let texts = match std::mem::replace(&mut asked.input, OneOrMany::Many(Vec::new())) {
                    OneOrMany::One(text) => vec![text],
                    OneOrMany::Many(texts) => texts,
                };
                let file = |(index, text): (usize, String)| match text.starts_with("data:") {
                    true => file(index, &text),
                    false => Err(Failure::invalid(format!("input[{index}]: not a data URL of an image"))
                        .hint("This server embeds images: data:image/png;base64,…")),
                };
                let images = texts.into_iter().enumerate().map(file).collect::<Result<_, _>>()?;
                Ok((asked, Question { images, ..Question::default() }))
            })
            .await?;
        Ok((asked, question.with_images(room)?))
    }

    fn content(&self) -> Result<Content, Failure> {
        let given = self.head.headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
        match given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => Ok(Content::Json),
            "multipart/form-data" => Ok(Content::Form),
            "application/octet-stream" => Ok(Content::Image),
            other if other.starts_with("image/") => Ok(Content::Image),
            _ => Err(Failure::media_type(format!("no such Content-Type is read here: `{given}`"))
                .hint("application/json, multipart/form-data, or the bytes of an image as image/…")),
        }
    }

    fn without_query(&self) -> Result<(), Failure> {
        match self.head.uri.query() {
            None | Some("") => Ok(()),
            Some(_) => Err(Failure::invalid("what is asked for is said in the body, not in the address")),
        }
    }

    /// Read by a thread that may take its time: a body is as large as images are.
    async fn json<T: DeserializeOwned, Q: Send + 'static>(
        self,
        understand: impl FnOnce(T) -> Result<Q, Failure> + Send + 'static,
    ) -> Result<Q, Failure> {
        let read = move || {
            let request = serde_json::from_slice(&self.bytes);
            understand(request.map_err(|e| Failure::invalid(format!("the JSON is not such a request: {e}")))?)
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(Failure::internal("reading JSON failed")))
    }

    async fn form(self, has_heads: bool) -> Result<Question, Failure> {
        self.without_query()?;
        let request = Request::from_parts(self.head, Body::from(self.bytes));
        let broken = |e: &dyn std::fmt::Display| Failure::invalid(format!("the form cannot be read: {e}"));
        let mut form = Multipart::from_request(request, &()).await.map_err(|e| broken(&e))?;
        let mut question = Question::default();
        while let Some(field) = form.next_field().await.map_err(|e| broken(&e))? {
            let name = field.name().unwrap_or_default().to_owned();
            let bytes = field.bytes().await.map_err(|e| broken(&e))?;
            match name.as_str() {
                "image" | "images" => question.images.push(bytes),
                name => {
                    let value = std::str::from_utf8(&bytes)
                        .map_err(|_| Failure::invalid(format!("the part `{name}` is not UTF-8")))?;
                    question.set(name, value, has_heads)?;
                }
            }
        }
        Ok(question)
    }

    fn image(self, has_heads: bool) -> Result<Question, Failure> {
        let Query(fields) = Query::<Vec<(String, String)>>::try_from_uri(&self.head.uri)
            .map_err(|e| Failure::invalid(format!("the query cannot be read: {e}")))?;
        let mut question = Question { images: vec![self.bytes], ..Question::default() };
        fields.iter().try_for_each(|(name, value)| question.set(name, value, has_heads))?;
        Ok(question)
    }
}

impl Question {
    fn with_images(self, room: Option<OwnedSemaphorePermit>) -> Result<Self, Failure> {
        if self.images.is_empty() {
            return Err(Failure::invalid("there is no image"));
        }
        Ok(Self { room, ..self })
    }

    /// One field of a form or a query.
    fn set(&mut self, name: &str, value: &str, has_heads: bool) -> Result<(), Failure> {
        match name {
            "weights" if self.weights.is_some() => return Err(Failure::invalid("`weights` is given twice")),
            "weights" => self.weights = Some(value.to_owned()),
            "heads" | "head" if has_heads => {
                self.heads.extend(value.split(',').map(str::trim).filter(|head| !head.is_empty()).map(str::to_owned));
            }
            "top" if has_heads => {
                let top = value.trim().parse().map_err(|_| Failure::invalid("`top` is a number of classes"))?;
                self.top = checked(Some(top))?;
            }
            _ => {
                let known = if has_heads { "image, weights, heads, top" } else { "image, weights" };
                let name: String = name.chars().take(60).collect();
                return Err(Failure::invalid(format!("no such field: `{name}`")).hint(format!("Known: {known}")));
            }
        }
        Ok(())
    }
}

fn checked(top: Option<u32>) -> Result<Option<u32>, Failure> {
    if top == Some(0) { Err(Failure::invalid("`top` is at least 1")) } else { Ok(top) }
}

fn files(images: Vec<ImageData>) -> Result<Vec<Bytes>, Failure> {
    let file = |(index, image)| match image {
        ImageData::Text(text) => file(index, &text),
        ImageData::Object(object) => file(index, &object.base64),
    };
    images.into_iter().enumerate().map(file).collect()
}

/// The bytes in base64 text or a data URL.
fn file(index: usize, text: &str) -> Result<Bytes, Failure> {
    let invalid = |why: &str| Failure::invalid(format!("images[{index}]: {why}"));
    let data = match text.split_once(',') {
        Some((kind, data)) if kind.starts_with("data:") && kind.ends_with(";base64") => data,
        _ if text.starts_with("data:") => return Err(invalid("a data URL has the form data:image/png;base64,…")),
        _ if text.contains("://") => return Err(invalid("no address is opened here: send the image itself")),
        _ => text,
    };
    BASE64.decode(data.trim()).map(Bytes::from).map_err(|e| invalid(&format!("not base64: {e}")))
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

/// Base64 of f32 values, little endian.
pub fn base64_of(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    BASE64.encode(bytes)
}
