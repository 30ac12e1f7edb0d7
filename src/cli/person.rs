//! `respondo person`: who works at the desk, and new passwords for those who cannot get in.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use console::Term;

use crate::app::{open_store, open_store_shared};
use crate::settings::Settings;
use crate::store::{AgentRecord, Role, Store, StoreError};
use crate::web::password::{SHORTEST_PASSWORD, hash_password, is_long_enough};

/// Who stands in the audit trail.
const BY: &str = "command line";
/// Longest password that is read, in bytes: what is longer is a file that was given by mistake.
const LONGEST_PASSWORD: usize = 4_096;

#[derive(Debug, Subcommand)]
pub enum PersonCommand {
    /// List everybody with an account: user name, name, role, and whether they may sign in; also while the service runs.
    List,
    /// Give somebody a new password, read from standard input; they are signed out everywhere.
    ///
    /// On a terminal it is asked for twice and not shown. Otherwise standard input holds it and nothing else; one line
    /// end after it does not count: `respondo person password ana < FILE`. It is never taken from the command line,
    /// which others on the machine can read.
    ///
    /// The service must be stopped, or the store in PostgreSQL. While it runs on SQLite, administrators give new
    /// passwords at /desk/people, and everybody changes their own at /desk/password.
    Password {
        /// Whose: the name that they sign in with.
        #[arg(value_name = "LOGIN")]
        login: String,
    },
}

/// Lists people, or changes a password.
///
/// # Errors
/// When there is no such person, the password is too short, or a running service has the store to itself.
pub async fn run(settings: Settings, command: PersonCommand) -> Result<()> {
    match command {
        PersonCommand::List => {
            let store = open_store_shared(&settings).await?;
            let people = store.agents().await;
            store.close().await;
            list(&people?)
        }
        PersonCommand::Password { login } => {
            let store = open(&settings).await?;
            let changed = change(&store, login.trim()).await;
            store.close().await;
            let person = changed?;
            let mut out = std::io::stdout().lock();
            writeln!(out, "{} ({}) has a new password and was signed out everywhere", person.login, person.name)?;
            if !person.active {
                writeln!(out, "their access was taken away; an administrator gives it back at /desk/people")?;
            }
            Ok(())
        }
    }
}

/// Opens the store for writing; where a running service has it to itself, says where passwords are changed then.
async fn open(settings: &Settings) -> Result<Store> {
    match open_store(settings).await {
        Err(error @ StoreError::Locked(_)) => Err(error).context(
            "a running service keeps the accounts; let an administrator give the new password at its page /desk/people, \
             change one's own at /desk/password, or stop the service first",
        ),
        opened => Ok(opened?),
    }
}

async fn change(store: &Store, login: &str) -> Result<AgentRecord> {
    let people = store.agents().await?;
    let Some(person) = people.into_iter().find(|person| person.login.to_lowercase() == login.to_lowercase()) else {
        bail!("nobody signs in as {login:?}; `respondo person list` shows who does");
    };
    let password = read_password(&person.login)?;
    ensure!(is_long_enough(&password), "a password needs at least {SHORTEST_PASSWORD} characters; nothing was changed");
    let hash = hash_password(password).await?;
    store.set_password(person.id, &hash, None, BY).await?;
    Ok(person)
}

/// Asks on a terminal, else reads standard input to its end.
fn read_password(login: &str) -> Result<String> {
    if std::io::stdin().is_terminal() {
        return ask(login);
    }
    let mut bytes = Vec::new();
    // What is too long is refused and not cut: its line end and one byte more are read.
    let limit = LONGEST_PASSWORD as u64 + 3;
    std::io::stdin().lock().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
    one_line(bytes)
}

/// Asks twice without showing what is typed, so that nobody is locked out by a slip.
fn ask(login: &str) -> Result<String> {
    let term = Term::stderr();
    ensure!(
        term.is_term(),
        "standard error is no terminal, so the password cannot be asked for; give it on standard input"
    );
    let hidden = |question: &str| -> Result<String> {
        term.write_str(question)?;
        Ok(term.read_secure_line()?)
    };
    let password = hidden(&format!("new password for {login}: "))?;
    ensure!(password == hidden("the same again: ")?, "these are two different passwords; nothing was changed");
    Ok(password)
}

/// The password that standard input held: text in one line, whose end does not count.
fn one_line(bytes: Vec<u8>) -> Result<String> {
    let Ok(mut text) = String::from_utf8(bytes) else {
        bail!("standard input is not UTF-8 text; nothing was changed");
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    ensure!(text.len() <= LONGEST_PASSWORD, "a password has at most {LONGEST_PASSWORD} bytes; nothing was changed");
    ensure!(
        !text.contains(char::is_control),
        "standard input holds several lines or control characters; give the password alone, in one line"
    );
    Ok(text)
}

fn list(people: &[AgentRecord]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if people.is_empty() {
        writeln!(out, "There are no accounts; the service prints a link to make the first one when it starts.")?;
    }
    for person in people {
        let role = match person.role {
            Role::Agent => "agent",
            Role::Lead => "lead",
            Role::Admin => "admin",
        };
        let access = if person.active { "may sign in" } else { "locked out" };
        writeln!(out, "{}  {}  {role}  {access}", person.login, person.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_does_not_count() {
        let taken: [(&str, &str); 5] =
            [("a word", "a word"), ("a word\n", "a word"), ("a word\r\n", "a word"), (" ñ ", " ñ "), ("", "")];
        for (given, wanted) in taken {
            assert_eq!(one_line(given.into()).ok().as_deref(), Some(wanted), "{given:?}");
        }
        assert!(one_line(vec![b'a'; LONGEST_PASSWORD]).is_ok());
    }

    #[test]
    fn what_is_no_password_in_one_line_is_refused() {
        let refused: [Vec<u8>; 5] = [
            b"first line\nsecond line\n".to_vec(),
            b"a password\n\n".to_vec(),
            b"a pass\x03word".to_vec(),
            vec![0xff; 20],
            vec![b'a'; LONGEST_PASSWORD + 1],
        ];
        for given in refused {
            let said = String::from_utf8_lossy(&given).into_owned();
            assert!(one_line(given).is_err(), "{said:?}");
        }
    }
}
