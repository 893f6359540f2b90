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
        "87934789c5bcb13d390cb573c4ad6e1deec7dd07591f59ac5d8eaec2200fc99e"
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
        "d02b2cf60d9d2104fe03d18a37d84d85c99c566097b0813b6092432504b68989"
    );
}

#[test]
fn the_two_kinds_of_key_never_meet() {
    assert_ne!(definition_key(&copy(), &[]), content_key(&copy(), &[]));
}
