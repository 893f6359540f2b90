//! The table of keys (ARCHITECTURE.md, "Keys"), field by field: whatever an operation is, a change of a field that is in the key changes both keys,
//! and a change of one that is not changes neither.
//!
//! Each type is taken apart in full, so a new field does not compile before somebody decides what it is.

use std::fmt::Debug;

use files::{ModeChange, PathSelection, Selection};
use graph::{
    CacheMount, Copy, Device, Environment, Exec, Git, Http, Inline, InlineFile, Mkdir, Mount, MountKind,
    Network, Op, Owner, OwnerId, SecretEnv, SecretFile, Security, Sharing, Source,
};
use hash::{CacheKey, ContentDigest, ContentId, Digest};
use image::Platform;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use solver::keys::{ContentInput, DefinitionInput, content_key, definition_key};

/// What keys see of a type.
trait Keyed: Clone + Debug {
    /// Whether a key takes both for the same.
    fn same(&self, other: &Self) -> bool;

    /// This with each field in turn as the other has it.
    fn with_each(&self, other: &Self) -> Vec<(&'static str, Self)>;
}

/// In the key as it is.
fn counts<T: PartialEq>(one: &T, other: &T) -> bool {
    one == other
}

/// In no key.
fn is_free<T>(_: &T, _: &T) -> bool {
    true
}

/// In the key by what keys see of each.
fn each<T: Keyed>(one: &[T], other: &[T]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.same(other))
}

/// Likewise, where there is one.
fn maybe<T: Keyed>(one: &Option<T>, other: &Option<T>) -> bool {
    each(one.as_slice(), other.as_slice())
}

/// Names count, addresses do not.
fn names(one: &[(String, String)], other: &[(String, String)]) -> bool {
    one.iter().map(|(name, _)| name).eq(other.iter().map(|(name, _)| name))
}

macro_rules! decided {
    ($type:ident { $($field:ident: $same:path),* $(,)? }) => {
        impl Keyed for $type {
            fn same(&self, other: &Self) -> bool {
                let $type { $($field),* } = self;
                true $(&& $same($field, &other.$field))*
            }

            fn with_each(&self, other: &Self) -> Vec<(&'static str, Self)> {
                let mut all = Vec::new();
                $({
                    let mut one = self.clone();
                    one.$field.clone_from(&other.$field);
                    all.push((stringify!($field), one));
                })*
                all
            }
        }
    };
}

decided!(Exec {
    args: counts,
    env: counts,
    unkeyed_env: is_free,
    secret_env: each,
    cwd: counts,
    user: counts,
    hostname: counts,
    network: counts,
    security: counts,
    devices: each,
    platform: Keyed::same,
    extra_hosts: names,
    mounts: each,
    timeout: is_free,
    retries: is_free,
});
decided!(Device { name: counts, required: counts });
decided!(SecretEnv { id: counts, variable: counts, required: counts, version: counts });
decided!(Mount { target: counts, kind: Keyed::same, read_only: counts });
decided!(CacheMount {
    id: is_free,
    sharing: is_free,
    seed: counts,
    mode: is_free,
    uid: is_free,
    gid: is_free
});
decided!(SecretFile {
    id: counts,
    required: counts,
    version: counts,
    mode: counts,
    uid: counts,
    gid: counts
});
decided!(Copy { destination: counts, owner: maybe, mode: counts, unpack: counts, packed: counts });
decided!(Mkdir { path: counts, owner: Keyed::same });
decided!(Owner { user: counts, group: counts });
decided!(Platform { architecture: counts, os: counts, variant: counts, os_version: counts });
decided!(Inline { files: each });
decided!(InlineFile { name: counts, mode: counts, content: counts });
decided!(PathSelection {
    pattern: counts,
    wildcards: counts,
    include: counts,
    exclude: counts,
    modes: counts,
    owners: counts,
});

