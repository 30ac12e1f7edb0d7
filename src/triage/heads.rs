//! The trained heads: multinomial logistic regressions over two views of a request (its text, its meaning), mixed with what a reader
//! ([`crate::embed::reader`]) says of it and a language model makes of it ([`super::opinion`]), and calibrated; and the file that keeps them.
//!
//! Each head has a text view and, where an embedding is at hand, a meaning view; the reader's scores are a third, a linear map of
//! the language model's states a fourth. Their log-odds are added with one scale per view and one offset per class, fitted on predictions for texts that the views had not seen: this mixes
//! and calibrates in one step (vector scaling, Guo et al. 2017). There is a fit for each set of views that may be at hand.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use half::f16;
use serde::{Deserialize, Serialize};

use super::data::Task;
use super::features::{BUCKETS, Centre, FEATURE_VERSION, Row, TEXT_DIMENSIONS, meaning_dimensions};
use super::fit::Known;
use super::opinion::States;
use super::words::{TAG_BUCKETS, Tagger};

const MAGIC: &[u8; 4] = b"RTRI";
const FORMAT_VERSION: u32 = 3;
/// Every judgement has four classes.
pub const CLASSES: usize = 4;
/// Limit for the JSON part, against a damaged length.
const MAX_HEADER_BYTES: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TriageError {
    #[error("triage weights {path}: {source}; train them with `respondo train triage`")]
    Read { path: String, source: std::io::Error },
    #[error("triage weights {path} cannot be written: {source}")]
    Write { path: String, source: std::io::Error },
    #[error(
        "the new weights judge {task} worse than those that are there (Brier score {by:+.3} [{low:+.3}, {high:+.3}] on the \
         development rows): nothing was written; --anyway writes them all the same"
    )]
    Worse { task: &'static str, by: f32, low: f32, high: f32 },
    #[error("triage weights: {0}; train them with `respondo train triage`")]
    Damaged(String),
    #[error("training data {path}: {reason}")]
    Data { path: String, reason: String },
    #[error("embedding the training data: {0}")]
    Embedding(String),
}

/// One linear map from a row to a score per class.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `weights[position * CLASSES + class]`.
    pub weights: Vec<f32>,
    pub bias: [f32; CLASSES],
}

impl Linear {
    /// Of no positions: says nothing.
    pub fn none() -> Self {
        Self { weights: Vec::new(), bias: [0.0; CLASSES] }
    }

    pub fn scores(&self, row: &Row) -> [f32; CLASSES] {
        let mut scores = self.bias;
        for (position, value) in row {
            let start = *position as usize * CLASSES;
            let Some(weights) = self.weights.get(start..start + CLASSES) else { continue };
            scores.iter_mut().zip(weights).for_each(|(score, weight)| *score += weight * value);
        }
        scores
    }
}

/// Scales of the views and offsets of the classes; the scale of a view that is not at hand is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mix {
    pub text: f32,
    pub meaning: f32,
    pub reading: f32,
    pub opinion: f32,
    pub offsets: [f32; CLASSES],
}

/// A score per class.
pub type Scores = [f32; CLASSES];

impl Mix {
    /// Calibrated probabilities from the scores of the views, in the order of [`Known`].
    pub fn probabilities(&self, [text, meaning, reading, opinion]: [Scores; 4]) -> Scores {
        let mut scores = self.offsets;
        for class in 0..CLASSES {
            scores[class] += self.text * text[class]
                + self.meaning * meaning[class]
                + self.reading * reading[class]
                + self.opinion * opinion[class];
        }
        softmax(scores)
    }
}

/// One judgement's head.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub text: Linear,
    pub meaning: Linear,
    /// Of no positions where the heads were trained without a language model.
    pub opinion: Linear,
    pub settings: HeadSettings,
}

/// How the views that are at hand become a judgement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub mix: Mix,
    /// Below this probability of the best class the head abstains.
    pub abstain_below: f32,
}

