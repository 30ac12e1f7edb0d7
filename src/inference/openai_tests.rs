//! A chat endpoint that fails in every way we could think of: bounded in time and memory, a clear error each time.

use super::super::generator::{Role, Turn};
use super::*;
use crate::endpoint::testing::{Answer, FakeServer, Then, piece};

/// No failure may take longer, on however busy a machine.
const BOUND: Duration = Duration::from_secs(30);

fn generator(server: &FakeServer, silence: Duration) -> OpenAiGenerator {
    OpenAiGenerator::new(Endpoint {
        url: server.url(),
        model: "m".to_owned(),
        api_key: Some("secret-key".to_owned()),
        timeout: BOUND,
        silence,
    })
}

fn request() -> GenerateRequest {
    let turns = vec![Turn { role: Role::User, content: "My inbox is \"full\".\n¿Qué hago?".to_owned() }];
    GenerateRequest { turns, shared_turns: 0, max_tokens: 100 }
}

/// What came of a request, and what was told on the way.
fn ask(generator: &mut OpenAiGenerator) -> (Result<Generation, GenerateError>, String) {
    let mut told = String::new();
    let started = Instant::now();
    let result = generator.generate(&request(), &mut |step| {
        if let Step::Text(text) = step {
            told.push_str(text);
        }
        ControlFlow::Continue(())
    });
    assert!(started.elapsed() < BOUND, "took {:?}", started.elapsed());
    (result, told)
}

