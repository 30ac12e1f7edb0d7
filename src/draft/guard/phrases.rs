//! Turns of phrase that a reply must not hold, and those that are the desk's own. English and Spanish.
//!
//! Every pattern runs on folded text: lower case, no accents.

use std::sync::LazyLock;

use regex::Regex;

use crate::draft::text;

fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("constant pattern")
}

static PROMISE: LazyLock<Regex> = LazyLock::new(|| {
    text::folded_pattern(
        r"\bguarantee[sd]?\b|\bgarantiz\w+|\b(we|i|our team|support|a colleague)('ll| will| can| are going to| shall) (also |then |gladly |personally )?(refund|reimburse|compensate|credit|pay|fix|solve|resolve|restore|recover|repair|replace|waive|cancel|upgrade|call|phone|get back|contact|reply|respond|answer you (within|by|in|today|tomorrow)|send you (a|an|your))\b|\b(will|going to) be (fixed|solved|resolved|refunded|restored|reimbursed|ready|back) (soon|shortly|today|tomorrow|within|by|in)\b|\byou('ll| will) (get|receive|be given|hear)\b.{0,40}\b(refund|credit|compensation|money|from us|discount|within|by tomorrow|today)\b|\bwe promise\b|\bas soon as possible\b|\b(within|in less than|in under) (the next )?\w+ (minutes?|hours?|(business |working )?days?|weeks?)\b.{0,30}\b(we|you will|from us)\b|\b(we|us|you will|from us)\b.{0,60}\b(within|in less than|in under) (the next )?\w+ (minutes?|hours?|(business |working )?days?|weeks?)\b|\b(le|te|les|os) (reembols\w+|devolver\w+|compensar\w+|abonar\w+|llamar(emos|an|a)|contactar(emos|an|a)|garantiz\w+|prometemos|asegur(o|amos))\b|\bprometemos\b|\b(solucionar|arreglar|resolver|reparar|restaurar|recuperar|reembolsar|devolver|reemplazar|cancelar|responder|contestar)(emos|e)\b|\b(se|sera|quedara)( le)? (solucionara|resolvera|arreglara|reembolsara|solucionado|resuelto|reembolsado|reparado)\b|\b(lo antes posible|cuanto antes|a la mayor brevedad|hoy mismo)\b|\b(en un plazo de|en menos de|antes de|dentro de) (las proximas )?\w+ (minutos?|horas?|dias?|semanas?)\b.{0,40}\b(le|te|nosotros|recibira\w*|tendra\w*)\b|\b(recibiras?|tendras?)\b.{0,40}\b(reembolso|devolucion|compensacion|respuesta (en|antes|hoy|manana)|en menos de|en un plazo)\b|\b(le|te)\b.{0,40}\b(en un plazo de|en menos de|dentro de) \w+ (minutos?|horas?|dias?|semanas?)\b",
    )
});

static ANECDOTE: LazyLock<Regex> = LazyLock::new(|| {
    text::folded_pattern(
        r"\bme too\b|\bsame (problem|issue|thing|here)( here| for me| too)\b|\bi('ve| have| had|'m having| am having| also have| also had)( also| had| got| seen| been having| experienced)? (the |this |that |a |exactly )*(same|similar)\b|\b(in|from) my (experience|case|opinion)\b|\b(works?|worked|working|happened|happens) (fine |well |great |ok )*(for|to|with) me\b|\bfor me (it|this)\b|\bi (use|used|was using|am using|am running|run|upgraded|updated|installed|uninstalled|noticed|experienced|tried|solved|fixed|found (that|out|a)|got|had|have (tried|used|found|noticed|just|also|an? |the |my|been|seen|two|several)|just (had|did|found|tried)|switched|changed|went|don't (use|like|have)|prefer|personally|guess|suspect|believe|think)\b|\bi'(m using|m on|m running|ve (tried|used|found|noticed|just|been|seen|had|got))\b|\bmy (thunderbird|computer|pc|laptop|own|account|gmail|system|machine|wife|husband|provider|inbox|profile|experience|version)\b|\b(a mi|yo) (tambien|tampoco|me|lo|la|uso|tengo|tenia|tuve|utilizo)\b|\byo\b.{0,12}\b(tengo|tenia|tuve|uso|utilizo|hice|probe)\b|\ben mi (caso|experiencia|opinion|ordenador|equipo|pc)\b|\bme (ha )?(funciono|funciona|funcionado|paso|pasaba|pasa|ocurrio|ocurre|sucedio|sucede) (a mi|lo mismo|igual|tambien|bien|perfect\w*)?\b|\b(tengo|tenia|tuve) (el|un|este|ese) (mismo|problema)\b|\b(mi|mis) (thunderbird|ordenador|equipo|portatil|pc|cuenta|proveedor|version|bandeja)\b|\b(creo que|personalmente|supongo que)\b",
    )
});

