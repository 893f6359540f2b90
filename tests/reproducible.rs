//! The same input gives the same image.

use std::fs;
use std::time::{Duration, SystemTime};

use e2e::{Context, Home, Image, run, tempdir};

const EPOCH: u64 = 1_600_000_000;

const DOCKERFILE: &str = "\
FROM busybox AS make
WORKDIR /out
COPY . .
RUN for i in 1 2 3; do date > made-$i.tmp; echo $i > made-$i; done; rm *.tmp; ln made-1 link; mkdir -p sub/dir
FROM busybox
COPY --from=make /out /srv
RUN rm /srv/b && date +%Y > /dev/null && touch /srv/touched
LABEL a=1 b=2 c=3 d=4 e=5
ENV Z=1 Y=2 X=3
";

/// The same files, made in another order and at other times.
fn context(names: &[&str], time: SystemTime) -> Context {
    let context = Context::new(DOCKERFILE);
    for name in names {
        context.write(name, format!("content of {name}\n"));
        context.chmod(name, 0o644);
        fs::File::options()
            .append(true)
            .open(context.path().join(name))
            .expect("open")
            .set_modified(time)
            .expect("set a time");
    }
    context.chmod("Dockerfile", 0o644);
    context
}

fn build(context: &Context) -> Image {
    let home = Home::new();
    let dir = tempdir();
    let layout = dir.path().join("layout");
    run(home
        .build(&context)
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())]))
    .ok();
    Image::open(layout, Some(dir))
}

#[test]
fn two_empty_stores_one_digest() {
    let now = SystemTime::now();
    let one = build(&context(&["a", "b", "c/d", "c/e"], now));
    std::thread::sleep(Duration::from_millis(1_100));
    let two = build(&context(&["c/e", "b", "c/d", "a"], now - Duration::from_secs(86_400)));
    assert_eq!(one.config, two.config);
    assert_eq!(one.digest, two.digest);
}

#[test]
fn every_time_is_the_epoch() {
    let image = build(&context(&["a", "b"], SystemTime::now()));
    let built = image.layers().split_off(1);
    assert!(!built.is_empty());
    for layer in built {
        for entry in tar::Archive::new(layer.as_slice()).entries().expect("a tar") {
            let entry = entry.expect("an entry");
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            assert_eq!(entry.header().mtime().expect("a time"), EPOCH, "{path}");
        }
    }
    assert_eq!(image.config["created"], "2020-09-13T12:26:40Z");
}

#[test]
fn what_is_read_does_not_depend_on_the_surroundings() {
    let surroundings = |variables: &[(&str, &str)], umask: &str| {
        let home = Home::new();
        let dir = tempdir();
        let layout = dir.path().join("layout");
        let context = context(&["a", "b"], SystemTime::now());
        let build = home.build(&context);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
            .arg(build.get_program())
            .args(build.get_args());
        shell.args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
        shell.env("BUILDER_HOME", home.path()).env("SOURCE_DATE_EPOCH", EPOCH.to_string());
        shell.envs(variables.iter().copied());
        run(&mut shell).ok();
        Image::open(layout, None).digest
    };
    let usual = surroundings(&[], "022");
    let other = surroundings(&[("TZ", "Asia/Tokyo"), ("LC_ALL", "tr_TR.UTF-8"), ("HOSTNAME", "x")], "077");
    assert_eq!(usual, other);
}
