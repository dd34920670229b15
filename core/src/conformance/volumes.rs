//! Instances, volumes and names.

use super::{Bench, Outcome, ok, refused};
use crate::error::ErrorKind;
use crate::provider::{Volume, VolumeSelection};

pub(super) async fn the_instance_is_this_host_and_an_unknown_one_is_an_error(bench: &Bench<'_>) -> Outcome {
    let again = bench.provider.instance(Some(&bench.instance.name)).await;
    assert_eq!(ok("an instance is found by its name", again), bench.instance);
    let unknown = bench.provider.instance(Some("no-such-instance-anywhere")).await;
    assert_eq!(refused("an unknown instance is an error", unknown).kind(), ErrorKind::NotFound);
    Outcome::Passed
}

pub(super) async fn named_volumes_come_in_the_order_of_their_names(bench: &Bench<'_>) -> Outcome {
    let mut names = bench.fixture.volume_names();
    if names.len() < 2 {
        return Outcome::Skipped("the fixture has one volume only".into());
    }
    names.reverse();
    let found = bench.provider.volumes(&bench.instance, &VolumeSelection::Named(names)).await;
    let ids = |volumes: &[Volume]| volumes.iter().map(|volume| volume.id.clone()).collect::<Vec<_>>();
    let mut expected = ids(&bench.volumes);
    expected.reverse();
    assert_eq!(ids(&ok("named volumes are found", found)), expected);
    Outcome::Passed
}

pub(super) async fn all_unknown_names_are_in_the_error(bench: &Bench<'_>) -> Outcome {
    let names = vec!["no-such-a".to_owned(), bench.fixture.volume_names().remove(0), "no-such-b".to_owned()];
    let found = bench.provider.volumes(&bench.instance, &VolumeSelection::Named(names)).await;
    let error = refused("an unknown name is an error", found);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("no-such-a") && error.message().contains("no-such-b"), "all are named: {error}");
    Outcome::Passed
}

pub(super) async fn a_path_is_held_by_its_volume(bench: &Bench<'_>) -> Outcome {
    for volume in &bench.volumes {
        let path = volume.root.join("data");
        let selection = VolumeSelection::Holding(vec![path.clone(), path.clone()]);
        let found = ok("the volume of a path is found", bench.provider.volumes(&bench.instance, &selection).await);
        assert_eq!(found.len(), 1, "one volume holds one path: {found:?}");
        assert!(path.starts_with(&found[0].root), "the path lies below the root: {found:?}");
        assert!(found[0].root.starts_with(&found[0].mount_point), "the root lies below the mount point: {found:?}");
    }
    Outcome::Passed
}

pub(super) async fn a_volume_survives_being_stored(bench: &Bench<'_>) -> Outcome {
    for volume in &bench.volumes {
        let stored = serde_json::to_string(volume).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Volume>(&stored).ok().as_ref(), Some(volume));
        assert!(!volume.mount_options.is_empty() && !volume.method.is_empty(), "{volume:?}");
    }
    Outcome::Passed
}

pub(super) async fn the_name_of_a_snapshot_depends_on_volume_and_backup_alone(bench: &Bench<'_>) -> Outcome {
    let (first, second) = (bench.backup_id(), bench.backup_id());
    let mut names = std::collections::BTreeSet::new();
    for volume in &bench.volumes {
        for id in [&first, &second] {
            let name = bench.provider.snapshot_name(volume, id);
            assert_eq!(name, bench.fixture.later().snapshot_name(volume, id), "the name is stable");
            assert!(name.contains(&id.lower()), "the name tells the backup: {name}");
            assert!(names.insert(name), "every snapshot has a name of its own");
        }
    }
    Outcome::Passed
}
