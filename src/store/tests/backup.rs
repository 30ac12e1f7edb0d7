//! Backups are whole and new; what is no good backup changes nothing.

use std::fs;
use std::path::PathBuf;

use sqlx::{AnyConnection, Connection};

use super::*;
use crate::store::{Access, BackupReport, DATABASE_FILE, database, restore};

impl TestStore {
    async fn backup(&self, name: &str) -> Result<BackupReport, StoreError> {
        self.store.backup(&self.path().join(name)).await
    }
}

/// Names of the files in a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn open_file(path: &Path) -> AnyConnection {
    database::open_file(path, Access::Write).await.unwrap()
}

/// Restores into `data` and gives what keeps it from that.
async fn refused(data: &Path, file: &Path) -> String {
    restore(data, file, &data.join("index")).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_backup_is_restored_with_everything_in_it() {
    let test = TestStore::in_file().await;
    test.in_review(DraftKind::Generated).await;
    let before = test.content().await;
    let backup = test.backup("copy.db").await.unwrap();
    assert_eq!(backup.content.tickets, 1);
    assert_eq!(backup.content.bytes, fs::metadata(&backup.path).unwrap().len());
    // What comes later is not in it.
    test.accept("later").await;

    let other = tempfile::tempdir().unwrap();
    let data = other.path().join("new/data");
    let restored = restore(&data, &backup.path, &data.join("index")).await.unwrap();
    assert_eq!(restored.old, None);
    assert_eq!((restored.content.tickets, restored.content.messages), (1, backup.content.messages));
    let restored = TestStore { store: Store::open(&data).await.unwrap(), dir: other };
    // But for the line that says so.
    let known = |content: Vec<(String, Vec<String>)>| {
        content.into_iter().filter(|(table, _)| table != "audit").collect::<Vec<_>>()
    };
    assert_eq!(known(restored.content().await), known(before));
    restored.accept("work goes on").await;
}

#[tokio::test]
async fn a_backup_does_not_wait_for_a_writer_and_sees_none_of_its_work() {
    let test = TestStore::in_file().await;
    test.accept("committed").await;
    let mut writing = test.store.write().await.unwrap();
    sqlx::query("DELETE FROM ticket_words").execute(&mut *writing).await.unwrap();
    let backup = test.backup("copy.db").await.unwrap();
    writing.rollback().await.unwrap();
    let mut copy = open_file(&backup.path).await;
    let words: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ticket_words").fetch_one(&mut copy).await.unwrap();
    assert_eq!(words, test.count("ticket_words").await);
}

#[tokio::test]
async fn a_backup_overwrites_nothing_and_leaves_nothing_half_made() {
    let test = TestStore::in_file().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "precious").unwrap();
    for (target, reason) in [("mine", "is there already"), ("no/folder/copy.db", "no folder"), ("new/", "no folder")] {
        let error = test.store.backup(&folder.path().join(target)).await.unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(&folder.path().display().to_string()), "{error}");
    }
    assert_eq!(files(folder.path()), ["mine"]);
    assert_eq!(fs::read(folder.path().join("mine")).unwrap(), b"precious");
    let named = test.store.backup(folder.path()).await.unwrap().path;
    assert_eq!(named.parent(), Some(folder.path()));
    assert_eq!(files(folder.path()).len(), 2);
}

#[tokio::test]
async fn a_restore_keeps_the_old_database_and_removes_its_index() {
    let test = TestStore::in_file().await;
    test.accept("old").await;
    let backup = test.backup("copy.db").await.unwrap().path;
    test.accept("only in the old one").await;
    let TestStore { store, dir } = test;
    store.close().await;
    drop(store);
    let index = dir.path().join("index");
    fs::create_dir_all(index.join("points")).unwrap();
    let restored = restore(dir.path(), &backup, &index).await.unwrap();
    assert!(!index.exists() && !dir.path().join("index.old").exists());
    let count = |path: PathBuf| async move {
        let mut conn = open_file(&path).await;
        let tickets: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tickets").fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        tickets
    };
    let old = restored.old.unwrap();
    assert_eq!((count(restored.path).await, count(old.clone()).await), (1, 2));
    // The way back is the same way, from beside as well.
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(restore(elsewhere.path(), &old, &index).await.unwrap().content.tickets, 2);
}