impl Keyed for MountKind {
    fn same(&self, other: &Self) -> bool {
        use MountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
        match (self, other) {
            (Bind { input }, Bind { input: other }) => input == other,
            (Cache(one), Cache(other)) => one.same(other),
            (Tmpfs { size }, Tmpfs { size: other }) => size == other,
            (Secret(one), Secret(other)) | (Ssh(one), Ssh(other)) => one.same(other),
            (Bind { .. } | Cache(_) | Tmpfs { .. } | Secret(_) | Ssh(_), _) => false,
        }
    }

    fn with_each(&self, other: &Self) -> Vec<(&'static str, Self)> {
        use MountKind::{Cache, Secret, Ssh};
        match (self, other) {
            (Cache(one), Cache(other)) => lifted(one, other, Cache),
            (Secret(one), Secret(other)) => lifted(one, other, Secret),
            (Ssh(one), Ssh(other)) => lifted(one, other, Ssh),
            _ => vec![("kind", other.clone())],
        }
    }
}

/// What a key is for: a result is that of any operation that gives the same.
impl Keyed for Op {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Op::Exec(one), Op::Exec(other)) => one.same(other),
            (Op::Copy(one), Op::Copy(other)) => one.same(other),
            (Op::Mkdir(one), Op::Mkdir(other)) => one.same(other),
            (Op::Inline(one), Op::Inline(other)) => one.same(other),
            (Op::Source(one), Op::Source(other)) => one.same(other),
            (Op::Merge, Op::Merge) => true,
            (Op::Exec(_) | Op::Copy(_) | Op::Mkdir(_) | Op::Inline(_) | Op::Source(_) | Op::Merge, _) => {
                false
            }
        }
    }

    fn with_each(&self, other: &Self) -> Vec<(&'static str, Self)> {
        match (self, other) {
            (Op::Exec(one), Op::Exec(other)) => lifted(one, other, Op::Exec),
            (Op::Copy(one), Op::Copy(other)) => lifted(one, other, Op::Copy),
            (Op::Mkdir(one), Op::Mkdir(other)) => lifted(one, other, Op::Mkdir),
            (Op::Inline(one), Op::Inline(other)) => lifted(one, other, Op::Inline),
            (Op::Source(one), Op::Source(other)) => lifted(one, other, Op::Source),
            _ => vec![("operation", other.clone())],
        }
    }
}

/// Of the sources, images alone have a key. What is used of the others counts by content: [`content_has_no_name`].
impl Keyed for Source {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Source::Scratch, Source::Scratch) => true,
            (
                Source::Image { name: _, manifest, platform },
                Source::Image { name: _, manifest: other_manifest, platform: other_platform },
            ) => manifest == other_manifest && platform.same(other_platform),
            (
                Source::Scratch
                | Source::Image { .. }
                | Source::Local { .. }
                | Source::Http(_)
                | Source::Git(_),
                _,
            ) => false,
        }
    }

    fn with_each(&self, other: &Self) -> Vec<(&'static str, Self)> {
        let (Source::Image { name, manifest, platform }, Source::Image { name: n, manifest: m, platform: p }) =
            (self, other)
        else {
            return vec![("source", other.clone())];
        };
        let image = |name: &String, manifest: &Digest, platform: &Platform| Source::Image {
            name: name.clone(),
            manifest: *manifest,
            platform: platform.clone(),
        };
        vec![
            ("name", image(n, manifest, platform)),
            ("manifest", image(name, m, platform)),
            ("platform", image(name, manifest, p)),
        ]
    }
}

fn lifted<T: Keyed, U>(one: &T, other: &T, into: impl Fn(T) -> U) -> Vec<(&'static str, U)> {
    one.with_each(other).into_iter().map(|(field, value)| (field, into(value))).collect()
}

/// Few of each, so that some are equal.
fn word() -> impl Strategy<Value = String> {
    "[ab/]{0,2}"
}

fn number() -> impl Strategy<Value = u32> {
    0..3_u32
}

