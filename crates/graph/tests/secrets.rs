//! Values of variables with secret-like names are remembered only as digests that are made with a store's own secret: in two stores they have no
//! digest in common.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use files::{PathSelection, Selection};
use graph::{
    CacheMount, Copy, Definition, Environment, Exec, Files, Inline, InlineFile, InputPart, KeyParts, Mkdir,
    Mount, MountKind, Naming, Network, Op, Owner, OwnerId, SecretEnv, SecretFile, SecretValues, Security,
    Sharing, Vertex, hide_cache_mounts,
};
use image::Platform;

fn exec() -> Exec {
    Exec {
        args: vec!["/bin/sh".to_owned(), "-c".to_owned(), "make".to_owned()],
        env: Environment::default(),
        unkeyed_env: vec![],
        secret_env: vec![],
        cwd: "/".to_owned(),
        user: String::new(),
        hostname: String::new(),
        network: Network::None,
        security: Security::Sandbox,
        devices: vec![],
        platform: Platform::host(),
        extra_hosts: vec![],
        mounts: vec![],
        timeout: None,
        retries: 0,
    }
}

fn with_variable(name: &str, value: &str) -> Op {
    Op::Exec(Exec { env: [(name.to_owned(), value.to_owned())].into_iter().collect(), ..exec() })
}

fn with_mount(target: &str, kind: MountKind) -> Op {
    let mount = Mount { target: target.to_owned(), kind, read_only: false };
    Op::Exec(Exec { mounts: vec![mount], ..exec() })
}

fn cache(id: &str) -> MountKind {
    let (sharing, seed) = (Sharing::Shared, None);
    MountKind::Cache(CacheMount { id: id.to_owned(), sharing, seed, mode: 0o755, uid: 0, gid: 0 })
}

/// A step for each way in which a value gets into what is remembered of one.
fn steps(value: &str) -> Vec<Op> {
    let owner = || Owner { user: OwnerId::Name(value.to_owned()), group: None };
    let copy = |destination: String, owner: Option<Owner>| {
        Op::Copy(Copy { destination, owner, mode: None, unpack: false, packed: vec![] })
    };
    let (id, version) = (format!("id-{value}"), Some(value.to_owned()));
    let secret =
        SecretEnv { id: id.clone(), variable: "A".to_owned(), required: false, version: version.clone() };
    let named = SecretEnv { id: "id".to_owned(), variable: value.to_owned(), required: false, version: None };
    let file = SecretFile { id, required: false, version, mode: 0o400, uid: 0, gid: 0 };
    let (path, name) = (format!("/{value}"), value.to_owned());
    vec![
        with_variable("API_TOKEN", value),
        with_variable("PLAIN", value),
        Op::Exec(Exec { args: vec![format!("echo {value}")], ..exec() }),
        Op::Exec(Exec { cwd: path.clone(), ..exec() }),
        Op::Exec(Exec { user: name.clone(), ..exec() }),
        Op::Exec(Exec { hostname: name.clone(), ..exec() }),
        Op::Exec(Exec { extra_hosts: vec![(name.clone(), String::new())], ..exec() }),
        Op::Exec(Exec { secret_env: vec![secret], ..exec() }),
        Op::Exec(Exec { secret_env: vec![named], ..exec() }),
        with_mount(&path, cache("c")),
        with_mount(&path, MountKind::Secret(file.clone())),
        with_mount(&path, MountKind::Ssh(file.clone())),
        with_mount("/plain", MountKind::Secret(file.clone())),
        with_mount("/plain", MountKind::Ssh(file)),
        copy(format!("/to-{value}"), None),
        copy("/".to_owned(), Some(owner())),
        Op::Mkdir(Mkdir { path, owner: owner() }),
        Op::Inline(Inline { files: vec![InlineFile { name, content: vec![], mode: 0o644 }] }),
        Op::Inline(Inline {
            files: vec![InlineFile {
                name: "a".to_owned(),
                content: format!("is {value}").into(),
                mode: 0o644,
            }],
        }),
    ]
}

fn definition(value: &str) -> Definition {
    let mut definition = Definition::default();
    definition.hide(("API_TOKEN", value));
    definition
}

/// What a store remembers of a step, as it is written down.
fn written(op: &Op, value: &str, secret: &[u8; 32]) -> String {
    let hidden = &SecretValues::of(&definition(value));
    let naming = Naming { secret, args: &BTreeSet::new(), hidden };
    let selection = Selection::Path(PathSelection::exact(format!("{value}/x")));
    let files = Files::of(&selection, naming);
    let input = InputPart::Vertex { name: "RUN a".to_owned(), key: "1".to_owned(), files, context: None };
    serde_json::to_string(&KeyParts::new(op, vec![input], naming)).expect("JSON")
}

