//! One thread owns the models of this machine and works by priority.
//!
//! Two inference threads do not add up on two cores: candle's matrix products share one pool. So everything that
//! computes goes through one queue: a customer's request is embedded first, then replies are written, then bulk ingest is
//! embedded. While replies are written, several side by side where the model can, waiting requests are embedded between two
//! layers. A model server is asked by threads of its own, and before the local model; what it does not begin, the local model
//! writes. Full queues refuse at once instead of growing.

pub mod chat_model;
pub mod generator;
pub mod gguf;
pub mod gguf_header;
pub mod masked;
pub mod openai;
pub mod opinion;
mod panics;
pub mod qwen;
mod remote;
pub mod speculate;
pub mod writer;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::embed::{EmbedError, Embedder, Role, calm};
use crate::endpoint::breaker::{Breaker, Health};
use generator::{GenerateError, GenerateRequest, Generation, Generator, Replies, Step};
use opinion::{OpinionJob, Study};
use panics::panic_text;

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
    #[error("the model server rests for {seconds} s after failures: {reason}")]
    Resting { seconds: u64, reason: String },
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error("model code failed unexpectedly: {0}")]
    Panicked(String),
}

/// What the embedder is asked for of each text.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Vector(Role),
    /// [`Embedder::read`].
    Reading,
}

struct EmbedJob {
    texts: Vec<String>,
    wanted: Wanted,
    answer: oneshot::Sender<Made>,
    /// Hears [`Embedder::read`] of the texts, once `answer` has what it wants.
    then_read: Option<oneshot::Sender<Made>>,
}

/// A list of numbers per text.
type Made = Result<Vec<Vec<f32>>, InferenceError>;

/// A request that is embedded and then read for triage.
pub struct Asked {
    vector: oneshot::Receiver<Made>,
    reading: Option<oneshot::Receiver<Made>>,
}

impl Asked {
    /// Its vector.
    ///
    /// # Errors
    /// What the model says.
    pub async fn vector(&mut self) -> Result<Vec<f32>, InferenceError> {
        let vectors = (&mut self.vector).await.map_err(|_| InferenceError::Stopped)??;
        vectors.into_iter().next().ok_or(InferenceError::Stopped)
    }

    /// What the reader says of it, which comes after the vector; None where no reader is at hand.
    ///
    /// # Errors
    /// What the model says.
    pub async fn reading(self) -> Result<Option<Vec<f32>>, InferenceError> {
        let Some(reading) = self.reading else { return Ok(None) };
        Ok(reading.await.map_err(|_| InferenceError::Stopped)??.into_iter().next())
    }
}

struct GenerateJob {
    request: GenerateRequest,
    cancelled: Arc<AtomicBool>,
    news: mpsc::UnboundedSender<News>,
    model: Arc<OnceLock<Arc<str>>>,
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
    model: Arc<OnceLock<Arc<str>>>,
}

impl Writing {
    /// Name of the model that writes; None before one has begun.
    pub fn model(&self) -> Option<&str> {
        self.model.get().map(|name| &**name)
    }

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
    opinions: VecDeque<OpinionJob>,
    /// Replies for the local model.
    generate: VecDeque<GenerateJob>,
    /// Replies for the model server.
    remote: VecDeque<GenerateJob>,
    bulk: VecDeque<EmbedJob>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    arrived: Condvar,
    tokens_read: AtomicU64,
    /// Name of the model that runs in process, where there is one.
    local: Option<Arc<str>>,
    /// How the model server fares.
    server: Breaker,
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
    Opinion(OpinionJob),
    Generate(GenerateJob),
}

/// The models behind one [`Inference`].
pub struct Models {
    pub embedder: Box<dyn Embedder>,
    /// Connections to one model server, each for a reply at a time. It is asked before `local`.
    pub servers: Vec<Box<dyn Generator>>,
    /// The language model that runs in process.
    pub local: Option<Box<dyn Generator>>,
}