/// The small numbers of a head, kept readable in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadSettings {
    pub text_only: Calibration,
    /// Text and embedding.
    pub with_meaning: Calibration,
    /// And the reader's scores; None where the heads were trained without a reader, or it takes no part.
    pub with_reading: Option<Calibration>,
    /// All that judges this task, and the language model's opinion; None where the heads were trained without one.
    pub with_opinion: Option<Calibration>,
    /// L2 strengths chosen on folds.
    pub text_l2: f32,
    pub meaning_l2: f32,
    pub opinion_l2: f32,
}

impl HeadSettings {
    /// True where an opinion counts, of a request that a reader has read or not: the mix was made with all that was at hand then.
    pub fn takes_opinion(&self, is_read: bool) -> bool {
        self.with_opinion.is_some() && (is_read || self.with_reading.is_none())
    }

    /// How these views become a judgement; None where the heads were trained without one of them.
    pub fn of(&self, known: Known) -> Option<&Calibration> {
        match known {
            Known::Text => Some(&self.text_only),
            Known::Meaning => Some(&self.with_meaning),
            Known::Reading => self.with_reading.as_ref(),
            Known::Opinion => self.with_opinion.as_ref(),
        }
    }
}

impl Head {
    /// Calibrated probabilities and the threshold for abstaining. A reading without a meaning is not used, and no opinion without all
    /// that the mix has beside it.
    pub fn judge(
        &self,
        text: &Row,
        meaning: Option<&Row>,
        reading: Option<&Scores>,
        opinion: Option<&Row>,
    ) -> (Scores, f32) {
        let text = self.text.scores(text);
        let none = Scores::default();
        let with = |calibration: &Calibration, meaning: Scores, reading: Scores, opinion: Scores| {
            (calibration.mix.probabilities([text, meaning, reading, opinion]), calibration.abstain_below)
        };
        let HeadSettings { text_only, with_meaning, with_reading, with_opinion, .. } = &self.settings;
        let Some(meaning) = meaning.map(|row| self.meaning.scores(row)) else {
            return with(text_only, none, none, none);
        };
        let reading = reading.copied().filter(|_| with_reading.is_some());
        if let (Some(calibration), Some(opinion)) = (with_opinion, opinion)
            && self.settings.takes_opinion(reading.is_some())
        {
            return with(calibration, meaning, reading.unwrap_or(none), self.opinion.scores(opinion));
        }
        match (reading, with_reading) {
            (Some(reading), Some(calibration)) => with(calibration, meaning, reading, none),
            _ => with(with_meaning, meaning, none, none),
        }
    }
}

/// What the file says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub feature_version: u32,
    /// [`crate::embed::Embedder::name`] of the training embeddings.
    pub embedder: String,
    /// [`crate::embed::Reader::name`] of the reader that took part.
    pub reader: Option<String>,
    pub dimensions: usize,
    /// Day of training, ISO 8601.
    pub trained_on: String,
    pub seed: u64,
    /// Rows by file.
    pub rows: BTreeMap<String, usize>,
    /// Figures by judgement and measure, over folds and on dev.
    pub figures: BTreeMap<String, BTreeMap<String, f32>>,
    pub urgency: HeadSettings,
    pub difficulty: HeadSettings,
    pub next: HeadSettings,
    pub centre: Centre,
    /// None where the heads were trained without a language model.
    pub states: Option<States>,
    /// What a team's own heads were made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
}

/// Where a team's own heads come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// SHA-256 of the weights that they go out from.
    pub base: String,
    /// When the last of the judgements that they learnt from was made.
    pub until: jiff::Timestamp,
}

/// All that is needed to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    pub header: Header,
    /// Rarity of each n-gram bucket.
    pub idf: Vec<f32>,
    pub urgency: Head,
    pub difficulty: Head,
    pub next: Head,
    /// Finds the words that a support lead would mark for the urgency.
    pub tagger: Tagger,
}

impl Heads {
    pub fn of(&self, task: Task) -> &Head {
        match task {
            Task::Urgency => &self.urgency,
            Task::Difficulty => &self.difficulty,
            Task::Next => &self.next,
        }
    }

    /// Puts another head in the place of one.
    pub fn set(&mut self, task: Task, head: Head) {
        let (here, settings) = match task {
            Task::Urgency => (&mut self.urgency, &mut self.header.urgency),
            Task::Difficulty => (&mut self.difficulty, &mut self.header.difficulty),
            Task::Next => (&mut self.next, &mut self.header.next),
        };
        settings.clone_from(&head.settings);
        *here = head;
    }

