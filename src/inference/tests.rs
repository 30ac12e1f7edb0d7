//! The queues, with models that are as quick as they are simple.

use std::time::Duration;

use super::generator::StopReason;
use super::openai::{Endpoint, OpenAiGenerator};
use super::opinion::{Matter, States};
use super::*;
use crate::endpoint::testing::{Answer, FakeServer, Then, piece};

/// Gives the length of each text; panics on "boom".
struct LengthEmbedder;

impl Embedder for LengthEmbedder {
    fn name(&self) -> &str {
        "length"
    }
    fn dimensions(&self) -> usize {
        1
    }
    fn embed(&mut self, texts: &[&str], _role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        assert!(!texts.contains(&"boom"), "boom was asked for");
        Ok(texts.iter().map(|text| vec![text.len() as f32]).collect())
    }
}

/// Writes "a" until told to stop, a millisecond apart.
struct Endless {
    local: bool,
}

impl Generator for Endless {
    fn name(&self) -> &str {
        "endless"
    }
    fn is_local(&self) -> bool {
        self.local
    }
    fn generate(
        &mut self,
        request: &GenerateRequest,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let mut written = 0;
        while written < request.max_tokens {
            std::thread::sleep(std::time::Duration::from_millis(1));
            written += 1;
            if on_step(Step::Text("a")).is_break() {
                break;
            }
        }
        let stop = if written < request.max_tokens { StopReason::Cancelled } else { StopReason::Length };
        let text = "a".repeat(written);
        Ok(Generation { text, stop, prompt_tokens: 0, reused_tokens: 0, written_tokens: written })
    }
}

fn request(max_tokens: usize) -> GenerateRequest {
    GenerateRequest { turns: Vec::new(), shared_turns: 0, max_tokens }
}

#[tokio::test]
async fn a_request_is_embedded_while_a_reply_is_written() {
    let inference = Inference::start(Box::new(LengthEmbedder), Some(Box::new(Endless { local: true })));
    let mut writing = inference.generate(request(1_000_000)).expect("queue is empty");
    assert!(matches!(writing.next().await, Some(News::Text(_))));
    assert_eq!(inference.embed_query("four".to_owned()).await.expect("served between steps"), vec![4.0]);
    drop(writing);
    inference.stop();
}

#[tokio::test]
async fn dropping_the_reader_ends_the_generation() {
    for local in [true, false] {
        let inference = Inference::start(Box::new(LengthEmbedder), Some(Box::new(Endless { local })));
        drop(inference.generate(request(1_000_000)).expect("queue is empty"));
        let mut second = inference.generate(request(3)).expect("queue has room");
        let mut text = String::new();
        let done = loop {
            match second.next().await.expect("thread lives") {
                News::Text(added) => text.push_str(&added),
                News::Done(result) => break result.expect("no failure"),
            }
        };
        assert_eq!((text.as_str(), done.stop), ("aaa", StopReason::Length));
        inference.stop();
    }
}

#[tokio::test]
async fn a_panic_in_model_code_is_an_error_and_the_thread_lives_on() {
    let inference = Inference::start(Box::new(LengthEmbedder), None);
    let failed = inference.embed_query("boom".to_owned()).await;
    assert!(matches!(failed, Err(InferenceError::Panicked(_))), "{failed:?}");
    assert_eq!(inference.embed_query("ok".to_owned()).await.expect("next job runs"), vec![2.0]);
    assert!(matches!(inference.generate(request(1)), Err(InferenceError::NoGenerator)));
    inference.stop();
    assert!(matches!(inference.embed_query("late".to_owned()).await, Err(InferenceError::Stopped)));
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let inference = Inference::start(Box::new(LengthEmbedder), Some(Box::new(Endless { local: false })));
    let mut kept = Vec::new();
    let refused = loop {
        match inference.generate(request(1_000_000)) {
            Ok(writing) => kept.push(writing),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, InferenceError::Overloaded));
    assert!(kept.len() >= GENERATE_LIMIT);
    kept.clear();
    inference.stop();
}

/// Writes one letter a pass for ever, and considers between two passes: its opinion is the length of the text. Panics on "boom", and
/// is never done with "slow".
struct Considerate;