/// Handle to the inference thread; cheap to clone.
#[derive(Clone)]
pub struct Inference {
    shared: Arc<Shared>,
    embedder_name: Arc<str>,
    reader_name: Option<Arc<str>>,
    opinion_name: Option<Arc<str>>,
    sources_name: Option<Arc<str>>,
    dimensions: usize,
    /// How the server that embeds fares, where one does.
    embedding_server: Option<Arc<Breaker>>,
    /// Name of the model on the server, where there is one.
    server_name: Option<Arc<str>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Inference {
    /// Takes the models into their thread; a generator that is not local counts as a model server.
    pub fn start(embedder: Box<dyn Embedder>, generator: Option<Box<dyn Generator>>) -> Self {
        let (local, servers): (Vec<_>, Vec<_>) = generator.into_iter().partition(|generator| generator.is_local());
        Self::start_all(Models { embedder, servers, local: local.into_iter().next() })
    }

    /// Takes the models into their threads.
    pub fn start_all(models: Models) -> Self {
        let Models { embedder, servers, local } = models;
        let local_name = local.as_ref().map(|generator| Arc::from(generator.name()));
        let shared = Arc::new(Shared { local: local_name, ..Shared::default() });
        let embedder_name: Arc<str> = embedder.name().into();
        let reader_name = embedder.reader().map(Arc::from);
        let opinion_name = local.as_ref().and_then(|generator| generator.considers()).map(Arc::from);
        let sources_name = local.as_ref().and_then(|generator| generator.weighs()).map(Arc::from);
        let (dimensions, embedding_server) = (embedder.dimensions(), embedder.breaker());
        let server_name = servers.first().map(|server| Arc::from(server.name()));
        let mut threads = Vec::new();
        for server in servers {
            let queues = Arc::clone(&shared);
            threads.push(spawn("remote-generator", move || remote::serve(&queues, server)));
        }
        let queues = Arc::clone(&shared);
        threads.push(spawn("inference", move || local_loop(&queues, embedder, local)));
        Self {
            shared,
            embedder_name,
            reader_name,
            opinion_name,
            sources_name,
            dimensions,
            embedding_server,
            server_name,
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

    /// Name of the language model that is asked first, where there is one.
    pub fn generator_name(&self) -> Option<&str> {
        self.server_name.as_deref().or(self.shared.local.as_deref())
    }

    /// Name of the language model that runs in process, where there is one.
    pub fn local_generator_name(&self) -> Option<&str> {
        self.shared.local.as_deref()
    }

    /// How the server that writes fares; None where none is asked.
    pub fn server_health(&self) -> Option<Health> {
        self.server_name.is_some().then(|| self.shared.server.health(Instant::now()))
    }

    /// How the server that embeds fares; None where none is asked.
    pub fn embedding_health(&self) -> Option<Health> {
        self.embedding_server.as_ref().map(|server| server.health(Instant::now()))
    }

    /// Name of what reads requests for triage; None where nothing does.
    pub fn reader_name(&self) -> Option<&str> {
        self.reader_name.as_deref()
    }

    /// Embeds a customer's request ahead of everything else.
    ///
    /// # Errors
    /// [`InferenceError::Overloaded`] at once when too many wait; otherwise what the model says.
    pub async fn embed_query(&self, text: String) -> Result<Vec<f32>, InferenceError> {
        let vectors = self.urgently(text, Wanted::Vector(Role::Query)).await?;
        vectors.into_iter().next().ok_or(InferenceError::Stopped)
    }

    /// Embeds a customer's request and then reads it for triage ([`Embedder::read`]), ahead of everything else and without waiting in
    /// between: nobody waits twice behind a token that is being written.
    ///
    /// # Errors
    /// [`InferenceError::Overloaded`] when too many wait.
    pub fn ask(&self, text: String) -> Result<Asked, InferenceError> {
        let (answer, vector) = oneshot::channel();
        let (then_read, reading) = self.reader_name.as_ref().map(|_| oneshot::channel()).unzip();
        self.push_urgent(EmbedJob { texts: vec![text], wanted: Wanted::Vector(Role::Query), answer, then_read })?;
        Ok(Asked { vector, reading })
    }

    /// Reads a customer's request for triage ([`Embedder::read`]) ahead of everything else; None where no reader is at hand.
    ///
    /// # Errors
    /// As [`Inference::embed_query`].
    pub async fn read_request(&self, text: String) -> Result<Option<Vec<f32>>, InferenceError> {
        match self.reader_name {
            Some(_) => Ok(self.urgently(text, Wanted::Reading).await?.into_iter().next()),
            None => Ok(None),
        }
    }

    async fn urgently(&self, text: String, wanted: Wanted) -> Made {
        let (answer, receiver) = oneshot::channel();
        self.push_urgent(EmbedJob { texts: vec![text], wanted, answer, then_read: None })?;
        receiver.await.map_err(|_| InferenceError::Stopped)?
    }

    /// What a person waits for, shouted or not.
    fn push_urgent(&self, mut job: EmbedJob) -> Result<(), InferenceError> {
        job.texts.iter_mut().for_each(|text| *text = calm(text).into_owned());
        self.push(|queues| (queues.urgent.len() < URGENT_LIMIT).then(|| queues.urgent.push_back(job)))
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
            let job = EmbedJob { texts, wanted: Wanted::Vector(role), answer, then_read: None };
            (queues.bulk.len() < BULK_LIMIT).then(|| queues.bulk.push_back(job))
        })?;
        receiver.await.map_err(|_| InferenceError::Stopped)?
    }

    /// Starts to write a reply: on the model server, or by the local model while the server rests.
    ///
    /// # Errors
    /// [`InferenceError::NoGenerator`] where only the extractive racer runs, [`InferenceError::Resting`] where nothing stands
    /// behind a server that rests, [`InferenceError::Overloaded`] when too many replies wait.
    pub fn generate(&self, request: GenerateRequest) -> Result<Writing, InferenceError> {
        match self.server_health() {
            Some(Health::Good) => self.put(request, |queues| &mut queues.remote),
            Some(Health::Rests { left, reason }) if self.shared.local.is_none() => {
                Err(InferenceError::Resting { seconds: left.as_secs(), reason })
            }
            _ => self.generate_locally(request),
        }
    }

    /// Starts to write a reply with the model that runs in process.
    ///
    /// # Errors
    /// As [`Inference::generate`].
    pub fn generate_locally(&self, request: GenerateRequest) -> Result<Writing, InferenceError> {
        match self.shared.local {
            Some(_) => self.put(request, |queues| &mut queues.generate),
            None => Err(InferenceError::NoGenerator),
        }
    }

    fn put(
        &self,
        request: GenerateRequest,
        queue: impl FnOnce(&mut Queues) -> &mut VecDeque<GenerateJob>,
    ) -> Result<Writing, InferenceError> {
        let (news, receiver) = mpsc::unbounded_channel();
        let (cancelled, model) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let job = GenerateJob { request, cancelled: Arc::clone(&cancelled), news, model: Arc::clone(&model) };
        self.push(|queues| {
            let queue = queue(queues);
            (queue.len() < GENERATE_LIMIT).then(|| queue.push_back(job))
        })?;
        Ok(Writing { news: receiver, cancelled, model })
    }

    /// Tokens that the embedder has read since the start.
    pub fn tokens_read(&self) -> u64 {
        self.shared.tokens_read.load(Ordering::Relaxed)
    }

    /// Jobs waiting: requests to embed, replies to write, bulk batches.
    pub fn waiting(&self) -> (usize, usize, usize) {
        let queues = self.shared.lock();
        (queues.urgent.len(), queues.generate.len() + queues.remote.len(), queues.bulk.len())
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
            queues.opinions.clear();
            queues.generate.clear();
            queues.remote.clear();
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

fn local_loop(shared: &Shared, mut embedder: Box<dyn Embedder>, mut generator: Option<Box<dyn Generator>>) {
    crate::kernels::give_way();
    while let Some(job) = next_job(shared, |queues| {
        if let Some(job) = queues.urgent.pop_front() {
            return Some(Job::Embed(job));
        }
        if let Some(job) = queues.opinions.pop_front() {
            return Some(Job::Opinion(job));
        }
        if let Some(job) = queues.generate.pop_front() {
            return Some(Job::Generate(job));
        }
        queues.bulk.pop_front().map(Job::Embed)
    }) {
        match (job, &mut generator) {
            (Job::Embed(job), _) => run_embed(shared, embedder.as_mut(), job),
            (Job::Generate(job), Some(generator)) => {
                run_generate(shared, generator.as_mut(), job, &mut || serve_urgent(shared, embedder.as_mut()));
            }
            (Job::Opinion(job), Some(generator)) => {
                let mut between_layers = || serve_urgent(shared, embedder.as_mut());
                job.run(&mut |matter, check| generator.study(matter, check), &mut between_layers);
            }
            (Job::Generate(job), None) => send(&job.news, News::Done(Err(InferenceError::NoGenerator))),
            (Job::Opinion(_), None) => {}
        }
    }
}

fn serve_urgent(shared: &Shared, embedder: &mut dyn Embedder) {
    while let Some(job) = shared.pop_urgent() {
        run_embed(shared, embedder, job);
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
    let texts: Vec<&str> = job.texts.iter().map(String::as_str).collect();
    let mut answer = |wanted: Wanted, to: oneshot::Sender<Made>| {
        // The asker may have run into its deadline meanwhile: then nobody wants the answer.
        if to.is_closed() {
            return;
        }
        let made = catch_unwind(AssertUnwindSafe(|| match wanted {
            Wanted::Vector(role) => embedder.embed(&texts, role),
            Wanted::Reading => embedder.read(&texts).map(Option::unwrap_or_default),
        }));
        shared.tokens_read.store(embedder.tokens_read(), Ordering::Relaxed);
        drop(to.send(match made {
            Ok(made) => made.map_err(InferenceError::from),
            Err(panic) => Err(InferenceError::Panicked(panic_text(panic.as_ref()))),
        }));
    };
    answer(job.wanted, job.answer);
    if let Some(to) = job.then_read {
        answer(Wanted::Reading, to);
    }
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
        let GenerateJob { request, cancelled, news, model } = job;
        if let Some(name) = &self.shared.local {
            model.get_or_init(|| Arc::clone(name));
        }
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

    fn opinions(&mut self, study: &mut Study<'_>) {
        while let Some(job) = self.shared.pop_opinion() {
            job.run(study, &mut *self.between_steps);
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

#[cfg(test)]
mod tests;
