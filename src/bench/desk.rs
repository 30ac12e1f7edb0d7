//! The desk's pages over a full queue, and many open pages at once.
//!
//! A store is filled with open tickets, the real service is started on it, and its pages are asked for over loopback as a
//! browser would. Then desks and chats keep their streams open while conversations are taken over one by one: every stream
//! has to hear of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::load::service::Start;
use super::quantile;
use crate::store::{FinishedWork, NewAgent, NewTicket, Role, Store};
use crate::ticket::{Action, Class, Decision, Difficulty, Draft, DraftKind, Language, Sentence, TicketState, Urgency};
use crate::web::{hex, links::Links};

/// How often a page is asked for.
const REPEATS: usize = 40;
/// Longest wait for a stream to say something.
const LIMIT: Duration = Duration::from_secs(30);
/// Stack of a thread that reads a stream.
const STACK: usize = 128 * 1024;
/// The cookie and the form token of the agent who measures.
const TOKEN: &str = "measuring";
const CSRF: &str = "measuring-form";

#[derive(Clone, Debug, clap::Args)]
pub struct DeskArgs {
    /// Open tickets.
    #[arg(long, default_value_t = 10_000)]
    tickets: usize,
    /// Desks open at the same time.
    #[arg(long, default_value_t = 200)]
    desks: usize,
    /// Chats open at the same time.
    #[arg(long, default_value_t = 500)]
    chats: usize,
    /// Where the report goes.
    #[arg(long, default_value = "docs/desk-report.md")]
    out: PathBuf,
}

/// Milliseconds of one page, sorted, and its size.
struct Page {
    name: &'static str,
    ms: Vec<f32>,
    bytes: usize,
    first_ms: f32,
}

/// Runs the measurement and writes the report.
///
/// # Errors
/// When the service cannot be started or a page is not answered.
pub async fn run(config: Option<PathBuf>, machine: &str, args: DeskArgs) -> Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    eprintln!("filling a store with {} open tickets", args.tickets);
    let (tickets, key) = fill(folder.path(), args.tickets).await?;
    let start = Start { folder: folder.path().to_owned(), config, environment: Vec::new() };
    let out = args.out.clone();
    let report = tokio::task::spawn_blocking(move || measured(&start, &tickets, &key, &args)).await??;
    let text = format!(
        "# The desk over a full queue\n\n- machine: {machine}\n- date: {}\n{report}",
        Timestamp::now().strftime("%Y-%m-%d")
    );
    std::fs::write(&out, &text).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{text}\nwritten to {}", out.display());
    Ok(())
}

fn measured(start: &Start, tickets: &[Uuid], key: &str, args: &DeskArgs) -> Result<String> {
    let service = start.run()?;
    let address = service.client.url().trim_start_matches("http://").to_owned();
    let ticket = format!("/desk/tickets/{}", tickets.first().context("no ticket")?);
    let pages = [
        ("queue", "/desk"),
        ("its lines alone", "/desk/rows"),
        ("search by words", "/desk?q=pedidos+correo"),
        ("all tickets", "/desk?scope=all"),
        ("ticket", ticket.as_str()),
    ];
    let pages = pages.map(|(name, path)| page(&address, name, path));
    let pages: Vec<Page> = pages.into_iter().collect::<Result<_>>()?;
    eprintln!("{} desks and {} chats open their streams", args.desks, args.chats);
    let heard = streams(&address, tickets, key, args)?;
    service.stop()?;
    Ok(markdown(&pages, &heard, args))
}

