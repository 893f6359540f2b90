//! Golden keys. A change here makes every cache of every user cold: give the domain a new version on purpose.

use files::Selection;
use graph::{Copy, Op, Owner, OwnerId};
use hash::{CacheKey, ContentDigest, ContentId};
use solver::keys::{ContentInput, DefinitionInput, content_key, definition_key};

fn copy() -> Op {
    let owner = Some(Owner { user: OwnerId::Number(1000), group: Some(OwnerId::Name("www".into())) });
    Op::Copy(Copy { destination: "/srv/".into(), owner, mode: Some(0o644), unpack: false })
}

fn selection() -> Selection {
    Selection::Path { pattern: "*.html".into(), wildcards: true, modes: false, owners: false }
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
        "3a05526c4c54aef5d57dec0ead8040cfa36125dadb59b9800d934f21d83bb19b"
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
        "0048cd08e0813583f860b03d6ebf1ba5a75cc9594be6c1431d4ccdc2738675d2"
    );
}

#[test]
fn the_two_kinds_of_key_never_meet() {
    assert_ne!(definition_key(&copy(), &[]), content_key(&copy(), &[]));
}
