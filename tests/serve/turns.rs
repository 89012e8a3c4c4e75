//! Who is run when, and who is not: batches, turns, bounds, deadlines, clients that go away, and the end.

use std::thread::spawn;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Server, asking, images};
use crate::support::runtime;

const RUNS: &str = "taskbasis_run_seconds_count";
const WAITING: &str = "taskbasis_waiting_images";
const IMAGES: &str = "taskbasis_images_total";

#[test]
fn requests_of_one_task_are_one_run_and_have_their_own_answers() {
    if !runtime() {
        return;
    }
    // They wait for each other until there are eight images.
    let server = Server::start(&["--batch", "8", "--wait-ms", "20000"]);
    let files = images("Greek", 8);
    let alone = Server::start(&[]);
    let expected: Vec<Value> =
        files.iter().map(|file| alone.post("/v1/embed", &asking("Greek", std::slice::from_ref(file))).done()).collect();
    let ask = |range: std::ops::Range<usize>| {
        let (mut client, request) = (server.connect(), asking("Greek", &files[range.clone()]));
        (range, spawn(move || client.post("/v1/embed", &request).unwrap().done()))
    };
    let asked: Vec<_> = [0..1, 1..4, 4..5, 5..8].into_iter().map(ask).collect();
    for (range, answer) in asked {
        let answer = answer.join().unwrap();
        for (at, image) in range.enumerate() {
            assert_eq!(answer["embeddings"][at], expected[image]["embeddings"][0], "image {image}");
        }
    }
    assert_eq!((server.metric(RUNS), server.metric(IMAGES)), (1.0, 8.0));

    // A request of more images than a run has is several runs, and one answer.
    let server = Server::start(&["--batch", "3"]);
    let answer = server.post("/v1/embed", &asking("Greek", &files)).done();
    assert_eq!(server.metric(RUNS), 3.0);
    for (embedding, expected) in answer["embeddings"].as_array().unwrap().iter().zip(&expected) {
        assert_eq!(*embedding, expected["embeddings"][0]);
    }
}

#[test]
fn a_task_that_is_asked_much_lets_others_have_their_turn() {
    if !runtime() {
        return;
    }
    let server = Server::start(&["--batch", "1", "--queue", "1000"]);
    let (mut greedy, many) = (server.connect(), asking("Greek", &images("Greek", 400)));
    let greedy = spawn(move || {
        let answer = greedy.post("/v1/embed", &many).unwrap().done();
        (Instant::now(), answer["embeddings"].as_array().unwrap().len())
    });
    server.wait_for(IMAGES, |run| run > 0.0);
    server.post("/v1/embed", &asking("Icons", &images("Icons", 1))).done();
    let modest = Instant::now();
    let (done, count) = greedy.join().unwrap();
    assert!(modest < done && count == 400, "the modest one had to wait for all");
}

#[test]
fn a_full_queue_says_so() {
    if !runtime() {
        return;
    }
    let server = Server::start(&["--queue", "4", "--wait-ms", "1500"]);
    let files = images("Greek", 5);
    server.post("/v1/embed", &asking("Greek", &files)).failed(413, "too_large", &["at most 4, got 5", "--queue"]);
    let (mut client, request) = (server.connect(), asking("Greek", &files[..3]));
    let waiting = spawn(move || client.post("/v1/embed", &request).unwrap());
    server.wait_for(WAITING, |images| images == 3.0);
    let refused = server.post("/v1/embed", &asking("Icons", &files[..2]));
    refused.failed(429, "queue_full", &["3 of 4"]);
    assert!((1..=60).contains(&refused.header("retry-after").unwrap().parse::<u32>().unwrap()));
    assert_eq!(server.metric("taskbasis_dropped_total{reason=\"full\"}"), 1.0);
    waiting.join().unwrap().done();
    assert_eq!(server.metric(WAITING), 0.0);
    server.post("/v1/embed", &asking("Icons", &files[..2])).done();
}