#[tokio::test]
async fn a_damaged_database_is_put_aside_with_its_log() {
    let test = TestStore::in_file().await;
    let backup = test.backup("copy.db").await.unwrap().path;
    let data = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE, "respondo.db-wal", "respondo.db-shm"] {
        fs::write(data.path().join(name), "this is no database, ".repeat(100)).unwrap();
    }
    let restored = restore(data.path(), &backup, &data.path().join("index")).await.unwrap();
    assert!(fs::read_to_string(restored.old.unwrap()).unwrap().starts_with("this is no"));
    let beside = files(data.path());
    assert!(beside.iter().any(|name| name.contains(".old-") && name.ends_with("-wal")), "{beside:?}");
    assert!(!data.path().join("respondo.db-wal").exists());
    Store::open(data.path()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_good_backup_is_refused_and_changes_nothing() {
    let test = TestStore::in_file().await;
    for number in 0..50 {
        test.accept(&format!("{number} {}", "a long message ".repeat(100))).await;
    }
    let good = test.backup("good.db").await.unwrap().path;
    let file = |name: &str| test.path().join(name);
    fs::write(file("text"), "these are only words, ".repeat(100)).unwrap();
    fs::write(file("empty"), "").unwrap();
    let mut bytes = fs::read(&good).unwrap();
    fs::write(file("cut"), &bytes[..bytes.len() / 2]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8_192].fill(0xa5);
    fs::write(file("scratched"), &bytes).unwrap();
    let mut other = database::open_file(&file("other"), Access::Create).await.unwrap();
    sqlx::query("CREATE TABLE tickets (id)").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    fs::copy(&good, file("newer")).unwrap();
    let mut newer = open_file(&file("newer")).await;
    sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'later', CURRENT_TIMESTAMP, 1, x'00', 0)")
        .execute(&mut newer)
        .await
        .unwrap();
    newer.close().await.unwrap();

    let data = TestStore::in_file().await;
    data.accept("mine").await;
    let content = data.content().await;
    assert!(refused(data.path(), &good).await.contains("another respondo uses"), "the folder is in use");
    let TestStore { store, dir } = data;
    store.close().await;
    drop(store);
    let before = files(dir.path());
    for (name, reason) in [
        ("missing", "cannot read"),
        ("text", "no database of Respondo"),
        ("empty", "no database of Respondo"),
        ("other", "no database of Respondo"),
        ("cut", "damaged"),
        ("scratched", "damaged"),
        ("newer", "newer respondo"),
    ] {
        let error = refused(dir.path(), &file(name)).await;
        assert!(error.contains(reason) && error.contains(&file(name).display().to_string()), "{name}: {error}");
        assert_eq!(files(dir.path()), before, "{name}");
    }
    let data = TestStore { store: Store::open(dir.path()).await.unwrap(), dir };
    assert_eq!(data.content().await, content);
}

#[tokio::test]
async fn what_a_killed_backup_left_behind_is_removed_by_the_next_one() {
    let test = TestStore::in_file().await;
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
    let partial = |name: &str| {
        let file = fs::File::create(test.path().join(name)).unwrap();
        file.set_modified(old).unwrap();
        file
    };
    drop(partial(".respondo-left.partial"));
    let held = partial(".respondo-held.partial");
    held.try_lock().unwrap();
    drop(partial(".respondo-other"));
    fs::write(test.path().join(".respondo-new.partial"), "").unwrap();
    test.backup("copy.db").await.unwrap();
    let hidden: Vec<String> = files(test.path()).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(hidden, [".respondo-held.partial", ".respondo-new.partial", ".respondo-other"]);
}

#[tokio::test]
async fn a_restore_is_a_line_of_the_audit_trail() {
    let test = TestStore::in_file().await;
    test.in_review(DraftKind::Generated).await;
    let backup = test.backup("copy.db").await.unwrap();
    let before = test.store.verify_audit(None).await.unwrap();
    let data = test.path().join("elsewhere");
    restore(&data, &backup.path, &data.join("index")).await.unwrap();
    let store = Store::open(&data).await.unwrap();
    let after = store.verify_audit(before.head.as_ref()).await.unwrap();
    assert_eq!((after.lines, after.broken), (before.lines + 1, None));
}