    pub fn load(path: &Path) -> Result<Self, TriageError> {
        Self::from_bytes(&Self::bytes(path)?)
    }

    /// A file of heads as it is.
    pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, TriageError> {
        std::fs::read(path).map_err(|source| TriageError::Read { path: path.display().to_string(), source })
    }

    /// Layout, little endian: `RTRI`, u32 format version, u32 length of the JSON header, the header, then f16 blocks:
    /// idf, per head (urgency, difficulty, next) text weights and bias, meaning weights and bias, opinion weights and bias, then the tagger's weights
    /// and bias.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TriageError> {
        let mut rest = bytes;
        let mut word = [0u8; 4];
        let mut next_word = |rest: &mut &[u8]| {
            rest.read_exact(&mut word).map_err(|_| TriageError::Damaged("the file is cut short".into()))?;
            Ok::<_, TriageError>(word)
        };
        if &next_word(&mut rest)? != MAGIC {
            return Err(TriageError::Damaged("this is no triage weight file".into()));
        }
        let format = u32::from_le_bytes(next_word(&mut rest)?);
        if format != FORMAT_VERSION {
            return Err(TriageError::Damaged(format!("format {format} is not {FORMAT_VERSION}")));
        }
        let length = u32::from_le_bytes(next_word(&mut rest)?) as usize;
        if length > MAX_HEADER_BYTES || length > rest.len() {
            return Err(TriageError::Damaged("the file is cut short".into()));
        }
        let (header, weights) = rest.split_at(length);
        let header: Header =
            serde_json::from_slice(header).map_err(|error| TriageError::Damaged(format!("header: {error}")))?;
        if header.feature_version != FEATURE_VERSION {
            let found = header.feature_version;
            return Err(TriageError::Damaged(format!("made for features {found}, this program has {FEATURE_VERSION}")));
        }
        if header.centre.mean.len() != header.dimensions {
            return Err(TriageError::Damaged("the centre does not have the embedding's length".into()));
        }
        if header.states.as_ref().is_some_and(|states| states.mean.len() != states.scale.len()) {
            return Err(TriageError::Damaged("the states have another number of means than of scales".into()));
        }
        Self::read_blocks(header, weights)
    }

    fn read_blocks(header: Header, weights: &[u8]) -> Result<Self, TriageError> {
        let meaning = meaning_dimensions(header.dimensions);
        let opinion = header.states.as_ref().map_or(0, |states| states.mean.len());
        let positions = TEXT_DIMENSIONS + 1 + meaning + 1 + opinion + 1;
        let expected = 2 * (BUCKETS + 3 * CLASSES * positions + TAG_BUCKETS + 1);
        if weights.len() != expected {
            let found = weights.len();
            return Err(TriageError::Damaged(format!("{found} bytes of weights instead of {expected}")));
        }
        let mut values = weights.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32());
        let idf: Vec<f32> = values.by_ref().take(BUCKETS).collect();
        let mut linear = |positions: usize| {
            let weights = values.by_ref().take(positions * CLASSES).collect();
            let mut bias = [0.0; CLASSES];
            bias.iter_mut().zip(values.by_ref()).for_each(|(to, from)| *to = from);
            Linear { weights, bias }
        };
        let mut head = |settings: &HeadSettings| Head {
            text: linear(TEXT_DIMENSIONS),
            meaning: linear(meaning),
            opinion: linear(opinion),
            settings: settings.clone(),
        };
        let (urgency, difficulty, next) = (head(&header.urgency), head(&header.difficulty), head(&header.next));
        let tagger =
            Tagger { weights: values.by_ref().take(TAG_BUCKETS).collect(), bias: values.next().unwrap_or_default() };
        let all = [&urgency, &difficulty, &next];
        let linears = all.iter().flat_map(|head| [&head.text, &head.meaning, &head.opinion]);
        let weights = linears.flat_map(|linear| &linear.weights);
        if !idf.iter().chain(&tagger.weights).chain(weights).all(|value| value.is_finite()) {
            return Err(TriageError::Damaged("a weight is no number".into()));
        }
        Ok(Self { header, idf, urgency, difficulty, next, tagger })
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, TriageError> {
        let header = serde_json::to_vec(&self.header).map_err(|error| TriageError::Damaged(error.to_string()))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        let mut write =
            |values: &[f32]| bytes.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()));
        write(&self.idf);
        for head in [&self.urgency, &self.difficulty, &self.next] {
            for linear in [&head.text, &head.meaning, &head.opinion] {
                write(&linear.weights);
                write(&linear.bias);
            }
        }
        write(&self.tagger.weights);
        write(&[self.tagger.bias]);
        Ok(bytes)
    }
}

