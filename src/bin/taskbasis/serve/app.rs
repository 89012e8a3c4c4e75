//! What all requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::Access;
use super::failure::Failure;
use super::metrics::Metrics;
use super::model::Served;
use super::scheduler::Scheduler;
use super::types::{ModelInfo, TasksResponse};

/// Bodies of the largest size that may be in memory at once; smaller ones are more.
const BODIES: usize = 8;

/// A server, without its sockets.
pub struct App {
    pub served: Arc<Served>,
    pub scheduler: Arc<Scheduler>,
    pub metrics: Arc<Metrics>,
    pub access: Access,
    pub model: ModelInfo,
    pub tasks: TasksResponse,
    /// The text of `/openapi.json`, once the routes are known.
    pub openapi: OnceLock<String>,
    /// Bytes of a body, at most.
    pub max_body: usize,
    pub timeout: Duration,
    /// Kibibytes of bodies that may still be taken into memory.
    bodies: Arc<Semaphore>,
    /// Images that may be decoded at once.
    decoding: Arc<Semaphore>,
    is_ending: AtomicBool,
}

impl App {
    /// `threads` decode.
    pub fn new(
        (served, scheduler, metrics): (Arc<Served>, Arc<Scheduler>, Arc<Metrics>),
        (model, tasks): (ModelInfo, TasksResponse),
        access: Access,
        (max_body, timeout, threads): (usize, Duration, usize),
    ) -> Self {
        let bodies = kibibytes(max_body) as usize * BODIES;
        Self {
            served,
            scheduler,
            metrics,
            access,
            model,
            tasks,
            openapi: OnceLock::new(),
            max_body,
            timeout,
            bodies: Arc::new(Semaphore::new(bodies)),
            decoding: Arc::new(Semaphore::new(threads)),
            is_ending: AtomicBool::new(false),
        }
    }

    /// From now on requests are refused, but those that were taken on.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
        self.scheduler.hurry();
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Room for a body of `bytes`.
    ///
    /// # Errors
    /// 429 where the bodies of others fill it.
    pub fn room_for_body(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.bodies).try_acquire_many_owned(kibibytes(bytes)).map_err(|_| {
            self.metrics.dropped("full");
            let why = "too many bodies are being received";
            Failure::new(axum::http::StatusCode::TOO_MANY_REQUESTS, "queue_full", why).retry(1)
        })
    }

    /// The pixels, f32 `[n, 3, S, S]`, of image files, which are decoded by threads of their own.
    ///
    /// # Errors
    /// 422 for the first image that cannot be read; 504 after the deadline.
    pub async fn decode(
        self: &Arc<Self>,
        files: Vec<axum::body::Bytes>,
        deadline: Instant,
    ) -> Result<Vec<f32>, Failure> {
        let mut images = Vec::with_capacity(files.len());
        // Each in a task of its own, which ends with this future where it has not begun.
        for (index, file) in files.into_iter().enumerate() {
            let app = Arc::clone(self);
            images.push(Abandoned(tokio::spawn(async move {
                let turn = Arc::clone(&app.decoding).acquire_owned().await;
                let decode = move || {
                    let _turn = turn;
                    app.served.decode(&file, index)
                };
                tokio::task::spawn_blocking(decode).await.unwrap_or_else(|_| Err(decoder_failed(index)))
            })));
        }
        let gather = async {
            let mut pixels = Vec::new();
            for (index, mut image) in images.into_iter().enumerate() {
                let image = (&mut image.0).await.unwrap_or_else(|_| Err(decoder_failed(index)))?;
                if pixels.is_empty() {
                    pixels = image;
                } else {
                    pixels.extend_from_slice(&image);
                }
            }
            Ok(pixels)
        };
        tokio::time::timeout_at(deadline.into(), gather).await.unwrap_or_else(|_| {
            self.metrics.dropped("deadline");
            Err(Failure::deadline())
        })
    }
}

fn decoder_failed(index: usize) -> Failure {
    Failure::internal(format!("images[{index}]: a defect in taskbasis, please report it"))
}

fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX)
}

/// A task that ends with what waits for it.
struct Abandoned<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Abandoned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
