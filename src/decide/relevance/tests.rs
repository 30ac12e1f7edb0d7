//! Facts and probabilities of made-up requests.

use super::*;
use crate::draft::select::tests::{found, request};
use crate::embed::{Reader, Tuning, e5};
use crate::ticket::Language;
use crate::triage::TriageModel;

fn item(language: Language, title: &str, problem: &str, solution: &str, similarity: f32) -> Retrieved {
    let mut item = found("a", language, solution, 1.0);
    item.item.title = title.to_owned();
    item.item.problem = problem.to_owned();
    item.similarity = similarity;
    item
}

fn kettle(similarity: f32) -> Retrieved {
    item(
        Language::EN,
        "The kettle does not boil",
        "My new kettle stays cold.",
        "Hello! Unplug the kettle. Press the red button for ten seconds: it resets.",
        similarity,
    )
}

fn model() -> RelevanceModel {
    RelevanceModel::embedded().expect("models/relevance.toml fits this program")
}

#[test]
fn facts_are_counted_as_their_names_say() {
    let asked = request("", "kettle stays cold, broken lid", Language::EN);
    let facts = Facts::of(&asked, &[kettle(0.9), item(Language::EN, "Invoices", "", "Pay online.", 0.8)]);
    assert!((facts.closest - 0.9).abs() < 1e-6 && (facts.first - 0.9).abs() < 1e-6, "{facts:?}");
    assert!((facts.mean - 0.85).abs() < 1e-6, "{facts:?}");
    // kettle, stay and cold of kettle, stay, cold, broken, lid.
    assert!((facts.first_coverage - 0.6).abs() < 1e-9 && (facts.best_coverage - 0.6).abs() < 1e-9, "{facts:?}");
    assert!((facts.shared_terms - 3f64.ln_1p()).abs() < 1e-9, "{facts:?}");
    // kettle of kettle and boil.
    assert!((facts.title - 0.5).abs() < 1e-9, "{facts:?}");
    assert_eq!(Facts::from_values(facts.values()), facts);
}

#[test]
fn steps_are_sentences_that_say_what_to_do() {
    assert_eq!(steps("Hello! Press the red button. Which model is it?"), 1);
    assert_eq!(steps("Open the lid of it\nClose the lid of it\n\nIt is blue outside"), 2);
    assert_eq!(steps("Pulse el botón rojo. Gracias."), 1);
    assert_eq!(steps(""), 0);
}

#[test]
fn what_fits_is_told_from_what_does_not_in_both_languages() {
    let model = model();
    let near = |language, body: &str, found: &[Retrieved]| model.probability(&request("", body, language), found);
    let fits = near(Language::EN, "The new kettle stays cold and does not boil", &[kettle(0.84)]);
    let beside = near(Language::EN, "Who won the cup in 2010?", &[kettle(0.64)]);
    assert!(fits > 0.8 && beside < 0.2, "{fits} {beside}");
    let spanish = item(
        Language::ES,
        "El hervidor no calienta",
        "Mi hervidor nuevo se queda frío.",
        "Desenchufe el hervidor. Pulse el botón rojo diez segundos.",
        0.84,
    );
    let fits = near(Language::ES, "El hervidor nuevo no calienta, se queda frío", std::slice::from_ref(&spanish));
    let beside = near(Language::ES, "¿Quién ganó la copa en 2010?", &[Retrieved { similarity: 0.64, ..spanish }]);
    assert!(fits > 0.8 && beside < 0.2, "{fits} {beside}");
}

#[test]
fn closer_and_more_shared_words_never_make_it_less_probable() {
    let model = model();
    assert!(model.weights.values().iter().all(|weight| *weight >= 0.0), "{:?}", model.weights);
}

#[test]
fn hostile_input_gives_a_probability() {
    let model = model();
    let huge = "botón ".repeat(100_000);
    for body in ["", "😀", "\u{0}\u{202e}", "密码", &huge] {
        for similarity in [0.9, -3.0, f32::NAN, f32::INFINITY] {
            let found = [item(Language::ES, body, body, body, similarity), kettle(similarity)];
            let probability = model.probability(&request(body, body, Language::UNKNOWN), &found);
            assert!((0.0..=1.0).contains(&probability), "{probability}");
        }
        assert_eq!(model.probability(&request("", body, Language::EN), &[]), 0.0);
    }
}

#[test]
fn weights_go_to_a_file_and_back_and_wrong_ones_are_refused() {
    let model = model();
    let text = model.to_toml().expect("TOML");
    assert_eq!(RelevanceModel::parse(&text).expect("the same weights"), model);
    assert_eq!(RelevanceModel::parse(&text).expect("the same weights").digest(), model.digest());
    let older = text.replace("version = 1", "version = 0");
    assert!(RelevanceModel::parse(&older).expect_err("another version").to_string().contains("version 0"));
    assert!(RelevanceModel::parse(&text.replace("bias = ", "bias = nan # ")).is_err());
    assert!(RelevanceModel::parse("bias = 1").is_err());
    assert!(RelevanceModel::load(Path::new("no/such/file.toml")).is_err());
}

#[test]
fn what_the_program_brings_was_learnt_with_the_embedder_that_it_brings() {
    let name = e5::name_with(Some(&Tuning::built_in().expect("models/encoder.bin is whole")));
    assert_eq!(model().embedder, name, "make models/relevance.toml anew (scripts/relevance/make)");
    let triage = TriageModel::embedded().expect("models/triage.bin fits this program");
    assert_eq!(triage.embedder(), name, "make models/triage.bin anew (`respondo train triage`)");
    let reader = Reader::built_in().expect("models/reader.bin is whole");
    assert_eq!(triage.reader(), Some(reader.name()), "make models/triage.bin anew (`respondo train triage`)");
}

#[test]
fn cosines_of_another_embedder_are_not_judged() {
    let name = model().embedder;
    assert!(model().for_embedder(&name).is_some());
    assert!(model().for_embedder("another").is_none());
}
