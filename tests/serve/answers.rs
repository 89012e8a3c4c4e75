//! What is answered: what the library says of the same images, in every form of request.

use std::sync::OnceLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use taskbasis::{
    Encoder, EncoderOptions, GraphChoice, OpenModel, OpenOptions, Preprocess, Router, Routing, TaskExpr, TowerOptions,
    open_head,
};

use crate::client::{Server, asking, base64, bundle, floats, images};
use crate::support::{Need, digits, runtime, skip};

/// The same bundle, by the library.
struct Library {
    opened: OpenModel,
    encoder: Encoder,
    preprocess: Preprocess,
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let opened = OpenModel::open(bundle(), &OpenOptions::default()).unwrap();
        let encoder = opened.encoder(&EncoderOptions::default()).unwrap();
        let preprocess = opened.tower(TowerOptions::default(), &GraphChoice::Carried).unwrap().preprocess;
        Library { opened, encoder, preprocess }
    })
}

impl Library {
    fn pixels(&self, files: &[Vec<u8>]) -> Vec<f32> {
        let mut all = Vec::new();
        for file in files {
            let mut pixels = vec![0.0; self.encoder.arch().pixels()];
            self.preprocess.encoded(file, &mut pixels).unwrap();
            all.extend(pixels);
        }
        all
    }

    /// The embeddings of images, each.
    fn embed(&self, weights: &str, files: &[Vec<u8>]) -> Vec<Vec<f32>> {
        let weights = self.opened.model().weights(&weights.parse::<TaskExpr>().unwrap()).unwrap();
        let embeds = self.encoder.encode_task(&weights, &self.pixels(files), files.len()).unwrap();
        embeds.chunks(self.encoder.arch().embed_dim).map(<[f32]>::to_vec).collect()
    }
}

fn embeddings(answer: &Value) -> Vec<Vec<f32>> {
    answer["embeddings"].as_array().unwrap().iter().map(floats).collect()
}

/// That the classes of an image are those that the library gives.
#[track_caller]
fn check_classes(scores: &Value, head: &str, embedding: &[f32], top: usize) {
    let head = open_head(bundle(), Some(head), None).unwrap();
    let expected = head.classify(embedding, top).unwrap();
    let scores = scores.as_array().unwrap();
    assert_eq!(scores.len(), expected.len());
    for (score, expected) in scores.iter().zip(expected) {
        assert_eq!(score["class"], head.class_name(expected.class));
        assert_eq!(score["index"], expected.class);
        assert_eq!(score["score"].as_f64().unwrap() as f32, expected.logit);
        assert_eq!(score["probability"].as_f64().unwrap() as f32, expected.probability);
    }
}

