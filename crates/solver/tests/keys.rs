//! Golden keys. A change here makes every cache of every user cold: give the domain a new version on purpose.

use files::{ModeChange, PathSelection, Selection};
use graph::{
    CacheMount, Copy, Device, Environment, Exec, Mount, MountKind, Network, Op, Owner, OwnerId, SecretEnv,
    SecretFile, Security, Sharing,
};
use hash::{CacheKey, ContentDigest, ContentId};
use solver::keys::{ContentInput, DefinitionInput, content_key, definition_key};

/// As a Dockerfile sets them.
type Variables = Vec<(String, String)>;

fn copy() -> Op {
    let owner = Some(Owner { user: OwnerId::Number(1000), group: Some(OwnerId::Name("www".into())) });
    Op::Copy(Copy {
        destination: "/srv/".into(),
        owner,
        mode: Some(ModeChange::Set(0o644)),
        unpack: false,
        packed: Vec::new(),
    })
}

/// A process with so many variables.
fn exec(variables: usize) -> Exec {
    Exec {
        args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
        env: (0..variables).map(|n| (format!("NAME_{n}"), format!("value {n}"))).collect(),
        unkeyed_env: vec![],
        secret_env: vec![],
        cwd: "/src".into(),
        user: "www".into(),
        hostname: "buildkitsandbox".into(),
        network: Network::Default,
        security: Security::Sandbox,
        devices: vec![],
        platform: "linux/amd64".parse().expect("a platform"),
        extra_hosts: vec![],
        mounts: vec![],
        timeout: None,
        retries: 0,
    }
}

fn selection() -> Selection {
    Selection::Path(PathSelection {
        wildcards: true,
        modes: false,
        owners: false,
        ..PathSelection::exact("*.html")
    })
}

fn bytes(seed: u8) -> [u8; 32] {
    std::array::from_fn(|index| seed.wrapping_mul(31).wrapping_add(index as u8))
}

#[test]
fn golden_definition_key() {
    let selection = selection();
    let inputs = [
        DefinitionInput::Vertex { key: CacheKey::from_bytes(bytes(1)), selection: &Selection::Whole },
        DefinitionInput::Vertex { key: CacheKey::from_bytes(bytes(2)), selection: &selection },
        DefinitionInput::Content(ContentDigest::from_bytes(bytes(3))),
    ];
    assert_eq!(
        definition_key(&copy(), &inputs).to_string(),
        "e05b7ac9ac4f2bca858731a1c6156b7f580c445df17b85fba267ff46dcc0d599"
    );
}

#[test]
fn golden_content_key() {
    let inputs = [
        ContentInput::Whole(ContentId::from_bytes(bytes(1))),
        ContentInput::Selected(ContentDigest::from_bytes(bytes(2))),
    ];
    assert_eq!(
        content_key(&copy(), &inputs).to_string(),
        "4ce0cdfc15ccca1c5ff7fe4ef3dbcc99740ce91636aaaa20aa4889fc1677035b"
    );
}

/// Of a process: its environment is in pieces, and the last one is not full.
#[test]
fn golden_key_of_a_process() {
    let keys = [0, 3, 40].map(|variables| definition_key(&Op::Exec(exec(variables)), &[]).to_string());
    let golden = [
        "25a7493140e41a2d7ab6a10e936e1a048f9bdaa8342a6acd60036dd24a02d815",
        "8197031362e93d795a62a1bb162610a280c6a3769d66c157dd7ea0460a5527f4",
        "1c376dd6af5749711621819c8b0b769f57201b351609c3d3c11ef06ea670156c",
    ];
    assert_eq!(keys, golden);
}

