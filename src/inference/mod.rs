//! One thread owns the models of this machine and works by priority.
//!
//! Two inference threads do not add up on two cores: candle's matrix products share one pool. So everything that
//! computes goes through one queue: a customer's request is embedded first, then replies are written, then bulk ingest is
//! embedded. While replies are written, several side by side where the model can, waiting requests are embedded between two
//! layers. A generator on another machine gets a thread of its own. Full queues refuse at once instead of growing.

pub mod chat_model;
pub mod generator;
pub mod gguf;
pub mod openai;
pub mod qwen;
pub mod speculate;
pub mod writer;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::embed::{EmbedError, Embedder, Role};
use generator::{GenerateError, GenerateRequest, Generation, Generator, Replies, Step};

/// Name of the built-in chat model in the manifest.
pub const CHAT_MODEL: &str = "qwen2.5-coder-1.5b-instruct";
/// Requests that may wait to be embedded before new ones are refused.
const URGENT_LIMIT: usize = 256;
/// Replies that may wait to be written before new ones are refused; each takes seconds.
const GENERATE_LIMIT: usize = 32;
/// Bulk batches that may wait; the sender waits for its answer, so more only holds memory.
const BULK_LIMIT: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    #[error("inference queue is full; try again in a few seconds")]
    Overloaded,
    #[error("inference thread has stopped")]
    Stopped,
    #[error("no language model is loaded; run `respondo doctor`")]
    NoGenerator,
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error("model code failed unexpectedly: {0}")]
    Panicked(String),
}

struct EmbedJob {
    texts: Vec<String>,
    role: Role,
    answer: oneshot::Sender<Result<Vec<Vec<f32>>, InferenceError>>,
}

struct GenerateJob {
    request: GenerateRequest,
    cancelled: Arc<AtomicBool>,
    news: mpsc::UnboundedSender<News>,
}

/// What a caller hears of a reply in progress.
#[derive(Debug)]
pub enum News {
    Text(String),
    Done(Result<Generation, InferenceError>),
}

/// A reply in progress. Dropping it breaks the generation off.
pub struct Writing {
    news: mpsc::UnboundedReceiver<News>,
    cancelled: Arc<AtomicBool>,
}

impl Writing {
    /// The next piece; `None` only when the inference thread is gone.
    pub async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Queues {
    urgent: VecDeque<EmbedJob>,
    generate: VecDeque<GenerateJob>,
    bulk: VecDeque<EmbedJob>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    arrived: Condvar,
    tokens_read: AtomicU64,
}

impl Shared {
    /// A panic in model code is caught before it can leave the queues half-changed, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop_urgent(&self) -> Option<EmbedJob> {
        self.lock().urgent.pop_front()
    }
}

enum Job {
    Embed(EmbedJob),
    Generate(GenerateJob),
}

/// Handle to the inference thread; cheap to clone.
#[derive(Clone)]
pub struct Inference {
    shared: Arc<Shared>,
    embedder_name: Arc<str>,
    dimensions: usize,
    generator_name: Option<Arc<str>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Inference {
    /// Takes the models into their thread.
    pub fn start(embedder: Box<dyn Embedder>, generator: Option<Box<dyn Generator>>) -> Self {
        let shared = Arc::new(Shared::default());
        let embedder_name: Arc<str> = embedder.name().into();
        let dimensions = embedder.dimensions();
        let generator_name = generator.as_ref().map(|g| Arc::from(g.name()));
        let mut threads = Vec::new();
        let local = match generator {
            Some(remote) if !remote.is_local() => {
                let queues = Arc::clone(&shared);
                threads.push(spawn("remote-generator", move || remote_loop(&queues, remote)));
                None
            }
            other => other,
        };
        let serves_generator = local.is_some() || generator_name.is_none();
        let queues = Arc::clone(&shared);
        threads.push(spawn("inference", move || local_loop(&queues, embedder, local, serves_generator)));
        Self {
            shared,
            embedder_name,
            dimensions,
            generator_name,
            threads: Arc::new(Mutex::new(threads.into_iter().flatten().collect())),
        }
    }

    /// Name of the embedding model; vectors of two names are never mixed.
    pub fn embedder_name(&self) -> &str {
        &self.embedder_name
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Name of the language model, where there is one.
    pub fn generator_name(&self) -> Option<&str> {
        self.generator_name.as_deref()
    }

    /// Embeds a customer's request ahead of everything else.
    ///
    /// # Errors
    /// [`InferenceError::Overloaded`] at once when too many wait; otherwise what the model says.
    pub async fn embed_query(&self, text: String) -> Result<Vec<f32>, InferenceError> {
        let (answer, receiver) = oneshot::channel();
        self.push(|queues| {
            (queues.urgent.len() < URGENT_LIMIT)
                .then(|| queues.urgent.push_back(EmbedJob { texts: vec![text], role: Role::Query, answer }))
        })?;
        let vectors = receiver.await.map_err(|_| InferenceError::Stopped)??;
        vectors.into_iter().next().ok_or(InferenceError::Stopped)
    }

    /// Embeds many texts when nothing more urgent waits.
    ///
    /// # Errors
    /// As [`Inference::embed_query`].
    pub async fn embed_bulk(&self, texts: Vec<String>, role: Role) -> Result<Vec<Vec<f32>>, InferenceError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, receiver) = oneshot::channel();
        self.push(|queues| {
            (queues.bulk.len() < BULK_LIMIT).then(|| queues.bulk.push_back(EmbedJob { texts, role, answer }))
        })?;
        receiver.await.map_err(|_| InferenceError::Stopped)?
    }

