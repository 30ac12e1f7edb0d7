//! Passwords of the people at the desk: only hashes are kept of them.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

/// Characters that a password has at least.
pub const SHORTEST_PASSWORD: usize = 10;

/// What a password is compared with where there is no such name: the hash of a random one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$3nXUdq0Yk2n4GfA0eXq0Ifn3dQ4RMn0o6l6mCkq0Y0w";

/// The system gave no random numbers or too little memory for a hash; holds what it said.
#[derive(Debug, thiserror::Error)]
#[error("the password could not be hashed, and nothing was changed; try again ({0})")]
pub struct NotHashed(String);

/// Whether a password has [`SHORTEST_PASSWORD`] characters.
pub fn is_long_enough(password: &str) -> bool {
    password.chars().count() >= SHORTEST_PASSWORD
}

/// The hash of a new password as a PHC string (argon2id, the crate's defaults, which are OWASP's).
///
/// # Errors
/// When the system has no random numbers.
pub async fn hash_password(password: String) -> Result<String, NotHashed> {
    let hashing = tokio::task::spawn_blocking(move || {
        Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string())
    });
    match hashing.await {
        Ok(hashed) => hashed.map_err(|error| NotHashed(error.to_string())),
        Err(stopped) => Err(NotHashed(stopped.to_string())),
    }
}

/// Whether a password is the one of this hash. Without a hash it is not, after the same work: how long it takes does not
/// tell which names there are.
pub async fn is_right(password: String, hash: Option<String>) -> bool {
    let known = hash.is_some();
    let comparing = tokio::task::spawn_blocking(move || {
        let hash = hash.as_deref().unwrap_or(NOBODY);
        PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
    });
    comparing.await.unwrap_or(false) && known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_only() {
        let hash = hash_password("correct horse".to_owned()).await.unwrap_or_default();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(is_right("correct horse".to_owned(), Some(hash.clone())).await);
        assert!(!is_right("wrong horse".to_owned(), Some(hash)).await);
        assert!(!is_right("anything".to_owned(), None).await);
        assert!(PasswordHash::new(NOBODY).is_ok(), "the comparison for unknown names does the whole work");
    }

    #[test]
    fn length_is_counted_in_characters() {
        for (password, wanted) in [("", false), ("123456789", false), ("1234567890", true), ("ñññññ", false)] {
            assert_eq!(is_long_enough(password), wanted, "{password}");
        }
        assert!(is_long_enough(&"ñ".repeat(SHORTEST_PASSWORD)));
    }
}
