//! Sockets: connections are taken on, and let go of in order when the server ends.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use taskbasis::{Error, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::app::App;
use crate::signals::Endings;

/// Connections at once. Others wait in the system's own queue.
const CONNECTIONS: usize = 512;
/// The time that a client has to say something, and a connection without requests is kept.
const SILENCE: Duration = Duration::from_secs(60);
/// The time that clients have to notice that the server is ending, before it closes what they leave open.
const LINGER: Duration = Duration::from_millis(300);
/// The time past the last deadline that answers have to get to slow clients when the server ends.
const GRACE: Duration = Duration::from_secs(5);

/// Answers until a signal ends it: then what was taken on, and nothing else. A second signal ends the program at once.
///
/// # Errors
/// When the system gives no threads or no sockets.
pub fn serve(listener: StdListener, app: &Arc<App>, router: Router, threads: usize) -> Result<()> {
    let failed = |e| Error::io("cannot serve", "socket", e);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Some read JSON and score embeddings while all that decode are at work.
        .max_blocking_threads(threads + 4)
        .thread_name("taskbasis-http")
        .enable_all()
        .build()
        .map_err(Error::no_thread)?;
    let done = runtime.block_on(async {
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        answer(listener, app, router, Endings::watch().map_err(failed)?).await;
        Ok(())
    });
    runtime.shutdown_timeout(GRACE);
    done
}

async fn answer(listener: TcpListener, app: &Arc<App>, router: Router, mut endings: Endings) {
    let (places, graceful) = (Arc::new(Semaphore::new(CONNECTIONS)), GracefulShutdown::new());
    let take_on = |(stream, place): (TcpStream, OwnedSemaphorePermit)| {
        let (app, router, watcher) = (Arc::clone(app), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            app.metrics.connections.inc();
            connection(stream, router, watcher).await;
            app.metrics.connections.dec();
            drop(place);
        });
    };
    loop {
        tokio::select! {
            accepted = accept(&listener, &places) => take_on(accepted),
            () = endings.next() => break,
        }
    }
    app.end();
    tokio::spawn(async move {
        endings.next().await;
        endings.end_at_once();
    });
    // Clients that have connected already, or hold a connection, get an answer, if only that the server is ending.
    let linger = tokio::time::sleep(LINGER);
    tokio::pin!(linger);
    loop {
        tokio::select! {
            accepted = accept(&listener, &places) => take_on(accepted),
            () = &mut linger => break,
        }
    }
    drop(listener);
    // What was taken on is answered by its deadline; a client that does not read its answer is not waited for.
    let _ = tokio::time::timeout(app.timeout + GRACE, graceful.shutdown()).await;
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        // No one closes it.
        let Ok(place) = Arc::clone(places).acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // The client has gone again, or the process has no descriptor left: others may give one back.
            Err(e) => {
                tracing::warn!(%e, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One connection, HTTP/1.1 or 2, until its client or the server ends it.
async fn connection(stream: TcpStream, router: Router, watcher: Watcher) {
    // Answers are small, and go out whole.
    let _ = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE).max_buf_size(64 << 10);
    let http2 = &mut builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(SILENCE / 2).keep_alive_timeout(SILENCE / 2);
    http2.max_concurrent_streams(64).max_header_list_size(64 << 10);

    let has_asked = Arc::new(AtomicBool::new(false));
    let (asked, routes) = (Arc::clone(&has_asked), TowerToHyperService::new(router));
    let service = service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        routes.call(request)
    });
    let served = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
    tokio::pin!(served);
    // Until the first request is there, it is not known which protocol is spoken, and no timer of theirs runs.
    let has_ended = tokio::time::timeout(SILENCE, &mut served).await.is_ok();
    if !has_ended && has_asked.load(Ordering::Relaxed) {
        // What goes wrong in a connection is its client's.
        let _ = served.await;
    }
}
