//! `respondo models pull | list | verify | path`.

use std::io::{Write, stdout};

use anyhow::{Context, bail};
use clap::Subcommand;
use indicatif::DecimalBytes;
use serde::Serialize;

use super::{Manifest, Model, ModelStore, Progress, Status, Task, for_terminal};

/// What to do with models.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Fetch what is missing: the named models, or those used by default
    Pull {
        /// Models to fetch, as `list` names them
        names: Vec<String>,
        /// Fetch every model of the manifest
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Show the models, their licences and whether they are there
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read the files in full and compare their sha256
    Verify {
        /// Models to check; without names, all that are there
        names: Vec<String>,
    },
    /// Print the folder of a model
    Path {
        /// A model, as `list` names it
        name: String,
    },
}

/// Carries out `command`; results go to standard output, progress to standard error.
///
/// # Errors
/// When a name is unknown, a model cannot be pulled, or a checked one is damaged or missing.
pub fn run(command: ModelsCommand, manifest: &Manifest, store: &ModelStore) -> anyhow::Result<()> {
    run_to(command, manifest, store, &mut stdout().lock(), &mut *for_terminal())
}

fn run_to(
    command: ModelsCommand,
    manifest: &Manifest,
    store: &ModelStore,
    out: &mut dyn Write,
    progress: &mut dyn Progress,
) -> anyhow::Result<()> {
    match command {
        ModelsCommand::Pull { names, all } => {
            pull(&chosen(manifest, &names, |model| all || model.default)?, store, out, progress)
        }
        ModelsCommand::List { json } => list(manifest, store, json, out),
        ModelsCommand::Verify { names } => {
            let models = chosen(manifest, &names, |model| store.status(model) != Status::Missing)?;
            verify(&models, store, out)
        }
        ModelsCommand::Path { name } => {
            writeln!(out, "{}", store.folder(manifest.get(&name)?).display()).context("cannot print")
        }
    }
}

/// The named models, or those that `otherwise` picks when no name is given.
fn chosen<'a>(
    manifest: &'a Manifest,
    names: &[String],
    otherwise: impl Fn(&Model) -> bool,
) -> anyhow::Result<Vec<&'a Model>> {
    if names.is_empty() {
        return Ok(manifest.models().iter().filter(|model| otherwise(model)).collect());
    }
    let models: Result<Vec<&Model>, _> = names.iter().map(|name| manifest.get(name)).collect();
    Ok(models?)
}

fn pull(models: &[&Model], store: &ModelStore, out: &mut dyn Write, progress: &mut dyn Progress) -> anyhow::Result<()> {
    for model in models {
        let folder = store.ensure(model, progress)?;
        writeln!(out, "{} ({}, {}): {}", model.name, DecimalBytes(model.size()), model.licence, folder.display())?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    task: Task,
    licence: &'a str,
    /// Bytes.
    size: u64,
    status: Status,
    default: bool,
    folder: String,
    description: &'a str,
}

fn list(manifest: &Manifest, store: &ModelStore, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let rows: Vec<Row> = manifest
        .models()
        .iter()
        .map(|model| Row {
            name: &model.name,
            task: model.task,
            licence: &model.licence,
            size: model.size(),
            status: store.status(model),
            default: model.default,
            folder: store.folder(model).display().to_string(),
            description: &model.description,
        })
        .collect();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(5);
    writeln!(out, "{:width$}  {:9}  {:8}  {:>9}  {:10}  description", "model", "task", "status", "size", "licence")?;
    for row in rows {
        let task = row.task.to_string();
        let size = DecimalBytes(row.size).to_string();
        let (name, status, licence, description) = (row.name, row.status.word(), row.licence, row.description);
        writeln!(out, "{name:width$}  {task:9}  {status:8}  {size:>9}  {licence:10}  {description}")?;
    }
    Ok(())
}

fn verify(models: &[&Model], store: &ModelStore, out: &mut dyn Write) -> anyhow::Result<()> {
    if models.is_empty() {
        writeln!(out, "there is no model to verify; `respondo models pull` fetches those used by default")?;
    }
    let mut unfit = Vec::new();
    for model in models {
        for report in store.verify(model) {
            let problem = if report.problem.is_empty() { String::new() } else { format!(": {}", report.problem) };
            writeln!(out, "{}/{}: {}{problem}", model.name, report.file, report.status.word())?;
            if report.status != Status::Present && unfit.last() != Some(&model.name.as_str()) {
                unfit.push(&model.name);
            }
        }
    }
    if !unfit.is_empty() {
        let names = unfit.join(" ");
        bail!("not all files are as the manifest says; `respondo models pull {names}` replaces them");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Silent;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: ModelsCommand,
    }

    /// Output of `models WORDS` with an empty cache that reaches only an empty local folder.
    fn run_words(words: &[&str]) -> (anyhow::Result<()>, String) {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::new(folder.path()).with_local_folder(folder.path().to_path_buf());
        let manifest = Manifest::load(None).unwrap();
        let line = Line::try_parse_from(["models"].iter().chain(words)).unwrap();
        let mut out = Vec::new();
        let outcome = run_to(line.command, &manifest, &store, &mut out, &mut Silent);
        (outcome, String::from_utf8(out).unwrap())
    }

    #[test]
    fn list_shows_every_model_as_table_and_json() {
        let (outcome, table) = run_words(&["list"]);
        outcome.unwrap();
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.contains("Apache-2.0") && table.contains("missing"), "{table}");

        let (outcome, json) = run_words(&["list", "--json"]);
        outcome.unwrap();
        let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(rows[0]["task"], "embedding");
        assert_eq!(rows[1]["status"], "missing");
    }

    #[test]
    fn verify_fails_for_a_named_model_that_is_missing() {
        let (outcome, out) = run_words(&["verify", "multilingual-e5-small"]);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("models pull multilingual-e5-small"), "{error}");
        assert!(out.contains("tokenizer.json: missing"), "{out}");

        let (outcome, out) = run_words(&["verify"]);
        outcome.unwrap();
        assert!(out.contains("no model to verify"), "{out}");
    }

    #[test]
    fn path_prints_the_folder_and_unknown_names_are_errors() {
        let (outcome, out) = run_words(&["path", "multilingual-e5-small"]);
        outcome.unwrap();
        assert!(out.ends_with("models/multilingual-e5-small\n"), "{out}");
        for words in [["path", "\u{1f600}"], ["pull", ""], ["verify", "../x"]] {
            let error = run_words(&words).0.unwrap_err().to_string();
            assert!(error.contains("no model is called"), "{error}");
        }
    }
}
