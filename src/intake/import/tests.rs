use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

const GOOD: &str = r#"{"id":"t-12","lang":"en","subject":"No sound","body":"There is no sound, write to ana@example.org","queue":"player","created_at":"2025-01-01T10:00:00Z","resolved_at":"2025-01-01T13:30:00Z","answer":"Open Settings > Audio and choose the right output device.","answer_kind":"accepted"}"#;

fn file(folder: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("write");
    path
}

fn tickets(path: &Path, options: ImportOptions) -> Vec<Result<MemoryItem, Reject>> {
    open(path, MemoryKind::Ticket, options).expect("open").collect()
}

#[test]
fn a_ticket_becomes_an_item() {
    let folder = tempfile::tempdir().expect("folder");
    let path = file(&folder, "a.jsonl", GOOD.as_bytes());
    let template = Some("https://example.org/questions/{digits}".to_owned());
    let options =
        ImportOptions { url_template: template, product: Some("Player".to_owned()), ..ImportOptions::default() };
    let mut import = open(&path, MemoryKind::Ticket, options).expect("open");
    let item = import.next().expect("a row").expect("an item");
    assert_eq!(item.problem, "There is no sound, write to [email]");
    assert_eq!(item.language, Language::EN);
    assert_eq!(item.answer_kind, Some(AnswerKind::Accepted));
    assert_eq!(item.resolved_hours, Some(3.5));
    assert_eq!(item.url.as_deref(), Some("https://example.org/questions/12"));
    assert_eq!(item.product.as_deref(), Some("Player"));
    assert!(import.next().is_none());
    let (read, total) = import.progress();
    assert_eq!((read, total), (GOOD.len() as u64, GOOD.len() as u64));
}

#[test]
fn a_number_that_is_broken_over_two_lines_leaves_the_title_too() {
    let folder = tempfile::tempdir().expect("folder");
    let row = GOOD.replace("No sound\"", "Paid from ES91 2100 0418 4502\\n0005 1332 now\"");
    let rows = tickets(&file(&folder, "a.jsonl", row.as_bytes()), ImportOptions::default());
    assert_eq!(rows[0].as_ref().expect("item").title, "Paid from [iban] now");
}

#[test]
fn labels_have_no_control_characters() {
    let folder = tempfile::tempdir().expect("folder");
    let row = GOOD.replace("\"t-12\"", "\"t\\u0000-1\\u001b2\"").replace("\"player\"", "\"\\u0007\"");
    let rows = tickets(&file(&folder, "a.jsonl", row.as_bytes()), ImportOptions::default());
    let item = rows[0].as_ref().expect("item");
    assert_eq!((item.id.as_str(), item.queue.as_deref()), ("t-12", None));
}

#[test]
fn bad_lines_are_told_with_their_number_and_the_rest_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let mut content = b"{not json}\n\xff\xfe\xfa\n[1,2]\n\n{\"id\":\"x\"}\n{\"subject\":\"no id\"}\n".to_vec();
    content.extend(std::iter::repeat_n(b'a', MAX_LINE + 10));
    content.push(b'\n');
    content.extend_from_slice(GOOD.as_bytes());
    let rows = tickets(&file(&folder, "a.jsonl", &content), ImportOptions::default());
    let rejects: Vec<(u64, String)> =
        rows.iter().filter_map(|row| row.as_ref().err()).map(|reject| (reject.line, reject.reason.label())).collect();
    let want = [
        (1, "is not valid JSON"),
        (2, "is not valid UTF-8"),
        (3, "is not a JSON object"),
        (5, "has no subject and no body"),
        (6, "has no id"),
        (7, "is longer than 4194304 bytes"),
    ];
    assert_eq!(rejects, want.map(|(line, reason)| (line, reason.to_owned())));
    assert!(rows.last().expect("rows").is_ok());
}

#[test]
fn gzip_whole_and_cut_short() {
    let folder = tempfile::tempdir().expect("folder");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for number in 0..2000 {
        encoder.write_all(GOOD.replace("t-12", &format!("t-{number}")).as_bytes()).expect("compress");
        encoder.write_all(b"\n").expect("compress");
    }
    let packed = encoder.finish().expect("compress");
    assert_eq!(tickets(&file(&folder, "a.jsonl.gz", &packed), ImportOptions::default()).len(), 2000);
    let cut = tickets(&file(&folder, "b.jsonl.gz", &packed[..packed.len() / 2]), ImportOptions::default());
    let last = cut.last().expect("rows").as_ref().expect_err("the cut");
    assert!(matches!(last.reason, Reason::Unreadable(_)), "{last}");
}

