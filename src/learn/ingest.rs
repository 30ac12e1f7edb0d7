//! Reads files of resolved tickets and articles into the memory.

use std::collections::BTreeMap;
use std::path::Path;

use crate::intake::import::{self, ImportError, ImportOptions, Reject};
use crate::store::{PutResult, Store, StoreError, content_hash};
use crate::ticket::{MemoryItem, MemoryKind};

/// Items written in one transaction.
const BATCH: usize = 400;

#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What came of one file.
#[derive(Clone, Debug, Default)]
pub struct FileReport {
    pub put: PutResult,
    pub rejected: u64,
    /// How often each reason for a rejection occurred.
    pub reasons: BTreeMap<String, u64>,
}

/// Reads one file into the store. Repeating it changes nothing: rows are known by id and compared by content, so an
/// interrupted run is simply run again. `rejected` hears of every row that was not taken, `progress` of bytes read and
/// bytes in all.
///
/// # Errors
/// When the file cannot be opened or is of no known format, or the store fails.
pub async fn ingest_file(
    store: &Store,
    path: &Path,
    kind: MemoryKind,
    options: ImportOptions,
    mut rejected: impl FnMut(&Reject),
    mut progress: impl FnMut(u64, u64),
) -> Result<FileReport, IngestError> {
    let mut rows = import::open(path, kind, options)?;
    let mut report = FileReport::default();
    let mut batch: Vec<MemoryItem> = Vec::with_capacity(BATCH);
    while let Some(row) = rows.next() {
        match row {
            Ok(item) => batch.push(item),
            Err(reject) => {
                report.rejected += 1;
                *report.reasons.entry(reject.reason.label()).or_default() += 1;
                rejected(&reject);
            }
        }
        if batch.len() >= BATCH {
            put(store, &mut batch, &mut report).await?;
            let (read, total) = rows.progress();
            progress(read, total);
        }
    }
    put(store, &mut batch, &mut report).await?;
    let (_, total) = rows.progress();
    progress(total, total);
    Ok(report)
}

async fn put(store: &Store, batch: &mut Vec<MemoryItem>, report: &mut FileReport) -> Result<(), StoreError> {
    let hashes = batch.iter().map(content_hash).collect::<Result<Vec<_>, _>>()?;
    let put = store.put_items(batch, &hashes).await?;
    report.put.new += put.new;
    report.put.changed += put.changed;
    report.put.same += put.same;
    batch.clear();
    Ok(())
}
