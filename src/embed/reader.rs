//! A second top of the encoder, which reads a request for its urgency, difficulty and next step instead of its meaning.
//!
//! The lower layers are those that embed. The ones above, few, are copies of the published ones with a difference of their own
//! ([`super::tuning`]), learnt from labelled requests; higher ones play no part. Each judgement then weighs the tokens by a query of its own (attention pooling,
//! learnt to look at the words that a labeller marked), and scores its classes from that and from the mean of all tokens.
//!
//! Layout, little endian: magic `E5RD`, u32 version, judgements, classes, hidden, bytes of the difference; the difference, as
//! `models/encoder.bin`; f32 queries `[judgements, hidden]`, weights `[judgements, classes, 2 * hidden]` (of the weighed tokens, then of
//! the mean) and bias `[judgements, classes]`.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::EmbedError;
use super::container::BertShape;
use super::tuning::Tuning;

const MAGIC: &[u8; 4] = b"E5RD";
const VERSION: u32 = 1;
/// Numbers behind the magic.
const HEADER: usize = 5;
/// More of either is a damaged file.
const MOST: usize = 64;

/// The reader that the program brings: see models/README.md for what it was learnt from.
static BUILT_IN: &[u8] = include_bytes!("../../models/reader.bin");

/// Scores for the classes of each judgement from the tokens of a request.
#[derive(Clone, Debug)]
pub struct Reader {
    tuning: Tuning,
    judgements: usize,
    classes: usize,
    hidden: usize,
    queries: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    name: String,
}

impl Reader {
    /// The one that the program brings.
    ///
    /// # Errors
    /// When models/reader.bin was damaged when the program was built.
    pub fn built_in() -> Result<Self, EmbedError> {
        Self::parse(BUILT_IN).map_err(|reason| EmbedError::file(Path::new("models/reader.bin"), reason))
    }

    /// One from a file.
    ///
    /// # Errors
    /// [`EmbedError::File`] when it cannot be read or is none.
    pub fn load(path: &Path) -> Result<Self, EmbedError> {
        let bytes = std::fs::read(path).map_err(|error| EmbedError::file(path, format!("cannot be read: {error}")))?;
        Self::parse(&bytes).map_err(|reason| EmbedError::file(path, reason))
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (numbers, rest) = bytes
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_at_checked(4 * HEADER))
            .ok_or("is no reader of requests (it does not begin with E5RD)")?;
        let mut header = numbers.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number));
        let mut number = || header.next().and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
        let (version, judgements, classes) = (number(), number(), number());
        let (hidden, difference) = (number(), number());
        if version != VERSION as usize {
            return Err(format!("is a reader of version {version}, not {VERSION}"));
        }
        if !(1..=MOST).contains(&judgements) || !(1..=MOST).contains(&classes) {
            return Err(format!("has {judgements} judgements of {classes} classes"));
        }
        let (difference, numbers) =
            rest.split_at_checked(difference).ok_or("is cut short within its difference".to_owned())?;
        let tuning = Tuning::parse(difference)?;
        let wanted = judgements * (1 + 2 * classes) * hidden + judgements * classes;
        if numbers.len() != 4 * wanted {
            return Err(format!("has {} bytes of numbers where its header wants {}", numbers.len(), 4 * wanted));
        }
        let mut values = numbers.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
        let mut take = |count: usize| values.by_ref().take(count).collect::<Vec<f32>>();
        let queries = take(judgements * hidden);
        let weights = take(judgements * classes * 2 * hidden);
        let bias = take(judgements * classes);
        if queries.iter().chain(&weights).chain(&bias).any(|value| !value.is_finite()) {
            return Err("holds a value that is no finite number".to_owned());
        }
        let name = Sha256::digest(bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { tuning, judgements, classes, hidden, queries, weights, bias, name })
    }

    /// The first digits of the file's SHA-256: scores of two readers are never taken for each other.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its layers above the shared ones differ by from the published ones.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Whether it was made for a model of this shape.
    pub fn fits(&self, shape: BertShape) -> bool {
        self.hidden == shape.hidden && self.tuning.fits(shape)
    }

    /// `[judgements * classes]` scores (log-odds, not calibrated) from the last layer's `[tokens, hidden]` of one request.
    pub fn scores(&self, tokens: &[f32]) -> Vec<f32> {
        let rows = || tokens.chunks_exact(self.hidden);
        let mean = weighed(rows(), std::iter::repeat(1.0), self.hidden);
        let mut scores = Vec::with_capacity(self.judgements * self.classes);
        let weights = self.weights.chunks_exact(self.classes * 2 * self.hidden);
        let bias = self.bias.chunks_exact(self.classes);
        for ((query, weights), bias) in self.queries.chunks_exact(self.hidden).zip(weights).zip(bias) {
            let fits: Vec<f32> = rows().map(|row| dot(row, query)).collect();
            let highest = fits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let looked_at = weighed(rows(), fits.iter().map(|fit| (fit - highest).exp()), self.hidden);
            let of_class = weights.chunks_exact(2 * self.hidden).zip(bias);
            scores.extend(of_class.map(|(weights, bias)| {
                let (of_tokens, of_mean) = weights.split_at(self.hidden);
                dot(of_tokens, &looked_at) + dot(of_mean, &mean) + bias
            }));
        }
        scores
    }
}