#[test]
fn what_is_late_or_no_longer_wanted_is_never_run() {
    if !runtime() {
        return;
    }
    let server = Server::start(&["--timeout-ms", "300", "--wait-ms", "60000"]);
    let request = asking("Greek", &images("Greek", 2));
    let began = Instant::now();
    server.post("/v1/embed", &request).failed(504, "deadline", &["--timeout-ms"]);
    assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!((server.metric(WAITING), server.metric(IMAGES)), (0.0, 0.0));
    assert_eq!(server.metric("taskbasis_dropped_total{reason=\"deadline\"}"), 1.0);

    let server = Server::start(&["--wait-ms", "60000"]);
    let body = request.to_string();
    let mut client = server.connect();
    let head = format!(
        "POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write(format!("{head}{body}").as_bytes()).unwrap();
    server.wait_for(WAITING, |images| images == 2.0);
    drop(client);
    server.wait_for(WAITING, |images| images == 0.0);
    assert_eq!(server.metric("taskbasis_dropped_total{reason=\"gone\"}"), 1.0);
    assert_eq!(server.metric(IMAGES), 0.0);
}

#[cfg(unix)]
#[test]
fn the_end_is_waited_for_by_none_and_loses_none() {
    if !runtime() {
        return;
    }
    // One waits for others of its task, and is run at once now; one comes too late.
    let mut server = Server::start(&["--wait-ms", "60000"]);
    let (mut early, mut late, mut probe) = (server.connect(), server.connect(), server.connect());
    // The server knows them once it has answered.
    assert_eq!(late.send("GET", "/readyz", &[], b"").unwrap().status, 200);
    let request = asking("Greek", &images("Greek", 2));
    let waiting = spawn({
        let request = request.clone();
        move || early.post("/v1/embed", &request).unwrap()
    });
    server.wait_for(WAITING, |images| images == 2.0);
    server.signal(libc::SIGTERM);
    loop {
        let reply = probe.send("GET", "/readyz", &[], b"").unwrap();
        if reply.status != 200 {
            reply.failed(503, "draining", &[]);
            assert_eq!(reply.header("connection"), Some("close"));
            break;
        }
    }
    late.post("/v1/embed", &request).unwrap().failed(503, "draining", &["no more requests"]);
    assert_eq!(waiting.join().unwrap().done()["embeddings"].as_array().unwrap().len(), 2);
    assert_eq!(server.ended().code(), Some(0));

    // A client that never sends the rest of its request cannot hold the program once it is told twice.
    use std::os::unix::process::ExitStatusExt;
    let mut server = Server::start(&[]);
    let mut slow = server.connect();
    slow.write(
        b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    )
    .unwrap();
    server.wait_for("taskbasis_connections", |open| open >= 2.0);
    server.signal(libc::SIGINT);
    let began = Instant::now();
    while std::net::TcpStream::connect(&server.address).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(30), "it still takes connections");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.ended().signal(), Some(libc::SIGTERM));
}

#[test]
fn a_killed_server_leaves_nothing_behind() {
    if !runtime() {
        return;
    }
    let server = Server::start(&["--wait-ms", "60000"]);
    let (mut client, request) = (server.connect(), asking("Greek", &images("Greek", 1)));
    let waiting = spawn(move || client.post("/v1/embed", &request));
    server.wait_for(WAITING, |images| images == 1.0);
    let address = server.address.clone();
    drop(server);
    assert!(waiting.join().unwrap().is_err());
    let server = Server::start(&["--bind", &address]);
    server.post("/v1/embed", &asking("Greek", &images("Greek", 1))).done();
    // Two on one port: the second says so.
    let second = crate::client::command(&["--bind", &address]).output().unwrap();
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(second.status.code() == Some(1) && text.contains("cannot listen") && text.contains(&address), "{text}");
    assert_eq!(json!(server.get("/healthz").status), json!(200));
}
