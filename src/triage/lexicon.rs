//! Lists of our own: what words say in support requests, English and Spanish side by side, so that a concept is learnt
//! once for both languages.
//!
//! Words are written as [`super::text`] folds them: lower case, no accents, no apostrophes. A word that ends in `*`
//! matches every word that begins so. Several words match in a row.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::text::Token;

/// The concepts, in the fixed order of their features. Appending or changing one needs a new feature version.
pub const CONCEPTS: &[(&str, &str)] = &[
    (
        "cannot",
        "cannot|cant|can not|unable|not able|wont let|wont|doesnt let|does not let|couldnt|could not|impossible|\
         not allow*|no puedo|no me deja|no deja|no se puede|no podemos|no puede|no pude|no he podido|imposible|\
         no permite|no me permite|no logro|no consigo|no hay manera|no hay forma|no tengo forma|no tengo acceso|\
         no access|sin poder|incapable|no se deja|sin acceso|refuses|se niega",
    ),
    (
        "broken",
        "fail*|not work*|doesnt work|does not work|isnt working|stopped|stops|broke*|quit working|no funciona*|\
         no me funciona*|dejo de|ha dejado de|deja de|fall*|averiad*|no sirve|no responde|not respond*|no longer|\
         ya no|keeps|problem*",
    ),
    ("crash", "crash*|freez*|froze*|hang*|hung|stuck|congel*|colg*|cuelg*|se cierra|bloquea|loop*|bucle|white screen"),
    ("error", "error*|warning*|mensaje de error|codigo de error|exception|advertencia|aviso|alert*|timeout|timed out"),
    (
        "lost",
        "lost|lose|losing|loss|loose|disappear*|dissapear*|vanish*|gone|missing|wiped|erased|perd*|pierd*|desaparec*|\
         no aparecen|not there|no estan|empty|vaci*|corrupt*|blank|en blanco|danad*|overwrit*|sobrescri*",
    ),
    ("deleted", "delet*|borr*|elimin*|remov*|trash|papelera|purg*"),
    (
        "recover",
        "recover*|recuper*|restor*|restaur*|get back|get it back|get them back|retriev*|bring back|undo|rescat*|\
         de vuelta|deshacer",
    ),
    ("mail", "email*|mail|mails|correo*|mensaje*|message*|inbox*|bandeja*|e mail|e mails|carpeta*|folder*"),
    (
        "keepsakes",
        "bookmark*|marcador*|favorit*|password*|contrasen*|clave|claves|contact*|address book*|libreta|profile*|\
         perfil*|data|datos|archivos|files|fotos|photos|calendar*|agenda",
    ),
    ("passing", "tab|tabs|pestana*|histor*|feed|feeds|session*|ventana*|window"),
    (
        "everything",
        "all|every|everything|todo|todos|toda|todas|entire|whole|nada|nothing|completamente|completely|years",
    ),
    ("send", "send*|sent|outgoing|smtp|envi*|mandar|saliente*|reply|responder|forward*|reenvi*"),
    ("receive", "receiv*|recib*|incoming|entrante*|llegan|llega|arriv*|get mail|get messages|download*|descarg*"),
    (
        "login",
        "log in|login|logging|logged|sign in|signing in|signin|iniciar sesion|inicio de sesion|acced*|acceso|access*|\
         authentic*|autentic*|entrar|ingresar|credential*|credencial*",
    ),
    ("start", "open*|abr*|start*|launch*|arranc*|inici*|load*|carg*|boot*|ejecut*"),
    ("locked", "locked|blocked|bloque*|banned|suspend*|disabled|deshabilit*|cancelled|cancelad*|desactiv*|lockout"),
    (
        "haste",
        "urgent*|urge|asap|immediate*|inmediat*|right now|deadline|cuanto antes|antes posible|desperate*|desesper*|\
         emergenc*|quickly|critical|critic*|yesterday|ahora mismo|today|hoy|tomorrow|manana|soon|pronto|hours|horas",
    ),
    ("help", "help|please help|ayuda|auxilio|socorro|ayud*|ruego|desperately|importan*|vital|necesito|need"),
    (
        "business",
        "business*|company|companies|empresa*|office|oficina*|client|clients|cliente*|customer*|work|trabaj*|job|\
         employees|empleados|team|equipo|department|departamento|colleagues|organi*|school|escuela|universi*",
    ),
    (
        "attack",
        "hack*|virus*|malware|phish*|scam*|estaf*|fraud*|stolen|steal*|stole|theft|rob*|suplant*|identity|identidad|\
         spyware|compromised|hijack*|unauthori*|no autoriz*|troyano|trojan|ransom*|sospechos*|suspicious|espia*",
    ),
    (
        "money",
        "money|refund*|reembols*|dinero|pay|paid|payment*|pago*|pagar|pague|charge*|charging|cobr*|factur*|invoice*|\
         bill|billing|billed|usd|eur|euros|dollars|bank|banco|credit*|tarjeta|card|loan*|debt*|deuda*|mortgage|fee|\
         fees|subscri*|suscri*|donat*|donaci*|price|precio*|purchase*|compr*",
    ),
    (
        "dispute",
        "disput*|claim*|complain*|reclam*|queja*|denunci*|lawyer*|abogad*|legal*|police|policia|report|bureau*|sue",
    ),
    (
        "order",
        "order*|package|deliver*|flight*|pedido*|entrega*|vuelo*|reserv*|booking|shipping|shipment|tracking|store",
    ),
    (
        "anger",
        "ridiculous|terrible|awful|horrible|horribl*|worst|peor|furious|fed up|hart*|verguenza|vergonz*|unacceptable|\
         inaceptable|stupid|sucks|crap|hate*|odio|disgust*|angry|enfadad*|frustrat*|frustra*|useless|inutil|garbage|basura",
    ),
    ("annoyed", "annoy*|molest*|irritat*|pesad*|ugly|feo|fea|dislike|no me gusta|unwanted|undesired|confus*|tedious"),
    (
        "howto",
        "how|how do|how to|how can|como|de que manera|que debo hacer|where|donde|is there a way|hay alguna|hay algun",
    ),
    (
        "possible",
        "possible|posible|se puede|is it|is there|puedo|can i|es posible|existe|existen|alguna manera|hay forma",
    ),
    (
        "wish",
        "would like|i want|want to|wish*|me gustaria|quisiera|quiero|desearia|prefer*|feature*|suggest*|suger*|\
         it would be|seria|please add|agregar|anadir|poner|funcionalidad|request|would be nice|podrian|should",
    ),
    (
        "switch",
        "change*|changing|cambi*|set|setting*|ajuste*|configur*|option*|opcion*|customi*|personaliz*|default|turn off",
    ),
    (
        "looks",
        "color*|colour*|font*|fuente|letra*|size|tamano|icon*|theme*|tema|layout*|view*|vista*|toolbar*|barra*|look*|\
         appearance|aspecto|dark|oscur*|column*|interface|interfaz|button*|boton*|format*|sort*|orden*|spacing|scroll*",
    ),
    (
        "oldways",
        "old version*|previous version|version anterior|go back|volver|used to|older|like before|como antes|rollback",
    ),
    (
        "praise",
        "thank*|gracias|love|loving|great|excelente|excellent|congrat*|felicit*|awesome|best|appreciate|feliz|genial",
    ),
    (
        "workaround",
        "workaround|chrome|edge|safari|opera|other browser*|another browser|otro navegador|otros navegadores|works fine|\
         work fine|works in|works on|webmail|on my phone|en el movil|funciona bien|funcionan bien|sin problema*|\
         temporar*|temporal*|mientras|except|excepto|salvo|only|solo",
    ),
    ("update", "updat*|upgrad*|actuali*|version*|new release|nueva version|supernova|reinici*|restart*"),
    (
        "tried",
        "tried|try|trying|he probado|probe|probado|intent*|reinstall*|reinstal*|desinstal*|uninstall*|already|ya he|\
         followed|segui|cleared|nada funciona|sigue igual|no result*|several times|varias veces",
    ),
    (
        "diagnosis",
        "log|logs|console|consola|registro|safe mode|modo seguro|troubleshoot*|about|prefs|proxy|vpn|firewall|cortafuegos|\
         antivirus|oauth*|tls|ssl|certific*|server*|servidor*|port|puerto|enterprise|gpo|linux|ubuntu|imap|pop|pop#|dns|\
         ldap|exchange|script*|stack|trace|cpu|memory|memoria|ram|api|debug*|header*|encrypt*|cifrad*|openpgp|s mime",
    ),
    (
        "shown",
        "screenshot*|image|picture|attached|attachment*|adjunt*|captura*|imagen|pantallazo|foto|see below|following",
    ),
    (
        "sudden",
        "sudden*|de repente|de pronto|since|desde|this morning|esta manana|ayer|last night|anoche|overnight|days|dias",
    ),
    (
        "sometimes",
        "sometimes|a veces|occasional*|ocasion*|intermitt*|intermit*|random*|aleatori*|algunas|some|slow*|lent*|lag*",
    ),
    ("always", "always|siempre|cada vez|every time|constant*|continu*|repeated*|keep|sigue|siguen|keeps asking"),
    (
        "person",
        "real person|human|humano|persona|phone number|telefono|call me|called|llamar|llame|agent|agente|speak|hablar|\
         representative|representante|supervisor|manager|support team|soporte|customer service|no response|sin respuesta",
    ),
    ("account", "account*|cuenta*|user|usuario*|username"),
    (
        "close",
        "delete my account|close my account|eliminar mi cuenta|borrar mi cuenta|dar de baja|darme de baja|unsubscribe|cancel*|\
         terminate|deletion|cerrar mi cuenta",
    ),
    (
        "secondfactor",
        "#fa|two factor|two step|verification code|codigo de verificacion|codigo|authenticator|code|confirm*|verif*|\
         recovery key|clave de recuperacion|doble factor",
    ),
    (
        "spam",
        "casino|viagra|seo|click here|haz clic|giveaway|promo*|discount*|descuento*|bitcoin|follow us|check out|winner*|prize*|\
         premio*|oferta*|offer*|backlink*|followers|seguidores|tickets|entradas|join us|visit our|visita nuestra|limited|live|show",
    ),
    (
        "defect",
        "bug*|regress*|nightly|beta|worked before|funcionaba|antes si|incorrect*|wrong*|mal|glitch*|inconsisten*|dev*",
    ),
    ("addon", "addon*|add on|add ons|extension*|complement*|plugin*|plug in|adblock*|ublock"),
    (
        "outage",
        "outage*|caid*|caido|offline|down|not available|no disponible|unavailable|out of service|sin servicio|servicio|service",
    ),
    (
        "move",
        "new computer|new laptop|new pc|nuevo ordenador|nueva computadora|formate*|transfer*|migrat*|migrar|backup*|back up|\
         copia*|import*|export*|old computer|other computer|otro ordenador|reinstalar windows|hard drive|disco duro",
    ),
    (
        "mild",
        "not urgent|no big deal|minor|no es urgente|not important|just wondering|curious|curiosidad|wondering|pregunta|\
         question|duda|no prisa|no hurry|sin prisa|small|pequeno|detalle|not an everyday",
    ),
];

