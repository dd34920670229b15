//! What every backend of `ObjectSpace` must do: the list that each test of a backend calls.

use barman_snap::catalog::{ObjectSpace, PutIf, PutNew};

/// What every backend must do.
pub(crate) async fn behaves(space: &ObjectSpace) {
    assert_eq!(space.get("a/b/c").await.unwrap(), None);
    assert_eq!(space.head("a/b/c").await.unwrap(), None);
    assert_eq!(space.list("a").await.unwrap(), []);
    space.delete("a/b/c").await.unwrap();

    assert_eq!(space.put_new("a/b/c", "one").await.unwrap(), PutNew::Created);
    assert_eq!(space.put_new("a/b/c", "two").await.unwrap(), PutNew::Exists("one".into()));
    let (bytes, first) = space.get("a/b/c").await.unwrap().unwrap();
    assert_eq!(bytes, "one");

    let PutIf::Replaced(second) = space.put_if_version("a/b/c", "three", &first).await.unwrap() else {
        panic!("the version was the current one");
    };
    assert_eq!(space.put_if_version("a/b/c", "four", &first).await.unwrap(), PutIf::Changed);
    assert_eq!(space.get("a/b/c").await.unwrap().unwrap(), ("three".into(), second.clone()));
    space.put("a/b/c", "five").await.unwrap();
    assert_eq!(space.put_if_version("a/b/c", "six", &second).await.unwrap(), PutIf::Changed);
    space.delete("a/b/c").await.unwrap();
    assert_eq!(space.put_if_version("a/b/c", "six", &second).await.unwrap(), PutIf::Changed);
    assert_eq!(space.get("a/b/c").await.unwrap(), None);

    for key in ["a/x", "a/y/1", "a/y/2", "a/z z/ü~1", "ab"] {
        space.put(key, key.to_owned()).await.unwrap();
    }
    let keys: Vec<_> = space.list("a").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["a/x", "a/y/1", "a/y/2", "a/z z/ü~1"]);
    let dir = space.list_dir("a").await.unwrap();
    assert_eq!(dir.dirs, ["y", "z z"]);
    assert_eq!(dir.objects.len(), 1);
    assert_eq!((dir.objects[0].key.as_str(), dir.objects[0].size), ("a/x", 3));
    assert_eq!(space.head("a/y/1").await.unwrap().unwrap().size, 5);

    let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    space.put("a/big", big.clone()).await.unwrap();
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(space.get_to_file("a/big", &file).await.unwrap(), Some(3_000_000));
    let mut back = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut back).unwrap();
    assert!(back == big);
    assert_eq!(space.get_to_file("a/none", &file).await.unwrap(), None);

    assert_eq!(space.delete_prefix("a").await.unwrap(), 5);
    assert_eq!(space.list("a").await.unwrap(), []);
    assert_eq!(space.list("").await.unwrap().len(), 1, "a neighbour with the same beginning stays");
    space.delete("ab").await.unwrap();
}

/// Of many who create, one wins; of many who replace one version, one wins.
pub(crate) async fn one_of_many_wins(space: &ObjectSpace) {
    let created = futures::future::join_all((0..12).map(|n| async move {
        let text = format!("writer {n}");
        (n, space.put_new("race", text).await.unwrap())
    }))
    .await;
    let winners: Vec<_> = created.iter().filter(|(_, put)| *put == PutNew::Created).collect();
    assert_eq!(winners.len(), 1, "{created:?}");
    let (bytes, version) = space.get("race").await.unwrap().unwrap();
    assert_eq!(bytes, format!("writer {}", winners[0].0));

    let replaced = futures::future::join_all((0..12).map(|n| {
        let version = version.clone();
        async move { space.put_if_version("race", format!("second {n}"), &version).await.unwrap() }
    }))
    .await;
    assert_eq!(replaced.iter().filter(|put| **put != PutIf::Changed).count(), 1);
    space.delete("race").await.unwrap();
}
