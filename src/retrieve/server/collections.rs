//! The alias that the service reads and writes, and the collections behind it.
//!
//! ```text
//! <collection>                    the alias
//! <collection>_<time><random>     what it stands for; any other one is being built, or was left behind half built
//! ```
//!
//! A rebuild fills a collection beside the live one; then the alias changes over in one step. Meanwhile every writer writes
//! to both, so that neither an end of the rebuild nor one half way loses what was written.

use std::time::Duration;

use qdrant_client::qdrant::{
    CollectionInfo, CollectionStatus, CreateAlias, DeleteCollection, GetCollectionInfoRequest,
};

use super::link::{Failure, Link};
use super::schema::{self, Stamp};
use super::settings::IndexSettings;

/// Digits of the time, to the second, and of the random number behind it.
const TIME_DIGITS: usize = 14;
const RANDOM_DIGITS: usize = 6;

/// What is at the server under our name.
pub(super) struct Found {
    /// What the alias stands for.
    pub live: Option<String>,
    /// Collections of ours that no alias of ours stands for.
    pub beside: Vec<String>,
    /// A collection, not an alias, has our name.
    pub taken: bool,
}

/// The collections of one alias.
pub(super) struct Collections<'a> {
    pub link: &'a Link,
    pub settings: &'a IndexSettings,
    pub stamp: &'a Stamp,
}

impl Collections<'_> {
    fn quick(&self) -> Duration {
        self.settings.search_deadline()
    }

    fn slow(&self) -> Duration {
        self.settings.write_deadline()
    }

    pub async fn find(&self) -> Result<Found, Failure> {
        let name = &self.settings.collection;
        let aliases = self.link.call(self.quick(), |client| async move { client.list_aliases().await }).await?;
        let all = self.link.call(self.quick(), |client| async move { client.list_collections().await }).await?;
        let live =
            aliases.aliases.into_iter().find(|alias| alias.alias_name == *name).map(|alias| alias.collection_name);
        let names = || all.collections.iter().map(|collection| &collection.name);
        let beside = names().filter(|other| is_ours(other, name) && live.as_ref() != Some(*other)).cloned().collect();
        let taken = live.is_none() && names().any(|other| other == name);
        Ok(Found { live, beside, taken })
    }

    pub async fn info(&self, collection: &str) -> Result<CollectionInfo, Failure> {
        let request = GetCollectionInfoRequest { collection_name: collection.to_owned() };
        let info = self.link.call(self.quick(), |client| {
            let request = request.clone();
            async move { client.collection_info(request).await }
        });
        info.await?.result.ok_or_else(|| self.link.failure("it says nothing about the collection"))
    }

    /// How the collection differs from what we write; None where it does not.
    pub fn difference(&self, info: &CollectionInfo) -> Option<String> {
        let metadata = info.config.as_ref().map(|config| config.metadata.clone()).unwrap_or_default();
        self.stamp.difference(&metadata)
    }

    /// Where writes go: to the live collection, and to those of ours that are being built.
    pub async fn written(&self) -> Result<Vec<String>, Failure> {
        let found = self.find().await?;
        let Some(live) = found.live else {
            let reason = format!("the alias {} is gone; it is made again shortly", self.settings.collection);
            return Err(Failure { missing: true, ..self.link.failure(reason) });
        };
        let mut written = vec![live];
        for other in found.beside {
            match self.info(&other).await {
                Ok(info) if self.difference(&info).is_none() => written.push(other),
                Err(failure) if !failure.missing => return Err(failure),
                _ => {}
            }
        }
        Ok(written)
    }

    /// A new collection with its indexes; no alias stands for it yet.
    pub async fn create(&self) -> Result<String, Failure> {
        let time = jiff::Timestamp::now().strftime("%Y%m%d%H%M%S");
        let name = format!("{}_{time}{:06x}", self.settings.collection, fastrand::u32(..1 << (4 * RANDOM_DIGITS)));
        let request = schema::collection(&name, self.settings, self.stamp);
        let created = self.link.call(self.slow(), |client| {
            let request = request.clone();
            async move { client.create_collection(request).await }
        });
        match created.await {
            // A try whose answer was lost; nobody else makes this name.
            Err(failure) if !failure.reason.contains("already exists") => return Err(failure),
            _ => {}
        }
        for index in schema::payload_indexes(&name) {
            let indexed = self.link.call(self.slow(), |client| {
                let index = index.clone();
                async move { client.create_field_index(index).await }
            });
            indexed.await?;
        }
        Ok(name)
    }

    /// Makes the alias stand for `collection`, in one step: a server puts a new alias in the place of an old one.
    pub async fn switch(&self, collection: &str) -> Result<(), Failure> {
        let request =
            CreateAlias { collection_name: collection.to_owned(), alias_name: self.settings.collection.clone() };
        let switched = self.link.call(self.slow(), |client| {
            let request = request.clone();
            async move { client.create_alias(request).await }
        });
        switched.await.map(drop)
    }

    pub async fn drop_collection(&self, collection: &str) -> Result<(), Failure> {
        let request = DeleteCollection { collection_name: collection.to_owned(), timeout: None };
        let dropped = self.link.call(self.slow(), |client| {
            let request = request.clone();
            async move { client.delete_collection(request).await }
        });
        match dropped.await {
            Err(failure) if !failure.missing => Err(failure),
            _ => Ok(()),
        }
    }

    /// Whether the server builds nothing of the collection in the background.
    pub async fn is_settled(&self, collection: &str) -> Result<bool, Failure> {
        let status = self.info(collection).await?.status;
        Ok(status != i32::from(CollectionStatus::Yellow))
    }
}

/// Whether `create` gave that name to a collection of the alias `name`.
fn is_ours(collection: &str, name: &str) -> bool {
    let stamp = collection.strip_prefix(name).and_then(|rest| rest.strip_prefix('_'));
    stamp.is_some_and(|stamp| {
        stamp.len() == TIME_DIGITS + RANDOM_DIGITS
            && stamp.bytes().take(TIME_DIGITS).all(|b| b.is_ascii_digit())
            && stamp.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_collections_are_left_alone() {
        assert!(is_ours("desk_20261122192051a1b2c3", "desk"));
        for other in [
            "desk",
            "desk_",
            "desk_old",
            "desk_20261122192051",
            "desk_two_20261122192051a1b2c3",
            "desk_2026112219205Za1b2c3",
        ] {
            assert!(!is_ours(other, "desk"), "{other}");
        }
        assert!(!is_ours("desk_20261122192051a1b2c3", "des"));
    }
}
