//! Files of conversations: links under their messages, and downloads.
//!
//! A file is never shown, only saved: what a stranger sent must not run under our address.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::chat::conversation::ticket_of;
use super::format::size;
use super::language::texts_for;
use super::page::PageError;
use super::session::SignedIn;
use crate::http::AppState;
use crate::store::{AttachmentRow, StoreError};

/// For browsers that would open a file all the same: nothing in it runs or loads.
const POLICY: &str = "sandbox; default-src 'none'";

/// A file under its message.
pub struct FileLink {
    pub address: String,
    pub name: String,
    pub size: String,
}

/// Links to the files of one message; `folder` is what stands before the id in their addresses.
pub fn links(files: &[AttachmentRow], message: Uuid, folder: &str) -> Vec<FileLink> {
    let own = files.iter().filter(|file| file.message_id == message);
    own.map(|file| FileLink {
        address: format!("{folder}/{}", file.id),
        name: file.name.clone(),
        size: size(file.size),
    })
    .collect()
}

/// A file of the customer's own conversation.
pub async fn of_conversation(
    State(state): State<AppState>,
    Path((token, id)): Path<(String, Uuid)>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let store = &state.pipeline.store;
    let ticket = store.survivor(ticket_of(&state, &token, t)?).await?;
    // A file of another conversation and one that is not there look the same.
    match store.attachment(id).await {
        Ok((file, content)) if file.ticket_id == ticket => Ok(download(&file, content)),
        Ok(_) | Err(StoreError::NotFound(_)) => Err(PageError::not_found(t.file_unknown)),
        Err(error) => Err(error.into()),
    }
}

/// Any file, for the team.
pub async fn of_desk(
    _signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
) -> Result<Response, PageError> {
    let (file, content) = state.pipeline.store.attachment(id).await?;
    Ok(download(&file, content))
}

fn download(file: &AttachmentRow, content: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, file.media_type.clone()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename*=UTF-8''{}", encoded(&file.name))),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, content).into_response()
}

/// A file name for a header (RFC 8187): all but letters, digits and a few signs in percent.
fn encoded(name: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_header() {
        assert_eq!(encoded("captura_1-a.png"), "captura_1-a.png");
        assert_eq!(encoded("año \"x\"; y.txt"), "a%C3%B1o%20%22x%22%3B%20y.txt");
        assert_eq!(encoded("a\r\nb'*%"), "a%0D%0Ab%27%2A%25");
    }
}
