//! The command line: what is asked for is parsed here, done in one file per command.

mod ask;
mod audit;
mod backup;
mod bench;
mod customer;
mod demo;
mod doctor;
mod ingest;
mod key;
mod load;
mod migrate;
mod migrate_store;
mod overload;
mod person;
mod render;
mod replay;
mod retention;
mod serve;
mod stats;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::eval::command::EvalCommand;
use crate::logging;
use crate::models::command::ModelsCommand;
use crate::settings::Settings;

/// Self-hosted support triage and auto-response: grounded replies within seconds, in Spanish and English.
#[derive(Debug, Parser)]
#[command(name = "respondo", version, propagate_version = true)]
struct Cli {
    /// Settings file; `respondo.toml` in the working folder by default.
    #[arg(long, global = true, env = "RESPONDO_CONFIG")]
    config: Option<PathBuf>,
    /// Data folder, in place of the one in the settings.
    #[arg(long, global = true, env = "RESPONDO_DATA")]
    data: Option<PathBuf>,
    /// Another team of this installation, by its name in the settings.
    #[arg(long, global = true)]
    tenant: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try it: pulls the models, loads a sample memory, answers two requests and keeps serving.
    Demo(demo::DemoArgs),
    /// Answer one request in the terminal.
    Ask(ask::AskArgs),
    /// Run the service.
    Serve(serve::ServeArgs),
    /// Read resolved tickets or help articles into the memory.
    Ingest(ingest::IngestArgs),
    /// Remove one item from the memory and the search index.
    Forget { id: String },
    /// Rebuild the search index from the store.
    Reindex,
    /// Move what is stored to another place.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Say what is stored.
    Stats {
        #[arg(long)]
        json: bool,
    },
    /// Copy all that is stored into one new file, also while the service runs.
    Backup {
        /// The file, or a folder for a file that is named after the time.
        #[arg(value_name = "FOLDER_OR_FILE")]
        target: PathBuf,
    },
    /// Put a backup into the data folder; what was there is kept under another name. Stop the service first.
    Restore { file: PathBuf },
    /// Make, list, end and replace keys for programs that use the API.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// List who works at the desk, or give somebody a new password.
    #[command(subcommand)]
    Person(person::PersonCommand),
    /// Read out or erase all that is held about one customer.
    #[command(subcommand)]
    Customer(customer::CustomerCommand),
    /// Remove what has been kept for long enough, as the settings say; the service does so hourly.
    Retention {
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
    },
    /// Check the audit trail, or decide anew what was decided.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Download, list and check models.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Train small models of our own.
    #[command(subcommand)]
    Train(train::TrainCommand),
    /// Measure quality and speed.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Evaluate the quality of answers, and gate changes by it.
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Say what is missing and how to mend it.
    Doctor {
        #[arg(long)]
        json: bool,
    },
}

/// Parses the arguments, runs the command and says what failed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli.command);
    // 1 means "worse" there.
    let failure = ExitCode::from(if matches!(cli.command, Command::Eval(_)) { 3 } else { 1 });
    match run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            failure
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let mut settings = Settings::load(cli.config.as_deref())?;
    logging::hide(settings.secrets());
    if let Some(data) = cli.data {
        settings.data.folder = data;
    }
    if let Some(tenant) = &cli.tenant {
        if matches!(cli.command, Command::Serve(_)) {
            anyhow::bail!("serve works for all teams of the settings at once; leave out --tenant");
        }
        settings = settings.tenant(tenant)?;
    }
    let done = match cli.command {
        Command::Models(command) => {
            let (manifest, store) = crate::app::model_store(&settings)?;
            crate::models::command::run(command, &manifest, &store)
        }
        Command::Train(command) => runtime()?.block_on(train::run(settings, command)),
        Command::Demo(args) => runtime()?.block_on(demo::run(settings, args)),
        Command::Ask(args) => runtime()?.block_on(ask::run(settings, args)),
        Command::Serve(args) => runtime()?.block_on(serve::run(settings, args)),
        Command::Ingest(args) => runtime()?.block_on(ingest::run(settings, args)),
        Command::Forget { id } => runtime()?.block_on(ingest::forget(settings, &id)),
        Command::Reindex => runtime()?.block_on(ingest::reindex(settings)),
        Command::Migrate(command) => runtime()?.block_on(migrate::run(settings, command)),
        Command::Key(command) => runtime()?.block_on(key::run(settings, command)),
        Command::Person(command) => runtime()?.block_on(person::run(settings, command)),
        Command::Audit(command) => runtime()?.block_on(audit::run(settings, command)),
        Command::Customer(command) => runtime()?.block_on(customer::run(settings, command)),
        Command::Retention { dry_run } => runtime()?.block_on(retention::run(settings, dry_run)),
        Command::Stats { json } => runtime()?.block_on(stats::run(settings, json)),
        Command::Backup { target } => runtime()?.block_on(backup::run(settings, &target)),
        Command::Restore { file } => runtime()?.block_on(backup::restore(settings, &file)),
        Command::Bench(command) => runtime()?.block_on(bench::run(settings, cli.config, command)),
        Command::Doctor { json } => runtime()?.block_on(doctor::run(settings, json)),
        Command::Eval(command) => return Ok(runtime()?.block_on(crate::eval::command::main(settings, command))),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Few threads: the inference thread needs the cores, and nothing here blocks for long.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Logs go to standard error: warnings for commands, more for the service; `RESPONDO_LOG` says otherwise.
fn start_log(command: &Command) {
    let level = if matches!(command, Command::Serve(_)) { "info" } else { "warn" };
    // The embedded engine warns that its server's start-up did not run; it is right, and its defaults are what we want.
    let default = format!("{level},qdrant_edge=error");
    let filter = tracing_subscriber::EnvFilter::try_from_env("RESPONDO_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    logging::start(filter);
}

/// `respondo stats | head` is not a failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        // JSON's error does not show the one beneath it as its source.
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}
