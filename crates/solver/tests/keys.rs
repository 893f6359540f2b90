//! Golden keys. A change here makes every cache of every user cold: give the domain a new version on purpose.

use files::{ModeChange, PathSelection, Selection};
use graph::{Copy, Op, Owner, OwnerId};
use hash::{CacheKey, ContentDigest, ContentId};
use solver::keys::{ContentInput, DefinitionInput, content_key, definition_key};

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
        "c4ce9f6bc156c0a030e062df38b1cb5687f5bccbadbaa318b4c6f3611b17ac24"
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
        "5d8dd812d0a2e1c13409d477fe19f36a242923519ab7be2d9e62041a2280fec3"
    );
}

#[test]
fn the_two_kinds_of_key_never_meet() {
    assert_ne!(definition_key(&copy(), &[]), content_key(&copy(), &[]));
}
