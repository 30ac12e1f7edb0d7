//! This process's hold on the tickets that it works on, where several processes share the store.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::store::{Store, StoreError};

/// How long a ticket is ours without a sign of life: a process that was killed holds its tickets up for that long.
const LEASE: Duration = Duration::from_secs(15);
/// How often the leases are renewed: two may fail.
pub const RENEWAL: Duration = Duration::from_secs(5);

/// The leases of one process, named so that no other has the same name.
pub struct Leases {
    store: Store,
    name: String,
    held: Mutex<HashSet<Uuid>>,
}

impl Leases {
    pub fn new(store: Store) -> Self {
        Self { store, name: format!("{}/{}", std::process::id(), Uuid::now_v7()), held: Mutex::default() }
    }

    /// Takes a ticket; false when another process works on it.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn take(&self, ticket: Uuid) -> Result<bool, StoreError> {
        let taken = self.store.lease_ticket(ticket, &self.name, LEASE).await?;
        if taken && self.store.is_shared() {
            self.held().insert(ticket);
        }
        Ok(taken)
    }

    /// Lets go of a ticket. A lease that cannot be ended ends by itself.
    pub async fn release(&self, ticket: Uuid) {
        let held = self.held().remove(&ticket);
        if held && let Err(error) = self.store.release_ticket(ticket, &self.name).await {
            tracing::debug!(%ticket, %error, "the lease runs out by itself");
        }
    }

    /// Says that this process is alive.
    ///
    /// # Errors
    /// When the store cannot write; others may take the tickets up then, and what we finish is refused.
    pub async fn renew(&self) -> Result<(), StoreError> {
        let held: Vec<Uuid> = self.held().iter().copied().collect();
        self.store.renew_leases(&held, &self.name, LEASE).await
    }

    fn held(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
