//! What clients must not be able to do: slow, broken and hostile ones, those without a token, pages of other sites.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Reply, Server, asking, base64, command, images};
use crate::support::runtime;

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn send(server: &Server, path: &str, kind: &str, body: &[u8]) -> Reply {
    server.connect().send("POST", path, &[("Content-Type", kind)], body).unwrap()
}

/// That it answers others.
#[track_caller]
fn lives(server: &Server) {
    server.post("/v1/embed", &asking("Greek", &images("Greek", 1))).done();
}

#[test]
fn what_is_no_request_is_told_what_is_wrong() {
    if !runtime() {
        return;
    }
    let server = Server::start(&[]);
    let image = base64(&images("Greek", 1)[0]);
    let one = |key: &str, value: Value| {
        let mut request = json!({ "weights": "Greek", "images": [image.clone()] });
        request[key] = value;
        request
    };
    let embed: Vec<(Value, u16, &str, &str)> = vec![
        (one("weights", json!("Grek")), 404, "not_found", "Did you mean `Greek`?"),
        (one("weights", json!("Greek@")), 400, "invalid_argument", "Greek@"),
        (one("weights", json!("Greek@1e999")), 400, "invalid_argument", ""),
        (one("weights", json!("")), 400, "invalid_argument", ""),
        (one("weights", json!("Greek + ".repeat(9000) + "Greek")), 400, "invalid_argument", "at most 65536 bytes"),
        (one("weights", json!(7)), 400, "invalid_argument", "invalid type"),
        // No path and no address is opened, whatever stands where.
        (one("weights", json!("@/etc/passwd")), 400, "invalid_argument", "expected the name of a task"),
        (one("weights", json!("hf://owner/repo/x")), 400, "invalid_argument", ""),
        (one("images", json!(["/etc/passwd"])), 400, "invalid_argument", "images[0]: not base64"),
        (one("images", json!(["../glyphs.taskbasis"])), 400, "invalid_argument", "not base64"),
        (one("images", json!(["http://localhost/a.png"])), 400, "invalid_argument", "no address is opened"),
        (one("images", json!(["data:image/png,abc"])), 400, "invalid_argument", "a data URL has the form"),
        (one("images", json!([{ "path": "/etc/passwd" }])), 400, "invalid_argument", "an image is base64"),
        (one("images", json!([])), 400, "invalid_argument", "there is no image"),
        (one("images", json!([image, ""])), 422, "format", "images[1]: the image file is empty"),
        (one("images", json!([base64(b"\x89PNG\r\n\x1a\n")])), 422, "format", "images[0]"),
        (
            one(
                "images",
                json!([base64(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\xff\xff\xff\xff\x08\0\0\0\0")]),
            ),
            422,
            "format",
            "images[0]",
        ),
        (one("images", json!([base64(b"%PDF-1.7")])), 422, "unsupported", "a PDF document"),
        (one("path", json!("/etc/passwd")), 400, "invalid_argument", "unknown field `path`"),
        (one("heads", json!(["Greek"])), 400, "invalid_argument", "unknown field `heads`"),
    ];
    for (request, status, kind, part) in embed {
        server.post("/v1/embed", &request).failed(status, kind, &[part]);
    }
    for (request, status, kind, part) in [
        (one("heads", json!(["Grek"])), 404, "not_found", "known: Arabic"),
        (one("top", json!(0)), 400, "invalid_argument", "at least 1"),
        (one("top", json!(-1)), 400, "invalid_argument", ""),
    ] {
        server.post("/v1/classify", &request).failed(status, kind, &[part]);
    }
    let deep = "[".repeat(100_000);
    for body in ["", "{", "null", "[]", &deep, "{\"images\": [\"\u{0}\"]}"] {
        send(&server, "/v1/embed", "application/json", body.as_bytes()).failed(400, "invalid_argument", &[]);
    }
    send(&server, "/v1/embed", "application/json", b"\xff\xfe").failed(400, "invalid_argument", &[]);
    for kind in ["text/plain", "", "application/x-www-form-urlencoded", "application/jsonp"] {
        send(&server, "/v1/embed", kind, b"{}").failed(415, "media_type", &["multipart/form-data"]);
    }
    let mut client = server.connect();
    client.send("POST", "/v1/embed", &[JSON, ("Content-Encoding", "gzip")], b"{}").unwrap().failed(
        415,
        "media_type",
        &[],
    );
    let form = "multipart/form-data; boundary=x";
    for (kind, body) in [
        ("multipart/form-data", &b"--x--"[..]),
        (form, b""),
        (form, b"--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nabc"),
        (form, b"--x\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/etc/passwd\r\n--x--\r\n"),
        (form, b"--x\r\nContent-Disposition: form-data; name=\"weights\"\r\n\r\n\xff\r\n--x--\r\n"),
        (form, b"--x--\r\n"),
    ] {
        send(&server, "/v1/embed", kind, body).failed(400, "invalid_argument", &[]);
    }
    send(&server, "/v1/embed?weights=A&weights=B", "image/png", b"x").failed(400, "invalid_argument", &["twice"]);
    send(&server, "/v1/embed?path=A", "image/png", b"x").failed(400, "invalid_argument", &["no such field: `path`"]);
    send(&server, "/v1/embed?weights=Greek", "application/json", b"{}").failed(
        400,
        "invalid_argument",
        &["in the body"],
    );
    // Where files lie is not told.
    let text = String::from_utf8(server.post("/v1/embed", &one("weights", json!("Grek"))).body).unwrap();
    assert!(!text.contains("taskbasis") && !text.contains('/'), "{text}");
    lives(&server);
}

#[test]
fn what_is_too_large_is_refused_before_it_is_taken_in() {
    if !runtime() {
        return;
    }
    let server = Server::start(&["--max-body", "1", "--max-pixels", "1000"]);
    let file = |width: usize, height: usize, bytes: usize| {
        [format!("P5\n{width} {height}\n255\n").as_bytes(), &vec![7; bytes]].concat()
    };
    server.post("/v1/embed", &asking("Greek", &[file(25, 40, 1000)])).done();
    let refused = server.post("/v1/embed", &asking("Greek", &[file(25, 41, 1025)]));
    refused.failed(422, "unsupported", &["images[0]", "at most 1000 pixels", "25 × 41"]);
    server.post("/v1/embed", &asking("Greek", &[file(90_000, 90_000, 10)])).failed(422, "unsupported", &["too large"]);

    let large = vec![b' '; (1 << 20) + 1];
    send(&server, "/v1/embed", "application/json", &large[1..]).failed(400, "invalid_argument", &[]);
    send(&server, "/v1/embed", "application/json", &large).failed(413, "too_large", &["--max-body"]);
    // Nothing of it need be sent.
    let mut client = server.connect();
    client.write(b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n").unwrap();
    client.reply().unwrap().failed(413, "too_large", &[]);
    // Nor does it help not to say how much it is.
    let mut client = server.connect();
    client.write(b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        // The server may have closed by now.
        let _ = client.write(&chunk);
    }
    client.reply().unwrap().failed(413, "too_large", &[]);
    lives(&Server::start(&[]));
}

#[test]
fn slow_and_broken_clients_harm_themselves_alone() {
    if !runtime() {
        return;
    }
    let server = Server::start(&["--timeout-ms", "400"]);
    let head = b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    let mut slow = server.connect();
    slow.write(head).unwrap();
    let began = Instant::now();
    slow.reply().unwrap().failed(408, "deadline", &["the body did not come"]);
    assert!(began.elapsed() < Duration::from_secs(10));
    // It says a thousand bytes, and goes.
    for _ in 0..50 {
        server.connect().write(head).unwrap();
    }
    // Connections that say nothing, or never end what they say.
    let mut idle: Vec<_> = (0..100).map(|_| server.connect()).collect();
    idle.iter_mut().step_by(2).for_each(|client| client.write(b"PRI * HT").unwrap());
    for garbage in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut client = server.connect();
        client.write(garbage).unwrap();
        let mut answer = Vec::new();
        // Closed, with or without a word.
        let _ = client.stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(1 << 20));
    let mut client = server.connect();
    let _ = client.write(long.as_bytes());
    assert!(client.reply().map_or(true, |reply| (400..500).contains(&reply.status)));
    lives(&server);
    drop(idle);
    server.wait_for("taskbasis_connections", |open| open <= 2.0);
}

#[test]
fn without_a_token_nothing_is_told() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "0123456789abcdef0123\n").unwrap();
    let mut server = Server::start(&["--bind", "0.0.0.0:0", "--token-file", file.to_str().unwrap()]);
    server.address = server.address.replace("0.0.0.0", "127.0.0.1");
    let image = asking("Greek", &images("Greek", 1)).to_string();
    let ask = |path: &str, method: &str, more: &[(&str, &str)]| {
        server.connect().send(method, path, &[&[JSON], more].concat(), image.as_bytes()).unwrap()
    };
    let token = ("Authorization", "Bearer 0123456789abcdef0123");
    for (method, path) in [
        ("POST", "/v1/embed"),
        ("POST", "/v1/classify"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/tasks/Greek/prefetch"),
        ("GET", "/v1/tasks"),
        ("GET", "/v1/model"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
    ] {
        let refused = ask(path, method, &[]);
        refused.failed(401, "unauthorized", &["Authorization: Bearer"]);
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        ask(path, method, &[("Authorization", "Bearer 0123456789abcdef012")]).failed(
            401,
            "unauthorized",
            &["not known"],
        );
    }
    ask("/v1/embed", "POST", &[token]).done();
    ["/", "/healthz", "/readyz"].iter().for_each(|path| assert_eq!(ask(path, "GET", &[]).status, 200, "{path}"));

    let fails = |options: &[&str], parts: &[&str]| {
        let output = command(options).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && parts.iter().all(|part| text.contains(part)), "{text}");
    };
    fails(&["--bind", "0.0.0.0:0"], &["there is no token", "--token-file", "--insecure"]);
    fails(&["--bind", "[::]:0"], &["there is no token"]);
    fails(&["--bind", "nonsense"], &["no such address"]);
    fails(&["--token-file", "nowhere"], &["nowhere"]);
    std::fs::write(&file, "short\n").unwrap();
    fails(&["--token-file", file.to_str().unwrap()], &["no usable tokens"]);
    fails(&["--insecure", "--token-file", file.to_str().unwrap()], &["cannot be used with"]);
    fails(&["--pin", "Nowhere"], &["Nowhere"]);
}

#[test]
fn pages_of_other_sites_are_refused_on_this_machine_s_own_address() {
    if !runtime() {
        return;
    }
    let server = Server::start(&[]);
    let ask = |head: &str| {
        let mut client = server.connect();
        client.write(format!("GET /v1/tasks HTTP/1.1\r\n{head}\r\n\r\n").as_bytes()).unwrap();
        client.reply().unwrap()
    };
    ask("Host: localhost:8080").done();
    ask("Host: localhost\r\nOrigin: http://127.0.0.1:3000").done();
    ask("Host: evil.example").failed(403, "forbidden", &["--insecure"]);
    ask("Host: localhost\r\nOrigin: https://evil.example").failed(403, "forbidden", &[]);
    let server = Server::start(&["--insecure"]);
    let mut client = server.connect();
    client.write(b"GET /v1/tasks HTTP/1.1\r\nHost: proxy.example\r\n\r\n").unwrap();
    client.reply().unwrap().done();
}
