//! Personal data and secrets out of a text, placeholders in.
//!
//! Each finder returns byte ranges; ranges are merged, the earlier finder winning, and replaced in one go. What a support
//! answer lives on stays: menu paths, versions, error codes, ports, dates, host names, private addresses of networks.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{scrub_finders as find, scrub_people as people};

/// What was found, and the placeholder that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PiiKind {
    Email,
    Phone,
    Card,
    Iban,
    /// Passwords, keys, codes and other secrets.
    Token,
    /// Numbers of identity papers.
    Id,
    /// Public network addresses.
    Ip,
    /// Postal addresses.
    Address,
    Name,
}

impl PiiKind {
    /// What stands in the scrubbed text.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Email => "[email]",
            Self::Phone => "[phone]",
            Self::Card => "[card]",
            Self::Iban => "[iban]",
            Self::Token => "[token]",
            Self::Id => "[id]",
            Self::Ip => "[ip]",
            Self::Address => "[address]",
            Self::Name => "[name]",
        }
    }
}

/// A text without the personal data that was found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    pub text: String,
    /// How many of each kind were replaced; kinds with none are left out.
    pub found: Vec<(PiiKind, usize)>,
}

/// One thing to replace. `kind` None: the range is deleted (user data inside an address).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub range: Range<usize>,
    pub kind: Option<PiiKind>,
}

/// Rounds after which scrubbing stops. A replacement can uncover another find (a closing whose name now ends the text, a
/// number behind the placeholder of a number): one round for each entry of a list. Two rounds do in practice.
const MAX_ROUNDS: usize = 256;
/// Rounds that a text of any length may take.
const MIN_ROUNDS: usize = 8;
/// Bytes that all rounds together look at, within these two limits.
const MAX_BYTES: usize = 1 << 20;

/// Replaces personal data by placeholders. Scrubbing a scrubbed text changes nothing.
pub fn scrub(text: &str) -> Scrubbed {
    let mut counts: BTreeMap<PiiKind, usize> = BTreeMap::new();
    let mut current = text.to_owned();
    let rounds = (MAX_BYTES / text.len().max(1)).clamp(MIN_ROUNDS, MAX_ROUNDS);
    for _ in 0..rounds {
        let found = find_all(&current);
        if found.is_empty() {
            break;
        }
        for kind in found.iter().filter_map(|found| found.kind) {
            *counts.entry(kind).or_default() += 1;
        }
        current = replace(&current, &found);
    }
    Scrubbed { text: current, found: counts.into_iter().collect() }
}

/// All finds, in order and without overlap.
pub(crate) fn find_all(text: &str) -> Vec<Found> {
    let links = find::links(text);
    // Links come in order and do not overlap: the last one that begins before a find ends is the only one to look at.
    let in_link = |range: &Range<usize>| {
        let before = links.partition_point(|link| link.start < range.end);
        before.checked_sub(1).and_then(|last| links.get(last)).is_some_and(|link| range.start < link.end)
    };
    let mut finds: Vec<Found> = Vec::new();
    find::secrets_in_links(text, &links, &mut finds);
    find::emails(text, &mut finds);
    find::known_tokens(text, &mut finds);
    let mut outside: Vec<Found> = Vec::new();
    find::passwords(text, &mut outside);
    find::ibans(text, &mut outside);
    find::cards(text, &mut outside);
    find::identity_numbers(text, &mut outside);
    find::ip_addresses(text, &mut outside);
    people::phones(text, &mut outside);
    find::random_tokens(text, &mut outside);
    people::postal_addresses(text, &mut outside);
    people::names(text, &mut outside);
    finds.extend(outside.into_iter().filter(|found| !in_link(&found.range)));
    without_overlap(finds)
}

/// Keeps, of finds that overlap, the one that was found first.
fn without_overlap(finds: Vec<Found>) -> Vec<Found> {
    let mut kept: BTreeMap<usize, Found> = BTreeMap::new();
    for found in finds {
        let before = kept.range(..found.range.end).next_back();
        let free = before.is_none_or(|(_, other)| other.range.end <= found.range.start);
        if free && !found.range.is_empty() {
            kept.insert(found.range.start, found);
        }
    }
    kept.into_values().collect()
}