#[test]
fn embeddings_and_classes_are_the_library_s() {
    if !runtime() {
        return;
    }
    let server = Server::start(&[]);
    let files = images("Greek", 5);
    for weights in ["base", "Greek", "Greek@0.3 + Hebrew@0.2 - Icons@0.1", "per_layer", "Greek@{attn: 0.4, *: 0.2}"] {
        let answer = server.post("/v1/embed", &asking(weights, &files)).done();
        assert_eq!(embeddings(&answer), library().embed(weights, &files), "{weights}");
        assert_eq!(answer["weights"], weights.parse::<TaskExpr>().unwrap().to_string());
        let timing = &answer["timing"];
        let ms = |name: &str| timing[name].as_f64().unwrap();
        let parts = ms("decode_ms") + ms("queue_ms") + ms("weights_ms") + ms("run_ms");
        assert!(parts > 0.0 && ms("total_ms") >= parts, "{timing}");
    }
    // The second time they are there.
    let again = server.post("/v1/embed", &asking("Greek", &files)).done();
    assert_eq!(again["cached"], true);
    let fresh = server.post("/v1/embed", &asking("Greek@0.12345", &files)).done();
    assert_eq!(fresh["cached"], false);
    assert!(fresh["timing"]["weights_ms"].as_f64().unwrap() > 0.0);

    // One run for two heads; by default that of the one task, and the weights of the one head's.
    let mut request = asking("Greek@0.3 + Hebrew@0.2", &files);
    request["heads"] = json!(["Greek", "Latin"]);
    request["top"] = json!(2);
    let runs = server.metric("taskbasis_run_seconds_count");
    let answer = server.post("/v1/classify", &request).done();
    assert_eq!(server.metric("taskbasis_run_seconds_count"), runs + 1.0);
    let expected = library().embed("Greek@0.3 + Hebrew@0.2", &files);
    for (at, head) in ["Greek", "Latin"].into_iter().enumerate() {
        let result = &answer["results"][at];
        assert_eq!(result["head"], head);
        for (image, embedding) in result["images"].as_array().unwrap().iter().zip(&expected) {
            check_classes(&image["scores"], head, embedding, 2);
        }
    }
    let expected = library().embed("Greek", &files[..1]);
    let by_task = server.post("/v1/classify", &asking("Greek", &files[..1])).done();
    let by_head = server.post("/v1/classify", &json!({ "heads": ["Greek"], "images": [base64(&files[0])] })).done();
    assert_eq!(by_head["weights"], "Greek");
    for answer in [by_task, by_head] {
        assert_eq!(answer["results"].as_array().unwrap().len(), 1);
        check_classes(&answer["results"][0]["images"][0]["scores"], "Greek", &expected[0], 24);
    }
    for weights in ["base", "Greek + Hebrew", "all@0.3", "per_layer"] {
        let reply = server.post("/v1/classify", &asking(weights, &files));
        reply.failed(400, "invalid_argument", &["whose head", "Greek, Hebrew"]);
    }
}

#[test]
fn a_router_in_the_bundle_chooses_for_each_image() {
    if !runtime() {
        return;
    }
    let server = Server::start(&["--batch", "4"]);
    let files = [images("Greek", 3), images("Icons", 4), images("Digits", 2)].concat();
    let answer = server.post("/v1/classify", &asking("auto", &files)).done();
    let router = Router::of_bundle(library().opened.bundle().unwrap()).unwrap().unwrap();
    let routing = Routing::new(router, &library().opened).unwrap();
    let routed = routing.encode(&library().encoder, &library().pixels(&files), files.len()).unwrap();
    let found = answer["results"][0]["images"].as_array().unwrap();
    assert_eq!((answer["results"][0]["head"].as_str(), found.len()), (Some("auto"), files.len()));
    let width = library().encoder.arch().embed_dim;
    for (at, image) in found.iter().enumerate() {
        let task = &routing.router().tasks()[routed.routes[at].task];
        assert_eq!(image["routed"]["task"], task.as_str());
        assert_eq!(image["routed"]["answer"], routed.choices[at].name());
        let confidence = image["routed"]["confidence"].as_f64().unwrap();
        // The mean of the patches may differ in its last bits where the batch is another.
        assert!((confidence - routed.routes[at].confidence).abs() < 1e-5, "{image}");
        if routed.choices[at] != taskbasis::Choice::None {
            check_classes(&image["scores"], task, &routed.embeds[at * width..][..width], usize::MAX);
        }
    }
    let mut with_heads = asking("auto", &files);
    with_heads["heads"] = json!(["Greek"]);
    server.post("/v1/classify", &with_heads).failed(400, "invalid_argument", &["name no heads"]);
    server.post("/v1/embed", &asking("auto", &files)).failed(400, "invalid_argument", &["/v1/classify"]);
}

