//! `taskbasis serve`: images and task expressions over HTTP. docs/serve.md is its manual.

mod access;
mod app;
mod body;
mod failure;
mod metrics;
mod model;
mod queue;
mod routes;
mod scheduler;
mod server;
mod types;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indexmap::IndexMap;
use serde_json::json;
use taskbasis::{EncoderOptions, Error, ModelOptions, Result, TaskExpr, head_tasks};

use self::access::Access;
use self::app::App;
use self::metrics::Metrics;
use self::model::Served;
use self::scheduler::{Limits, Scheduler};
use crate::args::{EncoderArgs, HeadArgs, ModelArgs, Session};
use crate::conflicts::{Given, Refused};
use crate::expression::expression;
use crate::output;
use crate::paths::{BasePath, InPath};
use crate::route::RouterArgs;

/// Serve embeddings and classes over HTTP, with the weights of any task in each request.
///
/// The address is printed once requests are answered. `/` is a page to try it on, `/openapi.json` describes it. SIGTERM
/// or Ctrl-C end it in order: what was taken on is answered, then it exits with 0; a second one ends it at once.
#[derive(Args)]
pub struct Serve {
    /// A bundle (`model.taskbasis`), or a basis folder, with --base and --heads.
    #[arg(value_name = "MODEL")]
    basis: InPath,

    /// Base checkpoint (the zero-shot weights), which a folder needs and a bundle has in it.
    #[arg(long, value_name = "FILE")]
    base: Option<BasePath>,

    /// Side of the images in pixels, where it is not the one that the base has positions for.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=1 << 13))]
    image_size: Option<u32>,

    #[command(flatten)]
    heads: HeadArgs,

    #[command(flatten)]
    router: RouterArgs,

    #[command(flatten)]
    listen: ListenArgs,

    #[command(flatten)]
    queue: QueueArgs,

    #[command(flatten)]
    cache: CacheArgs,

    #[command(flatten)]
    encoder: EncoderArgs,
}

/// Who is answered.
#[derive(Args)]
#[command(next_help_heading = "Address")]
struct ListenArgs {
    /// Address and port; port 0 is any that is free. Others than this machine's own need --token-file.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    bind: String,

    /// A file with tokens, one per line: requests need one of them, as `Authorization: Bearer TOKEN`.
    #[arg(long, value_name = "FILE")]
    token_file: Option<InPath>,

    /// Answer all that reach the address, without a token: where something else guards it.
    #[arg(long, conflicts_with = "token_file")]
    insecure: bool,

    /// MiB of a request's body, at most.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_body: u32,

    /// Pixels of an image, at most: it is refused before it is decoded.
    #[arg(long, value_name = "N", default_value_t = 50_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_pixels: u32,
}

/// How requests wait.
#[derive(Args)]
#[command(next_help_heading = "Queue")]
struct QueueArgs {
    /// Milliseconds that a request waits for others of its task, where there are fewer than --batch images. With 0,
    /// what comes during a run is one batch after it.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    wait_ms: u32,

    /// Images that may be asked for and not answered yet, all requests together; of one request at most. More are
    /// refused (429).
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    queue: u32,

    /// Milliseconds that a request may take from its head to its answer; after that it is given up (504), and what has
    /// not begun of it never does.
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    timeout_ms: u32,

    /// Runs at once; they share the threads. One answers soonest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
}

/// Which weights are kept.
#[derive(Args)]
#[command(next_help_heading = "Weights")]
struct CacheArgs {
    /// MiB of reconstructed weights that are kept for the next request [default: those of three tasks, 1024 at least]
    #[arg(long, value_name = "MIB")]
    budget: Option<u32>,

    /// Weights to reconstruct before the first request, and to keep, beside the budget; may be given several times.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true)]
    pin: Vec<TaskExpr>,

    /// Weights to reconstruct once the server runs, within the budget; may be given several times.
    #[arg(long, value_name = "EXPR", value_parser = expression, allow_hyphen_values = true)]
    prefetch: Vec<TaskExpr>,
}

