//! What fine-tuning changed of an encoder: a difference of low rank for each of its matrices (LoRA, Hu et al. 2021,
//! arXiv 2106.09685), added to the weights once, when they are loaded. It costs nothing afterwards.
//!
//! Layout, little endian: magic `E5LR`, u32 version, layers, first, hidden, ffn, rank. Then for each layer from the `first` on to that
//! number, and for each of its matrices q, k, v, ao, fi and fo (named as in the container): `down`, `[rank, inputs]`, and `up`,
//! `[outputs, rank]`, in f16. The matrix becomes `weight + up down`.

use std::ops::Range;
use std::path::Path;

use half::f16;
use sha2::{Digest, Sha256};

use super::EmbedError;
use super::container::BertShape;

const MAGIC: &[u8; 4] = b"E5LR";
const VERSION: u32 = 1;
/// Numbers behind the magic.
const HEADER: usize = 6;
/// Matrices of a layer, in the order of the file.
const MATRICES: [&str; 6] = ["q.w", "k.w", "v.w", "ao.w", "fi.w", "fo.w"];
/// A difference of a higher rank is larger than the matrices.
const HIGHEST_RANK: usize = 192;

/// The difference that the program brings: see models/README.md for what it was learnt from.
static BUILT_IN: &[u8] = include_bytes!("../../models/encoder.bin");

/// A difference that was read and fits a shape.
#[derive(Clone, Debug)]
pub struct Tuning {
    hidden: usize,
    ffn: usize,
    /// As many of the model's, from the lowest, as it goes up to.
    layers: usize,
    /// The lowest layer that was tuned.
    first: usize,
    rank: usize,
    /// All numbers behind the header, in the order of the file.
    values: Vec<f32>,
    /// The first digits of the file's SHA-256: two differences of one team do not share them by chance.
    digest: String,
}

impl Tuning {
    /// What a setting names: "built-in", "none", or a file.
    ///
    /// # Errors
    /// As [`Tuning::load`].
    pub fn named(choice: &str) -> Result<Option<Self>, EmbedError> {
        match choice {
            "built-in" => Self::built_in().map(Some),
            "none" => Ok(None),
            path => Self::load(Path::new(path)).map(Some),
        }
    }

    /// The one that the program brings.
    ///
    /// # Errors
    /// When models/encoder.bin was damaged when the program was built.
    pub fn built_in() -> Result<Self, EmbedError> {
        Self::parse(BUILT_IN).map_err(|reason| EmbedError::file(Path::new("models/encoder.bin"), reason))
    }

