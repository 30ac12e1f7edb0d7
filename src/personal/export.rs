//! All that is held about one customer, in one ZIP file: JSON and the files that came with messages.

use std::io::{Seek, Write};

use anyhow::Result;
use serde_json::{Value, json};
use uuid::Uuid;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::held;
use crate::learn::approved::memory_id;
use crate::store::blanking::blank_evidence;
use crate::store::{AttachmentRow, Held, Store};

const README: &str = "\
Español

Este archivo contiene todo lo que esta instalación de Respondo guarda sobre una persona o cuenta.

- customer.json: su identificador y la lista de sus conversaciones.
- tickets/ID.json: una conversación por archivo: mensajes (también notas internas), valoraciones, borradores, decisiones,
  lo que hizo el equipo, comentarios, correcciones, envíos, registro de auditoría y lo aprendido de ella.
- files/: los archivos enviados con los mensajes; tickets/ID.json dice cuál es cuál.

Las horas sin letras son milisegundos desde 1970-01-01 UTC. De lo que se consultó para responder (evidence) figuran
identificador y similitud, pero no el texto: son conocimientos del equipo.

English

This archive holds all that this installation of Respondo keeps about one person or account.

- customer.json: its id and the list of its conversations.
- tickets/ID.json: one conversation per file: messages (internal notes too), judgements, drafts, decisions, what the team
  did, feedback, corrections, deliveries, audit trail, and what was learned from it.
- files/: the files that came with messages; tickets/ID.json says which is which.

Times without letters are milliseconds since 1970-01-01 UTC. Of what was looked up to answer (evidence), id and similarity
are given, not the text: it is the team's knowledge.
";

/// Writes everything about a customer into `out`, a ticket at a time; gives what was held.
///
/// # Errors
/// When there is no such customer, the store cannot be read or `out` cannot be written.
pub async fn export<W: Write + Seek>(store: &Store, customer: &str, out: W) -> Result<Held> {
    let held = held(store, customer).await?;
    let mut archive = Archive(ZipWriter::new(out));
    archive.put("README.txt", README.as_bytes())?;
    archive.put_json("customer.json", &json!({ "customer": customer, "tickets": held.tickets }))?;
    for ticket in &held.tickets {
        let files = store.attachments(*ticket).await?;
        archive.put_json(&format!("tickets/{ticket}.json"), &ticket_record(store, *ticket, &files).await?)?;
        for file in files {
            let (_, content) = store.attachment(file.id).await?;
            archive.put(&path_of(&file), &content)?;
        }
    }
    archive.0.finish()?;
    Ok(held)
}

async fn ticket_record(store: &Store, ticket: Uuid, files: &[AttachmentRow]) -> Result<Value> {
    let mut record = serde_json::to_value(store.ticket_view(ticket).await?)?;
    let signatures = store.signatures(ticket).await?;
    let handling = store.handling(ticket).await?;
    let learned = store.items(&[memory_id(ticket)]).await?;
    let files: Vec<Value> = files.iter().map(|file| json!({ "path": path_of(file), "file": file })).collect();
    let more = json!({
        "rest": store.rest_of_ticket(ticket).await?,
        "signatures": signatures.iter().map(|(message, name)| json!({ "message": message, "name": name })).collect::<Vec<_>>(),
        "handling": {
            "assignee": handling.assignee_name, "skill": handling.skill, "taken_over": handling.taken_over,
            "snoozed_until": handling.snoozed_until, "merged_into": handling.merged_into,
        },
        "files": files,
        "audit": store.audit_trail(ticket).await?,
    });
    if let (Some(record), Value::Object(more)) = (record.as_object_mut(), more) {
        record.extend(more);
    }
    blank_evidence(&mut record, &|_| true);
    // After the blanking: this text is the customer's.
    record["learned"] = serde_json::to_value(learned.first())?;
    Ok(record)
}

/// Where a file is in the archive. Its name is what a stranger chose: only harmless signs of it are kept.
fn path_of(file: &AttachmentRow) -> String {
    let harmless = |c: char| if c.is_alphanumeric() || "._- ".contains(c) { c } else { '_' };
    let name: String = file.name.chars().map(harmless).collect();
    format!("files/{}-{}", file.id, name.trim_start_matches('.'))
}

struct Archive<W: Write + Seek>(ZipWriter<W>);

impl<W: Write + Seek> Archive<W> {
    fn put(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.0.start_file(path, SimpleFileOptions::default())?;
        self.0.write_all(content)?;
        Ok(())
    }

    fn put_json(&mut self, path: &str, value: &Value) -> Result<()> {
        self.put(path, &serde_json::to_vec_pretty(value)?)
    }
}
