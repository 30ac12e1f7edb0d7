use super::*;
use crate::retrieve::server::settings::IndexKind;

fn load(text: &str) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("respondo.toml");
    std::fs::write(&file, text).expect("writable");
    Settings::load(Some(&file))
}

#[test]
fn the_defaults_are_valid() {
    let settings = load("").expect("defaults");
    assert!(settings.server.address.is_loopback());
}

#[test]
fn an_unknown_key_is_named() {
    let error = load("[server]\nprot = 1\n").expect_err("unknown key").to_string();
    assert!(error.contains("prot"), "{error}");
}

#[test]
fn a_key_that_can_be_guessed_is_refused() {
    let error = load("[server]\napi_key = \"0123456789abcde\"\n").expect_err("short").to_string();
    assert!(error.contains("server.api_key"), "{error}");
    assert!(load("[server]\napi_key = \"0123456789abcdef\"\n").is_ok());
}

#[test]
fn the_default_fusion_is_the_measured_one() {
    let settings = load("").expect("defaults");
    assert_eq!(settings.retrieval.fusion(), Fusion::Weighted(Weights::default()));
    assert!(load("[retrieval]\nticket_solution = 1.5\n").is_err());
}

#[test]
fn the_index_is_in_the_data_folder_unless_a_server_is_named() {
    assert_eq!(load("").expect("defaults").index.kind, IndexKind::Embedded);
    let server = |rest: &str| load(&format!("[index]\nkind = \"server\"\n{rest}"));
    assert_eq!(server("").expect("the default server").index.url, "http://127.0.0.1:6334");
    let error =
        server("url = \"http://qdrant.example:6334\"\napi_key = \"k\"\n").expect_err("in the clear").to_string();
    assert!(error.contains("index.url") && error.contains("https"), "{error}");
}

#[test]
fn visitors_choose_among_the_queues_that_the_settings_name() {
    let policy = "[policy.queues.billing]\nmode = \"off\"\n";
    let settings = load(policy).expect("a policy");
    assert_eq!(settings.chat_queue(" billing "), Some("billing".to_owned()));
    assert_eq!([settings.chat_queue("web"), settings.chat_queue("")], [None, None]);
    let settings = load(&format!("[chat]\nqueues = [\"web\"]\n{policy}")).expect("a list");
    assert_eq!([settings.chat_queue("web"), settings.chat_queue("billing")], [Some("web".to_owned()), None]);
}

#[test]
fn a_proxy_that_is_no_network_is_named() {
    let error = load("[server]\ntrusted_proxies = [\"10.0.0.0/40\"]\n").expect_err("no network").to_string();
    assert!(error.contains("trusted_proxies") && error.contains("10.0.0.0/40"), "{error}");
}

#[test]
fn limits_that_cannot_be_kept_are_named() {
    for (line, key) in [
        ("tls_certificate = \"cert.pem\"", "server.tls_certificate"),
        ("tls_key = \"key.pem\"", "server.tls_certificate"),
        ("max_header_bytes = 100", "server.max_header_bytes"),
        ("header_seconds = 0", "server.header_seconds"),
        ("request_seconds = 100000", "server.request_seconds"),
        ("max_connections = 0", "server.max_connections"),
        ("most_waiting = 0", "server.most_waiting"),
    ] {
        let error = load(&format!("[server]\n{line}\n")).expect_err(line).to_string();
        assert!(error.contains(key), "{line}: {error}");
    }
}

#[test]
fn a_model_server_needs_an_address_and_times_that_fit() {
    let openai = "kind = \"openai\"\nurl = \"http://127.0.0.1:1/v1\"\n";
    for section in ["embedding", "generation"] {
        for url in ["", "127.0.0.1:8000", "ftp://models.example"] {
            let text = format!("[{section}]\nkind = \"openai\"\nurl = \"{url}\"\n");
            let error = load(&text).expect_err("no address").to_string();
            assert!(error.contains(&format!("{section}.url")), "{error}");
        }
        assert!(load(&format!("[{section}]\n{openai}mask = \"always\"\n")).is_ok());
        assert!(load(&format!("[{section}]\n{openai}mask = \"sometimes\"\n")).is_err());
    }
    let error = load(&format!("[generation]\n{openai}silence_seconds = 9\ntimeout_seconds = 3\n"));
    assert!(error.expect_err("does not fit").to_string().contains("generation.timeout_seconds"));
    assert!(load(&format!("[generation]\n{openai}fallback = \"bigger\"\n")).is_err());
}

#[test]
fn a_link_host_is_a_host_and_no_address() {
    assert!(load("[draft]\nlink_hosts = [\"help.example.com\", \"*.example.org\"]\n").is_ok());
    for wrong in ["https://help.example.com", "help.example.com/kb", "a b", "", "*", "*.com", "me@help.example.com"] {
        let error = load(&format!("[draft]\nlink_hosts = [\"{wrong}\"]\n")).expect_err("no host").to_string();
        assert!(error.contains("link_hosts"), "{error}");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    for (text, key) in [
        ("[server]\nconcurrency = 0", "server.concurrency"),
        ("[retrieval]\narticle_bonus = nan", "article_bonus"),
        ("[retrieval]\nticket_words = inf", "ticket_words"),
        ("[retrieval]\ncitations = -0.1", "retrieval.citations"),
        ("[retrieval]\nfurther_passages = inf", "retrieval.further_passages"),
        ("[draft]\ndeadline_seconds = nan", "draft.deadline_seconds"),
    ] {
        let error = Settings::parse(text).expect_err(text).to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn queues_have_times_of_their_own() {
    let settings = load("[retention]\ntickets_days = 365\n[retention.queues.billing]\nattachments_days = 7\n");
    let kept = settings.expect("times").retention;
    assert_eq!((kept.tickets_days, kept.events_days), (365, 30));
    let billing = kept.queues["billing"];
    assert_eq!((billing.tickets_days, billing.attachments_days), (None, Some(7)));
    let error = load("[retention]\nevents_days = 99999\n").expect_err("too long").to_string();
    assert!(error.contains("retention"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Settings::load(Some(Path::new("no-such.toml"))).expect_err("missing").to_string();
    assert!(error.contains("no-such.toml"), "{error}");
}