/// One place where a concept was found: words `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub concept: usize,
    pub first: usize,
    pub last: usize,
}

struct Pattern {
    concept: usize,
    /// The words after the first one.
    rest: Vec<&'static str>,
}

/// Patterns by their first word; a first word that ends in `*` is kept without it in `prefixes`.
#[derive(Default)]
struct Index {
    words: HashMap<&'static str, Vec<Pattern>>,
    prefixes: HashMap<&'static str, Vec<Pattern>>,
    longest_prefix: usize,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index::default();
    for (concept, (_, patterns)) in CONCEPTS.iter().enumerate() {
        for pattern in patterns.split('|') {
            let mut parts = pattern.split_whitespace();
            let Some(first) = parts.next() else { continue };
            let rest = parts.collect();
            match first.strip_suffix('*') {
                Some(prefix) => {
                    index.longest_prefix = index.longest_prefix.max(prefix.len());
                    index.prefixes.entry(prefix).or_default().push(Pattern { concept, rest });
                }
                None => index.words.entry(first).or_default().push(Pattern { concept, rest }),
            }
        }
    }
    index
});

/// Every place where a concept stands in the words, in their order. A phrase stays within its clause.
pub fn find(words: &[Token]) -> Vec<Found> {
    let mut found = Vec::new();
    for first in 0..words.len() {
        let word = words[first].folded.as_str();
        let exact = INDEX.words.get(word).into_iter();
        let lengths = 1..=word.len().min(INDEX.longest_prefix);
        let prefixed = lengths.filter_map(|length| word.get(..length)).filter_map(|prefix| INDEX.prefixes.get(prefix));
        for pattern in exact.chain(prefixed).flatten() {
            let last = first + pattern.rest.len();
            if rest_matches(&pattern.rest, words, first) {
                found.push(Found { concept: pattern.concept, first, last });
            }
        }
    }
    found
}

