//! Source: a file in a repository on the Hugging Face hub, or on a mirror of it.
//!
//! An interrupted download goes on where it stopped, in this run or in a later one.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::checked::{CheckedFile, copy};
use super::progress::Progress;
use super::source::{Refusal, Wanted};

/// An unreachable hub costs no more than this, since another source may be near.
const CONNECT: Duration = Duration::from_secs(3);
/// Silence after which a connection counts as broken.
const SILENCE: Duration = Duration::from_secs(30);
/// Attempts in a row that may bring no new byte.
const FRUITLESS_ATTEMPTS: u32 = 3;
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// Why one request did not finish the file.
enum Stop {
    /// Asking again may help.
    Again(String),
    /// It will not.
    Never(String),
}

/// Downloads `repo/path` at `revision`.
pub(super) fn fetch(
    wanted: &Wanted,
    repo: &str,
    revision: &str,
    path: &str,
    progress: &mut dyn Progress,
) -> Result<PathBuf, Refusal> {
    let url = format!("{}/{repo}/resolve/{revision}/{path}", wanted.reach.hub);
    let agent = agent();
    let listed = ask_listed(&agent, &url).map_err(Refusal::Unreachable)?;
    check_listed(&listed, &wanted.file.sha256).map_err(Refusal::Failed)?;

    let target = wanted.partial_file("hub");
    let mut checked = CheckedFile::resume(&target, wanted.file.size)
        .map_err(|error| Refusal::Failed(format!("cannot write {}: {error}", target.display())))?;
    progress.started(&format!("downloading {} from the hub", wanted.file.name), wanted.file.size);
    let downloaded = download(&agent, &url, &mut checked, wanted.file.size, progress);
    progress.finished();
    downloaded.map_err(Refusal::Failed)?;
    checked.finish(&wanted.file.sha256).map_err(Refusal::Failed)
}

fn agent() -> Agent {
    Agent::config_builder()
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .http_status_as_error(false)
        // Sizes and ranges are those of the file itself only when nothing is packed on the way.
        .accept_encoding("identity")
        .user_agent(concat!("respondo/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// The headers with which the hub answers for the file, without following it to where it is stored.
fn ask_listed(agent: &Agent, url: &str) -> Result<HeaderMap, String> {
    let request = agent.head(url).config().max_redirects(0).max_redirects_will_error(false).build();
    match request.call() {
        Ok(response) => Ok(response.headers().clone()),
        Err(error) => Err(format!("it cannot be reached: {error}")),
    }
}

/// The hub states the sha256 of large files, so that a wrong one need not be downloaded to be found out.
fn check_listed(headers: &HeaderMap, sha256: &str) -> Result<(), String> {
    let Some(tag) = headers.get("x-linked-etag").and_then(|value| value.to_str().ok()) else {
        return Ok(());
    };
    let listed = tag.trim_start_matches("W/").trim_matches('"');
    let is_sha256 = listed.len() == 64 && listed.chars().all(|c| c.is_ascii_hexdigit());
    if is_sha256 && !listed.eq_ignore_ascii_case(sha256) {
        return Err(format!("it lists the file with the sha256 {listed} instead of {sha256}"));
    }
    Ok(())
}

fn download(
    agent: &Agent,
    url: &str,
    checked: &mut CheckedFile,
    size: u64,
    progress: &mut dyn Progress,
) -> Result<(), String> {
    let mut most = checked.written();
    let mut fruitless = 0;
    progress.advanced(most);
    while checked.written() < size {
        let reason = match request_rest(agent, url, checked, size, progress) {
            Ok(()) if checked.written() >= size => return Ok(()),
            Ok(()) => format!("it ended after {} of {size} bytes", checked.written()),
            Err(Stop::Again(reason)) => reason,
            Err(Stop::Never(reason)) => return Err(reason),
        };
        fruitless = if checked.written() > most { 0 } else { fruitless + 1 };
        most = most.max(checked.written());
        if fruitless >= FRUITLESS_ATTEMPTS {
            return Err(reason);
        }
        progress.message(&format!("the download stopped ({reason}); trying to go on"));
        thread::sleep(BETWEEN_ATTEMPTS);
    }
    Ok(())
}

/// One request for what is missing. `Ok` when the answer ended in good order, however long it was.
fn request_rest(
    agent: &Agent,
    url: &str,
    checked: &mut CheckedFile,
    size: u64,
    progress: &mut dyn Progress,
) -> Result<(), Stop> {
    let have = checked.written();
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response = request.call().map_err(|error| Stop::Again(error.to_string()))?;
    match response.status().as_u16() {
        200 if have > 0 => restart(checked)?,
        200 => {}
        206 if range_start(&response) == Some(have) => {}
        // The range was not understood: begin anew.
        206 | 416 => {
            restart(checked)?;
            return Err(Stop::Again("it gave another range than asked for".to_owned()));
        }
        code @ (429 | 500..=599) => return Err(Stop::Again(format!("it answered HTTP {code}"))),
        code => return Err(Stop::Never(format!("{url} answered HTTP {code}"))),
    }
    let rest = size - checked.written();
    if let Some(length) = response.body().content_length().filter(|length| *length != rest) {
        return Err(Stop::Never(format!("it offers {length} bytes where {rest} are expected")));
    }
    let mut body = response.into_body().into_reader();
    copy(&mut body, checked, progress).map_err(|error| Stop::Again(error.to_string()))
}

fn restart(checked: &mut CheckedFile) -> Result<(), Stop> {
    checked.restart().map_err(|error: io::Error| Stop::Never(format!("cannot begin anew: {error}")))
}

/// N of `Content-Range: bytes N-M/TOTAL`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    start.trim().parse().ok()
}
