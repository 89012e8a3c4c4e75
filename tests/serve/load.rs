//! Many clients, tasks at random: nothing is lost, nothing is mixed up, also when the server ends meanwhile.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::spawn;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Server, asking, images};
use crate::support::runtime;

const CLIENTS: usize = 8;
const TASKS: [&str; 5] = ["base", "Greek", "Icons@0.5", "Hebrew@0.3 + Digits@0.2", "per_layer"];
const FILES: usize = 6;

/// What each task says of each image, asked for one by one.
struct Expected {
    requests: Vec<Value>,
    answers: HashMap<(usize, usize), Value>,
}

impl Expected {
    fn of(server: &Server) -> Arc<Self> {
        let files = images("Greek", FILES);
        let requests: Vec<Value> =
            TASKS.iter().flat_map(|task| files.iter().map(|file| asking(task, std::slice::from_ref(file)))).collect();
        let answers = requests.iter().enumerate().map(|(at, request)| {
            let answer = server.post("/v1/embed", request).done();
            ((at / FILES, at % FILES), answer["embeddings"][0].clone())
        });
        Arc::new(Self { answers: answers.collect(), requests })
    }
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn eight_clients_with_tasks_at_random_all_get_their_answers() {
    const EACH: usize = 100;
    if !runtime() {
        return;
    }
    // A budget of one task's weights: most requests reconstruct.
    let server = Server::start(&["--budget", "3", "--batch", "4"]);
    let expected = Expected::of(&server);
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let (mut client, expected) = (server.connect(), Arc::clone(&expected));
            let mut random = Random(seed as u64);
            spawn(move || {
                let ask = |_| {
                    let (task, image) = (random.below(TASKS.len()), random.below(FILES));
                    let began = Instant::now();
                    let answer = client.post("/v1/embed", &expected.requests[task * FILES + image]).unwrap().done();
                    assert_eq!(answer["embeddings"][0], expected.answers[&(task, image)], "{}", TASKS[task]);
                    began.elapsed()
                };
                (0..EACH).map(ask).collect::<Vec<Duration>>()
            })
        })
        .collect();
    let mut times: Vec<Duration> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let took = began.elapsed().as_secs_f64();
    times.sort();
    assert_eq!(times.len(), CLIENTS * EACH);
    let ms = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{} requests, {:.0} a second; p50 {:.1} ms, p90 {:.1}, p99 {:.1}, the slowest {:.1}; {} runs, {} reconstructions",
        times.len(),
        times.len() as f64 / took,
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(1.0),
        server.metric("taskbasis_run_seconds_count"),
        server.metric("taskbasis_cache_misses"),
    );
    assert_eq!(server.metric("taskbasis_images_total"), (CLIENTS * EACH + TASKS.len() * FILES) as f64);
    assert_eq!(server.metric("taskbasis_waiting_images"), 0.0);
}

#[cfg(unix)]
#[test]
fn a_server_that_is_ended_under_load_answers_what_it_has_taken_on() {
    if !runtime() {
        return;
    }
    for _ in 0..3 {
        let mut server = Server::start(&[]);
        let expected = Expected::of(&server);
        let answered = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                let (mut client, expected, answered) = (server.connect(), Arc::clone(&expected), Arc::clone(&answered));
                let mut random = Random(seed as u64);
                spawn(move || {
                    loop {
                        let (task, image) = (random.below(TASKS.len()), random.below(FILES));
                        // Every request on an open connection is answered: with what it asked for, or that it is over.
                        let reply = client.post("/v1/embed", &expected.requests[task * FILES + image]).unwrap();
                        if reply.status == 503 {
                            reply.failed(503, "draining", &[]);
                            assert!(reply.header("retry-after").is_some());
                            return;
                        }
                        let is_last = reply.header("connection") == Some("close");
                        assert_eq!(reply.done()["embeddings"][0], expected.answers[&(task, image)]);
                        answered.fetch_add(1, Ordering::Relaxed);
                        if is_last {
                            return;
                        }
                    }
                })
            })
            .collect();
        while answered.load(Ordering::Relaxed) < 40 {
            std::thread::sleep(Duration::from_millis(1));
        }
        server.signal(libc::SIGTERM);
        clients.into_iter().for_each(|client| client.join().unwrap());
        assert_eq!(server.ended().code(), Some(0));
        let refused = std::net::TcpStream::connect(&server.address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}