/// Everything in a text that may be a digest.
fn digests(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_hexdigit());
    words.filter(|word| word.len() >= 16).map(str::to_owned).collect()
}

/// Whatever is in both stores and depends on the value is what somebody who has neither could try guesses with.
#[test]
fn two_stores_have_no_digest_of_a_value_in_common() {
    let (value, other) = ("hunter22", "swordfish");
    for (op, of_another) in steps(value).iter().zip(steps(other)) {
        let (one, two) = (written(op, value, &[1; 32]), written(op, value, &[2; 32]));
        assert!(!one.contains(value), "{one}");
        let common = &digests(&one) & &digests(&two);
        let others = digests(&written(&of_another, other, &[1; 32]));
        let telling: Vec<&String> = common.difference(&others).collect();
        assert_eq!(telling, [""; 0], "{one}");
        // The store itself can tell whether it is the same.
        assert_eq!(one, written(op, value, &[1; 32]));
        assert_ne!(digests(&one), others);
    }
}

/// The test above sees what it looks for: of a value that nobody hides both stores have the same digest.
#[test]
fn what_is_no_secret_has_the_same_digest_everywhere() {
    let written = |value: &str, secret: &[u8; 32]| {
        let naming = Naming { secret, args: &BTreeSet::new(), hidden: &SecretValues::default() };
        let parts = KeyParts::new(&with_variable("PLAIN", value), vec![], naming);
        digests(&serde_json::to_string(&parts).expect("JSON"))
    };
    let common = &written("value", &[1; 32]) & &written("value", &[2; 32]);
    let telling = common.difference(&written("other", &[1; 32])).count();
    assert_eq!(telling, 2, "of the value, and of the operation");
}

/// Directories of cache mounts are named by their ids.
#[test]
fn ids_of_cache_mounts_are_other_ones_in_each_store() {
    let id = |value: &str, secret: [u8; 32]| {
        let mut definition = definition(value);
        let op = with_mount("/c", cache(&format!("of-{value}")));
        definition.add(Vertex { op, inputs: vec![], name: String::new(), lines: None, no_cache: false });
        let mut definition = Arc::new(definition);
        hide_cache_mounts(&mut definition, || Ok::<_, ()>(secret)).expect("a secret");
        let (_, vertex) = definition.iter().next().expect("a vertex");
        let Op::Exec(Exec { mounts, .. }) = &vertex.op else { panic!("{vertex:?}") };
        let MountKind::Cache(cache) = &mounts[0].kind else { panic!("{mounts:?}") };
        cache.id.clone()
    };
    let first = id("hunter22", [1; 32]);
    assert!(first.starts_with("of-***-"), "{first}");
    assert_ne!(first, id("hunter22", [2; 32]));
    assert_ne!(first, id("swordfish", [1; 32]));
    assert_eq!(first, id("hunter22", [1; 32]));
}

fn process(number: usize, env: Environment) -> Vertex {
    let op = Op::Exec(Exec { args: vec![number.to_string()], env, ..exec() });
    Vertex { op, inputs: vec![], name: String::new(), lines: None, no_cache: false }
}

#[test]
fn values_that_any_process_gets_are_hidden() {
    let mut definition = Definition::default();
    let mut env = Environment::default();
    for (number, value) in ["hunter22", "swordfish", "shibboleth"].into_iter().enumerate() {
        env.push(format!("TOKEN_{number}"), value.to_owned());
        env.push(format!("PLAIN_{number}"), format!("plain-{value}"));
        definition.add(process(number, env.clone()));
        definition.add(process(9, Environment::default()));
    }
    let hidden = SecretValues::of(&definition);
    assert_eq!(hidden.conceal("hunter22 swordfish shibboleth plain"), "*** *** *** plain");
}

/// The frontend asks for them at each mount of a context: of a thousand times as many processes with the same variables they are not looked
/// for again.
#[test]
fn what_is_hidden_is_known_however_many_processes_there_are() {
    let env: Environment = [("API_TOKEN".to_owned(), "hunter22".to_owned())].into_iter().collect();
    let definition = |processes: usize| {
        let mut definition = Definition::default();
        for number in 0..processes {
            definition.add(process(number, env.clone()));
        }
        definition
    };
    let took = |definition: &Definition| {
        let began = Instant::now();
        for _ in 0..1_000 {
            assert!(SecretValues::of(definition).are_in("hunter22"));
        }
        began.elapsed()
    };
    let (few, many) = (definition(10), definition(10_000));
    // Somebody else may be using the processor; not each time.
    assert!((0..3).any(|_| took(&many) < took(&few).max(Duration::from_millis(5)) * 10));
}