#[test]
fn csv_with_a_mapping() {
    let folder = tempfile::tempdir().expect("folder");
    let csv = "ticket_id;asunto;description;resolution\n7;Sin sonido;\"No se oye; nada\ndesde ayer\";\"Abra Ajustes y elija \
               la salida de audio correcta.\"\n8;corta\n";
    let path = file(&folder, "a.csv", csv.as_bytes());
    let mapping = parse_mapping("id=ticket_id, subject=asunto,body=description,answer=resolution").expect("mapping");
    let rows = tickets(&path, ImportOptions { mapping, ..ImportOptions::default() });
    let item = rows[0].as_ref().expect("item");
    assert_eq!((item.id.as_str(), item.problem.as_str()), ("7", "No se oye; nada\ndesde ayer"));
    assert_eq!(item.language, Language::ES);
    let reject = rows[1].as_ref().expect_err("reject");
    assert_eq!((reject.line, reject.reason.label().as_str()), (4, "is not a valid record"));
}

#[test]
fn csv_with_an_open_quotation_mark_does_not_fill_the_memory() {
    let folder = tempfile::tempdir().expect("folder");
    let mut csv = b"id,body,answer\n1,\"never closed ".to_vec();
    csv.extend(std::iter::repeat_n(b'x', MAX_LINE * 2));
    let rows = tickets(&file(&folder, "a.csv", &csv), ImportOptions::default());
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].as_ref().expect_err("reject").reason, Reason::TooLong);
}

#[test]
fn files_that_cannot_be_imported() {
    let folder = tempfile::tempdir().expect("folder");
    let options = ImportOptions::default;
    let missing = open(&folder.path().join("no.jsonl"), MemoryKind::Ticket, options()).err().expect("error");
    assert!(missing.to_string().contains("check the path"));
    let other = file(&folder, "a.xlsx", b"PK");
    assert!(matches!(open(&other, MemoryKind::Ticket, options()), Err(ImportError::Format { .. })));
    let csv = file(&folder, "a.csv", b"a,b\n1,2\n");
    let mapping = parse_mapping("id=nothing").expect("mapping");
    assert!(matches!(
        open(&csv, MemoryKind::Ticket, ImportOptions { mapping, ..options() }),
        Err(ImportError::Column { .. })
    ));
    assert!(matches!(parse_mapping("id"), Err(ImportError::Mapping { .. })));
    assert!(matches!(parse_mapping("nonsense=x"), Err(ImportError::Mapping { .. })));
    assert!(tickets(&file(&folder, "empty.jsonl", b""), options()).is_empty());
    assert!(open(&file(&folder, "empty.csv", b""), MemoryKind::Ticket, options()).is_err());
}

#[test]
fn a_better_answer_of_the_thread_replaces_a_courtesy() {
    let folder = tempfile::tempdir().expect("folder");
    let row = r#"{"id":"t","subject":"No sound at all","body":"b","answer":"Please mark this as solved, thanks.","answer_kind":"accepted",
        "thread":[{"role":"helper","helpful":2,"body":"Restart the device and choose the output in the settings."},{"role":"customer","body":"ok"}]}"#;
    let rows = tickets(&file(&folder, "a.jsonl", row.replace('\n', "").as_bytes()), ImportOptions::default());
    let item = rows[0].as_ref().expect("item");
    assert_eq!(item.answer_kind, Some(AnswerKind::MostHelpful));
    assert!(item.solution.starts_with("Restart"));
}

#[test]
fn first_answers_and_unsolved_tickets_on_demand_only() {
    let folder = tempfile::tempdir().expect("folder");
    let row = GOOD.replace("\"accepted\"", "\"first_helper\"").replace("\"resolved_at\":\"2025-01-01T13:30:00Z\",", "");
    let path = file(&folder, "a.jsonl", row.as_bytes());
    assert_eq!(tickets(&path, ImportOptions::default())[0].as_ref().expect_err("reject").reason, Reason::NoAnswer);
    let first = ImportOptions { answers: vec![AnswerKind::FirstHelper], ..ImportOptions::default() };
    assert!(tickets(&path, first.clone())[0].is_ok());
    let solved = ImportOptions { solved_only: true, ..first };
    assert_eq!(tickets(&path, solved)[0].as_ref().expect_err("reject").reason, Reason::NotSolved);
}

#[test]
fn articles_in_both_schemas() {
    let folder = tempfile::tempdir().expect("folder");
    let rows = "{\"_id\":\"a-b\",\"title\":\"Sound\",\"text\":\"Open the settings, choose audio and select your output device.\"}\n\
                {\"id\":\"c\",\"title\":\"Sonido\",\"summary\":\"Cómo elegirlo\",\"text\":\"Abra los ajustes y elija la salida de sonido \
                que quiera usar.\",\"url\":\"javascript:alert(1)\",\"updated_at\":\"2025-02-03 10:00:00\"}\n{\"id\":\"d\",\"title\":\"x\",\"text\":\"short\"}";
    let path = file(&folder, "kb.jsonl", rows.as_bytes());
    let items: Vec<_> = open(&path, MemoryKind::Article, ImportOptions::default()).expect("open").collect();
    assert_eq!(items[0].as_ref().expect("item").language, Language::EN);
    let spanish = items[1].as_ref().expect("item");
    assert_eq!((spanish.problem.as_str(), spanish.url.as_deref()), ("Cómo elegirlo", None));
    assert!(spanish.created_at.is_some());
    assert_eq!(items[2].as_ref().expect_err("reject").reason, Reason::ArticleTooShort);
}