/// What somebody at the desk did: by perfect tense with any verb, by past tense with the verbs of a desk. Of the message that was
/// read and passed on, and of what is known, a reply may say so.
static DEED: LazyLock<Regex> = LazyLock::new(|| {
    text::folded_pattern(
        r"\b(?:we|i)(?:'ve| have)(?: (?:just|already|now|also|since|both))* (?:[a-z]+ed|sent|put|set|reset|made|given|done|taken|cut|begun|rebuilt|undone|written)\b|\b(?:we|i)(?: (?:just|already|now|also))* (?:closed|blocked|unblocked|reset|refunded|restored|removed|deleted|added|enabled|disabled|activated|deactivated|changed|updated|sent|moved|repaired|raised|extended|credited|cancell?ed|released|lifted|merged|created|renewed|opened|reported|granted|applied|corrected|issued)\b|\b(?:hemos|he)(?: (?:ya|tambien|ahora|vuelto a))* (?:\w+(?:ado|ido)|puesto|hecho|abierto|vuelto|repuesto|devuelto|resuelto|deshecho|escrito)\b",
    )
});
/// Verbs of these sentences that copy nobody's deed.
const TRUE_DEEDS: [&str; 9] =
    ["received", "noted", "passed", "understood", "recibido", "pasado", "entendido", "anotado", "comprendido"];

static BLAME: LazyLock<Regex> = LazyLock::new(|| {
    text::folded_pattern(
        r"\byou should (have|not have|'ve)\b|\byour (own )?(fault|mistake)\b|\byou (failed|forgot|neglected|broke|messed|obviously|clearly|ignored|did not bother|didn't bother|caused)\b|\b(obviously|common sense|read the manual|user error|rtfm|as i (already )?said|stop (whining|complaining))\b|\b(deberia|debiste|tendrias que|deberias|tendria que) haber\b|\b(su|tu) (propia )?(culpa|error|descuido)\b|\b(obviamente|sentido comun|lea el manual|como ya (le |te )?dij\w+|error del usuario)\b|\b(usted|tu) (no (hizo|hiciste|leyo|leiste)|olvido|olvidaste|provoco|provocaste)\b",
    )
});

/// Sentences in which the desk speaks of itself: what was understood, who takes it on, courtesy. They state no fact about
/// the product.
static OURS: LazyLock<Regex> = LazyLock::new(|| {
    text::folded_pattern(
        r"^(?:(?:hola|hello|hi|dear|estimad[oa]|buen[oa]s|good (morning|afternoon|evening)|gracias|thanks?|thank you|muchas gracias|saludos|un saludo|(kind |best )?regards|atentamente|cordialmente|siento|lamento|sentimos|lamentamos|(we are |i am |we're |i'm )?sorry)\b|[^.]{0,80}\b(a|one of our|another) colleagues?\b|[^.]{0,80}\b(un|una|otro|otra) (companer[oa]|colega|persona del equipo)\b|[^.]{0,40}\b(we|i) (understand|see|have no(thing)?|have|do not|don't|cannot|can't|could not|am passing|are passing|would like to|need)\b|(?:[^.]{0,30}\b)?(entiendo|entendemos|comprendo|comprendemos|sabemos|se que|no tengo|no tenemos|nos falta|necesit(o|amos)|veo que|vemos que|para (poder )?(ayudar|orientar|saber|ver|encontrar))|you (would like|want|wanted|have|see|say|read|are|can see|get|cannot|can't|did|use|tried|asked|mention|report|describe)\b|[^.]{0,60}\b(what we have at hand|la documentacion que tenemos|lo que tenemos a mano|no tenemos a mano)\b|(if (that|this|it) does not|si (esto|eso|no)( no)? (le |te )?(ayuda|funciona|sirve)|let us know|please let us|escribanos|escribenos|avisenos|cuentenos|diganos|quedamos|esperamos|we hope)\b|(in a (similar|comparable) case|en un caso (parecido|similar|ya resuelto)|according to a|segun un caso)[^.]{0,60}:$|quiere|quieres|desea|le gustaria|te gustaria)",
    )
});