impl Serve {
    /// The model, as other commands' options say it.
    fn model(&self) -> ModelArgs {
        ModelArgs { basis: Some(self.basis.clone()), base: self.base.clone(), image_size: self.image_size }
    }

    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        self.encoder.conflict(Some(&self.model()), given)
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        let access = |address| Access::new(address, self.listen.token_file.as_deref(), self.listen.insecure);
        let address = self.listen.address()?;
        access(address)?;
        // Taken before minutes of work, that another server's port is an error now; answered after it.
        let failed = |e| Error::io("cannot listen", &self.listen.bind, e);
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;

        let served = Arc::new(self.open()?);
        let metrics = Arc::new(Metrics::new());
        let threads = match self.encoder.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let QueueArgs { wait_ms, queue, timeout_ms, workers } = self.queue;
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let limits = Limits { batch: self.encoder.batch as usize, wait: ms(wait_ms), queue: queue as usize };
        let scheduler = Scheduler::new(Arc::clone(&served), Arc::clone(&metrics), limits);
        let about = served.info(
            &self.basis,
            (threads, self.encoder.batch, queue as usize),
            self.encoder.onnxruntime.as_deref(),
        )?;
        let about = (about, served.names());
        let max_body = (self.listen.max_body as usize) << 20;
        let shared = (Arc::clone(&served), Arc::clone(&scheduler), metrics);
        let app = Arc::new(App::new(shared, about, access(address)?, (max_body, ms(timeout_ms), threads)));
        let router = routes::router(&app);
        let running = scheduler.start(workers as usize)?;
        for expr in &self.cache.prefetch {
            served.prefetch(served.session.weights(expr)?)?;
        }

        let url = format!("http://{address}");
        match as_json {
            true => output::json(&json!({ "url": url, "model": app.model.model, "tasks": app.tasks.tasks.len() }))?,
            false => output::text(&format!("{} at {url}\n", app.model.model))?,
        }
        let done = server::serve(listener, &app, router, threads);
        scheduler.close();
        for worker in running {
            // A run that panics is caught in it.
            let _ = worker.join();
        }
        done
    }

    /// Everything that answers need, after one run.
    fn open(&self) -> Result<Served> {
        let cache_bytes = self.cache.budget.map(|mib| (mib as usize) << 20);
        let options = ModelOptions { threads: self.encoder.threads, cache_bytes, ..ModelOptions::default() };
        let session = self.model().open_with(&options)?;
        let concurrency = self.queue.workers as usize;
        let encoder = self.encoder.encoder_by(&session, &EncoderOptions { concurrency, ..self.encoder.options() })?;
        let preprocess = self.encoder.preprocess(&session)?.with_max_pixels(self.listen.max_pixels as usize);
        self.encoder.tell_images(&session, true)?;
        let mut heads = IndexMap::new();
        for task in self.tasks_with_heads(&session)? {
            let head = self.heads.head(session.bundle(), &task, encoder.arch())?;
            heads.insert(task, head);
        }
        let routing = self.router.open(&session, true)?;
        let mut served = Served::new(session, encoder, preprocess, heads, routing);
        for expr in &self.cache.pin {
            served.pin(expr)?;
        }
        served.try_out()?;
        Ok(served)
    }

    /// The tasks that there are heads for. A file of one head, which does not say whose it is, is the only task's.
    fn tasks_with_heads(&self, session: &Session) -> Result<Vec<String>> {
        match (self.heads.heads.as_deref(), session.bundle()) {
            (None, None) => Ok(Vec::new()),
            (None, Some(bundle)) => Ok(bundle.head_tasks().map(str::to_owned).collect()),
            (Some(heads), _) => {
                let named = head_tasks(heads)?;
                match session.model().basis().map(|basis| basis.tasks()) {
                    _ if !named.is_empty() => Ok(named),
                    Some([only]) => Ok(vec![only.clone()]),
                    _ => Err(Error::invalid("the heads do not say of which tasks they are")
                        .at(heads)
                        .hint("Give a file or folder with a head per task")),
                }
            }
        }
    }
}

impl ListenArgs {
    fn address(&self) -> Result<SocketAddr> {
        let failed = || {
            Error::invalid("no such address")
                .expected("HOST:PORT, as 127.0.0.1:8080")
                .got(format_args!("--bind {}", self.bind))
        };
        let mut addresses = self.bind.to_socket_addrs().map_err(|e| failed().because(e))?;
        addresses.next().ok_or_else(failed)
    }
}