fn replace(text: &str, finds: &[Found]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for found in finds {
        out.push_str(text.get(from..found.range.start).unwrap_or_default());
        out.push_str(found.kind.map_or("", PiiKind::placeholder));
        from = found.range.end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scrubbed(text: &str) -> String {
        scrub(text).text
    }

    #[track_caller]
    fn unchanged(text: &str) {
        assert_eq!(scrubbed(text), text);
    }

    #[test]
    fn addresses_of_mail() {
        assert_eq!(scrubbed("escribe a ana.lopez+x@correo.example.org, gracias"), "escribe a [email], gracias");
        assert_eq!(scrubbed("ana (arroba) example.org or bob [at] example.com"), "[email] or [email]");
    }

    #[test]
    fn telephone_numbers() {
        for number in [
            "+34 612 345 678",
            "612 34 56 78",
            "91 123 45 67",
            "(555) 123-4567",
            "555-123-4567",
            "0034612345678",
            "+1-202-555-0143",
            "+44 20 7946 0958",
            "612345678",
            "0341 8387176",
        ] {
            assert_eq!(scrubbed(&format!("llame al {number}.")), "llame al [phone].", "{number}");
        }
        assert_eq!(scrubbed("mi teléfono: 555 1234"), "mi teléfono: [phone]");
    }

    #[test]
    fn every_number_of_a_list_goes() {
        // Each is known by what stands for the one before.
        let list = format!("llame al {}", "34 612 345 678.\n".repeat(40));
        assert_eq!(scrubbed(&list), format!("llame al {}", "[phone].\n".repeat(40)));
    }

    #[test]
    fn numbers_that_are_no_telephone() {
        for text in [
            "version 115.12.2 on Windows 10.0.19045.3803",
            "error 0x80070005 on 2025-03-14 at 10:15:30",
            "el 14/03/2025, puerto 993, precio 1.299,00 €",
            "bug 1891889 and thread 1396003",
            "port 993 587 465",
            "123456789 bytes of 987654321",
            "I have 20 000 000 messages, 1,234,567 read",
            "build 20240115174633",
        ] {
            unchanged(text);
        }
    }

    #[test]
    fn cards_ibans_and_identity_papers_need_their_check_digits() {
        assert_eq!(
            scrubbed("tarjeta 4111 1111 1111 1111 y 4111 1111 1111 1112"),
            "tarjeta [card] y 4111 1111 1111 1112"
        );
        assert_eq!(scrubbed("IBAN ES91 2100 0418 4502 0005 1332 para el pago"), "IBAN [iban] para el pago");
        assert_eq!(scrubbed("GB82WEST12345698765432."), "[iban].");
        assert_eq!(scrubbed("ES91 2100 0418 4502 0005 1333"), "ES91 2100 0418 4502 0005 1333");
        assert_eq!(scrubbed("DNI 12345678Z, NIE X1234567L, 12345678A"), "DNI [id], NIE [id], 12345678A");
    }

    #[test]
    fn secrets() {
        for (text, want) in [
            ("mi contraseña es Perro2024!", "mi contraseña es [token]"),
            ("contraseña: hunter2", "contraseña: [token]"),
            ("Password: correcthorse", "Password: [token]"),
            ("the password is s3cret99.", "the password is [token]."),
            ("PIN: 4821", "PIN: [token]"),
            ("Authorization: Bearer abc123def456ghi789", "Authorization: Bearer [token]"),
            ("key AKIAIOSFODNN7EXAMPLE", "key [token]"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N", "[token]"),
            ("use q7Rk2PzX9vLm4TnB8sWc1YdF", "use [token]"),
        ] {
            assert_eq!(scrubbed(text), want);
        }
    }

    #[test]
    fn words_about_passwords_stay() {
        for text in [
            "Authentication: normal password",
            "Password: Normal",
            "the password is wrong",
            "la contraseña es correcta",
            "contraseña: cifrada",
            "my password is not accepted",
            "enter the password: the one of your account",
            "security.enterprise_roots.enabled",
            "layout.css.devPixelsPerPx",
            "toolkit.legacyUserProfileCustomizations.stylesheets",
        ] {
            unchanged(text);
        }
    }

    #[test]
    fn links_keep_their_host_and_lose_their_secrets() {
        assert_eq!(
            scrubbed("https://ana:pw@example.org/a?id=3&token=abcdef"),
            "https://example.org/a?id=3&token=[token]"
        );
        unchanged(
            "see https://support.mozilla.org/en-US/kb/profiles-where-thunderbird-stores-user-data#w_where-is-my-profile-stored",
        );
        unchanged("https://example.org/questions/1505051?utm=1");
    }

    #[test]
    fn network_addresses() {
        assert_eq!(
            scrubbed("from 83.45.12.7 to 192.168.1.10, 127.0.0.1 and 8.8.8.8"),
            "from [ip] to 192.168.1.10, 127.0.0.1 and 8.8.8.8"
        );
        unchanged("version 45.8.12.1 is old");
    }

    #[test]
    fn postal_addresses() {
        assert_eq!(scrubbed("vivo en la calle Gran Vía, 28, 3º B, 28013 Madrid"), "vivo en la calle [address]");
        assert_eq!(scrubbed("send it to 221 Baker Street, please"), "send it to [address], please");
        unchanged("I moved 3 Google Drive folders");
        // Text that was not cleaned: spaces of several bytes.
        assert_eq!(scrubbed("calle\u{a0}Mayor\u{3000}3"), "calle\u{a0}[address]");
    }

    #[test]
    fn names_in_greetings_and_closings() {
        assert_eq!(scrubbed("Hola Juan, no abre"), "Hola [name], no abre");
        assert_eq!(scrubbed("Hello Thunderbird, it fails"), "Hello Thunderbird, it fails");
        assert_eq!(scrubbed("No abre.\nGracias, Juan Pérez"), "No abre.\nGracias, [name]");
        assert_eq!(scrubbed("It fails.\nBest regards,\nMary Ann Smith"), "It fails.\nBest regards,\n[name]");
        assert_eq!(scrubbed("It fails. Thanks -Ron"), "It fails. Thanks -[name]");
        unchanged("Thanks for the help");
        unchanged("Gracias por todo");
        assert_eq!(scrubbed("me llamo Luis García y vivo aquí"), "me llamo [name] y vivo aquí");
    }

    #[test]
    fn counts_what_was_found() {
        let found = scrub("a@example.org, b@example.org, +34 612 345 678").found;
        assert_eq!(found, vec![(PiiKind::Email, 2), (PiiKind::Phone, 1)]);
    }

    #[test]
    fn hostile_input_is_handled_in_time() {
        let started = std::time::Instant::now();
        for piece in
            ["1", "1 ", "a@", "a.", "https://", "ES91", "calle ", "password is ", "+", "Hola ", "😀", "1.", "aA1"]
        {
            let _ = scrub(&piece.repeat(200_000 / piece.len()));
        }
        assert!(started.elapsed().as_secs() < 30, "took {:?}", started.elapsed());
    }

    proptest! {
        #[test]
        fn scrubbing_twice_changes_nothing_more(text in "\\PC{0,120}") {
            let once = scrubbed(&text);
            prop_assert_eq!(scrubbed(&once), once);
        }

        #[test]
        fn scrubbing_twice_changes_nothing_more_near_personal_data(parts in proptest::collection::vec(
            prop_oneof![
                Just("Hola Ana, "), Just("612 345 678"), Just("a@b.co"), Just("password is "), Just("x9Z! "), Just("\nGracias, "),
                Just("Juan Pérez"), Just("[name]"), Just("https://u:p@h.org/?token="), Just("4111111111111111"), Just(" 12345678Z"),
                Just("calle Mayor 3"), Just("\n"), Just(", "), Just("+34"), Just("83.45.12.7"), Just("PIN: "), Just("0"),
                Just("[[email]]"), Just("[token"), Just("]"), Just("\u{202e}"), Just("\u{200b}"), Just("e\u{301}"), Just("[at]"),
            ], 0..12)) {
            let once = scrubbed(&parts.concat());
            prop_assert_eq!(scrubbed(&once), once);
        }
    }
}
