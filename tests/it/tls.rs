//! TLS of our own: certificates in files, renewed while the service runs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{PASSWORD, Service, encode, memory, setup_token};

const PATIENCE: Duration = Duration::from_secs(120);

/// A certificate of its own making, and its key, in files.
fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    (certificate, key)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Sends one request over TLS to whoever shows this certificate; gives the whole answer.
fn ask(address: SocketAddr, certificate: &Path, request: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).expect("a certificate")).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

fn form(path: &str, header: &str, fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    let body = pairs.join("&");
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         {header}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn over_tls_cookies_are_secure_and_clients_behind_proxies_are_told_apart() {
    let Some(folder) = memory() else { return };
    let (certificate, key) = pair(folder.path(), "one");
    let env = [
        ("RESPONDO_SERVER__TLS_CERTIFICATE", text(&certificate)),
        ("RESPONDO_SERVER__TLS_KEY", text(&key)),
        ("RESPONDO_SERVER__HEADER_SECONDS", "10"),
        ("RESPONDO_SERVER__TRUSTED_PROXIES", r#"["127.0.0.1"]"#),
        ("RESPONDO_CHAT__MESSAGES_PER_MINUTE", "2"),
    ];
    let service = Service::on(folder.path(), &env);
    let address = service.address();
    assert!(service.said().contains("listens on https://"), "{}", service.said());

    // One that never shakes hands keeps nobody waiting and is closed.
    let silent = TcpStream::connect(address).expect("connected");
    silent.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let health = ask(address, &certificate, &get("/healthz")).expect("an answer");
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok"), "{health}");
    assert!(health.contains("strict-transport-security: max-age=31536000"), "{health}");
    assert!((&silent).read(&mut [0; 16]).is_ok_and(|count| count == 0), "still open");

    let plain = TcpStream::connect(address).expect("connected");
    plain.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    (&plain).write_all(get("/healthz").as_bytes()).expect("sent");
    let mut said = Vec::new();
    // Closed, with or without an alert.
    drop((&plain).read_to_end(&mut said));
    assert!(!said.starts_with(b"HTTP/1.1 200"), "{said:?}");

    let token = setup_token(&service);
    let fields = [("token", token.as_str()), ("name", "Ana"), ("login", "ana"), ("password", PASSWORD)];
    let made = ask(address, &certificate, &form("/desk/setup", "", &fields)).expect("an answer");
    assert!(made.starts_with("HTTP/1.1 303"), "{made}");
    assert!(made.contains("HttpOnly; SameSite=Lax") && made.contains("; Secure"), "{made}");

    let say = |from: &str| {
        let header = format!("x-forwarded-for: {from}\r\n");
        let said = ask(address, &certificate, &form("/chat", &header, &[("body", "  ")])).expect("an answer");
        said.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let tries: Vec<String> = (0..3).map(|_| say("203.0.113.9")).collect();
    assert_eq!(tries, ["422", "422", "429"]);
    assert_eq!(say("203.0.113.10"), "422");
    service.stop();
}

#[test]
fn a_renewed_certificate_is_shown_after_a_hang_up_and_a_bad_one_is_not() {
    let Some(folder) = memory() else { return };
    let (certificate, key) = pair(folder.path(), "used");
    let (renewed, renewed_key) = pair(folder.path(), "renewed");
    let old = folder.path().join("old.pem");
    std::fs::copy(&certificate, &old).expect("copied");
    let env = [("RESPONDO_SERVER__TLS_CERTIFICATE", text(&certificate)), ("RESPONDO_SERVER__TLS_KEY", text(&key))];
    let service = Service::on(folder.path(), &env);
    let address = service.address();
    let hang_up = || kill_process(service.process(), Signal::HUP).expect("signalled");
    assert!(ask(address, &old, &get("/healthz")).is_ok());
    assert!(ask(address, &renewed, &get("/healthz")).is_err(), "the test proves nothing otherwise");

    std::fs::copy(&renewed, &certificate).expect("copied");
    hang_up();
    let until = Instant::now() + PATIENCE;
    while !service.said().contains("the certificate in use stays in use") {
        assert!(Instant::now() < until, "{}", service.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(ask(address, &old, &get("/healthz")).is_ok(), "half a renewal is none");

    std::fs::copy(&renewed_key, &key).expect("copied");
    hang_up();
    while ask(address, &renewed, &get("/healthz")).is_err() {
        assert!(Instant::now() < until, "{}", service.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(ask(address, &old, &get("/healthz")).is_err());
    service.stop();
}

#[test]
fn a_certificate_that_cannot_be_used_keeps_the_service_from_starting_and_is_named() {
    let Some(folder) = memory() else { return };
    let (certificate, key) = pair(folder.path(), "one");
    let (_, other_key) = pair(folder.path(), "two");
    let missing = folder.path().join("missing.pem");
    for (certificate, key, problem) in [
        (&missing, &key, "missing.pem"),
        (&certificate, &other_key, "is not the key of the first certificate"),
        (&certificate, &certificate, "holds no private key"),
    ] {
        let env = [("RESPONDO_SERVER__TLS_CERTIFICATE", text(certificate)), ("RESPONDO_SERVER__TLS_KEY", text(key))];
        let failed = Service::try_on(folder.path(), &env).err().expect("no service");
        assert!(failed.said.contains(problem), "{problem}: {}", failed.said);
    }
}
