//! The addresses of the server, and what they answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::body::{Question, Received, base64_of};
use super::failure::Failure;
use super::metrics;
use super::model::{Asked, Wanted};
use super::scheduler::Answer;
use super::types::{
    ClassifyForm, ClassifyRequest, ClassifyResponse, EmbedForm, EmbedRequest, EmbedResponse, EncodedEmbedding,
    EncodingFormat, ErrorResponse, ModelInfo, OpenAiEmbedding, OpenAiRequest, OpenAiResponse, PrefetchResponse,
    TasksResponse, Timing, Usage,
};

type Shared = State<Arc<App>>;

/// The page, one file without anything beside it.
const PAGE: &str = include_str!("page.html");
/// What the page may do: nothing but what is in it, and this server.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(info(
    title = "taskbasis",
    description = "Many fine-tuned CLIP tasks from one compressed basis. A task expression in the request names the \
        weights: `MNIST`, `MNIST@0.3 + SVHN@0.2`, `base`.",
    license(name = "MIT", identifier = "MIT"),
    contact(),
))]
struct Api;

/// All routes.
pub fn router(app: &Arc<App>) -> Router {
    let (router, mut api) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(page))
        .routes(routes!(model))
        .routes(routes!(tasks))
        .routes(routes!(embed))
        .routes(routes!(classify))
        .routes(routes!(embeddings))
        .routes(routes!(prefetch))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics_text))
        .routes(routes!(openapi))
        .split_for_parts();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    // Needed where the server has tokens, and not elsewhere.
    api.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new("token", [""; 0])]);
    let text = api.to_json().unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"));
    app.openapi.get_or_init(|| text);
    router
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .layer(CatchPanicLayer::custom(|_| {
            Failure::internal("a defect in taskbasis, please report it").into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(app), watch))
        .with_state(Arc::clone(app))
}

/// Lets a request in or not, and notes what became of it.
async fn watch(State(app): Shared, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (version, route) = (request.version(), request.extensions().get::<MatchedPath>().cloned());
    let (parts, body) = request.into_parts();
    let mut response = match app.access.check(&parts) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(failure) => failure.into_response(),
    };
    app.metrics.answered(
        route.as_ref().map_or("none", MatchedPath::as_str),
        response.status().as_u16(),
        began.elapsed(),
    );
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if app.is_ending() && version <= Version::HTTP_11 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn nowhere() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "no_route", "there is nothing at this address").hint("/openapi.json names all")
}

async fn not_so() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this address is not asked so")
        .hint("/openapi.json names the methods")
}

/// The page on which task arithmetic can be tried.
#[utoipa::path(get, path = "/", responses((status = 200, description = "HTML", content_type = "text/html", body = String)))]
async fn page() -> impl IntoResponse {
    ([(CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE))
}

/// What is served.
#[utoipa::path(get, path = "/v1/model", responses(
    (status = 200, body = ModelInfo, description = "What is served"), (status = "default", body = ErrorResponse, description = "What went wrong")
))]
async fn model(State(app): Shared) -> Json<ModelInfo> {
    Json(app.model.clone())
}

/// What expressions and requests can name.
#[utoipa::path(get, path = "/v1/tasks", responses(
    (status = 200, body = TasksResponse, description = "All names"), (status = "default", body = ErrorResponse, description = "What went wrong")
))]
async fn tasks(State(app): Shared) -> Json<TasksResponse> {
    Json(app.tasks.clone())
}

/// The embeddings of images. A body that is an image itself says `weights` in the query.
#[utoipa::path(post, path = "/v1/embed",
    request_body(content(
        (EmbedRequest = "application/json"), (EmbedForm = "multipart/form-data"), (Vec<u8> = "image/*"),
    )),
    params(("weights" = Option<String>, Query, description = "Of a body that is an image")),
    responses(
        (status = 200, body = EmbedResponse, description = "Embeddings"), (status = "default", body = ErrorResponse, description = "What went wrong")
    ))]