/// A store with open tickets in review, and the key of its links.
async fn fill(folder: &Path, count: usize) -> Result<(Vec<Uuid>, String)> {
    let store = Store::open(folder).await?;
    let mut random = fastrand::Rng::with_seed(7);
    let mut tickets = Vec::with_capacity(count);
    for number in 0..count {
        let new = NewTicket {
            customer: Some(format!("customer {}", number / 3)),
            channel: "chat".to_owned(),
            subject: String::new(),
            body: format!("no me llegan los correos de los pedidos {number}, ¿qué hago?"),
            language: Language::ES,
            product: None,
            queue: None,
            idempotency: None,
        };
        let accepted = store.accept_ticket(new).await?;
        let draft = store.save_draft(accepted.ticket.id, &draft()).await?;
        let due = SignedDuration::from_mins(random.i64(-600..6_000));
        let work = FinishedWork {
            seen_message: accepted.message.id,
            draft_id: Some(draft),
            decision: Decision::new(Action::Suggest, Vec::new()),
            state: TicketState::Review,
            due_at: Timestamp::now().checked_add(due).ok(),
            urgency: Urgency::ALL.get(random.usize(..4)).copied(),
            difficulty: Difficulty::ALL.get(random.usize(..4)).copied(),
            outgoing: None,
        };
        store.finish(accepted.ticket.id, work).await?;
        tickets.push(accepted.ticket.id);
    }
    let agent = NewAgent {
        login: "measuring".to_owned(),
        name: "Measuring".to_owned(),
        role: Role::Admin,
        password_hash: "none".to_owned(),
    };
    let agent = store.add_agent(agent, "bench", true).await?;
    let expires = Timestamp::now().as_millisecond() + 86_400_000;
    store.start_session(agent.id, None, &hex(&Sha256::digest(TOKEN.as_bytes())), CSRF, expires).await?;
    let key = store.secret("customer links", "a key that only this measurement has").await?;
    store.close().await;
    Ok((tickets, key))
}

fn draft() -> Draft {
    let text = "Revisa que el dominio apunte a nuestros servidores de correo.".to_owned();
    let sentences = vec![Sentence { text: text.clone(), evidence: Vec::new(), support: 1.0 }];
    Draft {
        kind: DraftKind::Extractive,
        language: Language::ES,
        text,
        sentences,
        evidence: Vec::new(),
        findings: Vec::new(),
        model: None,
    }
}

fn page(address: &str, name: &'static str, path: &str) -> Result<Page> {
    let mut ms = Vec::with_capacity(REPEATS);
    let mut bytes = 0;
    for _ in 0..=REPEATS {
        let started = Instant::now();
        let answer = ask(address, "GET", path, "")?;
        ms.push(started.elapsed().as_secs_f32() * 1_000.0);
        ensure!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{path}: {}",
            String::from_utf8_lossy(&answer).lines().next().unwrap_or_default()
        );
        bytes = answer.len();
    }
    let first_ms = ms.remove(0);
    ms.sort_by(f32::total_cmp);
    Ok(Page { name, ms, bytes, first_ms })
}

/// One request on a connection of its own, as a browser's first one: the whole answer.
fn ask(address: &str, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
    let mut connection = connected(address)?;
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncookie: respondo_session={TOKEN}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}