    /// Starts to write a reply.
    ///
    /// # Errors
    /// [`InferenceError::NoGenerator`] where only the extractive racer runs, [`InferenceError::Overloaded`] when too many
    /// replies wait.
    pub fn generate(&self, request: GenerateRequest) -> Result<Writing, InferenceError> {
        if self.generator_name.is_none() {
            return Err(InferenceError::NoGenerator);
        }
        let (news, receiver) = mpsc::unbounded_channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let job = GenerateJob { request, cancelled: Arc::clone(&cancelled), news };
        self.push(|queues| (queues.generate.len() < GENERATE_LIMIT).then(|| queues.generate.push_back(job)))?;
        Ok(Writing { news: receiver, cancelled })
    }

    /// Tokens that the embedder has read since the start.
    pub fn tokens_read(&self) -> u64 {
        self.shared.tokens_read.load(Ordering::Relaxed)
    }

    /// Jobs waiting: requests to embed, replies to write, bulk batches.
    pub fn waiting(&self) -> (usize, usize, usize) {
        let queues = self.shared.lock();
        (queues.urgent.len(), queues.generate.len(), queues.bulk.len())
    }

    fn push(&self, add: impl FnOnce(&mut Queues) -> Option<()>) -> Result<(), InferenceError> {
        let mut queues = self.shared.lock();
        if queues.closed {
            return Err(InferenceError::Stopped);
        }
        add(&mut queues).ok_or(InferenceError::Overloaded)?;
        drop(queues);
        self.shared.arrived.notify_all();
        Ok(())
    }