async fn embed(State(app): Shared, request: Request) -> Result<Json<EmbedResponse>, Failure> {
    let deadline = take_on(&app)?;
    let question = Received::read(&app, request, deadline).await?.embed().await?;
    let weights = of_an_expression(&app, question.weights.clone().unwrap_or_else(|| "base".to_owned())).await?;
    let (answer, timing) = run(&app, Arc::clone(&weights), question, deadline).await?;
    let embeddings = answer.embeds.chunks_exact(app.model.architecture.embedding).map(<[f32]>::to_vec).collect();
    Ok(Json(EmbedResponse { weights: weights.name().to_owned(), embeddings, timing, cached: answer.is_cached }))
}

/// The classes of images, by any number of heads: one run. A body that is an image itself says `weights`, `heads` and
/// `top` in the query.
#[utoipa::path(post, path = "/v1/classify",
    request_body(content(
        (ClassifyRequest = "application/json"), (ClassifyForm = "multipart/form-data"), (Vec<u8> = "image/*"),
    )),
    params(
        ("weights" = Option<String>, Query, description = "Of a body that is an image"),
        ("heads" = Option<String>, Query, description = "Of a body that is an image; names with commas between"),
        ("top" = Option<u32>, Query, description = "Of a body that is an image", minimum = 1),
    ),
    responses(
        (status = 200, body = ClassifyResponse, description = "Classes"),
        (status = "default", body = ErrorResponse, description = "What went wrong")
    ))]
async fn classify(State(app): Shared, request: Request) -> Result<Json<ClassifyResponse>, Failure> {
    let deadline = take_on(&app)?;
    let mut question = Received::read(&app, request, deadline).await?.classify().await?;
    let top = question.top.map_or(usize::MAX, |top| top as usize);
    let (weights, heads) = (question.weights.take(), std::mem::take(&mut question.heads));
    let served = Arc::clone(&app.served);
    let Wanted { weights, heads } = aside(move || served.wanted(weights.as_deref(), heads)).await?;
    let (answer, timing) = run(&app, Arc::clone(&weights), question, deadline).await?;
    let (served, cached) = (Arc::clone(&app.served), answer.is_cached);
    let results = aside(move || served.classify(&heads, &answer.embeds, &answer.routes, top)).await?;
    Ok(Json(ClassifyResponse { weights: weights.name().to_owned(), results, timing, cached }))
}

/// Embeddings as OpenAI's clients ask for them: `model` is a task expression, `input` images as data URLs.
#[utoipa::path(post, path = "/v1/embeddings", request_body = OpenAiRequest, responses(
    (status = 200, body = OpenAiResponse, description = "Embeddings"), (status = "default", body = ErrorResponse, description = "What went wrong")
))]
async fn embeddings(State(app): Shared, request: Request) -> Result<Json<OpenAiResponse>, Failure> {
    let deadline = take_on(&app)?;
    let (asked, question) = Received::read(&app, request, deadline).await?.openai().await?;
    let width = app.model.architecture.embedding;
    if let Some(dimensions) = asked.dimensions.filter(|dimensions| *dimensions as usize != width) {
        let why = format!("embeddings are not shortened: they have {width} dimensions, not {dimensions}");
        return Err(Failure::invalid(why).hint("Leave `dimensions` out"));
    }
    let weights = of_an_expression(&app, asked.model).await?;
    let (answer, _) = run(&app, Arc::clone(&weights), question, deadline).await?;
    let data = answer.embeds.chunks_exact(width).enumerate().map(|(index, values)| OpenAiEmbedding {
        object: "embedding",
        index,
        embedding: match asked.encoding_format {
            EncodingFormat::Float => EncodedEmbedding::Float(values.to_vec()),
            EncodingFormat::Base64 => EncodedEmbedding::Base64(base64_of(values)),
        },
    });
    let (data, model) = (data.collect(), weights.name().to_owned());
    Ok(Json(OpenAiResponse { object: "list", data, model, usage: Usage::default() }))
}

