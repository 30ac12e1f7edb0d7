//! The people at the desk, their sessions and saved views.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::rows::{self, name_of, now_ms};
use super::{Audit, Store, StoreError, write_audit};

/// What a person at the desk may do; each may also do what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Works on tickets.
    Agent,
    /// Also sees the figures of the whole desk.
    Lead,
    /// Also adds people and takes their access away.
    Admin,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AgentRecord {
    pub id: Uuid,
    pub login: String,
    /// As customers and colleagues see it.
    pub name: String,
    pub role: Role,
    /// May sign in.
    pub active: bool,
}

#[derive(Clone, Debug)]
pub struct NewAgent {
    pub login: String,
    pub name: String,
    pub role: Role,
    /// PHC string.
    pub password_hash: String,
}

/// A signed-in browser.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    pub agent: AgentRecord,
    /// Has to come with every form of this session.
    pub csrf: String,
}

impl Store {
    /// True once somebody works here.
    pub async fn has_agents(&self) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT 1 FROM agents LIMIT 1").fetch_optional(&self.reader).await?;
        Ok(found.is_some())
    }

    /// Adds a person; `by` is who does it. With `first` only where there is nobody yet.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the login is taken, or when `first` and there is somebody.
    pub async fn add_agent(&self, new: NewAgent, by: &str, first: bool) -> Result<AgentRecord, StoreError> {
        let mut tx = self.write().await?;
        if first && sqlx::query("SELECT 1 FROM agents LIMIT 1").fetch_optional(&mut *tx).await?.is_some() {
            return Err(StoreError::Conflict("the desk is set up already; sign in".to_owned()));
        }
        let (id, now) = (Uuid::now_v7(), now_ms());
        let inserted = sqlx::query(
            "INSERT INTO agents (id, login, name, role, password, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id.to_string())
        .bind(&new.login)
        .bind(&new.name)
        .bind(name_of(&new.role)?)
        .bind(&new.password_hash)
        .bind(now)
        .execute(&mut *tx)
        .await;
        match inserted {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                return Err(StoreError::Conflict(format!("the name {:?} is taken; choose another", new.login)));
            }
            other => other?,
        };
        let detail = json!({ "login": new.login, "role": new.role });
        let entry = Audit { actor: by, action: "agent added", ticket_id: None, subject: Some(id.to_string()), detail };
        write_audit(&mut tx, entry, now).await?;
        tx.commit().await?;
        Ok(AgentRecord { id, login: new.login, name: new.name, role: new.role, active: true })
    }

    /// Everybody, by name.
    pub async fn agents(&self) -> Result<Vec<AgentRecord>, StoreError> {
        let found = sqlx::query("SELECT * FROM agents ORDER BY name, login").fetch_all(&self.reader).await?;
        found.iter().map(agent).collect()
    }

    /// A person who may sign in, with the hash of the password.
    pub async fn agent_by_login(&self, login: &str) -> Result<Option<(AgentRecord, String)>, StoreError> {
        let found = sqlx::query("SELECT * FROM agents WHERE lower(login) = lower($1) AND active = 1")
            .bind(login)
            .fetch_optional(&self.reader)
            .await?;
        found.map(|row| Ok((agent(&row)?, rows::text(&row, "password")?))).transpose()
    }

    /// Lets a person in or keeps them out; who is kept out is signed out at once.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is the last active admin, [`StoreError::NotFound`] when there is no such person.
    pub async fn set_agent_active(&self, id: Uuid, active: bool, by: &str) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = now_ms();
        let changed = sqlx::query("UPDATE agents SET active = $1 WHERE id = $2")
            .bind(i64::from(active))
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("person {id}")));
        }
        let admins = sqlx::query("SELECT 1 FROM agents WHERE role = $1 AND active = 1 LIMIT 1")
            .bind(name_of(&Role::Admin)?)
            .fetch_optional(&mut *tx)
            .await?;
        if admins.is_none() {
            return Err(StoreError::Conflict("this is the last administrator; make another one first".to_owned()));
        }
        if !active {
            sqlx::query("DELETE FROM sessions WHERE agent_id = $1").bind(id.to_string()).execute(&mut *tx).await?;
        }
        let detail = json!({ "active": active });
        let subject = Some(id.to_string());
        write_audit(&mut tx, Audit { actor: by, action: "agent changed", ticket_id: None, subject, detail }, now)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives a person another password, as a PHC string, and ends their sessions: all but `keep_session`, the SHA-256 of
    /// a session's token. `by` is who does it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such person, [`StoreError::Conflict`] when the session to be kept is over:
    /// whoever ended it meanwhile may have given the person a password too, and that one counts.
    pub async fn set_password(
        &self,
        id: Uuid,
        password_hash: &str,
        keep_session: Option<&str>,
        by: &str,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let (agent, now) = (id.to_string(), now_ms());
        let changed = sqlx::query("UPDATE agents SET password = $1 WHERE id = $2")
            .bind(password_hash)
            .bind(&agent)
            .execute(&mut *tx)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("person {id}")));
        }
        if let Some(token_sha256) = keep_session {
            let kept =
                sqlx::query("SELECT 1 FROM sessions WHERE token_sha256 = $1 AND agent_id = $2 AND expires_at > $3")
                    .bind(token_sha256)
                    .bind(&agent)
                    .bind(now);
            if kept.fetch_optional(&mut *tx).await?.is_none() {
                return Err(StoreError::Conflict("this session is over; sign in again".to_owned()));
            }
        }
        // No token has an empty hash: without one to keep, all go.
        let ended = sqlx::query("DELETE FROM sessions WHERE agent_id = $1 AND token_sha256 <> $2")
            .bind(&agent)
            .bind(keep_session.unwrap_or_default())
            .execute(&mut *tx)
            .await?;
        let detail = json!({ "own": keep_session.is_some(), "sessions_ended": ended.rows_affected() });
        let entry = Audit { actor: by, action: "password changed", ticket_id: None, subject: Some(agent), detail };
        write_audit(&mut tx, entry, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Keeps a new session until `expires_at` (milliseconds since 1970); those that are over go. `checked` is the hash that
    /// the person's password was compared with, if one was asked for.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the person has another password by now, so that who knew the old one does not get in
    /// behind the change.
    pub async fn start_session(
        &self,
        agent: Uuid,
        checked: Option<&str>,
        token_sha256: &str,
        csrf: &str,
        expires_at: i64,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = now_ms();
        if let Some(checked) = checked {
            let same = sqlx::query("SELECT 1 FROM agents WHERE id = $1 AND password = $2");
            if same.bind(agent.to_string()).bind(checked).fetch_optional(&mut *tx).await?.is_none() {
                return Err(StoreError::Conflict("the password was changed meanwhile; sign in with it".to_owned()));
            }
        }
        sqlx::query("DELETE FROM sessions WHERE expires_at < $1").bind(now).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO sessions (token_sha256, agent_id, csrf, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(token_sha256)
        .bind(agent.to_string())
        .bind(csrf)
        .bind(now)
        .bind(expires_at)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The session behind a cookie, if it is still good.
    pub async fn session(&self, token_sha256: &str) -> Result<Option<SessionRecord>, StoreError> {
        let found = sqlx::query(
            "SELECT a.*, s.csrf FROM sessions s JOIN agents a ON a.id = s.agent_id \
             WHERE s.token_sha256 = $1 AND s.expires_at > $2 AND a.active = 1",
        )
        .bind(token_sha256)
        .bind(now_ms())
        .fetch_optional(&self.reader)
        .await?;
        found.map(|row| Ok(SessionRecord { agent: agent(&row)?, csrf: rows::text(&row, "csrf")? })).transpose()
    }

    /// Signs a browser out.
    pub async fn end_session(&self, token_sha256: &str) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM sessions WHERE token_sha256 = $1").bind(token_sha256).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The key of this name; `fresh` becomes it where there is none yet.
    pub async fn secret(&self, name: &str, fresh: &str) -> Result<String, StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(fresh)
            .execute(&mut *tx)
            .await?;
        let row = sqlx::query("SELECT value FROM secrets WHERE name = $1").bind(name).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(row.try_get("value")?)
    }

    /// Names and addresses of a person's views of the queue, by name.
    pub async fn saved_views(&self, agent: Uuid) -> Result<Vec<(String, String)>, StoreError> {
        let found = sqlx::query("SELECT name, query FROM saved_views WHERE agent_id = $1 ORDER BY name")
            .bind(agent.to_string())
            .fetch_all(&self.reader)
            .await?;
        found.iter().map(|row| Ok((rows::text(row, "name")?, rows::text(row, "query")?))).collect()
    }

    /// Keeps a view under a name, in place of an earlier one; without a query the name goes.
    pub async fn save_view(&self, agent: Uuid, name: &str, query: Option<&str>) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM saved_views WHERE agent_id = $1 AND name = $2")
            .bind(agent.to_string())
            .bind(name)
            .execute(&mut *tx)
            .await?;
        if let Some(query) = query {
            sqlx::query("INSERT INTO saved_views (agent_id, name, query) VALUES ($1, $2, $3)")
                .bind(agent.to_string())
                .bind(name)
                .bind(query)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

fn agent(row: &AnyRow) -> Result<AgentRecord, StoreError> {
    Ok(AgentRecord {
        id: rows::id(row, "id")?,
        login: rows::text(row, "login")?,
        name: rows::text(row, "name")?,
        role: rows::named(row, "role")?,
        active: rows::integer(row, "active")? != 0,
    })
}
