//! What the cache takes on the disk, and what goes when it has to become smaller.

use e2e::{Context, Home, run};
use serde_json::Value;

const DOCKERFILE: &str = "\
FROM busybox
RUN head -c 3000000 /dev/zero > /a && sleep 0.5
RUN head -c 3000000 /dev/zero > /b
RUN --mount=type=cache,target=/cache head -c 1000000 /dev/zero > /cache/x && echo made > /c
";

fn built() -> (Home, Context) {
    let (home, context) = (Home::new(), Context::new(DOCKERFILE));
    home.steps(&context, &[]);
    (home, context)
}

fn parts(home: &Home, filters: &[&str]) -> Vec<Value> {
    let mut command = home.builder("du");
    command.arg("--format=json");
    command.args(filters.iter().map(|filter| format!("--filter={filter}")));
    let text = run(&mut command).ok().stdout;
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn prune(home: &Home, arguments: &[&str]) -> String {
    run(home.builder("prune").args(arguments)).ok().stdout
}

#[test]
fn what_can_be_removed_is_listed_with_what_goes_with_it() {
    let (home, _context) = built();
    let all = parts(&home, &[]);
    let of = |text: &str| {
        let found = all.iter().find(|part| part["Description"].as_str().is_some_and(|of| of.contains(text)));
        found.unwrap_or_else(|| panic!("no {text} in {all:#?}"))
    };
    let (a, b) = (of("> /a"), of("> /b"));
    assert_eq!((&a["Size"], &b["Size"]), (&3_000_000.into(), &3_000_000.into()));
    assert_eq!(a["Frees"], 6_000_005, "with what stands on it");
    assert_eq!(b["Parents"][0], a["ID"]);
    assert!(a["Milliseconds"].as_u64() >= Some(500), "{a:#}");
    let mounts = parts(&home, &["type=exec.cachemount"]);
    assert_eq!(mounts.len(), 1);
    assert_eq!((&mounts[0]["ID"], &mounts[0]["Mutable"]), (&"/cache".into(), &true.into()));
    assert_eq!(parts(&home, &["type!=regular"]), mounts);
    assert_eq!(parts(&home, &["until=1h"]).len(), 0);
    let table = run(home.builder("du").args(["--filter", "description=> /b"])).ok().stdout;
    assert!(
        table.contains("RUN head -c 3000000 /dev/zero > /b") && table.contains("Reclaimable:  3MB"),
        "{table}"
    );
    run(home.builder("du").args(["--filter", "label=x"])).code_is(2).says("there is no filter `label`");
}

#[test]
fn only_what_filters_match_goes() {
    let (home, context) = built();
    assert!(prune(&home, &["--filter=until=24h"]).contains("nothing to remove"));
    assert!(prune(&home, &["--filter=type=exec.cachemount"]).contains("1 cache mount"));
    assert_eq!(parts(&home, &["mutable"]).len(), 0);
    home.steps(&context, &[]).all_cached();
    // What stands on it stays, so it stays.
    prune(&home, &["--filter=description=> /a"]);
    home.steps(&context, &[]).all_cached();
    prune(&home, &["--filter=description=/cache/x"]);
    assert_eq!(home.steps(&context, &[]).executed().len(), 1);
}

#[test]
fn limits_are_kept_and_told() {
    let (home, context) = built();
    assert!(prune(&home, &["--max-used-space=1g"]).contains("nothing to remove"));
    assert!(prune(&home, &["--max-used-space=1m", "--reserved-space=1g"]).contains("nothing to remove"));
    assert!(prune(&home, &["--min-free-space=1k"]).contains("nothing to remove"));
    // What is cheap for its bytes goes first: the second step, and what stands on it. The first took half a second.
    let total: u64 = parts(&home, &[]).iter().map(|part| part["Size"].as_u64().expect("bytes")).sum();
    let most = format!("--max-used-space={}", total - 2_000_000);
    prune(&home, &[&most, "--filter=type=regular", "--filter=description=RUN"]);
    let steps = run(home.build(&context).arg("--progress=plain")).ok();
    assert!(steps.stderr.contains("not cached: evicted just now to keep under"), "{steps}");
    let left: u64 =
        parts(&home, &["description=> /a"]).iter().map(|part| part["Size"].as_u64().expect("bytes")).sum();
    assert_eq!(left, 3_000_000, "the first was not touched");
    let told = run(home.builder("explain").arg(":2/4")).ok().stdout;
    assert!(told.ends_with("it was cached\n"), "{told}");
}
