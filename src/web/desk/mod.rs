//! The agents' side.

pub mod actions;
pub mod customers;
pub mod keys;
pub mod live;
pub mod marks;
pub mod numbers;
pub mod password;
pub mod people;
pub mod queue;
pub mod ticket;

use super::session::SignedIn;
use super::texts::Texts;
use crate::store::Role;

/// What the frame of every desk page shows.
pub struct Frame {
    pub t: &'static Texts,
    pub name: String,
    pub csrf: String,
    pub is_lead: bool,
    pub is_admin: bool,
    /// Which entry of the navigation is current.
    pub current: &'static str,
}

impl Frame {
    pub fn of(signed_in: &SignedIn, current: &'static str) -> Self {
        Self {
            t: signed_in.t,
            name: signed_in.agent.name.clone(),
            csrf: signed_in.csrf.clone(),
            is_lead: signed_in.agent.role >= Role::Lead,
            is_admin: signed_in.agent.role >= Role::Admin,
            current,
        }
    }
}