static GREETING: LazyLock<Regex> = LazyLock::new(|| {
    text::folded_pattern(
        r"^(?:hola|hello|hi|hey|dear|estimad[oa]|buen[oa]s (?:dias|tardes|noches)|buenas|good (?:morning|afternoon|evening))\b[^.?]{0,40}[,.:!]?$",
    )
});

static PERSONAL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)[\p{L}0-9._%+-]+@[\p{L}0-9-]+(?:\.[\p{L}0-9-]+)+|\b[A-Z]{2}\d{2}(?:\s?[A-Z0-9]{4}){3,7}\b|\b(?:\d[ -]?){13,19}\b|(?:\+\d{1,3}[ .-]?|\b)\(?\d{2,4}\)?(?:[ .-]\d{2,4}){2,4}\b|\+\d{9,14}\b|\b\d{8}-?[A-Z]\b|\b\d{3}-\d{2}-\d{4}\b",
    )
});

static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\[(?:e-?mail|phone|card|iban|token|name|customer|helper|user|image|address|account|secret|password|number|url|link|removed|redacted|your [a-z ]{2,30}|su [a-z ]{2,30}|nombre|correo|telefono)[^\]\n]{0,40}\]|<(?:e-?mail|phone|card|iban|token|name|customer)>",
    )
});

static MODEL_TALK: LazyLock<Regex> = LazyLock::new(|| {
    text::folded_pattern(
        r"\bas an? (ai|artificial|language model|large language)\b|\b(language model|modelo de lenguaje|inteligencia artificial|system prompt|prompt de(l)? sistema|my instructions|mis instrucciones)\b|<\|?\s*/?(im_start|im_end|system|endoftext|assistant|user)|\bas instructed\b",
    )
});

/// A commitment of the desk: a refund, a repair, a date.
pub fn promise(folded: &str) -> Option<&str> {
    PROMISE.find(folded).map(|found| found.as_str())
}

/// A helper's own experience or opinion in the first person.
pub fn anecdote(folded: &str) -> Option<&str> {
    ANECDOTE.find(folded).map(|found| found.as_str())
}

/// Words that say what the desk has done.
pub fn deed(folded: &str) -> Option<&str> {
    let is_true = |found: &str| found.split(' ').next_back().is_some_and(|verb| TRUE_DEEDS.contains(&verb));
    DEED.find_iter(folded).map(|found| found.as_str()).find(|found| !is_true(found))
}

/// Words that put the fault on the customer.
pub fn blame(folded: &str) -> Option<&str> {
    BLAME.find(folded).map(|found| found.as_str())
}

/// The model speaks of itself or of its prompt.
pub fn model_talk(folded: &str) -> Option<&str> {
    MODEL_TALK.find(folded).map(|found| found.as_str())
}

/// True for the desk's own words: greeting, what was understood, who takes it on, courtesy.
pub fn is_ours(folded: &str) -> bool {
    OURS.is_match(folded.trim_start_matches(|c: char| !c.is_alphanumeric()))
}

/// True for a line that only greets.
pub fn is_greeting(folded: &str) -> bool {
    GREETING.is_match(folded.trim().trim_start_matches(['¡', '"']))
}

/// True when the sentence asks something.
pub fn is_question(sentence: &str) -> bool {
    sentence.trim_end().trim_end_matches(['"', '»', '”', ')', ' ']).ends_with(['?', '？', '؟'])
        || sentence.contains('¿')
}