fn connected(address: &str) -> Result<TcpStream> {
    let connection = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

/// What the open pages heard.
struct Heard {
    /// Milliseconds from the click to the chat's event, and to the desks' last one, sorted.
    chats_ms: Vec<f32>,
    desks_ms: Vec<f32>,
    missed_by_chats: usize,
    missed_by_desks: usize,
}

/// Opens all streams, takes as many conversations over as chats are open, and counts what every stream heard.
fn streams(address: &str, tickets: &[Uuid], key: &str, args: &DeskArgs) -> Result<Heard> {
    let links = Links::new(key);
    let chosen: Vec<Uuid> = tickets.iter().take(args.chats).copied().collect();
    let (chat_says, chat_said) = channel();
    let (desk_says, desk_said) = channel();
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for (number, ticket) in chosen.iter().enumerate() {
        let path = format!("/chat/{}/events", links.token(*ticket));
        threads.push(follow(address, &path, "taken", number, chat_says.clone())?);
    }
    for number in 0..args.desks {
        threads.push(follow(address, "/desk/live", "change", number, desk_says.clone())?);
    }
    drop((chat_says, desk_says));
    let (mut chats_ms, mut desks_ms) = (Vec::new(), Vec::new());
    let (mut missed_by_chats, mut missed_by_desks) = (0, 0);
    for (number, ticket) in chosen.iter().enumerate() {
        let started = Instant::now();
        let answer = ask(address, "POST", &format!("/desk/tickets/{ticket}/take-over"), &format!("csrf={CSRF}"))?;
        ensure!(answer.starts_with(b"HTTP/1.1 303"), "a conversation could not be taken over");
        match heard(&chat_said, |from| from == number, 1) {
            Some(at) => chats_ms.push(at.duration_since(started).as_secs_f32() * 1_000.0),
            None => missed_by_chats += 1,
        }
        match heard(&desk_said, |_| true, args.desks) {
            Some(at) => desks_ms.push(at.duration_since(started).as_secs_f32() * 1_000.0),
            None => missed_by_desks += 1,
        }
    }
    chats_ms.sort_by(f32::total_cmp);
    desks_ms.sort_by(f32::total_cmp);
    // Their streams end with the service.
    drop(threads);
    Ok(Heard { chats_ms, desks_ms, missed_by_chats, missed_by_desks })
}

/// Waits until `count` of those that fit have said something; when the last one did.
fn heard(said: &Receiver<(usize, Instant)>, fits: impl Fn(usize) -> bool, count: usize) -> Option<Instant> {
    let mut last = None;
    let mut left = count;
    while left > 0 {
        let (from, at) = said.recv_timeout(LIMIT).ok()?;
        if fits(from) {
            left -= 1;
            last = Some(at);
        }
    }
    last
}

/// Reads a stream in a thread of its own once it has begun, and says when an event of a kind comes.
fn follow(
    address: &str,
    path: &str,
    kind: &'static str,
    number: usize,
    says: Sender<(usize, Instant)>,
) -> Result<JoinHandle<()>> {
    let mut connection = connected(address)?;
    write!(connection, "GET {path} HTTP/1.1\r\nhost: {address}\r\ncookie: respondo_session={TOKEN}\r\n\r\n")?;
    let mut lines = BufReader::new(connection).lines();
    let first = lines.next().context("no answer")??;
    ensure!(first.starts_with("HTTP/1.1 200"), "{path}: {first}");
    let wanted = format!("event: {kind}");
    let reading = move || {
        for line in lines.map_while(Result::ok) {
            if line == wanted && says.send((number, Instant::now())).is_err() {
                return;
            }
        }
    };
    Ok(std::thread::Builder::new().stack_size(STACK).spawn(reading)?)
}

fn markdown(pages: &[Page], heard: &Heard, args: &DeskArgs) -> String {
    let mut out = format!(
        "- command: respondo bench desk --tickets {} --desks {} --chats {}\n\nPages over loopback, each on a connection of its own, \
         {REPEATS} times; the first answer apart. The client runs on the same cores. Goal: the queue's page under 200 ms, an update under 100 ms, \
         a page under 150 KB with its files (scripts and style are {} KB and kept by the browser).\n\n\
         | page | first | p50 | p95 | most | size |\n|---|---|---|---|---|---|\n",
        args.tickets,
        args.desks,
        args.chats,
        crate::web::assets::desk_bytes() / 1_000,
    );
    for page in pages {
        let at = |share| quantile(&page.ms, share);
        out.push_str(&format!(
            "| {} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} KB |\n",
            page.name,
            page.first_ms,
            at(0.5),
            at(0.95),
            at(1.0),
            page.bytes as f32 / 1_000.0
        ));
    }
    let row = |name: &str, ms: &[f32], missed: usize| {
        format!(
            "| {name} | {:.1} ms | {:.1} ms | {:.1} ms | {missed} |\n",
            quantile(ms, 0.5),
            quantile(ms, 0.95),
            quantile(ms, 1.0)
        )
    };
    out.push_str(&format!(
        "\n{} desks and {} chats keep a stream open while {} conversations are taken over, one after the other. From the click until it was heard:\n\n\
         | who | p50 | p95 | most | missed |\n|---|---|---|---|---|\n",
        args.desks, args.chats, args.chats
    ));
    out.push_str(&row("the chat it is about", &heard.chats_ms, heard.missed_by_chats));
    out.push_str(&row("the last of all desks", &heard.desks_ms, heard.missed_by_desks));
    out
}
