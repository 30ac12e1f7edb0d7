//! Forms that may carry files.

use axum::Form;
use axum::body::Body;
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::http::AppState;
use crate::http::body::{BodyLimits, Unread, read};
use crate::intake::files::{self, FileError, LARGEST_FILE, MOST_FILES};
use crate::store::NewAttachment;
use crate::web::language::texts_for;
use crate::web::page::PageError;

/// Name of the file field.
const FIELD: &str = "files";
/// Longest form with files, bytes: what may be attached, and room for the text and the headings of the parts.
const LONGEST: usize = MOST_FILES * LARGEST_FILE + (1 << 20);

/// A form as browsers send it, with or without files (`multipart/form-data` or `application/x-www-form-urlencoded`).
pub struct Upload<T> {
    pub form: T,
    /// The files, or why one of them is refused.
    pub files: Result<Vec<NewAttachment>, FileError>,
}

impl<T: DeserializeOwned + Send> FromRequest<AppState> for Upload<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Response> {
        let has_parts = has_parts(request.headers());
        let server = &state.pipeline.settings.server;
        let bytes = if has_parts { LONGEST } else { server.max_body_bytes };
        let limits = BodyLimits { bytes, time: server.body_time(has_parts) };
        let (head, body) = request.into_parts();
        let bytes = match read(body, limits).await {
            Ok(bytes) => bytes,
            Err(unread) => {
                return Err(refused(&head.headers, &unread, state.pipeline.settings.intake.max_message_bytes));
            }
        };
        let request = Request::from_parts(head, Body::from(bytes));
        if !has_parts {
            let Form(form) = Form::from_request(request, state).await.map_err(IntoResponse::into_response)?;
            return Ok(Self { form, files: Ok(Vec::new()) });
        }
        let parts = Multipart::from_request(request, state).await.map_err(IntoResponse::into_response)?;
        let (fields, files) = fields_and_files(parts).await.map_err(IntoResponse::into_response)?;
        let form = serde_urlencoded::to_string(fields)
            .map_err(|error| error.to_string())
            .and_then(|encoded| serde_urlencoded::from_str(&encoded).map_err(|error| error.to_string()))
            .map_err(|problem| (StatusCode::UNPROCESSABLE_ENTITY, problem).into_response())?;
        Ok(Self { form, files })
    }
}

fn has_parts(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("multipart/form-data"))
}

/// For scripts a line, for people a page.
fn refused(headers: &HeaderMap, unread: &Unread, longest_text: usize) -> Response {
    let t = texts_for(headers);
    let (status, text) = match unread {
        Unread::TooLarge if has_parts(headers) => (StatusCode::PAYLOAD_TOO_LARGE, t.files_limits()),
        Unread::TooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, t.error_too_long.replace("{max}", &longest_text.to_string()))
        }
        Unread::TooSlow => (StatusCode::REQUEST_TIMEOUT, t.chat_too_slow.to_owned()),
        Unread::Broken(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    };
    match headers.contains_key("x-respondo") {
        true => (status, text).into_response(),
        false => PageError::new(status, text).into_response(),
    }
}

type Fields = Vec<(String, String)>;

/// Text fields as they are, and the files; those after one that is refused are passed over, the text is not.
async fn fields_and_files(
    mut parts: Multipart,
) -> Result<(Fields, Result<Vec<NewAttachment>, FileError>), MultipartError> {
    let mut fields = Vec::new();
    let mut kept = Ok(Vec::new());
    while let Some(part) = parts.next_field().await? {
        let field = part.name().unwrap_or_default().to_owned();
        if field != FIELD {
            fields.push((field, part.text().await?));
            continue;
        }
        let name = part.file_name().unwrap_or_default().to_owned();
        let content = part.bytes().await?;
        // A part without name and content is what a browser sends where no file was chosen.
        if !(name.is_empty() && content.is_empty()) {
            kept = kept.and_then(|kept| files::add(kept, &name, &content));
        }
    }
    Ok((fields, kept))
}