fn platform() -> impl Strategy<Value = Platform> {
    let (architecture, os) = (select(vec!["amd64", "arm"]), select(vec!["linux", "windows"]));
    (architecture, os, option::of(word()), option::of(word())).prop_map(
        |(architecture, os, variant, os_version)| Platform {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant,
            os_version,
        },
    )
}

fn environment() -> impl Strategy<Value = Environment> {
    vec(word(), 0..40).prop_map(|values| {
        values.into_iter().enumerate().map(|(at, value)| (format!("NAME_{at}"), value)).collect()
    })
}

fn secret_file() -> impl Strategy<Value = SecretFile> {
    (word(), any::<bool>(), option::of(word()), number(), number(), number()).prop_map(
        |(id, required, version, mode, uid, gid)| SecretFile { id, required, version, mode, uid, gid },
    )
}

fn cache_mount() -> impl Strategy<Value = CacheMount> {
    let sharing = select(vec![Sharing::Shared, Sharing::Private, Sharing::Locked]);
    (word(), sharing, option::of(0..3_usize), number(), number(), number())
        .prop_map(|(id, sharing, seed, mode, uid, gid)| CacheMount { id, sharing, seed, mode, uid, gid })
}

fn mount() -> impl Strategy<Value = Mount> {
    let kind = prop_oneof![
        (0..3_usize).prop_map(|input| MountKind::Bind { input }),
        cache_mount().prop_map(MountKind::Cache),
        option::of(0..3_u64).prop_map(|size| MountKind::Tmpfs { size }),
        secret_file().prop_map(MountKind::Secret),
        secret_file().prop_map(MountKind::Ssh),
    ];
    (word(), kind, any::<bool>()).prop_map(|(target, kind, read_only)| Mount { target, kind, read_only })
}

fn exec() -> impl Strategy<Value = Exec> {
    let device = (word(), any::<bool>()).prop_map(|(name, required)| Device { name, required });
    let secret = (word(), word(), any::<bool>(), option::of(word()))
        .prop_map(|(id, variable, required, version)| SecretEnv { id, variable, required, version });
    let network = select(vec![Network::Default, Network::Private, Network::Host, Network::None]);
    let security = select(vec![Security::Sandbox, Security::Insecure]);
    let pairs = || vec((word(), word()), 0..3);
    let process = (vec(word(), 0..3), environment(), pairs(), vec(secret, 0..3), word(), word(), word());
    let around = (network, security, vec(device, 0..3), platform(), pairs(), vec(mount(), 0..3));
    let limits = (option::of((0..3_u64).prop_map(std::time::Duration::from_secs)), number());
    (process, around, limits).prop_map(|(process, around, (timeout, retries))| {
        let (args, env, unkeyed_env, secret_env, cwd, user, hostname) = process;
        let (network, security, devices, platform, extra_hosts, mounts) = around;
        Exec {
            args,
            env,
            unkeyed_env,
            secret_env,
            cwd,
            user,
            hostname,
            network,
            security,
            devices,
            platform,
            extra_hosts,
            mounts,
            timeout,
            retries,
        }
    })
}

fn owner() -> impl Strategy<Value = Owner> {
    let id = || prop_oneof![number().prop_map(OwnerId::Number), word().prop_map(OwnerId::Name)];
    (id(), option::of(id())).prop_map(|(user, group)| Owner { user, group })
}

fn copy() -> impl Strategy<Value = Copy> {
    let mode = option::of(select(vec!["600", "0600", "u+x", "g=u", "u+x,g=u"]))
        .prop_map(|mode| mode.map(|text| text.parse::<ModeChange>().expect("a mode")));
    let packed = select(vec![vec![], vec![0], vec![1], vec![0, 1]]);
    (word(), option::of(owner()), mode, any::<bool>(), packed).prop_map(
        |(destination, owner, mode, unpack, packed)| Copy { destination, owner, mode, unpack, packed },
    )
}

