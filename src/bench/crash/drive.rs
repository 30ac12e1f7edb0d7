//! Customers and an agent who do not give up, and the one who kills the service under them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{Client, Reply};
use super::plan::{Act, Conversation, Kill, Moment, Plan, Step};
use crate::app::INDEX_FOLDER;
use crate::bench::load::service::{Process, Start};

/// Longest time without any progress: for one request with all its tries, for one draft, for one acknowledgement.
const PATIENCE: Duration = Duration::from_secs(180);
/// Longest wait for an event before a kill; then the kill comes without it.
const EVENT_LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// What was acknowledged in one conversation.
#[derive(Clone, Debug, Default)]
pub struct Spoken {
    pub ticket: Option<Uuid>,
    /// Ids and texts of the customer's messages, in order.
    pub messages: Vec<(Uuid, String)>,
    /// Drafts that were approved.
    pub approved: Vec<Uuid>,
}

/// What came of a run until the end of its last conversation.
pub struct Driven {
    pub spoken: Vec<Spoken>,
    /// What should not have happened, in words.
    pub wrong: Vec<String>,
    /// Tries that got no answer, or the answer that the service is not ready.
    pub cut_off: usize,
    /// Approvals that found no open draft, since the decision was to discard.
    pub without_draft: usize,
    /// Approvals that were recorded by a try that got no answer.
    pub unheard: usize,
    pub process: Process,
    pub url: String,
}

/// What customers and killer know of each other.
struct Desk<'a> {
    plan: &'a Plan,
    client: &'a Client,
    /// Address of the service; None while there is none.
    url: Mutex<Option<String>>,
    /// Requests of the plan that are done.
    done: AtomicUsize,
    next: AtomicUsize,
    /// The ticket that was acknowledged last.
    latest: Mutex<Option<Uuid>>,
    spoken: Mutex<Vec<Spoken>>,
    wrong: Mutex<Vec<String>>,
    cut_off: AtomicUsize,
    without_draft: AtomicUsize,
    unheard: AtomicUsize,
    /// Something is beyond repair: everybody goes home.
    over: AtomicBool,
}

/// Has `clients` customers at once go through the plan while the service is killed; leaves it running.
///
/// # Errors
/// When the service does not start, or ends or stands still by itself.
pub fn drive(plan: &Plan, start: &Start, client: &Client, clients: usize, news: &dyn Fn(usize)) -> Result<Driven> {
    let desk = Desk::new(plan, client);
    let process = std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| desk.serve_customers());
        }
        let process = desk.kill_again_and_again(start, news).and_then(|process| desk.wait_for_customers(process));
        desk.over.store(true, Ordering::Relaxed);
        process
    })?;
    let url = desk.url().unwrap_or_default();
    Ok(Driven {
        spoken: desk.spoken.into_inner().unwrap_or_else(PoisonError::into_inner),
        wrong: desk.wrong.into_inner().unwrap_or_else(PoisonError::into_inner),
        cut_off: desk.cut_off.into_inner(),
        without_draft: desk.without_draft.into_inner(),
        unheard: desk.unheard.into_inner(),
        process,
        url,
    })
}

impl<'a> Desk<'a> {
    fn new(plan: &'a Plan, client: &'a Client) -> Self {
        Self {
            plan,
            client,
            url: Mutex::default(),
            done: AtomicUsize::default(),
            next: AtomicUsize::default(),
            latest: Mutex::default(),
            spoken: Mutex::default(),
            wrong: Mutex::default(),
            cut_off: AtomicUsize::default(),
            without_draft: AtomicUsize::default(),
            unheard: AtomicUsize::default(),
            over: AtomicBool::default(),
        }
    }

    /// Kills as planned, and starts the process that stays.
    fn kill_again_and_again(&self, start: &Start, news: &dyn Fn(usize)) -> Result<Process> {
        for (number, kill) in self.plan.kills.iter().enumerate() {
            news(number);
            let process = match kill.moment {
                Moment::Starting => self.starting(start, kill.delay)?,
                Moment::Indexing => {
                    remove_index(start)?;
                    self.started(start)?
                }
                Moment::Working | Moment::Deciding | Moment::Sending => {
                    let mut process = self.started(start)?;
                    self.wait_for(kill, &mut process)?;
                    process
                }
            };
            if kill.moment != Moment::Starting {
                std::thread::sleep(kill.delay);
            }
            process.kill();
            self.set_url(None);
        }
        self.started(start)
    }

