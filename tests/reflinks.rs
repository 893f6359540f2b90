//! File systems that can share what files hold: what COPY copies takes no room there, and is a file of its own all the same.

use std::fs;
use std::path::Path;

use e2e::{bases, binary, need_root, run, tempdir, tool};

/// In a mount namespace of its own, so that the file system and its loop device are gone with the last process, whatever happens. `$d` is a
/// directory outside, `$m` the file system; what is said are lines of a name and a value.
const SCRIPT: &str = r#"
set -eu
d=$1 m=$1/m
mkdir "$m"
truncate -s 600M "$d/disk"
$MAKE "$d/disk" > /dev/null 2>&1
mount -t "$TYPE" -o loop "$d/disk" "$m" || exit 77
mkdir "$m/c"
head -c 33554432 /dev/urandom > "$m/c/f"
printf 'FROM busybox\nCOPY f /f\nRUN echo more >> /f\n' > "$m/c/Dockerfile"
used() { sync -f "$m"; df --block-size=1 --output=used "$m" | tail -1; }
sum() { sha256sum < "$1" | cut -d' ' -f1; }
build() { "$BUILDER" build --progress=plain $BASES "$@" "$m/c" 2>> "$d/log"; }
copy() { find "$BUILDER_HOME/snapshots-v1" -name f -type f -size 65536b; }
# Where each piece of a file lies on the disk, and whether others use it.
pieces() { filefrag -v "$1" | awk -F: '/^ *[0-9]+:/ { print $3 ($0 ~ /shared/ ? "shared" : "alone") }' | tr -d ' '; }
first=$(sum "$m/c/f")
for way in shared written; do
    export BUILDER_HOME=$m/state-$way
    [ $way = shared ] || export BUILDER_DISABLE=reflink
    # With the base image unpacked.
    printf 'FROM busybox\nRUN true\n' | "$BUILDER" build --progress=plain $BASES - 2>> "$d/log"
    before=$(used)
    build
    echo "$way room $(($(used) - before))"
    build --iidfile "$d/id"
    echo "$way id $(cat "$d/id")"
    [ $way = written ] || echo "alone $(pieces "$(copy)" | grep -c alone || true)"
    echo "$way same $([ "$(pieces "$(copy)")" = "$(pieces "$m/c/f")" ] && echo yes || echo no)"
    # What a step wrote to its file is in none of the others.
    echo "$way context $([ "$(sum "$m/c/f")" = "$first" ] && echo untouched)"
done
unset BUILDER_DISABLE
export BUILDER_HOME=$m/state-shared
kept=$(copy)
printf changed | dd of="$m/c/f" conv=notrunc status=none
sync -f "$m"
echo "copy $([ "$(sum "$kept")" = "$first" ] && echo untouched)"
build -o "$d/out"
printf 'more\n' | cat "$m/c/f" - | cmp - "$d/out/f" && echo "next changed"
"#;

/// What is said on a file system, or nothing where the kernel does not know it.
fn told(kind: &str, make: &str) -> Option<String> {
    let dir = tempdir();
    let mut script = tool("unshare");
    script.args(["--mount", "--propagation=private", "sh", "-c", SCRIPT, "sh"]).arg(dir.path());
    script.env("TYPE", kind).env("MAKE", make).env("BUILDER", binary()).env("BASES", bases().join(" "));
    let done = run(script.env("SOURCE_DATE_EPOCH", "1600000000"));
    if done.code == Some(77) {
        return None;
    }
    let log = fs::read_to_string(Path::new(dir.path()).join("log")).unwrap_or_default();
    assert_eq!(done.code, Some(0), "{kind}: {done}\n{log}");
    Some(done.stdout)
}

#[test]
fn copies_share_what_they_hold_and_are_files_of_their_own() {
    need_root();
    let mut tried = 0;
    for (kind, make) in [("btrfs", "mkfs.btrfs -q"), ("xfs", "mkfs.xfs -q -m reflink=1")] {
        let Some(told) = told(kind, make) else {
            println!("this kernel has no {kind}");
            continue;
        };
        tried += 1;
        let of = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{kind}: no {name} in {told}")).to_owned()
        };
        let number = |name: &str| of(name).parse::<i64>().expect("a number");
        assert_eq!((number("alone"), of("shared same")), (0, "yes".into()), "{kind}: {told}");
        assert_eq!(of("written same"), "no", "{kind}: without, they lie elsewhere: {told}");
        // The copy that the step writes to is the kernel's doing, and shares in both; records and the database take some.
        let (shared, written) = (number("shared room"), number("written room"));
        assert!(shared < 16 << 20 && written - shared >= 30 << 20, "{kind}: {shared} and {written} bytes");
        assert_eq!(of("shared id"), of("written id"), "{kind}: the same image");
        for name in ["shared context", "written context", "copy"] {
            assert_eq!(of(name), "untouched", "{kind}: {told}");
        }
        assert_eq!(of("next"), "changed", "{kind}: {told}");
    }
    assert!(tried > 0, "this kernel has neither btrfs nor xfs");
}
