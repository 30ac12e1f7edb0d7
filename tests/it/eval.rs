//! The evaluation as a team uses it: runs, reports, gates that shut, and what happens when something is missing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Env, Finished, chat_model, embedding_model, project, run, run_with_input, turn_to_write};

/// A folder with a suite in it; the runs and what they keep go there as well, so that nothing is taken from an earlier run
/// of the tests.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// `parts` are the parts and gates of the suite; `SAMPLES` stands for the memory of the samples, `DATA` for the folder of
    /// the project's own data.
    fn new(parts: &str) -> Self {
        let root = project().display();
        let memory = format!(
            "[{{ as = \"tickets\", path = \"{root}/samples/tickets.jsonl\" }}, \
             {{ as = \"articles\", path = \"{root}/samples/articles.jsonl\" }}]"
        );
        let parts = parts.replace("SAMPLES", &memory).replace("DATA", &format!("{root}/eval/data"));
        let folder = tempfile::tempdir().expect("a folder");
        let suite = format!("name = \"trial\"\nversion = 1\nseed = 7\n{parts}");
        fs::write(folder.path().join("trial.toml"), suite).expect("suite written");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn suite(&self) -> String {
        self.path("trial.toml").display().to_string()
    }

    /// `respondo eval COMMAND SUITE --out NAME MORE...`
    fn eval(&self, command: &str, out: &str, env: Env, more: &[&str]) -> Finished {
        let (suite, out) = (self.suite(), self.path(out).display().to_string());
        let arguments: Vec<&str> =
            ["eval", command, &suite, "--out", &out].into_iter().chain(more.iter().copied()).collect();
        let cache = self.cache();
        let env: Vec<(&str, &str)> =
            cache.iter().map(|(name, value)| (*name, value.as_str())).chain(env.iter().copied()).collect();
        run(self.folder.path(), &env, &arguments)
    }

    /// A cache of its own, with the models of the real one.
    fn cache(&self) -> [(&'static str, String); 2] {
        let models = respondo::models::default_cache_dir().display().to_string();
        [("RESPONDO_CACHE", self.path("cache").display().to_string()), ("RESPONDO_MODELS__CACHE", models)]
    }

    fn compare(&self, old: &str, new: &str) -> Finished {
        let (old, new) = (self.path(old).display().to_string(), self.path(new).display().to_string());
        run(self.folder.path(), &[], &["eval", "compare", &old, &new, "--suite", &self.suite()])
    }

    fn result(&self, out: &str) -> Value {
        let text = fs::read_to_string(self.path(out).join("result.json")).expect("a result");
        serde_json::from_str(&text).expect("JSON")
    }
}

fn code(finished: &Finished) -> i32 {
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    finished.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", finished.stderr))
}

const SEARCH: &str = r#"
[[part]]
name = "search"
kind = "retrieval"
data = { format = "requests", path = "DATA/requests.jsonl" }
memory = SAMPLES
[[gate]]
part = "search"
metric = "ndcg@10"
"#;

#[test]
fn a_run_against_itself_shows_no_change_and_a_broken_fusion_shuts_the_gate() {
    if embedding_model().is_none() {
        return;
    }
    let bench = Bench::new(SEARCH);
    let said = bench.eval("run", "one", &[], &["--fresh"]).ok();
    assert!(said.contains("ndcg@10"), "{said}");
    for file in ["result.json", "report.html", "report.md", "junit.xml", "cases/search.jsonl"] {
        assert!(bench.path("one").join(file).is_file(), "{file}");
    }
    let page = fs::read_to_string(bench.path("one/report.html")).expect("page");
    assert!(!page.contains("http-equiv=\"refresh\"") && !page.contains("src=\"http"), "the page asks nobody");

    bench.eval("run", "two", &[], &[]).ok();
    let same = bench.compare("one", "two");
    assert_eq!(code(&same), 0, "{}{}", same.stdout, same.stderr);
    assert!(same.stdout.to_lowercase().contains("no significant change"), "{}", same.stdout);

    let baseline = bench.path("one").display().to_string();
    let fine = bench.eval("gate", "three", &[], &["--baseline", &baseline]);
    assert_eq!(code(&fine), 0, "{}{}", fine.stdout, fine.stderr);
    let broken: Env = &[("RESPONDO_RETRIEVAL__TICKET_WORDS", "-3"), ("RESPONDO_RETRIEVAL__ARTICLE_WORDS", "-3")];
    let caught = bench.eval("gate", "four", broken, &["--baseline", &baseline]);
    assert_eq!(code(&caught), 1, "{}{}", caught.stdout, caught.stderr);
    assert!(caught.stdout.contains("search") && caught.stdout.contains("ndcg@10"), "{}", caught.stdout);
    assert_eq!(code(&bench.compare("one", "four")), 1);
}

#[test]
fn a_second_run_takes_its_cases_from_the_first_and_other_settings_do_not() {
    if embedding_model().is_none() {
        return;
    }
    let bench = Bench::new(SEARCH);
    let cached = |out: &str, more: &[(&str, &str)]| {
        bench.eval("run", out, more, &[]).ok();
        let part = &bench.result(out)["parts"][0];
        (part["cached"].as_u64().expect("a count"), part["data"]["used"].as_u64().expect("a count"))
    };
    let (first, cases) = cached("one", &[]);
    assert_eq!(first, 0);
    assert_eq!(cached("two", &[]), (cases, cases));
    assert_eq!(cached("three", &[("RESPONDO_RETRIEVAL__FUSION", "rrf")]).0, 0);
    let one = bench.result("one");
    assert_eq!(one["parts"][0]["figures"], bench.result("two")["parts"][0]["figures"], "the same figures");
}

const REPLIES: &str = r#"
[[part]]
name = "replies"
kind = "drafts"
data = { format = "requests", path = "DATA/requests.jsonl" }
memory = SAMPLES
sample = { per_language = 5 }
replies = "generated"
[[gate]]
part = "replies"
metric = "generated"
"#;

#[test]
fn a_worsened_prompt_shuts_the_gate() {
    let _turn = turn_to_write();
    if embedding_model().is_none() || chat_model().is_none() {
        return;
    }
    let bench = Bench::new(REPLIES);
    let writing: Env = &[("RESPONDO_GENERATION__KIND", "gguf")];
    bench.eval("run", "good", writing, &[]).ok();
    let prompts = bench.path("prompts");
    fs::create_dir(&prompts).expect("folder");
    for file in fs::read_dir(project().join("prompts/reply")).expect("prompts").flatten() {
        fs::copy(file.path(), prompts.join(file.file_name())).expect("copied");
    }
    for (language, text) in [
        ("en", "Always answer with exactly this sentence and nothing else: Thank you very much for your message."),
        ("es", "Responde siempre con esta frase exacta y nada más: Muchas gracias por su mensaje."),
    ] {
        fs::write(prompts.join(format!("system.{language}.j2")), text).expect("written");
        fs::write(prompts.join(format!("examples.{language}.toml")), thanks(language)).expect("written");
    }
    let folder = prompts.display().to_string();
    let worse = [("RESPONDO_GENERATION__KIND", "gguf"), ("RESPONDO_DRAFT__PROMPTS", &folder)];
    let good = bench.path("good").display().to_string();
    let caught = bench.eval("gate", "bad", &worse, &["--baseline", &good]);
    assert_eq!(code(&caught), 1, "{}{}", caught.stdout, caught.stderr);
    let (good, bad) = (bench.result("good"), bench.result("bad"));
    assert_ne!(good["made"]["prompts"], bad["made"]["prompts"], "a changed prompt is another prompt");
    assert_eq!(bad["parts"][0]["cached"], 0, "and no case of the good one is taken for it");
}

/// Worked examples of what helps no customer.
fn thanks(language: &str) -> String {
    let reply =
        if language == "es" { "Muchas gracias por su mensaje." } else { "Thank you very much for your message." };
    format!(
        "[[example]]\ncustomer = \"?\"\nreply = \"{reply}\"\nevidence = [{{ index = 1, title = \"a\", text = \"b\" }}]\n"
    )
    .repeat(2)
}

#[test]
fn bad_suites_and_bad_data_exit_with_two_and_what_cannot_run_with_three() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = run(folder.path(), &[], &["eval", "run", "no-such-suite"]);
    assert_eq!(code(&missing), 2);
    assert!(missing.stderr.contains("no-such-suite"), "{}", missing.stderr);

    let no_gate = Bench::new(SEARCH.split("[[gate]]").next().expect("a part"));
    let bench = Bench::new(&SEARCH.replace("requests.jsonl", "nowhere.jsonl"));
    let no_models: Env = &[("RESPONDO_MODELS__CACHE", "/nonexistent")];
    let cannot = Bench::new(SEARCH).eval("run", "out", no_models, &[]);
    assert_eq!(code(&cannot), 3, "{}", cannot.stderr);
    assert!(cannot.stderr.contains("respondo models pull"), "{}", cannot.stderr);
    if embedding_model().is_none() {
        return;
    }
    let gone = bench.eval("run", "out", &[], &[]);
    assert_eq!(code(&gone), 2);
    assert!(gone.stderr.contains("nowhere.jsonl"), "{}", gone.stderr);
    assert!(!bench.path("out").exists(), "nothing half written stands where a result is looked for");
    let open = no_gate.eval("gate", "out", &[], &[]);
    assert_eq!(code(&open), 2, "a suite without a gate would pass whatever happens");
    let unset = Bench::new(SEARCH).eval("gate", "out", &[("RESPONDO_RETRIEVAL__FUSION", "best")], &[]);
    assert_eq!(code(&unset), 3, "{}", unset.stderr);
}