fn rest_matches(rest: &[&str], words: &[Token], first: usize) -> bool {
    rest.iter().enumerate().all(|(offset, wanted)| {
        words.get(first + 1 + offset).is_some_and(|word| {
            word.clause == words[first].clause
                && wanted.strip_suffix('*').map_or(word.folded == *wanted, |prefix| word.folded.starts_with(prefix))
        })
    })
}

/// Position of a concept in [`CONCEPTS`].
pub fn concept(name: &str) -> Option<usize> {
    CONCEPTS.iter().position(|(known, _)| *known == name)
}

#[cfg(test)]
mod tests {
    use super::super::text::tokens;
    use super::*;

    fn names(text: &str) -> Vec<&'static str> {
        find(&tokens(text)).into_iter().map(|found| CONCEPTS[found.concept].0).collect()
    }

    #[test]
    fn both_languages_give_the_same_concepts() {
        for text in ["I can't send", "No puedo enviar"] {
            assert!(["cannot", "send"].iter().all(|name| names(text).contains(name)), "{text}");
        }
        assert!(names("He perdido todas mis contraseñas").starts_with(&["lost", "everything", "keepsakes"]));
        assert!(names("All my passwords vanished").contains(&"lost"));
    }

    #[test]
    fn a_phrase_stays_in_its_clause() {
        assert!(!names("No. Puedo bailar").contains(&"cannot"));
    }

    #[test]
    fn lists_are_written_as_folded() {
        for (name, patterns) in CONCEPTS {
            for word in patterns.split('|').flat_map(str::split_whitespace) {
                let bare = word.trim_end_matches('*');
                let folded: String = tokens(&bare.replace('#', "7")).into_iter().map(|token| token.folded).collect();
                assert_eq!(folded, bare, "{name}: {word}");
            }
        }
    }

    #[test]
    fn no_word_no_concept() {
        assert!(find(&[]).is_empty());
        assert!(names("🙂 שלום").is_empty());
    }
}
