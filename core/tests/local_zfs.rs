//! The local provider on ZFS where things are not as they should be: holds and clones, renamed and exported, no rights, no space.
//!
//! Needs ZFS in the kernel: `make test-vm` runs it in a guest that has it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

mod support_fs;
mod support_local;

use std::path::{Path, PathBuf};

use barman_snap::ErrorKind;
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method};
use barman_snap::provider::{CreateVolumeRequest, SnapshotProvider, Ticket, Volume};
use support_fs::zfs::{Pool, real_pool};
use support_fs::{run, text};
use support_local::{holding, make_cluster, provider, request, take};

const MARK: &str = "main.0123456789abcdef";

/// A volume of a dataset with something like a cluster in it, and its provider.
async fn cluster_on(pool: &Pool, dataset: &str, properties: &[&str]) -> (LocalProvider, Volume) {
    let data = pool.dataset(dataset, properties).join("data");
    make_cluster(&data);
    volume_of(&data).await
}

async fn volume_of(data: &Path) -> (LocalProvider, Volume) {
    let provider = provider(Method::Auto);
    let volume = holding(&provider, &[data.to_owned()]).await.remove(0);
    assert_eq!(volume.method, "zfs");
    (provider, volume)
}

fn zfs(arguments: &[&str]) {
    run("zfs", arguments).unwrap();
}

fn restore(ticket: &Ticket, destination: PathBuf) -> CreateVolumeRequest {
    CreateVolumeRequest {
        ticket: ticket.clone(),
        token: ticket.token.clone(),
        subtree: "data".into(),
        destination: Some(destination),
        instance: None,
        mark: String::new(),
        exclude_content: Vec::new(),
    }
}