#[test]
fn a_reply_is_streamed_word_by_word() {
    let server = FakeServer::start(Answer::reply("Open the \"Settings\". Pulse Guardar."));
    let (written, told) = ask(&mut generator(&server, BOUND));
    let written = written.expect("a reply");
    assert_eq!(written.text, "Open the \"Settings\". Pulse Guardar.");
    assert_eq!((told, written.stop), (written.text, StopReason::End));
    let asked = server.requests().remove(0);
    assert!(asked.starts_with("POST /v1/chat/completions "), "{asked}");
    assert!(asked.contains("Bearer secret-key"), "{asked}");
    let body: Value = serde_json::from_str(asked.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    assert_eq!(body["messages"][0]["content"], "My inbox is \"full\".\n¿Qué hago?");
    assert_eq!((&body["stream"], &body["max_tokens"]), (&json!(true), &json!(100)));
}

#[test]
fn each_wrong_answer_is_an_error_that_says_what_is_wrong() {
    let stream = |body: &[u8]| Answer::stream(body, Then::Close);
    let text = |body: &str| stream(body.as_bytes());
    let long_line = [b"data: ".to_vec(), vec![b'x'; 300 << 10]].concat();
    for (answer, wanted) in [
        (Answer::status(500, "{\"error\":\"out of memory\"}"), "HTTP 500 {\"error\":\"out of memory\"}"),
        (Answer::status(429, "slow down"), "quota"),
        (Answer::status(401, "bad key secret-key"), "bad key (key)"),
        (Answer::status(302, ""), "redirects"),
        (Answer::status(200, "<html><body>Welcome</body></html>"), "without a finish reason"),
        (Answer { bytes: Vec::new(), then: Then::Close }, "no answer"),
        (Answer { bytes: b"nonsense\r\n\r\n".to_vec(), then: Then::Close }, "no answer"),
        (text("data: {\"choices\":[{\"delta\""), "not JSON"),
        (text("data: <html>\n\n"), "not JSON"),
        (text("data: {\"choices\":[]}\n\n"), "without a finish reason"),
        (text("data: {\"choices\":[]}\n\ndata: [DONE]\n\n"), "wrote nothing"),
        (text("data: {\"choices\":[{\"delta\":{\"content\":null},\"finish_reason\":\"stop\"}]}\n\n"), "wrote nothing"),
        (text("data: {\"error\":{\"message\":\"context is full\"}}\n\n"), "context is full"),
        (stream(b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\xfe\"}}]}\n\n"), "not UTF-8"),
        (stream(&long_line), "a line of more than"),
        (Answer::stream(b"data: ", Then::Repeat(vec![b'x'; 64 << 10])), "a line of more than"),
        (Answer::stream(b"", Then::Repeat(b"data: {\"choices\":[]}\n\n".repeat(1_000))), "more than 8388608 bytes"),
    ] {
        let server = FakeServer::start(answer);
        let (result, told) = ask(&mut generator(&server, BOUND));
        let error = result.expect_err(wanted).to_string();
        assert!(error.contains(wanted) && error.contains(&server.url()), "{error} does not contain {wanted}");
        assert!(!error.contains("secret-key") && error.len() < 500, "{error}");
        assert_eq!(told, "", "{wanted}");
        // It serves the next request as if nothing had been.
        server.set(Answer::reply("Restart it."));
        assert_eq!(ask(&mut generator(&server, BOUND)).0.expect("healed").text, "Restart it.");
    }
}

#[test]
fn a_connection_that_is_cut_in_the_middle_of_a_chunk_is_an_error() {
    let bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfff\r\ndata: {\"choices\"".to_vec();
    let server = FakeServer::start(Answer { bytes, then: Then::Close });
    let (result, told) = ask(&mut generator(&server, BOUND));
    assert!(matches!(result, Err(GenerateError::Endpoint { .. })), "{result:?}");
    assert_eq!(told, "");
}

#[test]
fn a_prompt_that_the_server_does_not_take_is_told_from_a_failing_server() {
    let server = FakeServer::start(Answer::status(400, "maximum context length is 4096"));
    let error = ask(&mut generator(&server, BOUND)).0.expect_err("refused");
    assert!(matches!(&error, GenerateError::Refused { reason, .. } if reason.contains("4096")), "{error}");
}

#[test]
fn a_server_that_hangs_is_given_up_after_the_silence() {
    let silence = Duration::from_millis(200);
    for bytes in [b"".to_vec(), b"HTTP/1.1 200 OK\r\n".to_vec(), Answer::stream(b"", Then::Close).bytes] {
        let server = FakeServer::start(Answer { bytes, then: Then::Hang });
        let error = ask(&mut generator(&server, silence)).0.expect_err("silent").to_string();
        assert!(error.contains("silent for 0.2 s"), "{error}");
    }
    // Signs of life are no words.
    let server = FakeServer::start(Answer::stream(b"", Then::Repeat(b": ping\n\n".to_vec())));
    assert!(ask(&mut generator(&server, silence)).0.is_err());
}

#[test]
fn what_was_said_before_a_stream_hangs_or_is_cut_has_been_told() {
    for (then, silence) in [(Then::Hang, Duration::from_secs(4)), (Then::Close, BOUND)] {
        let server = FakeServer::start(Answer::stream(piece("Open Settings.").as_bytes(), then));
        let (result, told) = ask(&mut generator(&server, silence));
        let error = result.expect_err("no end").to_string();
        assert!(error.contains("silent") || error.contains("without a finish reason"), "{error}");
        assert_eq!(told, "Open Settings.");
    }
}

#[test]
fn a_server_that_never_stops_is_stopped() {
    let server = FakeServer::start(Answer::stream(b"", Then::Repeat(piece("word ").into_bytes())));
    let (written, told) = ask(&mut generator(&server, BOUND));
    let written = written.expect("cut to length");
    assert_eq!(written.stop, StopReason::Length);
    assert!(written.text.len() <= 100 * BYTES_PER_TOKEN + "word ".len(), "{} bytes", written.text.len());
    assert_eq!(told, written.text);
}

#[test]
fn a_caller_that_has_enough_does_not_wait_for_a_silent_server() {
    let server = FakeServer::start(Answer { bytes: Vec::new(), then: Then::Hang });
    let started = Instant::now();
    let written = generator(&server, BOUND).generate(&request(), &mut |_| ControlFlow::Break(()));
    assert_eq!(written.expect("no failure").stop, StopReason::Cancelled);
    assert!(started.elapsed() < BOUND / 2, "took {:?}", started.elapsed());
}

#[test]
fn secrets_of_the_address_are_in_no_text() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let endpoint = Endpoint {
        url: format!("http://me:s3cretword@{address}/v1?key=abc"),
        model: "m".to_owned(),
        api_key: Some("secret-key".to_owned()),
        timeout: BOUND,
        silence: BOUND,
    };
    let shown = format!("{endpoint:?}");
    let error = ask(&mut OpenAiGenerator::new(endpoint)).0.expect_err("nobody there").to_string();
    for text in [&shown, &error] {
        assert!(!text.contains("s3cretword") && !text.contains("secret-key") && !text.contains("abc"), "{text}");
        assert!(text.contains(&address.to_string()), "{text}");
    }
}