    /// Finishes the job at hand, refuses the rest and ends the threads.
    pub fn stop(&self) {
        {
            let mut queues = self.shared.lock();
            queues.closed = true;
            queues.urgent.clear();
            queues.generate.clear();
            queues.bulk.clear();
        }
        self.shared.arrived.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("an inference thread ended with a panic");
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    match std::thread::Builder::new().name(name.to_owned()).spawn(body) {
        Ok(thread) => Some(thread),
        Err(error) => {
            tracing::error!(%error, name, "cannot start a thread; its jobs will be refused");
            None
        }
    }
}

fn local_loop(
    shared: &Shared,
    mut embedder: Box<dyn Embedder>,
    mut generator: Option<Box<dyn Generator>>,
    serves_generator: bool,
) {
    while let Some(job) = next_job(shared, |queues| {
        if let Some(job) = queues.urgent.pop_front() {
            return Some(Job::Embed(job));
        }
        if serves_generator && let Some(job) = queues.generate.pop_front() {
            return Some(Job::Generate(job));
        }
        queues.bulk.pop_front().map(Job::Embed)
    }) {
        match (job, &mut generator) {
            (Job::Embed(job), _) => run_embed(shared, embedder.as_mut(), job),
            (Job::Generate(job), Some(generator)) => {
                let mut serve_urgent = || {
                    while let Some(job) = shared.pop_urgent() {
                        run_embed(shared, embedder.as_mut(), job);
                    }
                };
                run_generate(shared, generator.as_mut(), job, &mut serve_urgent);
            }
            (Job::Generate(job), None) => send(&job.news, News::Done(Err(InferenceError::NoGenerator))),
        }
    }
}

fn remote_loop(shared: &Shared, mut generator: Box<dyn Generator>) {
    while let Some(job) = next_job(shared, |queues| queues.generate.pop_front()) {
        run_generate(shared, generator.as_mut(), job, &mut || {});
    }
}

/// Waits for the next job; `None` when the queues were closed.
fn next_job<T>(shared: &Shared, mut take: impl FnMut(&mut Queues) -> Option<T>) -> Option<T> {
    let mut queues = shared.lock();
    loop {
        if let Some(job) = take(&mut queues) {
            return Some(job);
        }
        if queues.closed {
            return None;
        }
        queues = shared.arrived.wait(queues).unwrap_or_else(PoisonError::into_inner);
    }
}

fn run_embed(shared: &Shared, embedder: &mut dyn Embedder, job: EmbedJob) {
    if job.answer.is_closed() {
        return;
    }
    let texts: Vec<&str> = job.texts.iter().map(String::as_str).collect();
    let result = catch_unwind(AssertUnwindSafe(|| embedder.embed(&texts, job.role)));
    shared.tokens_read.store(embedder.tokens_read(), Ordering::Relaxed);
    let result = match result {
        Ok(result) => result.map_err(InferenceError::from),
        Err(panic) => Err(InferenceError::Panicked(panic_text(panic.as_ref()))),
    };
    // The asker may have run into its deadline meanwhile: then nobody wants the answer.
    drop(job.answer.send(result));
}

/// Writes a reply, and those that come while it is written.
fn run_generate(shared: &Shared, generator: &mut dyn Generator, job: GenerateJob, between_steps: &mut dyn FnMut()) {
    let mut writings = Writings { shared, first: Some(job), taken: Vec::new(), count: 0, between_steps };
    let result = catch_unwind(AssertUnwindSafe(|| generator.write_all(&mut writings)));
    // Nobody waits for ever, whatever the model code did.
    let reason = result.err().map(|panic| panic_text(panic.as_ref()));
    for taken in writings.taken {
        let error =
            InferenceError::Panicked(reason.clone().unwrap_or_else(|| "a reply was left without an end".to_owned()));
        send(&taken.news, News::Done(Err(error)));
    }
}

/// The queue of replies, as a generator sees it.
struct Writings<'a> {
    shared: &'a Shared,
    first: Option<GenerateJob>,
    taken: Vec<Taken>,
    count: u64,
    between_steps: &'a mut dyn FnMut(),
}

/// A reply that the generator has taken up.
struct Taken {
    id: u64,
    cancelled: Arc<AtomicBool>,
    news: mpsc::UnboundedSender<News>,
}

impl Replies for Writings<'_> {
    fn next(&mut self, in_progress: usize) -> Option<(u64, GenerateRequest)> {
        let job = match self.first.take() {
            Some(job) => job,
            None => {
                let mut queues = self.shared.lock();
                // With nothing in progress the loop decides again what is most urgent.
                if in_progress == 0 || queues.closed {
                    return None;
                }
                queues.generate.pop_front()?
            }
        };
        self.count += 1;
        let GenerateJob { request, cancelled, news } = job;
        self.taken.push(Taken { id: self.count, cancelled, news });
        Some((self.count, request))
    }

    fn step(&mut self, id: u64, step: Step<'_>) -> ControlFlow<()> {
        (self.between_steps)();
        let Some(taken) = self.taken.iter().find(|taken| taken.id == id) else {
            return ControlFlow::Break(());
        };
        if let Step::Text(text) = step {
            send(&taken.news, News::Text(text.to_owned()));
        }
        match taken.cancelled.load(Ordering::Relaxed) || taken.news.is_closed() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn done(&mut self, id: u64, result: Result<Generation, GenerateError>) {
        if let Some(at) = self.taken.iter().position(|taken| taken.id == id) {
            let taken = self.taken.remove(at);
            send(&taken.news, News::Done(result.map_err(InferenceError::from)));
        }
    }
}

/// The listener may be gone, which is its right.
fn send(news: &mpsc::UnboundedSender<News>, item: News) {
    drop(news.send(item));
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use generator::StopReason;

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
}