pub fn softmax(scores: [f32; CLASSES]) -> [f32; CLASSES] {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers = scores.map(|score| (score - highest).exp());
    let total: f32 = powers.iter().sum();
    powers.map(|power| power / total)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Heads with small weights, for tests that must not depend on the trained file.
    pub fn sample(dimensions: usize) -> Heads {
        let mix = Mix { text: 1.0, meaning: 0.5, reading: 0.5, opinion: 0.5, offsets: [0.0, 0.5, 0.0, 0.0] };
        let settings = HeadSettings {
            text_only: Calibration { mix: mix.clone(), abstain_below: 0.45 },
            with_meaning: Calibration { mix: mix.clone(), abstain_below: 0.4 },
            with_reading: Some(Calibration { mix: mix.clone(), abstain_below: 0.4 }),
            with_opinion: Some(Calibration { mix, abstain_below: 0.4 }),
            text_l2: 1e-3,
            meaning_l2: 1e-3,
            opinion_l2: 1e-1,
        };
        let linear = |positions: usize| Linear {
            weights: (0..positions * CLASSES).map(|at| (at % 7) as f32 - 3.0).collect(),
            bias: [0.0, 0.25, -0.25, 0.0],
        };
        let head = Head {
            text: linear(TEXT_DIMENSIONS),
            meaning: linear(meaning_dimensions(dimensions)),
            opinion: linear(2),
            settings: settings.clone(),
        };
        let header = Header {
            feature_version: FEATURE_VERSION,
            embedder: "sample".into(),
            reader: Some("reader".into()),
            dimensions,
            trained_on: "2026-01-01".into(),
            seed: 1,
            rows: BTreeMap::new(),
            figures: BTreeMap::new(),
            urgency: settings.clone(),
            difficulty: settings.clone(),
            next: settings,
            centre: Centre { mean: vec![0.0; dimensions], scale: 1.0 },
            states: Some(States { name: "states".into(), mean: vec![0.0; 2], scale: vec![1.0; 2] }),
            own: None,
        };
        let tagger = Tagger { weights: vec![0.5; TAG_BUCKETS], bias: -1.0 };
        Heads { header, idf: vec![1.0; BUCKETS], urgency: head.clone(), difficulty: head.clone(), next: head, tagger }
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let heads = sample(4);
        let bytes = heads.to_bytes().expect("sample heads can be written");
        assert_eq!(Heads::from_bytes(&bytes).expect("what was written can be read"), heads);
    }

    #[test]
    fn damaged_files_are_refused_in_words() {
        let bytes = sample(4).to_bytes().expect("sample heads can be written");
        let refused = |bytes: &[u8]| Heads::from_bytes(bytes).expect_err("must be refused").to_string();
        assert!(refused(&[]).contains("cut short"));
        assert!(refused(b"GGUF\0\0\0\0").contains("no triage weight file"));
        assert!(refused(&bytes[..bytes.len() - 2]).contains("bytes of weights"));
        assert!(refused(&bytes[..40]).contains("cut short"));
        let mut not_a_number = bytes.clone();
        let end = not_a_number.len();
        not_a_number[end - 12..end - 10].copy_from_slice(&f16::NAN.to_le_bytes());
        assert!(refused(&not_a_number).contains("no number"));
    }

    #[test]
    fn probabilities_sum_to_one() {
        for scores in [[0.0; 4], [1e30, -1e30, 0.0, 1.0], [-50.0, -60.0, -70.0, -80.0]] {
            let total: f32 = softmax(scores).iter().sum();
            assert!((total - 1.0).abs() < 1e-5);
        }
    }
}