impl Generator for Considerate {
    fn name(&self) -> &str {
        "considerate"
    }
    fn is_local(&self) -> bool {
        true
    }
    fn generate(
        &mut self,
        _request: &GenerateRequest,
        _on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        unreachable!("replies are written by write_all")
    }
    fn write_all(&mut self, replies: &mut dyn Replies) {
        let Some((id, _)) = replies.next(0) else { return };
        while replies.step(id, Step::Text("a")).is_continue() {
            replies.opinions(&mut |matter, check| self.study(matter, check));
            std::thread::sleep(Duration::from_millis(1));
        }
        let text = String::new();
        let stop = StopReason::Cancelled;
        replies.done(id, Ok(Generation { text, stop, prompt_tokens: 0, reused_tokens: 0, written_tokens: 0 }));
    }
    fn considers(&self) -> Option<&str> {
        Some("lengths")
    }
    fn weighs(&self) -> Option<&str> {
        Some("lengths of pieces")
    }
    fn study(&mut self, matter: &Matter, check: &mut opinion::Check<'_>) -> Result<Option<States>, GenerateError> {
        let text = matter.request.as_str();
        assert!(text != "boom", "boom was asked for");
        if text != "slow" {
            let length = |text: &str| vec![text.len() as f32];
            let of_sources: States = matter.sources.iter().flatten().map(|piece| length(piece)).collect();
            return Ok(Some(if matter.sources.is_empty() { vec![length(text)] } else { of_sources }));
        }
        while check().is_continue() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }
}

