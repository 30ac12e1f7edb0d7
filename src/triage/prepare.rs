//! Labelled requests with their features, as training reads them.

use super::data::Labelled;
use super::features::{BUCKETS, Centre, Features, Row};
use super::heads::{Heads, Scores, TriageError};
use super::train::EmbedTexts;

/// Texts embedded at once between two reports of progress.
const EMBED_BATCH: usize = 32;

/// [`crate::embed::Embedder::read`] of one text.
pub type ReadOne<'a> = dyn FnMut(&str) -> Result<Option<Vec<Vec<f32>>>, TriageError> + 'a;

/// A labelled row with its features.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub row: Labelled,
    pub features: Features,
    pub embedding: Vec<f32>,
    /// By a reader that has not learnt from it.
    pub reading: Option<[Scores; 3]>,
    /// States of the language model that has read it.
    pub opinion: Option<Vec<f32>>,
    /// Features of the evidence alone, where there is some.
    pub evidence: Option<Features>,
}

impl Prepared {
    /// A row with its vector (role: query) and, where there is a reader, what that says of it.
    pub fn new(row: Labelled, embedding: Vec<f32>, reading: Option<[Scores; 3]>) -> Self {
        let request = row.request();
        let evidence = (!row.evidence.is_empty()).then(|| Features::of_text(&row.evidence, 0, &request.language));
        Self { features: Features::of(&request), row, embedding, reading, opinion: None, evidence }
    }
}

/// Embeds the rows, in order; `progress` gets a line per batch, with `name` for what they are.
///
/// # Errors
/// When a text cannot be embedded.
pub fn prepare(
    rows: Vec<Labelled>,
    name: &str,
    embed: &mut EmbedTexts<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Prepared>, TriageError> {
    let total = rows.len();
    let mut prepared = Vec::with_capacity(total);
    for batch in rows.chunks(EMBED_BATCH) {
        let texts: Vec<String> = batch.iter().map(|row| row.request().text()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let embeddings = embed(&texts)?;
        if embeddings.len() != batch.len() {
            return Err(TriageError::Embedding(format!("{} vectors for {} texts", embeddings.len(), batch.len())));
        }
        prepared.extend(batch.iter().zip(embeddings).map(|(row, vector)| Prepared::new(row.clone(), vector, None)));
        progress(&format!("{name}: {} of {total} requests read", prepared.len()));
    }
    Ok(prepared)
}

/// Puts to each row what a reader says of it. `read` gets one text at a time, and has none to say where it is no reader.
///
/// # Errors
/// When a text cannot be read.
pub fn read_all(prepared: &mut [Prepared], read: &mut ReadOne<'_>) -> Result<(), TriageError> {
    for one in prepared {
        let made = read(&one.row.request().text())?;
        one.reading = made.and_then(|readings| super::parts(readings.first()?));
    }
    Ok(())
}

pub fn rows(prepared: &[Prepared]) -> Vec<&Labelled> {
    prepared.iter().map(|one| &one.row).collect()
}

/// What is counted over the training rows of a fold, and the rows made with it.
pub struct Views {
    pub idf: Vec<f32>,
    pub centre: Centre,
    pub text: Vec<Row>,
    pub meaning: Vec<Row>,
    pub evidence: Vec<Option<Row>>,
}

impl Views {
    /// Rows of all `prepared`; frequencies and centre come from those with `learn` true.
    pub fn counted(prepared: &[Prepared], learn: &[bool]) -> Self {
        let learnt = || prepared.iter().zip(learn).filter(|(_, learn)| **learn).map(|(one, _)| one);
        let mut seen = vec![0u32; BUCKETS];
        learnt().flat_map(|one| one.features.grams()).for_each(|gram| seen[gram] += 1);
        let total = learnt().count() as f32;
        // A gram of one text only says nothing about others.
        let rarity = |seen: &u32| if *seen < 2 { 0.0 } else { ((1.0 + total) / (1.0 + *seen as f32)).ln() + 1.0 };
        let idf: Vec<f32> = seen.iter().map(rarity).collect();
        let learnt: Vec<&[f32]> = learnt().map(|one| one.embedding.as_slice()).collect();
        Self::with(prepared, idf, Centre::of(learnt.iter().copied()))
    }

    /// Rows of all `prepared` as these heads see them.
    pub fn of(prepared: &[Prepared], heads: &Heads) -> Self {
        Self::with(prepared, heads.idf.clone(), heads.header.centre.clone())
    }

    fn with(prepared: &[Prepared], idf: Vec<f32>, centre: Centre) -> Self {
        Self {
            text: prepared.iter().map(|one| one.features.text_row(&idf)).collect(),
            meaning: prepared.iter().map(|one| one.features.meaning_row(&one.embedding, &centre)).collect(),
            evidence: prepared.iter().map(|one| one.evidence.as_ref().map(|it| it.text_row(&idf))).collect(),
            idf,
            centre,
        }
    }
}