/// The mean of `rows`, each with its weight.
fn weighed<'a>(rows: impl Iterator<Item = &'a [f32]>, weights: impl Iterator<Item = f32>, width: usize) -> Vec<f32> {
    let (mut sum, mut total) = (vec![0.0; width], 0.0);
    for (row, weight) in rows.zip(weights) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
        total += weight;
    }
    sum.iter_mut().for_each(|sum| *sum /= f32::max(total, f32::MIN_POSITIVE));
    sum
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
pub mod tests {
    use super::super::tuning::tests::tiny_tuning;
    use super::*;

    /// A reader of two judgements of three classes for the tiny container.
    pub fn tiny_reader(seed: u64) -> Vec<u8> {
        let difference = tiny_tuning(2, seed);
        let mut bytes = MAGIC.to_vec();
        let header = [VERSION, 2, 3, 32, u32::try_from(difference.len()).expect("small")];
        header.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(difference);
        let mut random = fastrand::Rng::with_seed(seed);
        let values = 2 * (1 + 2 * 3) * 32 + 2 * 3;
        bytes.extend((0..values).flat_map(|_| (random.f32() - 0.5).to_le_bytes()));
        bytes
    }

    /// A reader whose scores are the first six numbers of the mean.
    pub fn mean_reader(seed: u64) -> Reader {
        let mut reader = Reader::parse(&tiny_reader(seed)).expect("a reader");
        [&mut reader.queries, &mut reader.weights, &mut reader.bias].into_iter().for_each(|part| part.fill(0.0));
        (0..6).for_each(|class| reader.weights[class * 64 + 32 + class] = 1.0);
        reader
    }

    /// A reader that begins above the only layer of the tiny container.
    pub fn upper_reader() -> Reader {
        let mut bytes = b"E5LR".to_vec();
        [1u32, 1, 1, 32, 64, 2].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        let tuning = Tuning::parse(&bytes).expect("a difference of no layer");
        Reader { tuning, ..mean_reader(1) }
    }

    #[test]
    fn each_judgement_looks_at_its_own_tokens() {
        let mut reader = Reader::parse(&tiny_reader(1)).expect("a reader");
        reader.queries.fill(0.0);
        reader.queries[0] = 50.0;
        reader.weights.fill(0.0);
        // The first judgement's first class is the second number of what it looks at, the second's that of the mean.
        reader.weights[1] = 1.0;
        reader.weights[3 * 64 + 32 + 1] = 1.0;
        reader.bias.copy_from_slice(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let mut tokens = vec![0.0; 3 * 32];
        (tokens[32], tokens[33], tokens[65]) = (1.0, 8.0, 1.0);
        let scores = reader.scores(&tokens);
        let wanted = [8.0, 1.0, 2.0, 3.0 + 3.0, 4.0, 5.0];
        assert!(scores.iter().zip(wanted).all(|(score, wanted)| (score - wanted).abs() < 1e-3), "{scores:?}");
        assert!(reader.scores(&[]).iter().all(|score| score.is_finite()));
    }

    #[test]
    fn damage_is_named() {
        let good = tiny_reader(1);
        assert!(Reader::parse(b"E5LR").expect_err("another file").contains("E5RD"));
        assert!(Reader::parse(&good[..good.len() - 4]).expect_err("cut short").contains("bytes of numbers"));
        assert!(Reader::parse(&good[..30]).expect_err("cut in its difference").contains("cut short"));
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Reader::parse(&bytes).expect_err("refused")
        };
        assert!(with(4, 2).contains("version 2"));
        assert!(with(8, 0).contains("judgements") && with(12, u32::MAX).contains("classes"));
        assert!(with(16, 31).contains("bytes of numbers"));
        assert!(with(good.len() - 4, f32::NAN.to_bits()).contains("finite"));
        assert_ne!(Reader::parse(&good).expect("one").name(), Reader::parse(&tiny_reader(2)).expect("another").name());
        Reader::built_in().expect("models/reader.bin is whole");
    }
}