#[tokio::test]
async fn an_opinion_comes_before_replies_that_wait_and_between_the_passes_of_others() {
    let inference = Inference::start(Box::new(LengthEmbedder), Some(Box::new(Considerate)));
    assert_eq!(inference.opinion_name(), Some("lengths"));
    assert_eq!(inference.sources_name(), Some("lengths of pieces"));
    let consider = |text: &str| inference.consider(text.to_owned());
    assert_eq!(consider("four").await.expect("nothing else runs"), Some(vec![4.0]));
    let mut writing = inference.generate(request(1)).expect("queue is empty");
    assert!(matches!(writing.next().await, Some(News::Text(_))));
    assert_eq!(consider("three").await.expect("served between passes"), Some(vec![5.0]));
    let sources = vec![vec!["one".to_owned(), "three".to_owned()], vec!["four".to_owned()]];
    let weighed = inference.weigh(Matter { request: "four".to_owned(), sources }).await;
    assert_eq!(weighed.expect("served between passes"), Some(vec![vec![3.0], vec![5.0], vec![4.0]]));
    let nothing = inference.weigh(Matter::request("four".to_owned())).await;
    assert_eq!(nothing.expect("nothing was found"), None);
    drop(writing);
    assert!(matches!(consider("boom").await, Err(InferenceError::Panicked(_))));
    // Who gives up is not waited for, and requests are embedded meanwhile.
    let asked = tokio::spawn({
        let inference = inference.clone();
        async move { inference.consider("slow".to_owned()).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(inference.embed_query("four".to_owned()).await.expect("served between layers"), vec![4.0]);
    asked.abort();
    assert_eq!(consider("one").await.expect("the slow one was broken off"), Some(vec![3.0]));
    inference.stop();
    let without = Inference::start(Box::new(LengthEmbedder), Some(Box::new(Local)));
    assert_eq!(without.consider("four".to_owned()).await.expect("no model, no failure"), None);
    without.stop();
}

#[tokio::test]
async fn too_many_who_wait_for_an_opinion_are_refused() {
    let inference = Inference::start(Box::new(LengthEmbedder), Some(Box::new(Considerate)));
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let inference = inference.clone();
        asked.spawn(async move { inference.consider("slow".to_owned()).await });
    }
    let first = asked.join_next().await.expect("some").expect("no panic");
    assert!(matches!(first, Err(InferenceError::Overloaded)), "{first:?}");
    asked.shutdown().await;
    inference.stop();
}

/// Writes "local" at once.
struct Local;

impl Generator for Local {
    fn name(&self) -> &str {
        "local"
    }
    fn is_local(&self) -> bool {
        true
    }
    fn generate(
        &mut self,
        _request: &GenerateRequest,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let stop = if on_step(Step::Text("local")).is_break() { StopReason::Cancelled } else { StopReason::End };
        Ok(Generation { text: "local".to_owned(), stop, prompt_tokens: 0, reused_tokens: 0, written_tokens: 1 })
    }
}

/// Two connections to a server, and a local model behind it where one is wanted.
fn with_server(server: &FakeServer, silence: Duration, local: bool) -> Inference {
    let endpoint = Endpoint {
        url: server.url(),
        model: "served".to_owned(),
        api_key: None,
        timeout: Duration::from_secs(60),
        silence,
    };
    let connection = OpenAiGenerator::new(endpoint);
    Inference::start_all(Models {
        embedder: Box::new(LengthEmbedder),
        servers: vec![Box::new(connection.clone()), Box::new(connection)],
        local: local.then(|| Box::new(Local) as Box<dyn Generator>),
    })
}

/// Text, model and outcome of a reply.
async fn written(inference: &Inference) -> (String, Option<String>, Result<Generation, InferenceError>) {
    let mut writing = match inference.generate(request(10)) {
        Ok(writing) => writing,
        Err(error) => return (String::new(), None, Err(error)),
    };
    let mut text = String::new();
    loop {
        match writing.next().await.expect("an end") {
            News::Text(added) => text.push_str(&added),
            News::Done(result) => return (text, writing.model().map(str::to_owned), result),
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_local_model_writes_what_a_failing_server_does_not_and_the_server_is_left_alone() {
    let server = FakeServer::start(Answer::status(500, "no memory"));
    let inference = with_server(&server, LONG, true);
    assert_eq!(inference.generator_name(), Some("served"));
    for _ in 0..4 {
        let (text, model, result) = written(&inference).await;
        assert_eq!((text.as_str(), model.as_deref()), ("local", Some("local")));
        result.expect("a reply");
    }
    let Some(Health::Rests { reason, .. }) = inference.server_health() else { panic!("the server does not rest") };
    assert!(reason.contains("no memory"), "{reason}");
    // Twice at first, and perhaps once more after its rest, on a machine that slow.
    assert!(server.requests().len() < 4, "{} requests", server.requests().len());
    inference.stop();
}

#[tokio::test]
async fn a_server_that_hangs_costs_its_silence_and_not_the_reply() {
    let server = FakeServer::start(Answer { bytes: Vec::new(), then: Then::Hang });
    let inference = with_server(&server, Duration::from_millis(100), true);
    let (text, model, _) = written(&inference).await;
    assert_eq!((text.as_str(), model.as_deref()), ("local", Some("local")));
    inference.stop();
}

#[tokio::test]
async fn what_broke_off_after_its_first_words_is_not_begun_anew() {
    let server = FakeServer::start(Answer::stream(piece("Open").as_bytes(), Then::Close));
    let inference = with_server(&server, LONG, true);
    let (text, model, result) = written(&inference).await;
    assert_eq!((text.as_str(), model.as_deref()), ("Open", Some("served")));
    assert!(matches!(result, Err(InferenceError::Generate(GenerateError::Endpoint { .. }))), "{result:?}");
    inference.stop();
}

#[tokio::test]
async fn without_a_local_model_a_resting_server_is_an_error_at_once_and_it_heals() {
    let server = FakeServer::start(Answer::status(503, "starting"));
    let address = server.address();
    let inference = with_server(&server, LONG, false);
    for _ in 0..2 {
        assert!(matches!(written(&inference).await.2, Err(InferenceError::Generate(_))));
    }
    let refused = written(&inference).await.2;
    assert!(
        matches!(&refused, Err(InferenceError::Resting { reason, .. }) if reason.contains("starting")),
        "{refused:?}"
    );
    drop(server);
    let _back = FakeServer::start_at(address, Answer::reply("Restart it."));
    let until = Instant::now() + LONG;
    let text = loop {
        match written(&inference).await {
            (text, model, Ok(_)) => {
                assert_eq!(model.as_deref(), Some("served"));
                break text;
            }
            (_, _, Err(error)) => assert!(Instant::now() < until, "not healed: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(text, "Restart it.");
    assert_eq!(inference.server_health(), Some(Health::Good));
    inference.stop();
}

#[tokio::test]
async fn a_prompt_that_the_server_does_not_take_says_nothing_of_the_server() {
    let server = FakeServer::start(Answer::status(400, "too long"));
    let inference = with_server(&server, LONG, true);
    for _ in 0..3 {
        assert_eq!(written(&inference).await.0, "local");
    }
    assert_eq!(server.requests().len(), 3);
    assert_eq!(inference.server_health(), Some(Health::Good));
    inference.stop();
}