    /// A process that has had `time`, in which it may have come as far as to listen.
    fn starting(&self, start: &Start, time: Duration) -> Result<Process> {
        let began = Instant::now();
        let process = start.spawn()?;
        if let Some(url) = process.address_within(time)? {
            self.set_url(Some(url));
            std::thread::sleep(time.saturating_sub(began.elapsed()));
        }
        Ok(process)
    }

    fn started(&self, start: &Start) -> Result<Process> {
        let process = start.spawn()?;
        self.set_url(Some(process.address()?));
        Ok(process)
    }

    /// Waits for the progress, and then for the event, that a kill waits for.
    fn wait_for(&self, kill: &Kill, process: &mut Process) -> Result<()> {
        self.wait_until(process, || self.done.load(Ordering::Relaxed) >= kill.after)?;
        let kind = match kill.moment {
            Moment::Deciding => "decision",
            Moment::Sending => "message",
            Moment::Starting | Moment::Indexing | Moment::Working => return Ok(()),
        };
        let before = self.latest();
        let asked = Instant::now();
        while self.latest() == before && asked.elapsed() < EVENT_LIMIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let (Some(ticket), Some(url)) = (self.latest(), self.url()) {
            // Without the event it is a kill at any time.
            drop(self.client.events(&url, ticket, EVENT_LIMIT, |told| told.kind == kind));
        }
        Ok(())
    }

    fn wait_for_customers(&self, mut process: Process) -> Result<Process> {
        let wanted = self.plan.conversations.len();
        let spoken = || self.spoken.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.wait_until(&mut process, || spoken() >= wanted)?;
        Ok(process)
    }