#[test]
fn a_folder_is_served_with_its_base_and_heads() {
    if !runtime() {
        return;
    }
    let path = |relative: &str| digits(relative).map(|path| path.to_str().unwrap().to_owned());
    let (Some(folder), Some(base)) = (path("bases/ViT-D-8_AE_M4_8task"), path("base/pickled_module.pt")) else {
        return;
    };
    let (Some(heads), Some(classes)) = (path("heads.safetensors"), path("classes.json")) else { return };
    let server = Server::over(&folder, &["--base", &base, "--heads", &heads, "--classes", &classes]);
    let image = std::fs::read(path("eight.png").unwrap()).unwrap();
    for (task, class) in [("MNIST", "8"), ("Parity", "even"), ("Loops", "two loops")] {
        let answer = server.post("/v1/classify", &asking(task, std::slice::from_ref(&image))).done();
        assert_eq!(answer["results"][0]["images"][0]["scores"][0]["class"], class);
    }
    let reply = server.post("/v1/classify", &asking("auto", &[image]));
    reply.failed(404, "not_found", &["there is no router", "route --keep"]);
}

#[test]
fn every_form_of_a_request_says_the_same() {
    if !runtime() {
        return;
    }
    let server = Server::start(&[]);
    let files = images("Icons", 2);
    let expected = library().embed("Icons@0.5", &files);
    let url = |file: &[u8]| format!("data:image/x-portable-graymap;base64,{}", base64(file));
    let json = json!({ "weights": " Icons @ 0.5", "images": [url(&files[0]), { "base64": base64(&files[1]) }] });
    assert_eq!(embeddings(&server.post("/v1/embed", &json).done()), expected);

    let part = |name: &str, more: &str, value: &[u8]| {
        let head = format!("--frontier\r\nContent-Disposition: form-data; name=\"{name}\"{more}\r\n\r\n");
        [head.as_bytes(), value, b"\r\n"].concat()
    };
    let image = "; filename=\"/etc/passwd\"\r\nContent-Type: image/x-portable-graymap";
    let form = |more: &[Vec<u8>]| {
        let files = files.iter().flat_map(|file| part("image", image, file));
        let more = more.iter().flatten().copied();
        files.chain(more).chain(*b"--frontier--\r\n").collect::<Vec<u8>>()
    };
    let multipart = ("Content-Type", "multipart/form-data; boundary=frontier");
    let send =
        |path: &str, kind: (&str, &str), body: &[u8]| server.connect().send("POST", path, &[kind], body).unwrap();
    let body = form(&[part("weights", "", b"Icons@0.5")]);
    assert_eq!(embeddings(&send("/v1/embed", multipart, &body).done()), expected);
    let body = form(&[part("weights", "", b"Icons@0.5"), part("heads", "", b"Icons,Greek"), part("top", "", b"3")]);
    let answer = send("/v1/classify", multipart, &body).done();
    for (at, head) in ["Icons", "Greek"].into_iter().enumerate() {
        for (image, embedding) in answer["results"][at]["images"].as_array().unwrap().iter().zip(&expected) {
            check_classes(&image["scores"], head, embedding, 3);
        }
    }

    for kind in ["image/x-portable-graymap", "application/octet-stream"] {
        let answer = send("/v1/embed?weights=Icons%400.5", ("Content-Type", kind), &files[0]).done();
        assert_eq!(embeddings(&answer), expected[..1]);
    }
    let path = "/v1/classify?weights=Icons%400.5&heads=Icons&heads=Greek&top=3";
    let answer = send(path, ("Content-Type", "image/x-portable-graymap"), &files[0]).done();
    check_classes(&answer["results"][1]["images"][0]["scores"], "Greek", &expected[0], 3);

    // As OpenAI's clients have it.
    let mut request = json!({ "model": "Icons@0.5", "input": [url(&files[0]), url(&files[1])], "user": "me" });
    let answer = server.post("/v1/embeddings", &request).done();
    assert_eq!((&answer["object"], &answer["model"]), (&"list".into(), &"Icons@0.5".into()));
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 0, "total_tokens": 0 }));
    request["encoding_format"] = "base64".into();
    request["dimensions"] = 64.into();
    let packed = server.post("/v1/embeddings", &request).done();
    for (at, embedding) in expected.iter().enumerate() {
        let (answer, packed) = (&answer["data"][at], &packed["data"][at]);
        assert_eq!((&answer["object"], &answer["index"]), (&"embedding".into(), &at.into()));
        assert_eq!(floats(&answer["embedding"]), *embedding);
        let bytes = BASE64_STANDARD.decode(packed["embedding"].as_str().unwrap()).unwrap();
        let values: Vec<f32> = bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(values, *embedding);
    }
    request["dimensions"] = 8.into();
    server.post("/v1/embeddings", &request).failed(400, "invalid_argument", &["64 dimensions"]);
    let text = json!({ "model": "base", "input": "a photo of a cat" });
    server.post("/v1/embeddings", &text).failed(400, "invalid_argument", &["input[0]", "embeds images"]);
}