/// Has weights reconstructed in the background, for requests to come. It returns at once.
#[utoipa::path(post, path = "/v1/tasks/{expr}/prefetch", params(("expr" = String, Path, description = "A task expression")),
    responses(
        (status = 200, body = PrefetchResponse, description = "They are there"),
        (status = 202, body = PrefetchResponse, description = "They are being reconstructed, or wait for their turn"),
        (status = "default", body = ErrorResponse, description = "What went wrong")
    ))]
async fn prefetch(
    State(app): Shared,
    expr: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<PrefetchResponse>), Failure> {
    take_on(&app)?;
    let Path(expr) = expr.map_err(|e| Failure::invalid(e.body_text()))?;
    let served = Arc::clone(&app.served);
    let found = aside(move || match served.weights(&expr)? {
        Asked::Auto => Err(Failure::invalid("name a task: what the router will choose is not known")),
        Asked::Task(task) => {
            let weights = task.name().to_owned();
            Ok(PrefetchResponse { weights, ready: served.prefetch(task)? })
        }
    });
    let found = found.await?;
    Ok((if found.ready { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(found)))
}

/// Whether the server lives.
#[utoipa::path(get, path = "/healthz", responses((status = 200, content_type = "text/plain", body = String, description = "It does")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the server takes requests: 503 once it is ending.
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, content_type = "text/plain", body = String, description = "It does"), (status = 503, body = ErrorResponse, description = "It is ending")
))]
async fn readyz(State(app): Shared) -> Result<&'static str, Failure> {
    if app.is_ending() { Err(Failure::draining()) } else { Ok("ready\n") }
}

/// Counters, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, content_type = "application/openmetrics-text", body = String, description = "OpenMetrics text"),
    (status = "default", body = ErrorResponse, description = "What went wrong")
))]
async fn metrics_text(State(app): Shared) -> Result<impl IntoResponse, Failure> {
    let text = app.metrics.text(&app.served.cache()).map_err(|e| Failure::internal(e.to_string()))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", responses(
    (status = 200, content_type = "application/json", body = Object, description = "OpenAPI 3.1"),
    (status = "default", body = ErrorResponse, description = "What went wrong")
))]
async fn openapi(State(app): Shared) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], app.openapi.get().cloned().unwrap_or_default())
}

/// The moment by which a request that comes now is to be answered.
///
/// # Errors
/// 503 once the server is ending.
fn take_on(app: &App) -> Result<Instant, Failure> {
    if app.is_ending() {
        app.metrics.dropped("draining");
        return Err(Failure::draining());
    }
    Ok(Instant::now() + app.timeout)
}

/// Work that may take more than an instant, by a thread that nothing else waits for.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let failed = |_| Err(Failure::internal("a defect in taskbasis, please report it"));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(failed)
}

/// The weights of an expression, where no router can choose.
async fn of_an_expression(app: &App, expression: String) -> Result<Arc<Asked>, Failure> {
    let served = Arc::clone(&app.served);
    let find = move || match served.weights(&expression)? {
        Asked::Auto => Err(Failure::invalid("the router chooses for heads: weights `auto` is of /v1/classify")),
        weights => Ok(Arc::new(weights)),
    };
    aside(find).await
}

/// The answer of runs with these weights, and the time it took.
async fn run(
    app: &Arc<App>,
    weights: Arc<Asked>,
    question: Question,
    deadline: Instant,
) -> Result<(Answer, Timing), Failure> {
    let Question { images, room, .. } = question;
    let (began, n) = (Instant::now(), images.len());
    let admission = app.scheduler.admit(n)?;
    let pixels = app.decode(images, deadline).await?;
    drop(room);
    let decoded = began.elapsed();
    let answer = app.scheduler.run(admission, weights, pixels, n, deadline).await?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let timing = Timing {
        decode_ms: ms(decoded),
        queue_ms: ms(answer.queue),
        weights_ms: ms(answer.weights),
        run_ms: ms(answer.run),
        total_ms: ms(began.elapsed()),
    };
    Ok((answer, timing))
}
