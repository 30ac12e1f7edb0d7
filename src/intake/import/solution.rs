//! Which answer of a ticket is its solution, and what is none: too short, a question back, a courtesy, a bare pointer.

use regex::Regex;

use super::Reason;
use super::row::{Row, answers_of};
use crate::intake::clean::{clean_stored, normalise};
use crate::ticket::AnswerKind;

/// Shortest solution, in characters after tidying.
const MIN_SOLUTION: usize = 40;
/// Fewest letters beside links and pointing words.
const MIN_OWN_LETTERS: usize = 16;

/// The best usable answer of the kinds that count, best kind first.
///
/// # Errors
/// Why the best of them is not usable, or [`Reason::NoAnswer`].
pub(super) fn best_answer(row: &Row, kinds: &[AnswerKind]) -> Result<(String, AnswerKind), Reason> {
    let mut kinds = kinds.to_vec();
    kinds.sort();
    kinds.dedup();
    let mut first_refusal = None;
    for kind in kinds {
        for answer in answers_of(row, kind) {
            match refusal(&answer) {
                None => return Ok((answer, kind)),
                Some(reason) => {
                    first_refusal.get_or_insert(reason);
                }
            }
        }
    }
    Err(first_refusal.unwrap_or(Reason::NoAnswer))
}

/// An answer as it is remembered: cleaned, without quotes of the thread and requests to mark it as solved.
pub(super) fn tidy(raw: &str) -> String {
    let text = clean_stored(raw);
    let without_quotes = tidy_lines(&text, true);
    // Where the quoted words and the answer share a line, the answer is worth more than a clean cut.
    if without_quotes.is_empty() { tidy_lines(&text, false) } else { without_quotes }
}

fn tidy_lines(text: &str, drop_quoted: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut skip_next = false;
    for line in text.lines() {
        if std::mem::take(&mut skip_next) {
            continue;
        }
        if thread_quote().is_match(line) {
            // The quoted words stand on the next line.
            skip_next = drop_quoted;
            continue;
        }
        let kept: Vec<&str> = sentences(line).into_iter().filter(|sentence| !is_courtesy(sentence)).collect();
        lines.push(kept.join(" "));
    }
    normalise(&lines.join("\n"))
}

fn thread_quote() -> &'static Regex {
    pattern!(
        r"(?i)^.{0,60}\b(?:said|dijo|ha detto|ha scritto|zei|schreef|řekl|disse|a dit|schrieb|írta)\b.{0,4}\(?#answer-\d+\)?\s*:?$"
    )
}