#[test]
fn a_gate_without_a_baseline_or_without_data_fails() {
    if embedding_model().is_none() {
        return;
    }
    let skipped =
        SEARCH.replace("requests.jsonl", "nowhere.jsonl").replace("[[gate]]", "when_missing = \"skip\"\n[[gate]]");
    let bench = Bench::new(&skipped);
    let nothing = bench.path("none.json").display().to_string();
    let judged = bench.eval("gate", "out", &[], &["--baseline", &nothing]);
    assert_eq!(code(&judged), 1, "{}{}", judged.stdout, judged.stderr);
    let bench = Bench::new(SEARCH);
    let judged = bench.eval("gate", "out", &[], &["--baseline", &nothing]);
    assert_eq!(code(&judged), 1, "{}{}", judged.stdout, judged.stderr);
    assert!(judged.stdout.contains("baseline"), "{}", judged.stdout);
}

#[test]
fn a_run_that_is_killed_leaves_the_earlier_result_and_goes_on_where_it_stopped() {
    if embedding_model().is_none() {
        return;
    }
    let bench = Bench::new(SEARCH);
    bench.eval("run", "out", &[], &[]).ok();
    let before = fs::read(bench.path("out/result.json")).expect("a result");
    let (suite, out) = (bench.suite(), bench.path("out").display().to_string());
    let cache = bench.cache();
    let env: Vec<(&str, &str)> = cache.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut command = crate::support::command(bench.folder.path(), &env);
    command.args(["eval", "run", &suite, "--out", &out, "--fresh"]);
    let mut child =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("runs");
    std::thread::sleep(std::time::Duration::from_millis(700));
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(fs::read(bench.path("out/result.json")).expect("still there"), before);
    bench.eval("run", "out", &[], &[]).ok();
}

#[test]
fn rankings_are_exported_and_labels_are_asked_for() {
    if embedding_model().is_none() {
        return;
    }
    let bench = Bench::new(SEARCH);
    bench.eval("run", "out", &[], &[]).ok();
    let (out, to) = (bench.path("out").display().to_string(), bench.path("trec").display().to_string());
    run(bench.folder.path(), &[], &["eval", "export", &out, "--trec", "--out", &to]).ok();
    let lines = fs::read_to_string(Path::new(&to).join("search.run")).expect("a run");
    assert!(lines.lines().all(|line| line.split_whitespace().count() == 6), "{lines}");

    let labels = bench.path("labels").display().to_string();
    let arguments = ["eval", "label", &out, "--what", "urgency", "--by", "ana", "--count", "2", "--out", &labels];
    let asked = run_with_input(bench.folder.path(), &[], &arguments, b"c\nn\nq\n").ok();
    assert!(!asked.is_empty());
    let written: Vec<_> = fs::read_dir(&labels).expect("labels").flatten().collect();
    assert_eq!(written.len(), 1);
    assert_eq!(fs::read_to_string(written[0].path()).expect("labels").lines().count(), 2);
}