/// Of a process with one option of RUN, or of the command line, each.
#[test]
fn golden_keys_of_options() {
    let mount = |kind| vec![Mount { target: "/m".into(), read_only: true, kind }];
    let file = SecretFile { id: "id".into(), required: true, mode: 0o400, uid: 1, gid: 2, version: None };
    let versioned = SecretFile { version: Some("v1".into()), ..file.clone() };
    let variable =
        SecretEnv { id: "id".into(), variable: "TOKEN".into(), required: true, version: Some("v1".into()) };
    let cache =
        CacheMount { id: "id".into(), sharing: Sharing::Locked, seed: Some(1), mode: 0o700, uid: 1, gid: 2 };
    let device = Device { name: "vendor/class=name".into(), required: true };
    let of = |exec: Exec| definition_key(&Op::Exec(exec), &[]).to_string();
    let keys = [
        ("network none", of(Exec { network: Network::None, ..exec(0) })),
        ("network private", of(Exec { network: Network::Private, ..exec(0) })),
        ("network host", of(Exec { network: Network::Host, ..exec(0) })),
        ("security", of(Exec { security: Security::Insecure, ..exec(0) })),
        ("device", of(Exec { devices: vec![device], ..exec(0) })),
        ("platform", of(Exec { platform: "linux/arm64/v8".parse().expect("a platform"), ..exec(0) })),
        ("host", of(Exec { extra_hosts: vec![("name".into(), "10.0.0.1".into())], ..exec(0) })),
        ("host name", of(Exec { hostname: "name".into(), ..exec(0) })),
        ("bind", of(Exec { mounts: mount(MountKind::Bind { input: 1 }), ..exec(0) })),
        ("cache", of(Exec { mounts: mount(MountKind::Cache(cache)), ..exec(0) })),
        ("tmpfs", of(Exec { mounts: mount(MountKind::Tmpfs { size: Some(1 << 20) }), ..exec(0) })),
        ("secret", of(Exec { mounts: mount(MountKind::Secret(file.clone())), ..exec(0) })),
        ("secret of a version", of(Exec { mounts: mount(MountKind::Secret(versioned)), ..exec(0) })),
        ("ssh", of(Exec { mounts: mount(MountKind::Ssh(file)), ..exec(0) })),
        ("secret variable", of(Exec { secret_env: vec![variable], ..exec(0) })),
    ];
    let golden = [
        ("network none", "8e383117f266cb27"),
        ("network private", "8aa5913d9c7cbaca"),
        ("network host", "79a929f82d2afba2"),
        ("security", "9d4b1438fc0c3428"),
        ("device", "4e04776b1d08ddfe"),
        ("platform", "a3b0cf3f963aedc2"),
        ("host", "bcb656adb025c6f3"),
        ("host name", "5ca5efbfaebdefa9"),
        ("bind", "3185a69fde6f9548"),
        ("cache", "a79001a828df2907"),
        ("tmpfs", "c937927f79dba8b7"),
        ("secret", "fe4e6192c596fbba"),
        ("secret of a version", "679cddff3dee5358"),
        ("ssh", "c806c2e7ad2059ed"),
        ("secret variable", "2f9ef5e0f5480043"),
    ];
    assert_eq!(keys.each_ref().map(|(what, key)| (*what, &key[..16])), golden);
}

/// All of an environment is in the key: each name, each value, the order, the end of it, wherever in it that is.
#[test]
fn every_variable_counts() {
    let variables: Vec<(String, String)> = exec(70).env.iter().cloned().collect();
    let key = |variables: Vec<(String, String)>| {
        let op = Op::Exec(Exec { env: variables.into_iter().collect::<Environment>(), ..exec(0) });
        (definition_key(&op, &[]), content_key(&op, &[]))
    };
    let mut seen = std::collections::BTreeSet::from([key(variables.clone())]);
    let mut is_new = |what: String, variables: Vec<(String, String)>| {
        assert!(seen.insert(key(variables)), "{what}");
    };
    for index in 0..variables.len() {
        let edited = |edit: &dyn Fn(&mut Variables)| {
            let mut edited = variables.clone();
            edit(&mut edited);
            edited
        };
        is_new(format!("value {index}"), edited(&|all| all[index].1.push('x')));
        is_new(format!("name {index}"), edited(&|all| all[index].0.push('x')));
        is_new(
            format!("border {index}"),
            edited(&|all| {
                let last = all[index].0.pop().expect("a name");
                all[index].1.insert(0, last);
            }),
        );
        is_new(format!("without {index}"), edited(&|all| drop(all.remove(index))));
        // Without the last one it is the same as up to there.
        if index + 1 < variables.len() {
            is_new(format!("up to {index}"), edited(&|all| all.truncate(index)));
        }
        if index > 0 {
            is_new(format!("order {index}"), edited(&|all| all.swap(index - 1, index)));
        }
    }
    is_new("one more".to_owned(), [variables.clone(), vec![Default::default()]].concat());
}

#[test]
fn the_two_kinds_of_key_never_meet() {
    assert_ne!(definition_key(&copy(), &[]), content_key(&copy(), &[]));
}