/// Sentences of one line, split after `.`, `!` and `?` before a capital letter or an opening mark.
fn sentences(line: &str) -> Vec<&str> {
    let ends = pattern!(r#"[.!?…]["')\]]?\s+(?:[\p{Lu}¿¡]|\d+[.)]\s)"#);
    let mut parts = Vec::new();
    let mut from = 0;
    let mut at = 0;
    while let Some(found) = ends.find_at(line, at) {
        let gap = found.as_str().find(char::is_whitespace).unwrap_or(0);
        let end = found.start() + gap;
        parts.push(line[from..end].trim());
        from = end;
        at = found.start() + gap + 1;
    }
    parts.push(line[from..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// Asks to close the ticket, thanks, greets, is glad: nothing that solves.
fn is_courtesy(sentence: &str) -> bool {
    if sentence.chars().count() > 220 {
        return false;
    }
    pattern!(
        r"(?ix)
          \b(?:marcar|marque|marca|marcad|cerrar|cierre|elegir|eligiendo)\b .{0,60} \b(?:solucionad[ao]|soluci[oó]n|consulta|respuesta|[uú]til|resuelt[ao])\b
        | \bsirva\ a\ otros\ usuarios | \bpuedes?\ indicarnos\ si\ tienes?\ m[aá]s\ consultas
        | \bmark\b .{0,50} \b(?:as\ (?:the\ |a\ )?(?:solved|solution|resolved)|solved\b|thread\ as|question\ as|this\ as|answer\ as|topic\ as)
        | \bchosen?\ solution\b | \bclick\ .{0,20}solved\b
        | \b(?:segna|contrassegna|contrassegnare|segnare|imposta|marca)\b .{0,60} \b(?:risolt[ao]|soluzione)\b
        | \b(?:markeer|markeren)\b .{0,60} \b(?:opgelost|oplossing)\b | \boznač\w* .{0,60} \b(?:vyřešen\w*|řešení)\b
        | \bmarque[rz]?\b .{0,60} \brésolu\w*
        | ^(?:¡?(?:muchas\ )?gracias(?:\ (?:por\ \w+\ \w+|de\ antemano))?|(?:un\ )?saludos?|hola|hi(?:\ there)?|hello|ciao|salve|hallo|thanks|thank\ you|cheers|regards|best\ regards|grazie|you(?:'re|\ are)\ welcome|de\ nada|good\ luck|suerte|hope\ (?:this|that|it)\ helps?|espero\ que\ (?:te|le)\ ayude|hth)[\s!.,)¡]*$
        | ^(?:glad|i'?m\ (?:glad|pleased|happy)|we'?re\ (?:glad|pleased|happy)|happy|pleased|great)\b .{0,80} \b(?:solved|resolved|fixed|works?|working|help(?:ed|s)?|hear|ok|sorted|well)\b
        | ^me\ alegro\b | ^nos\ alegra\b"
    )
    .is_match(sentence)
}

/// Why a tidied answer is no solution; None when it is one.
pub(super) fn refusal(answer: &str) -> Option<Reason> {
    if answer.is_empty() {
        return Some(Reason::AnswerIsCourtesy);
    }
    let instructs = has_instruction(answer);
    let parts: Vec<&str> = answer.lines().flat_map(sentences).collect();
    let questions = parts.iter().filter(|sentence| sentence.ends_with('?')).count();
    let mostly_questions = questions * 2 >= parts.len() && questions > 0;
    let ends_with_question = answer.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '?').ends_with('?');
    if (ends_with_question || mostly_questions || asks_for_details(answer)) && !instructs {
        return Some(Reason::AnswerIsQuestion);
    }
    if is_pointer(answer) {
        return Some(Reason::AnswerIsPointer);
    }
    if is_all_courtesy(answer) {
        return Some(Reason::AnswerIsCourtesy);
    }
    (answer.chars().count() < MIN_SOLUTION).then_some(Reason::AnswerTooShort)
}

/// Sentences that are no questions tell the reader to do something, or show a menu path.
fn has_instruction(answer: &str) -> bool {
    let verbs = pattern!(
        r"(?ix)
          (?:^|[\s(\-*\u{22}“‘'])(?:try|click|right-?click|double-?click|select|go\ (?:to|into|back)|open|check\ (?:the|that|if|your|in|for|box|whether)|set|change|disable|enable|uncheck|untick|tick|remove
            |delete|install|reinstall|uninstall|restart|reboot|use|press|hold|turn|toggle|choose|move|copy|paste|drag|highlight|create|add|enter|type|switch|update|upgrade|download|run|start|close|exit|quit
            |make\ sure|ensure|look\ (?:in|at|under|for)|see|follow|compact|repair|rename|reset|clear|verify|visit|replace|adjust|edit|export|import|do\ (?:this|the|it)|you\ (?:can|need|should|must|have\ to|could|may|might|will\ need))\b
        | \b(?:prueb[ae]|intent[ae]|haga|haz|hac[eé]r?\ clic|pulsa|pulse|pulsar|abr[ea]|abrir|ve\ a|vaya\ a|vay?a|ir\ a|seleccion[ae]|seleccionar|desactiv[ae]r?|activ[ae]r?|marque|marca|desmar[cq]u?[ae]r?|revis[ae]r?|comprueb[ae]|verifi[cq]u?[ae]|elimin[ae]r?|borr[ae]r?|instal[ae]r?|desinstal[ae]r?|reinici[ae]r?|us[ae]|utilic[ea]|utiliza|cambi[ae]r?|cre[ae]r?|agreg[ae]r?|a[ñn]ad[ea]|escrib[ae]|copi[ae]|actuali[zc][ae]r?|entr[ae]\ en|puedes?|debes?|deber[ií]as?|tienes?\ que|hay\ que|siga|sigue|configur[ae]r?|restablec\w+|acced[ae])\b
        | \b(?:prova|provi|provare|clicca|cliccare|fai\ clic|fare\ clic|vai|vada|apri|aprire|seleziona|selezionare|disattiva\w*|attiva\w*|controlla\w*|verifica\w*|elimina\w*|rimuov\w+|installa\w*|disinstalla\w*|riavvia\w*|usa|utilizza|cambia|modifica\w*|crea|aggiungi|imposta\w*|puoi|può|devi|deve|dovresti|bisogna|scarica|segui|copia|premi)\b
        | \b(?:probeer|klik|ga\ naar|open|selecteer|kies|vink|verwijder|installeer|schakel|zet|stel|druk|maak|gebruik|controleer|herstart|u\ kunt|je\ kunt|moet)\b
        | \b(?:zkuste?|klikn\w+|otevř\w+|vyber\w+|nastav\w+|zaškrtn\w+|odstraň\w*|smaž\w*|nainstal\w+|restart\w+|použij\w*|skúst\w*|můžete|musíte|přejd\w+)\b
        | \b(?:versuch\w*|klick\w*|öffne\w*|wähl\w*|gehe?\ (?:zu|auf|in)|essayez|cliquez|ouvrez|allez|sélectionnez|tente|clique|abra|vá\ (?:a|em|para)|selecione|próbáld?|kattint\w*|deneyin|tıklayın|açın|seçin)\b
        | \S\s?(?:>|→|->|⇒|➜|≫|»)\s?\S | ^\s*(?:\d+[.)]|-)\s+\S"
    );
    let tells = |sentence: &str| !sentence.ends_with('?') && !asks_for_details(sentence) && verbs.is_match(sentence);
    answer.lines().flat_map(sentences).any(tells)
}

/// Asks for a screenshot or details without a question mark.
fn asks_for_details(answer: &str) -> bool {
    let asks = pattern!(
        r"(?i)\b(?:post|attach|provide|share|send|upload|give)\b.{0,40}\b(?:screen ?shots?|troubleshooting information|(?:more |detailed )(?:information|details|info)|details|error message)\b|\b(?:adjunt\w+|env[ií]\w+|indi[cq]\w+|facilit\w+|comparte|compart\w+)\b.{0,40}\b(?:captura|pantallazo|m[aá]s (?:datos|detalles|informaci[oó]n)|informaci[oó]n)\b|\b(?:need|require) more (?:information|details|info)\b|\b(?:allega|invia|fornisci)\w*\b.{0,40}\b(?:schermata|screenshot|dettagli|informazioni)\b"
    );
    answer.chars().count() < 400 && asks.is_match(answer)
}

/// Nothing but links and words that point at them.
fn is_pointer(answer: &str) -> bool {
    let links = pattern!(r"\(?\w+://\S+\)?|\bwww\.\S+|\[token\]");
    if !links.is_match(answer) {
        return pattern!(r"(?i)^\s*(?:please )?(?:see|look at|check|ver|mira|vea|vedi|zie) (?:the |my |el |la |lo |los |las |il )?(?:attached|attachment|image|picture|screenshot|above|below|adjunt[oa]|imagen|captura|allegato|immagine|bijlage)\w*[\s.!]*$")
            .is_match(answer);
    }
    let rest = links.replace_all(answer, " ");
    let own = pattern!(
        r"(?i)\b(?:see|also|try|check|read|look|at|this|that|these|the|here|here's|is|are|a|an|article|link|page|guide|thread|question|topic|post|please|have|you|if|helps?|maybe|perhaps|in|of|for|more|info|information|instructions|follow|to|and|it|out|hi|hello|may|might|answer|ver|vea|mira|mire|aqu[ií]|este|esta|esto|enlace|link|art[ií]culo|p[aá]gina|gu[ií]a|la|el|lo|los|las|siguiente|consulta|revisa|revise|por|favor|puedes|puede|seguir|continuar|en|de|y|con|hola|saludos|duplicad[ao]|duplicate|vedi|leggi|guarda|qui|questo|questa|pagina|guida|articolo|discussione|il|di|prova|zie|deze|dit|hier|artikel|pagina|lees|het|een|viz|zkuste|t[ea]|tento|hai|provato|tried|did|does|work|already|seen)\b"
    )
    .replace_all(&rest, " ");
    own.chars().filter(|c| c.is_alphabetic()).count() < MIN_OWN_LETTERS
}

fn is_all_courtesy(answer: &str) -> bool {
    answer.lines().flat_map(sentences).all(is_courtesy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(answer: &str, want: Reason) {
        assert_eq!(refusal(&tidy(answer)), Some(want), "{answer}");
    }

    #[track_caller]
    fn taken(answer: &str) {
        assert_eq!(refusal(&tidy(answer)), None, "{answer}");
    }

    #[test]
    fn instructions_are_solutions() {
        taken("Right-click the folder, choose Properties and press the Repair button.");
        taken("En Ajustes > General desactiva la aceleración por hardware y reinicia.");
        taken("Open the settings and switch the option off. Does that help?");
        taken("Apri le impostazioni e disattiva l'antivirus per la posta in uscita.");
        taken("The service was down this morning and it has been back since ten o'clock.");
    }

    #[test]
    fn questions_back_are_not() {
        refused("Which version of the program do you use, and on which system?", Reason::AnswerIsQuestion);
        refused("¿Qué versión del programa tienes y en qué sistema operativo está?", Reason::AnswerIsQuestion);
        refused("Quale versione del programma usi, e su quale sistema operativo?", Reason::AnswerIsQuestion);
        refused("Please post a screenshot of the window and the exact message.", Reason::AnswerIsQuestion);
    }

    #[test]
    fn courtesies_and_pointers_are_not() {
        refused("Please mark this thread as solved. Thanks!", Reason::AnswerIsCourtesy);
        refused(
            "Si está resuelto, le pedimos marcar la consulta como solucionada. ¡Gracias!",
            Reason::AnswerIsCourtesy,
        );
        refused("See https://example.org/kb/global-search", Reason::AnswerIsPointer);
        refused("Mira este artículo: https://example.org/es/kb/algo-muy-largo", Reason::AnswerIsPointer);
        refused("see attached.", Reason::AnswerIsPointer);
        refused("Use the other one.", Reason::AnswerTooShort);
    }

    #[test]
    fn courtesy_sentences_and_thread_quotes_leave_a_good_answer() {
        let raw = "[customer] said (#answer-123)\nWhere is it?\nUnder Settings > General you will find the box. Please mark this as solved.";
        assert_eq!(tidy(raw), "Under Settings > General you will find the box.");
        assert_eq!(tidy("Pulsa F8 y reinicia el equipo.\n¡Gracias!"), "Pulsa F8 y reinicia el equipo.");
    }

    #[test]
    fn sentences_split_at_their_ends_only() {
        assert_eq!(
            sentences("Use 115.1 now. Then go. ¿Funciona? ok"),
            vec!["Use 115.1 now.", "Then go.", "¿Funciona? ok"]
        );
        assert_eq!(sentences(""), Vec::<&str>::new());
    }
}
