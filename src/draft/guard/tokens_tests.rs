use super::*;

fn of_kind(sentence: &str, kind: TokenKind) -> Vec<String> {
    extract(sentence).into_iter().filter(|token| token.kind == kind).map(|token| token.normal).collect()
}

#[test]
fn menu_paths_give_their_labels() {
    assert_eq!(
        of_kind("In Thunderbird, click ≡ > Account Settings > Server Settings and set it.", TokenKind::MenuSegment),
        ["account settings", "server settings"]
    );
    assert_eq!(
        of_kind("Vaya a Herramientas -> Configuración de cuenta: ahí está.", TokenKind::MenuSegment),
        ["herramientas", "configuracion"]
    );
    assert_eq!(of_kind("Ajustes→General→\"Editor\" (abajo)", TokenKind::MenuSegment), ["ajustes", "general", "editor"]);
}

#[test]
fn numbers_links_and_commands_are_found_once() {
    let tokens = extract("1. Set mail.tcp_timeout to 300 on imap.example.com, port 993 (see https://a.example/x?y=1).");
    let normals: Vec<&str> = tokens.iter().map(|token| token.normal.as_str()).collect();
    assert_eq!(normals, ["a.example/x?y=1", "mail.tcp_timeout", "imap.example.com", "300", "993"]);
}

#[test]
fn number_spellings_meet() {
    assert!(number_forms("1.000").contains(&"1000".to_owned()));
    assert!(number_forms("1,000").contains(&"1000".to_owned()));
    assert!(number_forms("v115").contains(&"115".to_owned()));
    assert_eq!(normal_amount("5,00 €"), normal_amount("€5.00"));
    assert_ne!(normal_amount("5 %"), normal_amount("5 €"));
    assert_eq!(of_kind("It takes three days.", TokenKind::Number), ["3"]);
    assert_eq!(of_kind("Desde el 20 de octubre de 2020", TokenKind::Month), ["10"]);
}

#[test]
fn names_inside_a_sentence_are_found_and_openings_are_not() {
    assert_eq!(of_kind("Open the Outlook account that Maria made.", TokenKind::Name), ["outlook", "maria"]);
    assert_eq!(of_kind("Abra el programa. Elija: Cuenta «Nueva».", TokenKind::Name), Vec::<String>::new());
    assert_eq!(of_kind("BitDefender may block it.", TokenKind::Name), ["bitdefender"]);
}

#[test]
fn files_and_chords_are_found() {
    assert_eq!(of_kind(r"Open C:\Users\me\x.txt now.", TokenKind::FilePath), ["c:/users/me/x.txt"]);
    assert_eq!(of_kind("Pulse Ctrl + Mayús + K.", TokenKind::Command), ["ctrl+shift+k"]);
    assert_eq!(of_kind("Rename prefs.js and the .pst file, e.g. now.", TokenKind::Command), ["prefs.js", ".pst"]);
}

#[test]
fn hostile_sentences_do_not_panic() {
    for sentence in ["", ">", "> > >", "->->", "٣٤٥ مرحبا > שלום", "😀>😀", "`", "....", "@@@", "A>B>", "»»» x »"]
    {
        extract(sentence);
    }
}

#[test]
fn long_tails_and_heads_take_linear_time() {
    let started = std::time::Instant::now();
    let brackets = format!("https://example.org/a{}", ")".repeat(400_000));
    assert_eq!(normal_link(&brackets), "example.org/a");
    assert_eq!(normal_link("https://example.org/a_(b)))."), "example.org/a_(b)");
    let names = extract(&format!("{}{}", "1 ".repeat(50_000), "Ana ".repeat(20_000)));
    assert_eq!(names.iter().filter(|token| token.kind == TokenKind::Name).count(), 19_999, "all but the first");
    assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
}
