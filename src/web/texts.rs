//! Every word of the pages, in both languages. A missing one does not compile.

macro_rules! texts {
    ($($name:ident: $english:literal, $spanish:literal;)*) => {
        /// The texts of one language.
        pub struct Texts {
            $(pub $name: &'static str,)*
        }

        pub static EN: Texts = Texts { $($name: $english,)* };
        pub static ES: Texts = Texts { $($name: $spanish,)* };

        #[cfg(test)]
        const ALL: &[(&str, &str, &str)] = &[$((stringify!($name), $english, $spanish),)*];
    };
}

texts! {
    code: "en", "es";
    other_code: "es", "en";
    other_name: "Español", "English";

    nav_label: "Pages", "Páginas";
    nav_skip: "Skip to the content", "Ir al contenido";
    nav_queue: "Queue", "Cola";
    nav_numbers: "Numbers", "Cifras";
    nav_people: "People", "Personas";
    nav_api_keys: "API keys", "Claves de API";
    nav_customers: "Customers", "Clientes";
    close: "Close", "Cerrar";
    send: "Send", "Enviar";

    sign_in: "Sign in", "Entrar";
    sign_out: "Sign out", "Salir";
    login: "User name", "Usuario";
    password: "Password", "Contraseña";
    password_hint: "At least 10 characters.", "Al menos 10 caracteres.";
    sign_in_wrong: "User name or password is wrong.", "El usuario o la contraseña no son correctos.";
    sign_in_wait: "Too many wrong passwords. Wait a minute and try again.", "Demasiadas contraseñas incorrectas. Espera un minuto y vuelve a probar.";
    sign_in_nobody_yet: "Nobody works here yet. Open the set-up link that the program printed when it started.", "Aquí aún no trabaja nadie. Abre el enlace de configuración que el programa mostró al arrancar.";
    password_change: "Change your password", "Cambia tu contraseña";
    password_current: "Current password", "Contraseña actual";
    password_new: "New password", "Contraseña nueva";
    password_set: "Change the password", "Cambiar la contraseña";
    password_others_end: "You stay signed in here; in all other browsers you are signed out.", "Aquí sigues dentro; en los demás navegadores se cierra tu sesión.";
    password_wrong: "The current password is wrong. Nothing was changed.", "La contraseña actual no es correcta. No se cambió nada.";
    password_same: "The new password is the current one. Choose another.", "La contraseña nueva es la actual. Elige otra.";
    password_changed: "Your password was changed. In all other browsers you are signed out.", "Tu contraseña se ha cambiado. En los demás navegadores se ha cerrado tu sesión.";
    setup_title: "Set up the desk", "Configura el escritorio";
    setup_text: "Make the first account. It is an administrator and can add colleagues.", "Crea la primera cuenta. Es de administración y puede añadir a más personas.";
    setup_button: "Start", "Empezar";
    setup_wrong_link: "This set-up link is not the current one. Use the link that the program printed when it started last.", "Este enlace de configuración no es el actual. Usa el que el programa mostró en su último arranque.";

    people_name: "Name", "Nombre";
    people_role: "Role", "Función";
    people_access: "Access", "Acceso";
    people_add: "Add a person", "Añadir a una persona";
    people_lock: "Take access away", "Quitar el acceso";
    people_unlock: "Give access back", "Devolver el acceso";
    people_bad_name: "Type a name of at most 80 characters.", "Escribe un nombre de 80 caracteres como máximo.";
    people_bad_login: "A user name has letters, digits and . - _ @ + only.", "El usuario solo puede tener letras, cifras y . - _ @ +.";
    people_short_password: "The password needs at least 10 characters.", "La contraseña necesita al menos 10 caracteres.";
    people_password_hint: "They are signed out everywhere, and sign in with it until they choose one of their own.", "Se cierran todas sus sesiones, y entra con ella hasta que elija la suya.";
    people_password_given: "{name} has a new password and was signed out everywhere.", "{name} tiene una contraseña nueva y se han cerrado todas sus sesiones.";
    people_own_password: "Your own password is changed on its page, which asks for the current one.", "Tu propia contraseña se cambia en su página, que pide la actual.";
    role_agent: "Agent", "Agente";
    role_lead: "Lead", "Coordinación";
    role_admin: "Administrator", "Administración";

    api_keys_hint: "For programs that use the API. From the first key on, the API asks everybody for one, also when that key is over.", "Para programas que usan la API. Desde la primera clave, la API pide una a todos, también cuando esa clave ya no vale.";
    api_key_made: "This key is shown only now; keep it where only its program reads it. Key for", "Esta clave solo se muestra ahora; guárdala donde solo la lea su programa. Clave para";
    api_key_name: "What it is for", "Para qué es";
    api_key_scopes: "What it opens", "Qué abre";
    api_key_customer: "Only for this customer (if any; then `tickets` alone)", "Solo para este cliente (si lo hay; entonces solo `tickets`)";
    api_key_limit: "Requests a minute", "Peticiones por minuto";
    api_key_limit_hint: "Requests a minute (0: no limit; empty: the usual one)", "Peticiones por minuto (0: sin límite; vacío: el habitual)";
    api_key_since: "Made", "Creada";
    api_key_used: "Last used", "Último uso";
    api_key_never: "never", "nunca";
    api_key_state: "State", "Estado";
    api_key_active: "in use", "en uso";
    api_key_ends: "until {time}", "hasta {time}";
    api_key_expired: "expired", "caducada";
    api_key_revoked: "revoked", "revocada";
    api_key_add: "Make a key", "Crear una clave";
    api_key_rotate: "Replace", "Sustituir";
    api_key_revoke: "Revoke", "Revocar";
    api_key_overlap: "Both keys work", "Valen las dos claves";
    api_key_overlap_day: "old one: 24 h more", "la antigua: 24 h más";
    api_key_overlap_week: "old one: 7 days more", "la antigua: 7 días más";
    api_key_overlap_none: "old one: ends now", "la antigua: termina ya";
    api_key_expires: "Ends", "Termina";
    api_key_no_end: "never", "nunca";
    api_key_days_30: "in 30 days", "en 30 días";
    api_key_days_90: "in 90 days", "en 90 días";
    api_key_days_365: "in a year", "en un año";
    api_scope_tickets: "open tickets, add messages, read and follow them", "abrir casos, añadir mensajes, leerlos y seguirlos";
    api_scope_desk: "the queue and what is done with drafts", "la cola y lo que se hace con los borradores";
    api_scope_search: "judge and search without a ticket", "valorar y buscar sin un caso";
    api_scope_metrics: "the service's figures", "las cifras del servicio";
    api_scope_all: "everything", "todo";
    api_key_bad_name: "Say in at most 80 characters what the key is for.", "Indica en 80 caracteres como máximo para qué es la clave.";
    api_key_no_scope: "Choose what the key opens.", "Elige qué abre la clave.";
    api_key_bad_customer: "A customer has at most 200 characters.", "Un cliente tiene 200 caracteres como máximo.";
    api_key_customer_scopes: "A key of one customer opens `tickets` alone.", "La clave de un cliente solo abre `tickets`.";
    api_key_bad_end: "The key would be over before it was used.", "La clave terminaría antes de usarse.";
    api_key_bad_number: "Type a whole number, or leave the field empty.", "Escribe un número entero o deja el campo vacío.";
    api_key_conflict: "There is a key of this name in use, or this key is over or was replaced already. Look at the list.", "Hay una clave en uso con ese nombre, o esta clave ya no vale o ya se sustituyó. Mira la lista.";

    customers_intro: "Everything that is held about one customer: read it out into a file, or erase it.", "Todo lo que se guarda sobre un cliente: descárgalo en un archivo o bórralo.";
    customers_id: "The customer's id, or that of a ticket without a name", "Identificador del cliente, o el de un caso sin nombre";
    customers_unknown: "There is no customer with this id.", "No hay ningún cliente con este identificador.";
    customers_tickets: "Tickets", "Casos";
    customers_messages: "Messages", "Mensajes";
    customers_files: "Files", "Archivos";
    customers_learned: "Answers in the memory", "Respuestas en la memoria";
    customers_export: "Download everything (ZIP)", "Descargar todo (ZIP)";
    customers_erase: "Erase everything", "Borrar todo";
    customers_erase_hint: "Conversations, files, drafts and what was learned from them are deleted for good. Replies that have not gone out yet are not sent. Backups made before still hold them.", "Las conversaciones, los archivos, los borradores y lo aprendido de ellos se borran para siempre. Las respuestas que aún no han salido no se envían. Las copias de seguridad anteriores los siguen conteniendo.";
    customers_type: "Type the id once more", "Escribe el identificador otra vez";
    customers_typed_wrong: "The id you typed is another one. Nothing was erased.", "El identificador que escribiste es otro. No se borró nada.";
    customers_keep_figures: "Keep the desk's counts by day (they name nobody)", "Conservar los recuentos por día (no nombran a nadie)";
    customers_erased: "Erased: {tickets} tickets, {messages} messages, {files} files, {learned} answers in the memory; {unsent} replies are not sent.", "Borrado: {tickets} casos, {messages} mensajes, {files} archivos, {learned} respuestas en la memoria; {unsent} respuestas no se envían.";

    error_stale_form: "This form is from another session. Go back, load the page again and repeat.", "Este formulario es de otra sesión. Vuelve, recarga la página y repite.";
    error_role: "Your account may not see this page.", "Tu cuenta no puede ver esta página.";
    error_no_action: "There is no such action.", "No existe esa acción.";
    error_empty_reply: "The reply is empty. Write one, or reject the draft.", "La respuesta está vacía. Escribe una o rechaza el borrador.";
    error_empty_note: "The note is empty.", "La nota está vacía.";
    error_no_skill: "Name the skill that the ticket needs, or a person.", "Indica qué especialidad necesita el caso, o una persona.";
    error_no_class: "There is no such class.", "No existe esa clase.";
    error_too_long: "The text is too long; at most {max} bytes are taken.", "El texto es demasiado largo; se admiten {max} bytes como máximo.";
    error_too_late: "The reply is on its way; it cannot be taken back any more.", "La respuesta ya ha salido; no se puede deshacer.";
    error_faster: "{name} was faster and has decided about this draft. Nothing of yours was sent.", "{name} se adelantó y ya decidió sobre este borrador. No se envió nada tuyo.";
    error_moved_on: "The ticket has moved on meanwhile. Nothing was sent; read it again.", "El caso ha cambiado mientras tanto. No se envió nada; léelo de nuevo.";

    queue_scope: "Whose tickets", "De quién";
    scope_team: "Team", "Equipo";
    scope_mine: "Mine", "Míos";
    scope_all: "All", "Todos";
    count_critical: "critical", "críticos";
    count_overdue: "late", "tarde";
    count_draft: "with a draft", "con borrador";
    search: "Search", "Buscar";
    filter_language: "Language", "Idioma";
    filter_channel: "Channel", "Canal";
    filter_apply: "Filter", "Filtrar";
    filter_clear: "Clear", "Quitar";
    view_name: "Keep this view as", "Guardar esta vista como";
    view_save: "Keep", "Guardar";
    view_remove: "Forget", "Olvidar";
    queue_empty: "Nothing waits here.", "Aquí no espera nada.";
    queue_more: "More …", "Más …";
    queue_unnamed: "No name", "Sin nombre";
    queue_no_subject: "(no text)", "(sin texto)";
    column_request: "Request", "Consulta";
    column_decision: "Decision", "Decisión";
    column_age: "Age", "Edad";
    column_left: "Time left", "Queda";
    has_draft: "Draft", "Borrador";

    next_ticket: "Next with a draft (n)", "Siguiente con borrador (n)";
    opened: "opened", "abierto";
    conversation: "Conversation", "Conversación";
    write: "Write to the customer", "Escribir al cliente";
    reply_label: "Your message", "Tu mensaje";
    ask: "Ask (wait for the customer)", "Preguntar (esperar al cliente)";
    insert: "Insert", "Insertar";
    note_add: "Internal note", "Nota interna";
    note_label: "Note for colleagues; the customer never sees it", "Nota para el equipo; el cliente nunca la ve";
    note_save: "Keep the note", "Guardar la nota";
    draft: "Draft", "Borrador";
    draft_writing: "Writing …", "Escribiendo …";
    draft_done: "decided", "decidido";
    no_draft: "There is no draft.", "No hay borrador.";
    no_evidence: "This text rests on no evidence.", "Este texto no se apoya en ninguna fuente.";
    evidence: "Evidence", "Fuentes";
    evidence_fits: "Evidence fits:", "Las fuentes encajan:";
    kind_article: "article", "artículo";
    kind_ticket: "solved case", "caso resuelto";
    guard_cut: "What the guard objected to", "Lo que objetó el control";
    approve: "Approve and send", "Aprobar y enviar";
    edit: "Edit", "Editar";
    edit_label: "Reply", "Respuesta";
    send_edited: "Send", "Enviar";
    escalate: "Escalate", "Escalar";
    escalate_skill: "Skill", "Especialidad";
    escalate_person: "Person", "Persona";
    escalate_anybody: "anybody with this skill", "cualquiera con esa especialidad";
    escalate_note: "Note", "Nota";
    reject: "Reject", "Rechazar";
    reject_reason: "Why?", "¿Por qué?";
    undo: "Undo", "Deshacer";
    judgement: "Judgement", "Valoración";
    judgement_urgency: "Urgency", "Urgencia";
    judgement_difficulty: "Difficulty", "Dificultad";
    judgement_next: "Next step", "Siguiente paso";
    unsure: "unsure", "poco seguro";
    why: "because of", "por";
    probabilities: "Probabilities", "Probabilidades";
    correct: "Correct", "Corregir";
    time_left: "time left:", "queda:";
    assigned_to: "With", "Lo lleva";
    is_taken_over: "has taken the conversation over", "lleva la conversación";
    snoozed_until: "Hidden until", "Oculto hasta";
    take_over: "Take over", "Tomar";
    give_back: "Give back", "Devolver";
    snooze: "Hide for a day", "Ocultar un día";
    snooze_other: "Hide for another time", "Ocultar otro tiempo";
    snooze_hour: "1 hour", "1 hora";
    snooze_hours: "4 hours", "4 horas";
    snooze_days: "3 days", "3 días";
    snooze_week: "1 week", "1 semana";
    merge: "Merge a duplicate", "Unir un duplicado";
    merge_into: "Number or address of the ticket that stays", "Número o dirección del caso que queda";
    merge_hint: "The messages of this ticket move there, and the customer goes on there.", "Los mensajes de este caso pasan allí, y el cliente sigue allí.";
    merged_into: "This ticket was merged:", "Este caso se unió a otro:";
    merged_there: "the conversation goes on here", "la conversación sigue aquí";
    error_no_ticket: "Give the number or the address of a ticket.", "Indica el número o la dirección de un caso.";
    done_merged: "Merged: the conversation is here now.", "Unidos: la conversación está ahora aquí.";
    audit_merged: "merged two tickets", "unió dos casos";
    keys_merge: "merge a duplicate", "unir un duplicado";
    search_meaning: "by meaning", "por significado";
    wake: "Show again", "Mostrar";
    expected_time: "Similar requests: half were solved within {median}, nine in ten within {p90} ({n} cases).", "Consultas parecidas: la mitad se resolvió en {median} y nueve de cada diez en {p90} ({n} casos).";
    expected_of_all: "All solved requests: half within {median}, nine in ten within {p90}.", "Todas las consultas resueltas: la mitad en {median} y nueve de cada diez en {p90}.";
    decision: "Decision", "Decisión";
    similar: "Found in the memory", "En la memoria";
    timeline: "Timeline", "Cronología";
    earlier: "Earlier tickets of this customer", "Otros casos de este cliente";
    others_here: "also here:", "también aquí:";
    ticket_changed: "The ticket has changed.", "El caso ha cambiado.";

    done_sent: "Sent in ten seconds.", "Se envía en diez segundos.";
    done_rejected: "Rejected; the ticket stays with the team.", "Rechazado; el caso sigue en el equipo.";
    done_escalated: "Escalated.", "Escalado.";
    done_noted: "Note kept.", "Nota guardada.";
    done_taken: "The conversation is yours; Respondo is silent.", "La conversación es tuya; Respondo calla.";
    done_given_back: "Given back.", "Devuelto.";
    done_snoozed: "Hidden for a while.", "Oculto por un tiempo.";
    done_awake: "Shown again.", "Se muestra de nuevo.";
    done_corrected: "Corrected.", "Corregido.";
    done_taken_back: "Taken back; nothing was sent.", "Deshecho; no se envió nada.";

    urgency_critical: "critical", "crítica";
    urgency_high: "high", "alta";
    urgency_normal: "normal", "normal";
    urgency_low: "low", "baja";
    class_unknown: "not yet", "sin valorar";
    difficulty_known: "known", "conocida";
    difficulty_guided: "guided", "guiada";
    difficulty_specialist: "specialist", "especialista";
    difficulty_engineering: "engineering", "ingeniería";
    next_answer: "answer", "responder";
    next_ask: "ask", "preguntar";
    next_human: "a person", "una persona";
    next_reject: "not a request", "no es una consulta";
    action_send: "send", "enviar";
    action_suggest: "suggest", "sugerir";
    action_ask: "ask", "preguntar";
    action_escalate: "escalate", "escalar";
    action_acknowledge: "acknowledge", "acusar recibo";
    action_discard: "set aside", "apartar";
    state_received: "in work", "en curso";
    state_review: "in review", "en revisión";
    state_waiting: "waits for the customer", "espera al cliente";
    state_escalated: "with a person", "con una persona";
    state_answered: "answered", "respondido";
    state_discarded: "set aside", "apartado";
    draft_extractive: "from a solved case", "de un caso resuelto";
    draft_generated: "written by the model", "escrito por el modelo";
    draft_acknowledgement: "acknowledgement", "acuse de recibo";
    draft_question: "question", "pregunta";

    rule_number: "number without evidence", "cifra sin fuente";
    rule_path: "path without evidence", "ruta sin fuente";
    rule_link: "link without evidence", "enlace sin fuente";
    rule_name: "name without evidence", "nombre sin fuente";
    rule_claim: "claim without evidence", "afirmación sin fuente";
    rule_language: "wrong language", "otro idioma";
    rule_personal: "personal data", "datos personales";
    rule_instruction: "followed the customer's orders", "obedeció al texto del cliente";
    rule_promise: "promise", "promesa";
    rule_anecdote: "somebody else's story", "anécdota ajena";
    rule_deed: "claims what was not done", "da por hecho lo que no se hizo";
    rule_blame: "blames the customer", "culpa al cliente";
    rule_question: "second question", "segunda pregunta";
    rule_incomplete: "breaks off", "incompleto";
    rule_repetition: "repetition", "repetición";
    rule_echo: "repeats the customer", "repite al cliente";
    rule_too_long: "too long", "demasiado largo";
    rule_empty: "empty", "vacío";

    author_customer: "Customer", "Cliente";
    author_agent: "The team", "El equipo";
    author_respondo: "Respondo", "Respondo";
    author_note: "Note", "Nota";
    actor_customer: "customer", "cliente";
    actor_system: "system", "sistema";
    audit_accepted: "request received", "consulta recibida";
    audit_message: "message added", "mensaje añadido";
    audit_decided: "decided", "decidió";
    audit_queued: "reply on its way", "respuesta en camino";
    audit_resolved: "draft resolved", "borrador resuelto";
    audit_taken: "took over", "tomó la conversación";
    audit_given: "gave back", "devolvió la conversación";
    audit_snoozed: "hid for a while", "ocultó por un tiempo";
    audit_corrected: "corrected", "corrigió";
    audit_taken_back: "took a reply back", "deshizo un envío";
    audit_feedback: "asked for more", "pidió algo más";

    keys_title: "Keys", "Teclas";
    keys_short: "Keys", "Teclas";
    keys_move: "next / previous line", "línea siguiente / anterior";
    keys_open: "open", "abrir";
    keys_search: "search", "buscar";
    keys_queue: "queue", "cola";
    keys_next: "next ticket with a draft", "siguiente caso con borrador";
    keys_approve: "approve and send", "aprobar y enviar";
    keys_edit: "edit", "editar";
    keys_send: "send what was typed", "enviar lo escrito";
    keys_escalate: "escalate", "escalar";
    keys_reject: "reject", "rechazar";
    keys_take: "take over / give back", "tomar / devolver";
    keys_note: "internal note", "nota interna";
    keys_snooze: "hide for a day", "ocultar un día";
    keys_undo: "undo sending", "deshacer el envío";
    keys_urgency: "correct urgency", "corregir urgencia";
    keys_difficulty: "correct difficulty", "corregir dificultad";
    keys_sentence: "previous / next sentence with its evidence", "frase anterior / siguiente con su fuente";
    keys_close: "close", "cerrar";

    span_now: "now", "ahora";
    span_minutes: "min", "min";
    span_hours: "h", "h";
    span_days: "d", "d";
    span_late: "late", "tarde";

    numbers_period: "The last 14 days (days in UTC).", "Los últimos 14 días (días en UTC).";
    numbers_asked: "Requests", "Consultas";
    numbers_automatic: "Sent by itself", "Enviado solo";
    numbers_unchanged: "Approved unchanged", "Aprobado sin cambios";
    numbers_edited: "Edited", "Editado";
    numbers_rejected: "Rejected", "Rechazado";
    numbers_escalated: "Escalated", "Escalado";
    numbers_first: "First useful reply, median", "Primera respuesta útil, mediana";
    numbers_first_p90: "First useful reply, nine in ten", "Primera respuesta útil, nueve de diez";
    numbers_by_day: "Decisions by day", "Decisiones por día";
    numbers_table: "As a table", "Como tabla";
    numbers_day: "Day", "Día";
    numbers_decided: "Decisions", "Decisiones";
    numbers_queues: "Queues", "Colas";
    numbers_queue: "Queue", "Cola";
    numbers_waiting: "Waiting", "En espera";
    numbers_unanswered: "Asked, and not answered well", "Se pregunta y no tiene buena respuesta";
    numbers_unanswered_hint: "Requests that were only acknowledged, escalated, or whose draft was rejected, by topic: articles worth writing.", "Consultas con solo acuse de recibo, escaladas o con el borrador rechazado, por tema: artículos que conviene escribir.";
    numbers_none: "None so far.", "Ninguna por ahora.";

    chat_title: "Support", "Soporte";
    chat_hello: "How can we help?", "¿En qué podemos ayudarte?";
    chat_intro: "Write what happens, in your own words. An answer comes in seconds where we know it; otherwise a person takes it from here.", "Cuenta lo que pasa con tus palabras. Si conocemos la respuesta, llega en segundos; si no, lo sigue una persona.";
    chat_message: "Your message", "Tu mensaje";
    chat_files_only: "(files: {names})", "(archivos: {names})";
    files: "Files", "Archivos";
    files_attach: "Attach files", "Adjuntar archivos";
    files_at_most: "At most {most} files of {largest} each.", "Como máximo {most} archivos de {largest} cada uno.";
    file_wrong_type: "{name} cannot be taken. Images (PNG, JPEG, GIF, WebP), PDF and plain text (.txt, .log, .csv) can.", "No se puede admitir {name}. Se admiten imágenes (PNG, JPEG, GIF, WebP), PDF y texto sin formato (.txt, .log, .csv).";
    file_too_large: "{name} is too large; a file has at most {largest}.", "{name} es demasiado grande; un archivo tiene {largest} como máximo.";
    file_empty: "{name} is empty.", "{name} está vacío.";
    files_enough: "This conversation has as many files as it can have ({most}).", "Esta conversación ya tiene todos los archivos que puede tener ({most}).";
    file_unknown: "There is no such file in this conversation.", "Ese archivo no está en esta conversación.";
    chat_name: "Your name (if you like)", "Tu nombre (si quieres)";
    chat_more: "Write more …", "Escribe más …";
    chat_you: "You", "Tú";
    chat_assistant: "Assistant", "Asistente";
    chat_transcript: "Download", "Descargar";
    chat_reading: "Reading your message …", "Leyendo tu mensaje …";
    chat_understood: "Read and understood. Looking for the answer …", "Leído y entendido. Buscando la respuesta …";
    chat_checking: "A person of the team checks the answer before it is sent.", "Una persona del equipo revisa la respuesta antes de enviarla.";
    chat_being_written: "Being written …", "Escribiéndose …";
    chat_links: "These pages may help meanwhile:", "Mientras tanto, estas páginas pueden ayudarte:";
    chat_taken: "is with you now.", "está contigo ahora.";
    chat_given_back: "The assistant is back.", "Vuelve el asistente.";
    chat_offline: "No connection. We go on as soon as it is back.", "Sin conexión. Seguimos en cuanto vuelva.";
    chat_failed: "This was not sent. Try again.", "No se ha enviado. Vuelve a intentarlo.";
    chat_many_messages: "These are many messages in a short time. Send this one again in {time}.", "Son muchos mensajes en poco tiempo. Vuelve a enviar este dentro de {time}.";
    chat_many_conversations: "Many conversations were opened from your network. Send this again in {time}.", "Desde tu red se han abierto muchas conversaciones. Vuelve a enviarlo dentro de {time}.";
    chat_many_files: "Many files came from your network. Send this again in {time}, or without files.", "Desde tu red han llegado muchos archivos. Vuelve a enviarlo dentro de {time}, o sin archivos.";
    chat_busy: "Very many people are writing to us right now, and we could not take your message. Please send it again in {time}.", "Ahora mismo nos escribe muchísima gente y no hemos podido recibir tu mensaje. Vuelve a enviarlo dentro de {time}.";
    chat_too_slow: "Your message did not arrive in time. Check the connection and send it again, or without files.", "Tu mensaje no ha llegado a tiempo. Comprueba la conexión y vuelve a enviarlo, o sin archivos.";
    chat_no_words: "Write in a sentence or two what happens.", "Cuenta en una o dos frases qué pasa.";
    chat_gone_title: "This conversation was deleted", "Esta conversación se ha borrado";
    chat_gone: "Its messages and files are no longer kept. If you still need help, write to us again.", "Sus mensajes y archivos ya no se conservan. Si aún necesitas ayuda, vuelve a escribirnos.";
    chat_gone_new: "Start a new conversation", "Empezar otra conversación";
    chat_unknown_link: "There is no conversation behind this link. Check that it is complete.", "No hay ninguna conversación en este enlace. Comprueba que esté completo.";
    chat_not_helped: "This did not help", "No me ha servido";
    chat_person: "I need a person", "Necesito una persona";
    chat_urgent: "This is more urgent", "Es más urgente";
    chat_after_not_helped: "Thank you for saying so. A person reads the conversation next.", "Gracias por decirlo. Lo siguiente lo lee una persona.";
    chat_after_person: "A person takes it from here.", "A partir de aquí lo lleva una persona.";
    chat_after_urgent: "Marked as more urgent.", "Marcado como más urgente.";
    chat_usual_wait: "Lately half of all requests got a useful reply within {time}.", "Últimamente la mitad de las consultas tuvo una respuesta útil en {time}.";
    chat_unknown_wait: "How long it takes cannot be told yet; you find the answer here.", "Aún no podemos decir cuánto tarda; encontrarás la respuesta aquí.";
    chat_team_here: "The team is here until {until}.", "El equipo está hasta las {until}.";
    chat_team_away: "The team is back {day} at {time}.", "El equipo vuelve {day} a las {time}.";
    chat_today: "today", "hoy";
    chat_tomorrow: "tomorrow", "mañana";
    day_monday: "on Monday", "el lunes";
    day_tuesday: "on Tuesday", "el martes";
    day_wednesday: "on Wednesday", "el miércoles";
    day_thursday: "on Thursday", "el jueves";
    day_friday: "on Friday", "el viernes";
    day_saturday: "on Saturday", "el sábado";
    day_sunday: "on Sunday", "el domingo";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_say_something_with_the_same_gaps() {
        let gaps = |text: &str| {
            let mut gaps: Vec<String> = text
                .split('{')
                .skip(1)
                .filter_map(|rest| rest.split_once('}').map(|(name, _)| name.to_owned()))
                .collect();
            gaps.sort();
            gaps
        };
        for (name, english, spanish) in ALL {
            assert!(!english.trim().is_empty() && !spanish.trim().is_empty(), "{name}");
            assert_eq!(gaps(english), gaps(spanish), "{name}");
        }
    }
}
