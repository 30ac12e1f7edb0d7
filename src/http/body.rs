//! Request bodies are read whole, within the limit, before any handler runs; forms with files, which may be longer, are
//! read by their handlers.
//!
//! A server that answers and closes while the client still sends makes the client's system drop the answer ("connection
//! reset"). So what is refused is read to its end first, as long as that is not too much, and the client sees why.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use super::problem::Problem;
use crate::web::chat;

/// Longest body over the limit that is read to its end, bytes; the connection of a longer one is closed.
const DRAIN_BYTES: usize = 16 << 20;
/// Longest time spent on that.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// How much of a body is read, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    pub bytes: usize,
    pub time: Duration,
}

/// Why there is no body.
pub enum Unread {
    TooLarge,
    TooSlow,
    Broken(axum::Error),
}

/// Hands on the request with its whole body, or answers 413 or 408.
pub async fn read_whole(State(limits): State<BodyLimits>, request: Request, next: Next) -> Response {
    if request.extensions().get::<MatchedPath>().is_some_and(|path| chat::takes_files(path.as_str())) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match read(body, limits).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(Unread::TooLarge) => {
            let bytes = limits.bytes;
            let detail = format!("the body is longer than {bytes} bytes (server.max_body_bytes); send a shorter one");
            Problem::too_large(detail).into_response()
        }
        Err(Unread::TooSlow) => {
            let seconds = limits.time.as_secs();
            let detail = format!("the body was not whole within {seconds} s (server.body_seconds); send it faster");
            Problem::timed_out(detail).into_response()
        }
        Err(Unread::Broken(error)) => {
            Problem::bad_request(format!("the body could not be read: {error}")).into_response()
        }
    }
}

/// Reads a body within the limits.
///
/// # Errors
/// When it is longer or takes longer; what is over is read too, within reason.
pub async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, Unread> {
    tokio::time::timeout(limits.time, read_bytes(body, limits.bytes)).await.unwrap_or(Err(Unread::TooSlow))
}

async fn read_bytes(body: Body, limit: usize) -> Result<Bytes, Unread> {
    let mut chunks = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(Unread::Broken)?;
        if whole.len() + chunk.len() > limit {
            let mut thrown_away = whole.len() + chunk.len() - limit;
            let drain = async {
                while let Some(Ok(chunk)) = chunks.next().await {
                    thrown_away += chunk.len();
                    if thrown_away > DRAIN_BYTES {
                        break;
                    }
                }
            };
            // Refused either way.
            let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
            return Err(Unread::TooLarge);
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(Bytes::from(whole))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A body of so many chunks of 1 KiB, and how many of them were taken.
    fn chunks(count: usize) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&taken);
        let stream = futures::stream::iter(0..count).map(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from(vec![b'a'; 1024]))
        });
        (Body::from_stream(stream), taken)
    }

    fn limits(bytes: usize) -> BodyLimits {
        BodyLimits { bytes, time: Duration::from_secs(60) }
    }

    #[tokio::test]
    async fn what_fits_is_handed_on_whole() {
        let (body, _) = chunks(4);
        assert!(read(body, limits(4096)).await.is_ok_and(|bytes| bytes.len() == 4096));
    }

    #[tokio::test]
    async fn what_is_too_long_is_read_to_its_end_and_refused() {
        let (body, taken) = chunks(1000);
        assert!(matches!(read(body, limits(4096)).await, Err(Unread::TooLarge)));
        assert_eq!(taken.load(Ordering::Relaxed), 1000);
    }

    #[tokio::test]
    async fn what_never_ends_is_not_read_for_ever() {
        let (body, taken) = chunks(usize::MAX);
        assert!(matches!(read(body, limits(4096)).await, Err(Unread::TooLarge)));
        assert!(taken.load(Ordering::Relaxed) <= (DRAIN_BYTES + 4096) / 1024 + 1);
    }

    #[tokio::test]
    async fn what_takes_too_long_is_not_waited_for() {
        let body = Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>());
        let limits = BodyLimits { bytes: 4096, time: Duration::from_millis(10) };
        assert!(matches!(read(body, limits).await, Err(Unread::TooSlow)));
    }
}