/// Addresses, phone numbers, cards, account and identity numbers, and left-over placeholders of scrubbing.
pub fn personal_data(sentence: &str) -> Vec<&str> {
    let addresses =
        PERSONAL.find_iter(sentence).map(|found| found.as_str()).filter(|found| !looks_like_version_or_date(found));
    addresses.chain(PLACEHOLDER.find_iter(sentence).map(|found| found.as_str())).collect()
}

fn looks_like_version_or_date(found: &str) -> bool {
    if found.contains('@') || found.starts_with('+') {
        return false;
    }
    let digits = found.chars().filter(char::is_ascii_digit).count();
    let is_address = found.matches('.').count() == 3 && found.chars().all(|c| c.is_ascii_digit() || c == '.');
    digits < 9 && !found.contains(char::is_alphabetic) && found.len() < 11 || is_address || text::count_words(found) > 8
}

static BREAKS_OFF: LazyLock<Regex> = LazyLock::new(|| {
    const PREPOSITION: &str = r"(en|de|del|a|al|con|por|para|vea|vease|consulte|in|at|of|to|with|from|see|under)";
    text::folded_pattern(&format!(r"\b{PREPOSITION}\s*(?:\[\s*e?\d[^\]]*\]|[.:;]?\s*$)"))
});

/// The word after which the sentence, with its citation marks, breaks off: what it points to is a citation, which the
/// customer does not see, or was never written.
pub fn breaks_off(folded: &str) -> Option<&str> {
    BREAKS_OFF.captures(folded).and_then(|found| found.get(1)).map(|word| word.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_told_from_facts() {
        for promise_text in [
            "We will refund your payment.",
            "Te garantizamos que funcionará.",
            "A colleague will call you within 24 hours.",
            "Le reembolsaremos el importe.",
            "Lo solucionaremos hoy mismo.",
            "You will receive a refund tomorrow.",
        ] {
            assert!(promise(&text::fold(promise_text)).is_some(), "{promise_text}");
        }
        for fact in [
            "A colleague will take it on.",
            "Un compañero se ocupará de su caso.",
            "The server deletes mail within 30 days.",
            "Thunderbird will ask for your password.",
            "Espere unos minutos y vuelva a abrirlo.",
        ] {
            assert_eq!(promise(&text::fold(fact)), None, "{fact}");
        }
    }

    #[test]
    fn anecdotes_are_told_from_courtesy() {
        for anecdote_text in [
            "I have the same issue.",
            "Yo también tenía ese problema.",
            "In my experience it works.",
            "A mí me funciona bien.",
        ] {
            assert!(anecdote(&text::fold(anecdote_text)).is_some(), "{anecdote_text}");
        }
        for fine in [
            "I understand that your mail is gone.",
            "Entiendo que no puede entrar.",
            "I am passing this to a colleague.",
        ] {
            assert_eq!(anecdote(&text::fold(fine)), None, "{fine}");
        }
    }

    #[test]
    fn deeds_are_told_from_facts_and_from_what_every_reply_may_say() {
        for claimed in [
            "We have closed all sessions and blocked all changes.",
            "I've just reset your password.",
            "We already refunded the second payment.",
            "Hemos cerrado todas las sesiones.",
            "Ya te lo he devuelto.",
        ] {
            assert!(deed(&text::fold(claimed)).is_some(), "{claimed}");
        }
        for fine in [
            "We have received your request.",
            "Hemos recibido tu mensaje.",
            "If you have closed the panel, open it again.",
            "We need the domain.",
            "Se ha cerrado la sesión.",
            "He aquí los pasos.",
        ] {
            assert_eq!(deed(&text::fold(fine)), None, "{fine}");
        }
    }

    #[test]
    fn personal_data_is_seen_and_versions_are_not() {
        assert_eq!(
            personal_data("Write to ana@example.org or +34 600 123 456."),
            ["ana@example.org", "+34 600 123 456"]
        );
        assert_eq!(personal_data("Your card 4111 1111 1111 1111 was used by [customer].").len(), 2);
        assert!(personal_data("Use version 115.10.1 on port 993 and 192.168.100.200 since 2024-01-02.").is_empty());
    }
}