fn inline() -> impl Strategy<Value = Inline> {
    let file = (word(), number(), vec(0..2_u8, 0..3)).prop_map(|(name, mode, content)| InlineFile {
        name,
        mode,
        content,
    });
    vec(file, 0..3).prop_map(|files| Inline { files })
}

fn image() -> impl Strategy<Value = Source> {
    (word(), 0..3_u8, platform()).prop_map(|(name, seed, platform)| Source::Image {
        name,
        manifest: Digest::of(&[seed]),
        platform,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => exec().prop_map(Op::Exec),
        2 => copy().prop_map(Op::Copy),
        1 => (word(), owner()).prop_map(|(path, owner)| Op::Mkdir(Mkdir { path, owner })),
        1 => inline().prop_map(Op::Inline),
        1 => image().prop_map(Op::Source),
        1 => Just(Op::Merge),
        1 => Just(Op::Source(Source::Scratch)),
    ]
}

fn selection() -> impl Strategy<Value = PathSelection> {
    (word(), any::<bool>(), option::of(word()), vec(word(), 0..3), any::<bool>(), any::<bool>()).prop_map(
        |(pattern, wildcards, include, exclude, modes, owners)| PathSelection {
            pattern,
            wildcards,
            include,
            exclude,
            modes,
            owners,
        },
    )
}

fn bytes(seed: u8) -> [u8; 32] {
    [seed; 32]
}

/// Both keys, over the same inputs.
fn keys(op: &Op) -> [CacheKey; 2] {
    let below = DefinitionInput::Vertex { key: CacheKey::from_bytes(bytes(1)), selection: &Selection::Whole };
    let files = ContentDigest::from_bytes(bytes(2));
    let definition = definition_key(op, &[below, DefinitionInput::Content(files)]);
    let whole = ContentInput::Whole(ContentId::from_bytes(bytes(3)));
    [definition, content_key(op, &[whole, ContentInput::Selected(files)])]
}

/// Keys are the same exactly where they should be, of both and of the first with each field of the second.
fn decide<T: Keyed>(one: &T, other: &T, keys: impl Fn(&T) -> [CacheKey; 2]) -> Result<(), TestCaseError> {
    let mut changed = one.with_each(other);
    changed.push(("everything", other.clone()));
    for (field, value) in changed {
        let (before, after) = (keys(one), keys(&value));
        for (before, after) in before.iter().zip(&after) {
            prop_assert_eq!(before == after, one.same(&value), "{}: {:?} {:?}", field, one, value);
        }
    }
    Ok(())
}

/// The key of what uses a selection of another vertex, and of what uses the same selections the other way round.
fn keys_of_selection(selection: &PathSelection) -> [CacheKey; 2] {
    let selection = Selection::Path(selection.clone());
    let vertex =
        |seed| DefinitionInput::Vertex { key: CacheKey::from_bytes(bytes(seed)), selection: &selection };
    [definition_key(&Op::Merge, &[vertex(1)]), definition_key(&Op::Merge, &[vertex(1), vertex(2)])]
}

proptest! {
    #[test]
    fn every_field_of_an_operation_is_decided(one in op(), other in op()) {
        decide(&one, &other, keys)?;
    }

    #[test]
    fn every_field_of_a_process_is_decided(one in exec(), other in exec()) {
        decide(&Op::Exec(one), &Op::Exec(other), keys)?;
    }

    /// What is around it does not matter.
    #[test]
    fn every_field_of_a_mount_is_decided(around in exec(), one in mount(), other in mount()) {
        let of = |mount: &Mount| keys(&Op::Exec(Exec { mounts: vec![mount.clone()], ..around.clone() }));
        decide(&one, &other, of)?;
        decide(&one.kind, &other.kind, |kind| of(&Mount { kind: kind.clone(), ..one.clone() }))?;
    }

    #[test]
    fn every_field_of_an_owner_or_platform_is_decided(
        owners in (owner(), owner()),
        platforms in (platform(), platform()),
    ) {
        let mkdir = |owner: &Owner| keys(&Op::Mkdir(Mkdir { path: "/d".to_owned(), owner: owner.clone() }));
        decide(&owners.0, &owners.1, mkdir)?;
        decide(&platforms.0, &platforms.1, |platform| keys(&Op::Exec(Exec { platform: platform.clone(), ..bare() })))?;
    }

    #[test]
    fn every_field_of_a_file_or_cache_is_decided(
        caches in (cache_mount(), cache_mount()),
        files in (secret_file(), secret_file()),
    ) {
        let of = |kind: MountKind| {
            let mount = Mount { target: "/m".to_owned(), kind, read_only: false };
            let exec = Exec { mounts: vec![mount], ..bare() };
            keys(&Op::Exec(exec))
        };
        decide(&caches.0, &caches.1, |cache| of(MountKind::Cache(cache.clone())))?;
        decide(&files.0, &files.1, |file| of(MountKind::Secret(file.clone())))?;
        decide(&files.0, &files.1, |file| of(MountKind::Ssh(file.clone())))?;
    }

    #[test]
    fn every_field_of_a_selection_is_decided(one in selection(), other in selection()) {
        decide(&one, &other, keys_of_selection)?;
    }

    /// Which inputs there are, in which order, and whether an input counts by definition or by content.
    #[test]
    fn every_input_counts(one in vec((any::<bool>(), 0..3_u8), 0..4), other in vec((any::<bool>(), 0..3_u8), 0..4)) {
        let keys = |inputs: &[(bool, u8)]| {
            let (definitions, contents): (Vec<_>, Vec<_>) = inputs.iter().map(|(by_content, seed)| {
                let bytes = bytes(*seed);
                let vertex = DefinitionInput::Vertex { key: CacheKey::from_bytes(bytes), selection: &Selection::Whole };
                let digest = ContentDigest::from_bytes(bytes);
                match by_content {
                    true => (DefinitionInput::Content(digest), ContentInput::Selected(digest)),
                    false => (vertex, ContentInput::Whole(ContentId::from_bytes(bytes))),
                }
            }).unzip();
            [definition_key(&Op::Merge, &definitions), content_key(&Op::Merge, &contents)]
        };
        for (key, other_key) in keys(&one).iter().zip(keys(&other)) {
            prop_assert_eq!(*key == other_key, one == other);
        }
    }
}

/// A process of which nothing is said.
fn bare() -> Exec {
    Exec {
        args: vec![],
        env: Environment::default(),
        unkeyed_env: vec![],
        secret_env: vec![],
        cwd: String::new(),
        user: String::new(),
        hostname: String::new(),
        network: Network::Default,
        security: Security::Sandbox,
        devices: vec![],
        platform: Platform::host(),
        extra_hosts: vec![],
        mounts: vec![],
        timeout: None,
        retries: 0,
    }
}

/// What comes from elsewhere has no key of its own, so nothing of how it is called gets into any. A new kind of source has to say which it is.
#[test]
fn content_has_no_name() {
    let http = Http { url: "http://h/f".to_owned(), name: "f".to_owned(), checksum: None };
    let git = Git {
        remote: "http://h/r.git".to_owned(),
        reference: None,
        directory: String::new(),
        checksum: None,
        keep_git_dir: false,
        submodules: true,
        fetch_by_commit: false,
        commit_times: false,
    };
    let image = Source::Image { name: String::new(), manifest: Digest::of(b""), platform: Platform::host() };
    let sources = [
        Source::Scratch,
        image,
        Source::Local { name: "context".to_owned() },
        Source::Http(http),
        Source::Git(git),
    ];
    for source in sources {
        let by_content = match source {
            Source::Scratch | Source::Image { name: _, manifest: _, platform: _ } => false,
            Source::Local { name: _ } | Source::Http(_) | Source::Git(_) => true,
        };
        assert_eq!(source.is_keyed_by_content(), by_content, "{source:?}");
    }
}
