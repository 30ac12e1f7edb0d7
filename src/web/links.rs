//! Signed links: who has one may read and continue one conversation, from any device.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// Bytes of the signature that stand in a link: 128 bits cannot be guessed.
const SIGNATURE: usize = 16;

/// Signs and reads links with the installation's key.
pub struct Links {
    key: Vec<u8>,
}

impl Links {
    /// With a key of any length.
    pub fn new(key: &str) -> Self {
        Self { key: key.as_bytes().to_vec() }
    }

    /// The part of the address that stands for a conversation: id and signature.
    pub fn token(&self, ticket: Uuid) -> String {
        let signature = self.mac(ticket).map(|mac| mac.finalize().into_bytes()).unwrap_or_default();
        format!("{}{}", ticket.simple(), super::hex(signature.get(..SIGNATURE).unwrap_or_default()))
    }

    /// The conversation of a link; none where the signature does not fit.
    pub fn ticket(&self, token: &str) -> Option<Uuid> {
        let (id, signature) = token.split_at_checked(32)?;
        let ticket = Uuid::try_parse(id).ok()?;
        let mut bytes = [0; SIGNATURE];
        // Digits only: the conversion below takes a sign too, and a link has one spelling.
        if signature.len() != 2 * SIGNATURE || !signature.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(signature.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        self.mac(ticket)?.verify_truncated_left(&bytes).ok()?;
        Some(ticket)
    }

    fn mac(&self, ticket: Uuid) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(b"conversation");
        mac.update(ticket.as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_opens_its_own_conversation_only() {
        let (links, other) = (Links::new("key"), Links::new("another key"));
        let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
        let token = links.token(one);
        assert_eq!(links.ticket(&token), Some(one));
        assert_eq!(other.ticket(&token), None);
        let mixed = format!("{}{}", two.simple(), &token[32..]);
        assert_eq!(links.ticket(&mixed), None);
        for wrong in ["", "x", &token[..63], &format!("{token}0"), "ñandú", &"ñ".repeat(32)] {
            assert_eq!(links.ticket(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_link_has_one_spelling() {
        let links = Links::new("key");
        let mut respelled = 0;
        for number in 0..200 {
            let token = links.token(Uuid::from_u128(number));
            // A byte below 16 could be written with a sign in place of the zero.
            let Some(at) = (32..64).step_by(2).find(|at| token[*at..].starts_with('0')) else { continue };
            let signed = format!("{}+{}", &token[..at], &token[at + 1..]);
            assert_eq!(links.ticket(&signed), None, "{signed}");
            respelled += 1;
        }
        assert!(respelled > 0);
    }
}
