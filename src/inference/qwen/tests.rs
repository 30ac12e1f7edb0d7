//! Qwen3 against candle's own model, over a small file made here: what sets the family apart (norms of queries and keys,
//! heads wider than their share, no biases) is the same at any size.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_transformers::models::quantized_qwen3::ModelWeights;

use super::*;

const WIDTH: usize = 512;
const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
/// In Qwen3 the heads together are wider or narrower than the hidden state; here they are half as wide.
const HEAD_WIDTH: usize = 64;
const INNER: usize = 768;
const WORDS: usize = 320;
const LAYERS: usize = 3;

/// Writes the model; weights are random, of a size that keeps the hidden state in bounds.
fn write_model(path: &std::path::Path) {
    let mut random = fastrand::Rng::with_seed(3);
    let mut tensors: BTreeMap<String, QTensor> = BTreeMap::new();
    let mut add = |name: String, shape: &[usize], dtype: GgmlDType, centre: f32, spread: f32| {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| centre + spread * (2.0 * random.f32() - 1.0)).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("tensor");
        tensors.insert(name, QTensor::quantize(&tensor, dtype).expect("quantised"));
    };
    let (q4, q6, full) = (GgmlDType::Q4K, GgmlDType::Q6K, GgmlDType::F32);
    add("token_embd.weight".into(), &[WORDS, WIDTH], q6, 0.0, 1.0);
    add("output_norm.weight".into(), &[WIDTH], full, 1.0, 0.3);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        add(name("attn_norm"), &[WIDTH], full, 1.0, 0.3);
        add(name("ffn_norm"), &[WIDTH], full, 1.0, 0.3);
        add(name("attn_q_norm"), &[HEAD_WIDTH], full, 1.5, 0.5);
        add(name("attn_k_norm"), &[HEAD_WIDTH], full, 1.5, 0.5);
        add(name("attn_q"), &[HEADS * HEAD_WIDTH, WIDTH], q4, 0.0, 0.1);
        add(name("attn_k"), &[KEY_HEADS * HEAD_WIDTH, WIDTH], q4, 0.0, 0.1);
        add(name("attn_v"), &[KEY_HEADS * HEAD_WIDTH, WIDTH], q6, 0.0, 0.1);
        add(name("attn_output"), &[WIDTH, HEADS * HEAD_WIDTH], q4, 0.0, 0.1);
        add(name("ffn_gate"), &[INNER, WIDTH], q4, 0.0, 0.1);
        add(name("ffn_up"), &[INNER, WIDTH], q4, 0.0, 0.1);
        add(name("ffn_down"), &[WIDTH, INNER], q6, 0.0, 0.1);
    }
    let metadata = [
        ("general.architecture", Value::String("qwen3".into())),
        // 32-bit floats in candle's model.
        ("general.dtype", Value::U32(0)),
        ("qwen3.attention.head_count", Value::U32(HEADS as u32)),
        ("qwen3.attention.head_count_kv", Value::U32(KEY_HEADS as u32)),
        ("qwen3.attention.key_length", Value::U32(HEAD_WIDTH as u32)),
        ("qwen3.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("qwen3.block_count", Value::U32(LAYERS as u32)),
        ("qwen3.embedding_length", Value::U32(WIDTH as u32)),
        ("qwen3.feed_forward_length", Value::U32(INNER as u32)),
        ("qwen3.context_length", Value::U32(256)),
        ("qwen3.rope.freq_base", Value::F32(1_000_000.0)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = File::create(path).expect("a file");
    gguf_file::write(&mut file, &metadata, &tensors).expect("written");
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    sum(a, b) / (sum(a, a) * sum(b, b)).sqrt()
}

#[test]
fn qwen3_agrees_with_candles_own_at_every_length() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("qwen3.gguf");
    write_model(&path);
    let mut file = File::open(&path).expect("a file");
    let content = Content::read(&mut file).expect("GGUF");
    let mut model = Qwen::load("qwen3", &content, &mut file, 64).expect("loads");
    let mut reference = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).expect("candle loads it");
    let tokens: Vec<u32> = (0..24u32).map(|n| (n * 37 + 5) % WORDS as u32).collect();
    let mut sequence = model.sequence();
    let mut at = 0;
    // A prompt at once, then one token after the other.
    for count in [12, 1, 1, 5, 1, 1, 3] {
        let piece = &tokens[at..at + count];
        let part = Part { sequence: &mut sequence, tokens: piece, predictions: 1 };
        let ours = model.logits(&mut [part], &mut || ControlFlow::Continue(())).expect("a pass").expect("whole");
        // Candle reads everything anew and at once: its scores are others when it reads several tokens behind kept ones.
        reference.clear_kv_cache();
        let ids = Tensor::new(&tokens[..at + count], &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).expect("ids");
        let theirs: Vec<f32> =
            reference.forward(&ids, 0).and_then(|l| l.flatten_all()).and_then(|l| l.to_vec1()).expect("forward");
        let same = cosine(ours, &theirs);
        // Not 1: both round activations to 8 bits on the way, each with scales of its own, and random weights make more of
        // that than learned ones.
        assert!(same > 0.995, "{same} behind {at} + {count} tokens");
        at += count;
        // What was read before the last tokens is not lost in that noise.
        let mut other = model.sequence();
        let part = Part { sequence: &mut other, tokens: piece, predictions: 1 };
        let alone = model.logits(&mut [part], &mut || ControlFlow::Continue(())).expect("a pass").expect("whole");
        let without = cosine(alone, &theirs);
        assert!(at == count || without < 0.95, "{without} without the tokens before");
    }
}