/// Restores a snapshot and removes that again.
async fn can_be_restored(provider: &LocalProvider, ticket: &Ticket, pool: &Pool) {
    let volume = provider.create_volume(&restore(ticket, pool.directory().join("restored"))).await.unwrap();
    assert_eq!(std::fs::read(volume.path.as_ref().unwrap().join("global/pg_control")).unwrap(), vec![7; 8192]);
    provider.delete_volume(&volume).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(pool.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("barman_snap")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_cloned_or_mounted_is_refused_before_anything_is_deleted_with_the_command_that_helps() {
    let Some(pool) = real_pool("bsnapheld").await else { return };
    let (provider, first) = cluster_on(&pool, "first", &[]).await;
    let (_, second) = cluster_on(&pool, "second", &[]).await;
    let tickets = [take(&provider, &first).await, take(&provider, &second).await];
    let (snapshot, clone, place) = (&tickets[1].snapshot, pool.name_of("clone"), pool.directory().join("by hand"));
    std::fs::create_dir(&place).unwrap();
    zfs(&["hold", "keep", snapshot]);
    zfs(&["clone", snapshot, &clone]);
    run("mount", &["-t", "zfs", "-o", "ro", snapshot, text(&place)]).unwrap();
    let error = provider.check_delete(&tickets).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    for word in ["held (keep)", &clone, text(&place), &format!("zfs release keep {snapshot}"), "nothing was deleted"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    for ticket in &tickets {
        provider.status(ticket).await.unwrap();
    }
    run("umount", &[text(&place)]).unwrap();
    zfs(&["release", "keep", snapshot]);
    // Promoted, the clone has the snapshot, which is ours as before.
    zfs(&["promote", &clone]);
    provider.status(&tickets[1]).await.unwrap();
    can_be_restored(&provider, &tickets[1], &pool).await;
    let error = provider.check_delete(&tickets).await.unwrap_err();
    assert!(error.message().contains(&format!("{clone}@")) && error.message().contains("second"), "{error}");
    zfs(&["destroy", &pool.name_of("second")]);
    provider.check_delete(&tickets).await.unwrap();
    for ticket in &tickets {
        provider.delete(ticket).await.unwrap();
        provider.delete(ticket).await.unwrap();
        assert_eq!(provider.status(ticket).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_dataset_is_found_and_an_exported_pool_is_not_gone() {
    let Some(pool) = real_pool("bsnapname").await else { return };
    let (provider, volume) = cluster_on(&pool, "pg", &[]).await;
    let (_, other) = cluster_on(&pool, "other", &[]).await;
    let (ticket, beside) = (take(&provider, &volume).await, take(&provider, &other).await);
    let volumes = [volume.clone(), other.clone()];
    zfs(&["rename", &pool.name_of("pg"), &pool.name_of("new name")]);
    provider.status(&ticket).await.unwrap();
    let found = provider.find(&ticket.token, &volumes).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].snapshot.contains("new name@"), "{found:?}");
    can_be_restored(&provider, &ticket, &pool).await;

    // One that was made under the old name is another one.
    let (_, imposter) = cluster_on(&pool, "pg", &[]).await;
    assert_ne!(imposter.attributes["dataset_guid"], volume.attributes["dataset_guid"]);
    provider.status(&ticket).await.unwrap();

    run("zpool", &["export", "bsnapname"]).unwrap();
    for error in [
        provider.status(&ticket).await.unwrap_err(),
        provider.delete(&ticket).await.unwrap_err(),
        provider.check_delete(std::slice::from_ref(&ticket)).await.unwrap_err(),
        provider.find(&ticket.token, &volumes).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert!(error.message().contains("pool bsnapname is not imported"), "{error}");
    }
    assert_eq!(
        provider.list(MARK, &volumes).await.unwrap(),
        [],
        "one that cannot be seen does not fail the look at others"
    );
    run("zpool", &["import", "-d", text(pool.directory()), "bsnapname"]).unwrap();

    // Another host, by its name, with the same disks.
    let mut moved = ticket.clone();
    moved.attributes.insert("host".into(), "another".into());
    provider.check_delete(&[moved.clone(), beside.clone()]).await.unwrap();
    provider.status(&moved).await.unwrap();
    // What an older version has recorded, of another host: a dataset of that name proves nothing.
    let mut old = Ticket { snapshot: format!("{}@gone-20200101t000000", pool.name_of("other")), ..moved };
    old.attributes.retain(|key, _| key == "host");
    old.token = request(&provider, &other).await.token;
    assert_eq!(provider.delete(&old).await.unwrap_err().kind(), ErrorKind::Precondition);

    let mut unknown = other.clone();
    unknown.attributes.insert("dataset".into(), "elsewhere/pg".into());
    unknown.attributes.insert("pool_guid".into(), "1".into());
    unknown.attributes.insert("dataset_guid".into(), "1".into());
    let listed = provider.list(MARK, &[unknown, other.clone()]).await.unwrap();
    assert_eq!(listed.iter().map(|ticket| &ticket.snapshot).collect::<Vec<_>>(), [&beside.snapshot]);

    // Destroyed, with its pool in sight: that is gone.
    zfs(&["destroy", "-r", &pool.name_of("new name")]);
    provider.delete(&ticket).await.unwrap();
    assert_eq!(provider.status(&ticket).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(provider.find(&ticket.token, &volumes).await.unwrap(), []);
    provider.delete(&beside).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_may_be_read_only_out_of_quota_unmounted_or_full_of_visible_snapshots() {
    let Some(pool) = real_pool("bsnapodd").await else { return };
    let (provider, volume) = cluster_on(&pool, "pg", &["snapdir=visible"]).await;
    let old = take(&provider, &volume).await;
    // With its snapshots in sight, as a data directory at the top of the dataset has them.
    let top = pool.mount_point().join("pg");
    assert!(std::fs::read_dir(&top).unwrap().any(|entry| entry.unwrap().file_name() == ".zfs"));
    let beside = Some(pool.directory().to_owned());
    let copying = LocalProvider::new(LocalOptions {
        method: Method::Copy,
        snapshot_directory: beside,
        ..LocalOptions::default()
    });
    let copied = take(&copying, &holding(&copying, std::slice::from_ref(&top)).await[0]).await;
    assert!(Path::new(&copied.snapshot).join("data/global").exists());
    assert!(!Path::new(&copied.snapshot).join(".zfs").exists(), "a copy of the snapshots");
    copying.delete(&copied).await.unwrap();
    provider.delete(&old).await.unwrap();

    zfs(&["set", "readonly=on", &pool.name_of("pg")]);
    let on_read_only = take(&provider, &volume_of(&top.join("data")).await.1).await;
    can_be_restored(&provider, &on_read_only, &pool).await;
    provider.delete(&on_read_only).await.unwrap();
    zfs(&["set", "readonly=off", &pool.name_of("pg")]);

    zfs(&["set", "quota=16M", &pool.name_of("pg")]);
    // Whether the last bytes are refused depends on when they are counted.
    let _ = std::fs::write(top.join("data/fill"), vec![1; 32 << 20]);
    run("zpool", &["sync"]).unwrap();
    let over_quota = take(&provider, &volume).await;
    provider.delete(&over_quota).await.unwrap();
    zfs(&["set", "quota=none", &pool.name_of("pg")]);

    let old = take(&provider, &volume).await;
    zfs(&["set", "canmount=noauto", &pool.name_of("pg")]);
    zfs(&["unmount", &pool.name_of("pg")]);
    provider.status(&old).await.unwrap();
    can_be_restored(&provider, &old, &pool).await;
    provider.delete(&old).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_needs_its_key_to_be_read_and_not_to_be_deleted() {
    let Some(pool) = real_pool("bsnapkey").await else { return };
    let key = pool.directory().join("key");
    std::fs::write(&key, "12345678\n").unwrap();
    let location = format!("keylocation=file://{}", key.display());
    let properties = ["encryption=on", "keyformat=passphrase", location.as_str()];
    let (provider, volume) = cluster_on(&pool, "secret", &properties).await;
    let ticket = take(&provider, &volume).await;
    can_be_restored(&provider, &ticket, &pool).await;
    zfs(&["unmount", &pool.name_of("secret")]);
    zfs(&["unload-key", &pool.name_of("secret")]);
    let wanted = restore(&ticket, pool.directory().join("restored"));
    let error = provider.create_volume(&wanted).await.unwrap_err();
    assert!(error.to_string().contains(&format!("zfs load-key {}", pool.name_of("secret"))), "{error}");
    assert!(!pool.directory().join("restored").exists());
    provider.status(&ticket).await.unwrap();
    provider.check_delete(std::slice::from_ref(&ticket)).await.unwrap();
    provider.delete(&ticket).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_made_is_refused_by_the_check() {
    let Some(pool) = real_pool("bsnaproom").await else { return };
    let data = pool.dataset("reserved", &["refreservation=40M", "compression=off"]).join("data");
    make_cluster(&data);
    std::fs::write(data.join("base/1/big"), vec![1; 20 << 20]).unwrap();
    run("zpool", &["sync"]).unwrap();
    // Room for half of what is in it.
    let filling = format!("refreservation={}", pool.available() - (10 << 20));
    pool.dataset("filler", &[&filling]);
    let (provider, volume) = volume_of(&data).await;
    let error = provider.check_requests(&[request(&provider, &volume).await]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert!(error.message().contains("refreservation"), "{error}");
    // What is refused would really have failed.
    let error = provider.create(&request(&provider, &volume).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert!(error.message().len() < 200, "{error}");
    zfs(&["set", "refreservation=none", &pool.name_of("reserved")]);
    let ticket = take(&provider, &volume).await;
    provider.delete(&ticket).await.unwrap();

    run("zpool", &["export", "bsnaproom"]).unwrap();
    run("zpool", &["import", "-d", text(pool.directory()), "-o", "readonly=on", "bsnaproom"]).unwrap();
    let error = provider.check_requests(&[request(&provider, &volume).await]).await.unwrap_err();
    assert!(error.message().contains("imported read-only"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_directories_of_one_dataset_are_two_volumes_with_snapshots_of_their_own() {
    let Some(pool) = real_pool("bsnaptwo").await else { return };
    let top = pool.dataset("pg", &[]);
    make_cluster(&top.join("data"));
    let places = ["data", "wal"].map(|name| (top.join(name), pool.directory().join(name)));
    for (inner, bound) in &places {
        std::fs::create_dir_all(inner).unwrap();
        std::fs::create_dir(bound).unwrap();
        run("mount", &["--bind", text(inner), text(bound)]).unwrap();
    }
    let provider = provider(Method::Auto);
    let bound: Vec<PathBuf> = places.iter().map(|(_, bound)| bound.clone()).collect();
    let volumes = holding(&provider, &bound).await;
    assert_eq!(volumes.iter().map(|volume| volume.root.clone()).collect::<Vec<_>>(), bound);
    assert!(!provider.can_group(&volumes), "one call takes one snapshot of a dataset");
    let mut both = request(&provider, &volumes[0]).await;
    both.volumes.extend(request(&provider, &volumes[1]).await.volumes);
    let mut tickets = Vec::new();
    for one in &both.volumes {
        let single = barman_snap::provider::CreateRequest { volumes: vec![one.clone()], ..both.clone() };
        provider.check_requests(std::slice::from_ref(&single)).await.unwrap();
        tickets.extend(provider.create(&single).await.unwrap());
    }
    assert_eq!(provider.find(&both.token, &volumes).await.unwrap(), tickets);
    // Deleted, one does not take the other for itself.
    provider.delete(&tickets[0]).await.unwrap();
    assert_eq!(provider.status(&tickets[0]).await.unwrap_err().kind(), ErrorKind::NotFound);
    provider.status(&tickets[1]).await.unwrap();
    provider.delete(&tickets[1]).await.unwrap();
    for (_, bound) in &places {
        run("umount", &[text(bound)]).unwrap();
    }
}
