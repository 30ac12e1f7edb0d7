//! The audit trail as somebody checks it who does not trust the machine.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::support::{Service, memory, run};

/// Changes the database behind the program's back.
fn tamper(data: &Path, statements: &[&str]) {
    let options = SqliteConnectOptions::new().filename(data.join("respondo.db"));
    let change = async {
        let mut conn: SqliteConnection = options.connect().await.expect("opened");
        for statement in statements {
            sqlx::query(statement).execute(&mut conn).await.expect("changed");
        }
        conn.close().await.expect("closed");
    };
    tokio::runtime::Runtime::new().expect("runtime").block_on(change);
}

#[test]
fn the_trail_is_checked_beside_the_service_and_tampering_is_named() {
    let Some(data) = memory() else { return };
    let service = Service::on(data.path(), &[]);
    for request in ["gmail rejects our mail", "no puedo entrar a mi correo", "the stream is silent"] {
        service.client().worked_ticket(request);
    }
    let said = run(data.path(), &[], &["audit", "verify"]).ok();
    assert!(!said.contains("unchained"), "{said}");
    let head = said.lines().find_map(|line| line.strip_prefix("head")).expect("head").trim().to_owned();
    service.client().worked_ticket("and once more, gmail rejects our mail");
    run(data.path(), &[], &["audit", "verify", "--head", &head]).ok();
    service.stop();

    let (id, _) = head.split_once(':').expect("ID:HASH");
    let cut = format!("DELETE FROM audit WHERE id >= {id}");
    tamper(data.path(), &["DROP TRIGGER audit_no_delete", "DROP TRIGGER audit_no_update", &cut]);
    run(data.path(), &[], &["audit", "verify"]).ok();
    let error = run(data.path(), &[], &["audit", "verify", "--head", &head]).failed();
    assert!(error.contains(&format!("line {id} ")), "{error}");

    tamper(data.path(), &["UPDATE audit SET actor = 'nobody' WHERE id = 2"]);
    let error = run(data.path(), &[], &["audit", "verify"]).failed();
    assert!(error.contains("line 2 ") && error.contains("changed"), "{error}");
}