    /// A team's own, from a file.
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
            .ok_or("is no difference of an encoder (it does not begin with E5LR)")?;
        let mut header = numbers.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number));
        let mut number = || header.next().and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
        let (version, layers, first) = (number(), number(), number());
        let (hidden, ffn, rank) = (number(), number(), number());
        if version != VERSION as usize {
            return Err(format!("is a difference of version {version}, not {VERSION}"));
        }
        if !(1..=HIGHEST_RANK).contains(&rank) {
            return Err(format!("has rank {rank}, not 1 to {HIGHEST_RANK}"));
        }
        if first > layers {
            return Err(format!("begins with layer {first} of {layers}"));
        }
        let tuning = Self { hidden, ffn, layers, first, rank, values: Vec::new(), digest: String::new() };
        let wanted = tuning.layer_values().checked_mul(layers - first).and_then(|values| values.checked_mul(2));
        if wanted != Some(rest.len()) {
            return Err(format!("has {} bytes of numbers where its header wants {}", rest.len(), wanted.unwrap_or(0)));
        }
        let values: Vec<f32> =
            rest.as_chunks::<2>().0.iter().map(|value| f16::from_le_bytes(*value).to_f32()).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err("holds a value that is no finite number".to_owned());
        }
        let digest = Sha256::digest(bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { values, digest, ..tuning })
    }

    /// What is appended to the model's name: vectors of two differences are never mixed.
    pub fn suffix(&self) -> String {
        format!("-t{}", self.digest)
    }

    /// The layers that it changes; those below and above are as they were published.
    pub fn changed_layers(&self) -> Range<usize> {
        self.first..self.layers
    }

    /// Whether it was made for a model of this shape.
    pub fn fits(&self, shape: BertShape) -> bool {
        self.layers <= shape.layers && (self.hidden, self.ffn) == (shape.hidden, shape.ffn)
    }

    /// Adds the difference to the decoded tensor with this name; one that it says nothing of stays as it is.
    pub fn add_to(&self, name: &str, weight: &mut [f32]) {
        let Some((down, up)) = self.parts(name) else { return };
        let inputs = down.len() / self.rank;
        for (row, up) in weight.chunks_exact_mut(inputs).zip(up.chunks_exact(self.rank)) {
            for (factor, down) in up.iter().zip(down.chunks_exact(inputs)) {
                row.iter_mut().zip(down).for_each(|(value, down)| *value += factor * down);
            }
        }
    }

    /// `down` and `up` of a tensor `l<layer>.<matrix>`.
    fn parts(&self, name: &str) -> Option<(&[f32], &[f32])> {
        let (layer, matrix) = name.strip_prefix('l')?.split_once('.')?;
        let layer: usize = layer.parse().ok().filter(|layer| *layer < self.layers)?;
        let tuned = layer.checked_sub(self.first)?;
        let position = MATRICES.iter().position(|known| *known == matrix)?;
        let before: usize = MATRICES[..position].iter().map(|matrix| self.matrix_values(matrix)).sum();
        let (inputs, outputs) = self.size(matrix);
        let values = self.values.get(tuned * self.layer_values() + before..)?;
        let (down, rest) = values.split_at_checked(self.rank * inputs)?;
        Some((down, rest.get(..outputs * self.rank)?))
    }

    /// Inputs and outputs of a matrix.
    fn size(&self, matrix: &str) -> (usize, usize) {
        match matrix {
            "fi.w" => (self.hidden, self.ffn),
            "fo.w" => (self.ffn, self.hidden),
            _ => (self.hidden, self.hidden),
        }
    }

    fn matrix_values(&self, matrix: &str) -> usize {
        let (inputs, outputs) = self.size(matrix);
        inputs.saturating_add(outputs).saturating_mul(self.rank)
    }

    fn layer_values(&self) -> usize {
        MATRICES.iter().fold(0, |sum: usize, matrix| sum.saturating_add(self.matrix_values(matrix)))
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::container::Container;
    use super::super::container::tests::tiny_container;
    use super::*;

    /// A difference for the tiny container: 1 layer, 32 wide, 64 in the middle.
    pub fn tiny_tuning(rank: u32, seed: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = MAGIC.to_vec();
        [VERSION, 1, 0, 32, 64, rank].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        let values = (4 * (32 + 32) + 2 * (32 + 64)) * rank;
        bytes.extend((0..values).flat_map(|_| f16::from_f32(random.f32() - 0.5).to_le_bytes()));
        bytes
    }

    #[test]
    fn a_matrix_becomes_its_weight_and_the_product() {
        let tuning = Tuning::parse(&tiny_tuning(3, 1)).expect("a difference");
        let container = Container::parse("tiny".to_owned(), tiny_container()).expect("a container");
        assert!(tuning.fits(container.shape()));
        for (name, inputs, outputs) in [("l0.q.w", 32, 32), ("l0.fi.w", 32, 64), ("l0.fo.w", 64, 32)] {
            let before = container.tensor(name, inputs * outputs).expect("a tensor");
            let mut after = before.clone();
            tuning.add_to(name, &mut after);
            let (down, up) = tuning.parts(name).expect("a part");
            for (row, column) in [(0, 0), (outputs - 1, inputs - 1), (5, 31)] {
                let product: f32 = (0..3).map(|at| up[row * 3 + at] * down[at * inputs + column]).sum();
                let wanted = before[row * inputs + column] + product;
                assert!((after[row * inputs + column] - wanted).abs() < 1e-5, "{name} {row} {column}");
            }
        }
        // Neighbours in the file do not overlap.
        let last = tuning.parts("l0.fo.w").expect("a part");
        assert!(std::ptr::eq(&raw const last.1[last.1.len() - 1], &raw const tuning.values[tuning.values.len() - 1]));
        let mut bias = vec![1.0; 32];
        for name in ["l0.q.b", "l1.q.w", "emb.word", "lx.q.w", ""] {
            tuning.add_to(name, &mut bias);
        }
        assert_eq!(bias, vec![1.0; 32]);
    }

    #[test]
    fn damage_is_named() {
        let good = tiny_tuning(2, 1);
        assert!(Tuning::parse(b"E5S1").expect_err("another file").contains("E5LR"));
        assert!(Tuning::parse(&good[..good.len() - 2]).expect_err("cut short").contains("bytes of numbers"));
        assert!(Tuning::parse(&good[..10]).expect_err("cut in its header").contains("E5LR"));
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Tuning::parse(&bytes).expect_err("refused")
        };
        assert!(with(4, 2).contains("version 2"));
        assert!(with(24, 0).contains("rank 0") && with(24, u32::MAX).contains("rank"));
        assert!(with(8, u32::MAX).contains("bytes of numbers") && with(16, u32::MAX).contains("bytes of numbers"));
        assert!(with(12, 2).contains("layer 2 of 1") && with(12, 1).contains("bytes of numbers"));
        let mut infinite = good.clone();
        let end = infinite.len();
        infinite[end - 2..].copy_from_slice(&f16::INFINITY.to_le_bytes());
        assert!(Tuning::parse(&infinite).expect_err("not finite").contains("finite"));
        assert_ne!(
            Tuning::parse(&good).expect("one").suffix(),
            Tuning::parse(&tiny_tuning(2, 2)).expect("another").suffix()
        );
    }
}