    /// Waits until something is so, for as long as requests are done.
    fn wait_until(&self, process: &mut Process, is_so: impl Fn() -> bool) -> Result<()> {
        let (mut last, mut since) = (self.done.load(Ordering::Relaxed), Instant::now());
        while !is_so() {
            if let Some(ended) = process.ended() {
                bail!("{ended}");
            }
            let done = self.done.load(Ordering::Relaxed);
            if done != last {
                (last, since) = (done, Instant::now());
            }
            ensure!(since.elapsed() < 2 * PATIENCE, "nothing was done for {} s", 2 * PATIENCE.as_secs());
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn serve_customers(&self) {
        while let Some(conversation) = self.plan.conversations.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let mut spoken = Spoken::default();
            let mut left = conversation.steps.len();
            for step in &conversation.steps {
                if let Err(error) = self.take(conversation, step, &mut spoken) {
                    if self.over.load(Ordering::Relaxed) {
                        return;
                    }
                    self.note(format!("{}: {error:#}", step.key));
                    break;
                }
                left -= 1;
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            // A conversation that was given up must not keep the kills waiting.
            self.done.fetch_add(left, Ordering::Relaxed);
            self.spoken.lock().unwrap_or_else(PoisonError::into_inner).push(spoken);
        }
    }

    fn take(&self, conversation: &Conversation, step: &Step, spoken: &mut Spoken) -> Result<()> {
        match (step.act, spoken.ticket) {
            (Act::Open, _) => {
                let body = json!({
                    "subject": conversation.subject, "body": step.text, "customer": conversation.customer,
                });
                spoken.ticket = Some(self.write(step, "/v1/tickets", &body, spoken)?);
                *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = spoken.ticket;
            }
            (Act::Write, Some(ticket)) => {
                let body = json!({ "body": step.text });
                let of = self.write(step, &format!("/v1/tickets/{ticket}/messages"), &body, spoken)?;
                ensure!(of == ticket, "the message went to ticket {of} in place of {ticket}");
            }
            (Act::Approve, Some(ticket)) => self.approve(step, ticket, spoken)?,
            (_, None) => bail!("no ticket was opened"),
        }
        Ok(())
    }

    /// Sends a message until it is acknowledged; gives its ticket.
    fn write(&self, step: &Step, path: &str, body: &Value, spoken: &mut Spoken) -> Result<Uuid> {
        let (reply, tries) = self.send(path, Some(&step.key), body)?;
        ensure!(matches!(reply.status, 200 | 201), "{} {}", reply.status, reply.body);
        let replayed = reply.body["replayed"] == true;
        ensure!(replayed == (reply.status == 200), "status {} and replayed {replayed}", reply.status);
        ensure!(!replayed || tries > 1, "the first try was answered as a repetition: {}", reply.body);
        let (ticket, message) = (id(&reply.body, "ticket_id")?, id(&reply.body, "message_id")?);
        if step.again {
            let (again, _) = self.send(path, Some(&step.key), body)?;
            let same = id(&again.body, "ticket_id")? == ticket && id(&again.body, "message_id")? == message;
            ensure!(again.status == 200 && same, "repeated: {} {} after {}", again.status, again.body, reply.body);
        }
        spoken.messages.push((message, step.text.clone()));
        Ok(ticket)
    }

    /// Waits until the ticket is worked on and approves its open draft. An approval has no key: where an earlier try may
    /// have been taken, the outcome on record says whether it was this agent's.
    fn approve(&self, step: &Step, ticket: Uuid, spoken: &mut Spoken) -> Result<()> {
        let began = Instant::now();
        let path = format!("/v1/tickets/{ticket}");
        let view = loop {
            let view = self.ask(&path)?;
            if view["ticket"]["state"] != "received" {
                break view;
            }
            ensure!(began.elapsed() < PATIENCE, "ticket {ticket} is not worked on");
            std::thread::sleep(PAUSE);
        };
        let drafts = view["drafts"].as_array().into_iter().flatten();
        let Some(open) = drafts.clone().find(|draft| draft["status"] == "open") else {
            self.without_draft.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let draft = id(open, "id")?;
        let (reply, tries) = self.send(&format!("/v1/drafts/{draft}/approve"), None, &json!({ "agent": step.key }))?;
        if reply.status == 409 && tries > 1 {
            let after = self.ask(&path)?;
            let outcomes = after["outcomes"].as_array().into_iter().flatten();
            let own = |outcome: &&Value| outcome["draft_id"] == draft.to_string() && outcome["agent"] == step.key;
            ensure!(outcomes.filter(own).count() == 1, "no outcome of the approval of draft {draft}: {}", reply.body);
            self.unheard.fetch_add(1, Ordering::Relaxed);
        } else {
            ensure!(reply.status == 200, "approving draft {draft}: {} {}", reply.status, reply.body);
        }
        spoken.approved.push(draft);
        Ok(())
    }

    /// A page of the service, asked for until it is there.
    fn ask(&self, path: &str) -> Result<Value> {
        let (reply, _) = self.until_answered(|client, url| client.get(url, path))?;
        ensure!(reply.status == 200, "{path}: {} {}", reply.status, reply.body);
        Ok(reply.body)
    }

    fn send(&self, path: &str, key: Option<&str>, body: &Value) -> Result<(Reply, usize)> {
        self.until_answered(|client, url| client.post(url, path, key, body))
    }

    /// Tries until an answer comes that is no failure of the service; with the number of tries.
    fn until_answered(&self, send: impl Fn(&Client, &str) -> Result<Reply>) -> Result<(Reply, usize)> {
        let began = Instant::now();
        let mut tries = 0;
        loop {
            ensure!(!self.over.load(Ordering::Relaxed), "the run is over");
            ensure!(began.elapsed() < PATIENCE, "no answer within {} s", PATIENCE.as_secs());
            if let Some(url) = self.url() {
                tries += 1;
                match send(self.client, &url) {
                    Ok(reply) if reply.status < 500 => return Ok((reply, tries)),
                    _ => self.cut_off.fetch_add(1, Ordering::Relaxed),
                };
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn url(&self) -> Option<String> {
        self.url.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_url(&self, url: Option<String>) {
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }

    fn latest(&self) -> Option<Uuid> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, wrong: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(wrong);
    }
}

/// The next start fills a new one from the store.
fn remove_index(start: &Start) -> Result<()> {
    match std::fs::remove_dir_all(start.folder.join(INDEX_FOLDER)) {
        // Another kill may have come before there was one.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("cannot remove the index"),
        _ => Ok(()),
    }
}

fn id(value: &Value, name: &str) -> Result<Uuid> {
    let found = value[name].as_str().and_then(|text| Uuid::parse_str(text).ok());
    found.with_context(|| format!("no {name} in {value}"))
}