#[test]
fn what_is_served_is_described() {
    if !runtime() {
        return;
    }
    let server = Server::start(&["--precision", "int8", "--threads", "1", "--pin", "Greek", "--prefetch", "Icons"]);
    let model = server.get("/v1/model").done();
    assert_eq!((&model["model"], &model["precision"]), (&"glyphs.taskbasis".into(), &"int8".into()));
    let expected = json!({
        "width": 128, "layers": 3, "heads": 2, "mlp_width": 512, "patch": 8, "image_size": 32, "embedding": 64,
    });
    assert_eq!(model["architecture"], expected);
    assert_eq!((&model["parameters"], &model["vectors"]), (&630_400.into(), &8.into()));
    assert_eq!((&model["threads"], &model["router"]), (&1.into(), &true.into()));
    assert!(model["weights_bytes"].as_u64().unwrap() > 600_000, "{model}");
    for name in ["kernel", "onnxruntime", "version", "provider"] {
        assert!(model[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {model}");
    }

    let tasks = server.get("/v1/tasks").done();
    assert_eq!((tasks["tasks"].as_array().unwrap().len(), tasks["heads"].as_array().unwrap().len()), (8, 9));
    let greek = tasks["tasks"].as_array().unwrap().iter().find(|task| task["name"] == "Greek").unwrap();
    assert_eq!(
        (&greek["head"], &greek["recoverable"], &greek["classes"][1]),
        (&true.into(), &true.into(), &"β".into())
    );
    assert_eq!(tasks["names"], json!(["one_lambda", "per_layer"]));
    assert_eq!(tasks["kinds"], json!(["stem", "attn", "mlp", "norm", "proj"]));
    // What is listed can be used.
    let groups: Vec<String> =
        tasks["groups"].as_array().unwrap().iter().map(|g| format!("{}: 0.1", g.as_str().unwrap())).collect();
    assert!(groups.iter().any(|group| group.starts_with("blocks.2:")), "{groups:?}");
    let expression = format!("Greek@{{{}}}", groups.join(", "));
    server.post("/v1/embed", &asking(&expression, &images("Greek", 1))).done();

    let pinned = server.post("/v1/embed", &asking("Greek", &images("Greek", 1))).done();
    assert_eq!(pinned["cached"], true);
    let prefetch = |task: &str| server.post(&format!("/v1/tasks/{task}/prefetch"), &json!({}));
    let first = prefetch("Hebrew%400.3%20+%20Icons%400.2");
    assert_eq!((first.status, &first.json()["weights"]), (202, &"Hebrew@0.3 + Icons@0.2".into()));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while prefetch("Hebrew%400.3%20+%20Icons%400.2").status != 200 {
        assert!(std::time::Instant::now() < until, "it is never prefetched");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for weights in ["Hebrew@0.3 + Icons@0.2", "Icons"] {
        let answer = server.post("/v1/embed", &asking(weights, &images("Greek", 1))).done();
        assert_eq!(answer["cached"], true, "{weights}");
    }
    prefetch("Nowhere").failed(404, "not_found", &["Nowhere"]);

    assert_eq!((server.get("/healthz").status, server.get("/readyz").status), (200, 200));
    let page = server.get("/");
    assert!(page.status == 200 && page.header("content-type").unwrap().starts_with("text/html"), "{page:?}");
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert_eq!(server.metric("taskbasis_images_total"), 4.0);
    assert!(server.metric("taskbasis_cache_entries") >= 2.0);
    assert_eq!(server.metric("taskbasis_requests_total{route=\"/v1/embed\",status=\"200\"}"), 4.0);
}

#[test]
fn openapi_names_every_route() {
    if !runtime() {
        return;
    }
    let server = Server::start(&[]);
    let api = server.get("/openapi.json").done();
    assert!(api["openapi"].as_str().unwrap().starts_with("3."), "{}", api["openapi"]);
    let paths = api["paths"].as_object().unwrap();
    let methods: Vec<(&str, &str)> = vec![
        ("/", "get"),
        ("/v1/model", "get"),
        ("/v1/tasks", "get"),
        ("/v1/embed", "post"),
        ("/v1/classify", "post"),
        ("/v1/embeddings", "post"),
        ("/v1/tasks/{expr}/prefetch", "post"),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        ("/openapi.json", "get"),
    ];
    assert_eq!(paths.len(), methods.len(), "{:?}", paths.keys());
    for (path, method) in methods {
        let operation = &paths[path][method];
        assert!(operation["responses"]["200"].is_object(), "{method} {path}");
        // What is described is there, and asked no other way.
        if method == "get" {
            assert_eq!(server.get(path).status, 200, "{path}");
        }
        let other = if method == "get" { "DELETE" } else { "GET" };
        let reply = server.connect().send(other, &path.replace("{expr}", "Greek"), &[], b"").unwrap();
        reply.failed(405, "method", &[]);
    }
    server.get("/v1/nothing").failed(404, "no_route", &[]);
    let mut schemas = Vec::new();
    references(&api, &mut schemas);
    assert!(schemas.len() > 10);
    for schema in schemas {
        let name = schema.strip_prefix("#/components/schemas/").unwrap();
        assert!(api["components"]["schemas"][name].is_object(), "{name}");
    }
    for (schema, fields) in [
        ("EmbedRequest", vec!["weights", "images"]),
        ("ClassifyRequest", vec!["weights", "heads", "top", "images"]),
        ("Timing", vec!["queue_ms", "weights_ms", "run_ms", "total_ms"]),
        ("ErrorBody", vec!["kind", "message", "hint"]),
    ] {
        let properties = &api["components"]["schemas"][schema]["properties"];
        fields.iter().for_each(|field| assert!(properties[field].is_object(), "{schema}.{field}"));
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[cfg(unix)]
#[test]
fn the_manual_s_commands_do_what_it_says() {
    use crate::support::need::root;
    if !runtime() {
        return;
    }
    let manual = std::fs::read_to_string(root().join("docs/serve.md")).unwrap();
    let marked = manual.split("<!-- run by tests/serve -->\n```sh\n").skip(1);
    let commands: String = marked.map(|from| from.split("```").next().unwrap()).collect();
    let run = |script: &str| std::process::Command::new("sh").args(["-eu", "-c", script]).current_dir(root()).output();
    if !run("command -v curl").unwrap().status.success() {
        skip(Need::Cc, "there is no curl");
        return;
    }
    let server = Server::start(&[]);
    let count = commands.lines().filter(|line| line.starts_with("curl")).count();
    let commands = commands.replace("127.0.0.1:8080", &server.address).replace("curl ", "curl -sSf -w '\\n' ");
    let output = run(&format!("I=examples/digits/eight.png\n{commands}")).unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{out}{err}");
    // Each address but the page, and each way to send an image.
    let counted = |what: &str| out.matches(what).count();
    assert_eq!((count, counted("\"embeddings\":[["), counted("\"results\":[{")), (12, 3, 3), "{out}");
    for said in ["\"class\":\"2\"", "\"head\":\"auto\"", "\"router\":true", "taskbasis_images_total 7", "ready"] {
        assert!(out.contains(said), "{said} is not in {out}");
    }
}
