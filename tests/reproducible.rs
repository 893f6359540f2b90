//! The same input gives the same image.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use e2e::{Context, Home, Image, User, run, tempdir, tool};

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

/// One way to build, of which nothing may show in the image.
struct Surroundings {
    what: &'static str,
    /// In front of the builder's command line.
    wrapped: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
}

const SURROUNDINGS: [Surroundings; 7] = [
    Surroundings { what: "as usual", wrapped: &[], variables: &[] },
    Surroundings {
        what: "one processor",
        wrapped: &["taskset", "-c", FIRST],
        variables: &[("RAYON_NUM_THREADS", "1")],
    },
    Surroundings { what: "many threads", wrapped: &[], variables: &[("RAYON_NUM_THREADS", "64")] },
    Surroundings {
        what: "nothing masked",
        wrapped: &["sh", "-c", "umask 000; exec \"$@\"", "sh"],
        variables: &[],
    },
    Surroundings {
        what: "all masked",
        wrapped: &["sh", "-c", "umask 077; exec \"$@\"", "sh"],
        variables: &[],
    },
    Surroundings {
        what: "elsewhere",
        wrapped: &["unshare", "--uts", "sh", "-c", "hostname elsewhere; exec \"$@\"", "sh"],
        variables: &[("TZ", "Asia/Tokyo"), ("LC_ALL", "tr_TR.UTF-8"), ("HOSTNAME", "x"), ("USER", "x")],
    },
    Surroundings {
        what: "without fast paths",
        wrapped: &[],
        variables: &[("BUILDER_DISABLE", "versions,stat-cache,chunks,overlay,reflink")],
    },
];

/// A context on a file system that lists files in the order in which they were made.
fn listed_as_made(names: &[&str]) -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let made = context(&["a", "b", "c/d", "c/e"], SystemTime::now());
    for name in names {
        let to = dir.path().join(name);
        fs::create_dir_all(to.parent().expect("a parent")).expect("make directories");
        fs::copy(made.path().join(name), to).expect("copy");
    }
    fs::set_permissions(dir.path(), fs::metadata(made.path()).expect("stat").permissions()).expect("chmod");
    let list = fs::read_dir(dir.path()).expect("list").flatten();
    let order = list.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    (dir, order)
}

/// The program of a command behind another program and its arguments, where there are any.
/// Stands for the first processor that there is.
const FIRST: &str = "FIRST";

fn wrap(wrapped: &[&str], build: &Command) -> Command {
    match wrapped {
        [] => Command::new(build.get_program()),
        [program, rest @ ..] => {
            let mut command = tool(program);
            let first = e2e::first_processor();
            command.args(rest.iter().map(|word| if *word == FIRST { &*first } else { word }));
            command.arg(build.get_program());
            command
        }
    }
}

/// State directories, users, masks, threads, order of files, time zone, state of the cache: one digest.
#[test]
fn one_digest_whatever_is_around() {
    let epoch = EPOCH.to_string();
    let inputs = context(&["a", "b", "c/d", "c/e"], SystemTime::now());
    let mut digests: Vec<(String, String)> = Vec::new();
    let out = tempdir();
    let layout = |number: usize| out.path().join(number.to_string());
    let output = |number: usize| format!("type=oci,tar=false,dest={}", layout(number).display());
    for Surroundings { what, wrapped, variables } in SURROUNDINGS {
        let home = Home::new();
        let build = home.build(&inputs);
        let mut command = wrap(wrapped, &build);
        let number = digests.len();
        command.args(build.get_args()).args(["-o", &output(number)]);
        command
            .env("BUILDER_HOME", home.path())
            .env("SOURCE_DATE_EPOCH", &epoch)
            .envs(variables.iter().copied());
        run(&mut command).ok();
        digests.push((what.to_owned(), Image::open(layout(number), None).digest));
        if number == 0 {
            // From the cache, and with half of it gone.
            for (what, arguments) in [("warm", &[][..]), ("half warm", &["--no-cache-filter=make"])] {
                let number = digests.len();
                let mut build = home.build(&inputs);
                run(build.env("SOURCE_DATE_EPOCH", &epoch).args(arguments).args(["-o", &output(number)]))
                    .ok();
                digests.push((what.to_owned(), Image::open(layout(number), None).digest));
            }
        }
    }
    let orders = [["Dockerfile", "a", "b", "c/d", "c/e"], ["c/e", "b", "c/d", "a", "Dockerfile"]];
    let mut seen = Vec::new();
    for names in orders {
        let (dir, order) = listed_as_made(&names);
        let number = digests.len();
        let home = Home::new();
        let mut build = home.build(dir.path());
        run(build.env("SOURCE_DATE_EPOCH", &epoch).args(["-o", &output(number)])).ok();
        digests.push((format!("files listed as {order:?}"), Image::open(layout(number), None).digest));
        seen.push(order);
    }
    assert_ne!(seen[0], seen[1], "the file system lists both the same, so this tests nothing");
    let user = User::with_range();
    digests.push(("an ordinary user".to_owned(), user.image(&inputs).digest));
    let first = &digests[0].1;
    assert!(digests.iter().all(|(_, digest)| digest == first), "{digests:#?}");
}

/// How a file is filled: what no compression makes smaller, text, nothing.
fn mixed(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 32
    };
    let mut bytes = Vec::with_capacity(size + (1 << 16));
    while bytes.len() < size {
        let length = next() as usize % 50_000;
        match next() % 4 {
            0 => bytes.resize(bytes.len() + length, 0),
            1 => bytes.extend(b"one line of text after the other\n".iter().cycle().take(length)),
            _ => bytes.extend(std::iter::repeat_with(|| next() as u8).take(length)),
        }
    }
    bytes.truncate(size);
    bytes
}

/// Runs a command and gives how many threads for compressing it had at once.
fn compressing_threads(command: &mut Command) -> usize {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start the builder");
    let tasks = format!("/proc/{}/task", child.id());
    let is_one = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("compress-"))
    };
    let mut most = 0;
    let ended = loop {
        most = most.max(fs::read_dir(&tasks).into_iter().flatten().flatten().filter(is_one).count());
        if let Some(ended) = child.try_wait().expect("wait for the builder") {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(ended.success(), "{command:?}");
    most
}

/// Layers so large that copying and compressing them is divided, among one thread and among many: the same bytes.
#[test]
fn large_layers_are_the_same_from_any_number_of_threads() {
    let context = Context::new("FROM busybox\nCOPY . /srv\nRUN cat /srv/large-0 /srv/large-1 > /both\n");
    for number in 0..3 {
        context.write(&format!("large-{number}"), mixed(16 << 20, number));
    }
    for number in 0..800 {
        context.write(&format!("many/{}/{number}", number % 7), mixed(20 << (number % 11), number));
    }
    // Of gzip and of zstd; more than 16 and 4 are not worth their memory.
    let ways: [(&[&str], &str, std::ops::RangeInclusive<usize>); 5] = [
        (&["taskset", "-c", FIRST], "", 0..=2),
        (&[], "1", 0..=2),
        (&[], "2", 4..=4),
        (&[], "7", 11..=11),
        (&[], "64", 20..=20),
    ];
    let mut seen: Vec<(String, [String; 2])> = Vec::new();
    for (wrapped, threads, expected) in ways {
        let (home, out) = (Home::new(), tempdir());
        let build = home.build(&context);
        let mut command = wrap(wrapped, &build);
        let layouts = ["gzip", "zstd"].map(|compression| (compression, out.path().join(compression)));
        command.args(build.get_args());
        for (compression, layout) in &layouts {
            let layout = layout.display();
            command.args(["-o", &format!("type=oci,tar=false,compression={compression},dest={layout}")]);
        }
        command.env("BUILDER_HOME", home.path()).env("SOURCE_DATE_EPOCH", EPOCH.to_string());
        // Rayon takes an empty number for none.
        let found = compressing_threads(command.env("RAYON_NUM_THREADS", threads));
        let what = format!("{wrapped:?} RAYON_NUM_THREADS={threads}");
        assert!(expected.contains(&found), "{what}: {found} threads compress");
        // Opening compares each blob with its digest, so that equal digests of manifests are equal bytes of layers.
        let images = layouts.map(|(_, layout)| Image::open(layout, None));
        let sizes = images[0].manifest["layers"].as_array().expect("layers");
        assert!(sizes[1..].iter().all(|layer| layer["size"].as_u64() > Some(8 << 20)), "{sizes:?}");
        images.iter().for_each(|image| drop(image.layers()));
        seen.push((what, images.map(|image| image.digest)));
    }
    assert!(seen.iter().all(|(_, digests)| *digests == seen[0].1), "{seen:#?}");
}

/// An image that carries its cache has the same digest on every machine, whatever was built there before, and is found by it.
#[test]
fn a_cache_in_the_image_is_the_same_everywhere() {
    let text = "FROM busybox\nRUN echo always > /same\nCOPY a /a\nRUN cat /a > /b && chmod 700 /b\n";
    let image = |home: &Home, options: &[&str]| {
        let context = Context::new(text).file("a", "a");
        let out = tempdir();
        let layout = out.path().join("layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let mut build = home.build(&context);
        build.env("SOURCE_DATE_EPOCH", EPOCH.to_string()).args(["--cache-to=type=inline", "-o", &output]);
        run(build.args(options)).ok();
        Image::open(layout, Some(out))
    };
    let (one, other) = (Home::new(), Home::new());
    // Another way to the same files, and a build of the same without an epoch: both leave keys and times of their own.
    let variant = Context::new(&text.replace("echo always", "echo  always")).file("a", "a");
    run(one.build(&variant).args(["-t", "variant", "--cache-to=type=inline"])).ok();
    run(one.build(&Context::new(text).file("a", "a")).args(["-t", "plain", "--cache-to=type=inline"])).ok();
    let first = image(&one, &[]);
    let carried = &first.config["builder.cache.v1"];
    assert_eq!(*carried, image(&other, &[]).config["builder.cache.v1"], "on a machine that knows nothing");
    assert_eq!(first.digest, image(&one, &[]).digest, "all from the cache");
    assert_eq!(first.digest, image(&other, &[]).digest, "all from the cache of the other");
    assert_eq!(first.digest, image(&other, &["--no-cache"]).digest, "nothing from the cache");
    assert_eq!(carried["records"].as_array().map(Vec::len), Some(3), "{carried:#}");
    // What a step stands on came from a cache elsewhere, and the step itself is known by what that holds.
    let (third, folder) = (Home::new(), tempdir());
    let begin = Context::new("FROM busybox\nRUN echo always > /same\n");
    let place = folder.path().join("cache");
    run(one.build(&begin).args(["-t", "begin", &format!("--cache-to=type=local,dest={}", place.display())]))
        .ok();
    run(third.build(&variant).args(["-t", "variant"])).ok();
    let from = format!("--cache-from=type=local,src={}", place.display());
    run(third.build(&begin).args(["-t", "begin", &from])).ok();
    for what in ["found by its content", "filed by that build"] {
        let third = image(&third, &[&from]);
        assert_eq!(*carried, third.config["builder.cache.v1"], "{what}");
        assert_eq!(first.digest, third.digest, "{what}");
    }
    // Nor does it matter that what it stands on still lies there.
    let fourth = Home::new();
    run(fourth.build(&variant).args(["-t", "variant"])).ok();
    let fourth = image(&fourth, &[&from]);
    assert_eq!(*carried, fourth.config["builder.cache.v1"]);
    assert_eq!(first.digest, fourth.digest);
    for layer in carried["layers"].as_array().expect("layers") {
        assert_eq!(layer["created"], EPOCH * 1000, "{carried:#}");
    }
}

/// The names that `BUILDER_DISABLE` knows, as the program itself tells them.
fn fast_paths() -> Vec<String> {
    let told =
        run(Home::new().build(&context(&["a"], SystemTime::now())).env("BUILDER_DISABLE", "?")).code_is(2);
    let list =
        told.stderr.split("there are ").nth(1).and_then(|rest| rest.split(';').next()).expect("a list");
    list.replace(" and ", ", ").split(", ").map(str::to_owned).collect()
}

/// Each of them in turn, for a first build and one after a change: the images are what they are with all.
#[test]
fn each_fast_path_can_be_left_out() {
    let inputs = context(&["a", "b", "c/d", "c/e"], SystemTime::now());
    // Large enough to be copied by the kernel, and to be compressed in pieces.
    let noise = |seed: u32| -> Vec<u8> {
        let next = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*state >> 24) as u8)
        };
        std::iter::successors(Some(seed), |state| Some(state.wrapping_add(1)))
            .scan(seed, |state, _| next(state))
            .take(3 << 20)
            .collect()
    };
    inputs.write("c/large", noise(1));
    (0..60).for_each(|number| inputs.write(&format!("many/{number}"), number.to_string()));
    let paths = fast_paths();
    assert!(paths.len() >= 5 && paths.contains(&"reflink".to_owned()), "{paths:?}");
    let mut homes: Vec<(String, Home)> = vec![(String::new(), Home::new())];
    homes.extend(paths.into_iter().map(|path| (path, Home::new())));
    for change in ["first", "second"] {
        inputs.write("b", change);
        inputs.write("c/large", noise(change.len() as u32));
        let mut digests = Vec::new();
        for (path, home) in &homes {
            let dir = tempdir();
            let output = format!("type=oci,tar=false,dest={}", dir.path().join("layout").display());
            let mut build = home.build(&inputs);
            build.env("SOURCE_DATE_EPOCH", EPOCH.to_string()).env("BUILDER_DISABLE", path);
            run(build.args(["-o", &output])).ok();
            digests.push((path, Image::open(dir.path().join("layout"), None).digest));
        }
        for (path, digest) in &digests {
            assert_eq!(*digest, digests[0].1, "{change} build without {path:?}");
        }
    }
}

/// Without an epoch, a layer that was made once stays the same one as long as its inputs do: the times in it are those of its making, which is not
/// repeated.
#[test]
fn without_an_epoch_layers_of_the_same_inputs_stay() {
    let context = Context::new(
        "FROM busybox\nCOPY . /srv\nWORKDIR /made/here\nRUN cat /srv/a > /made/b && mkdir /made/c\nRUN test -e /made/c\nCOPY --link a /linked\n",
    )
    .file("a", "a\n")
    .file("c/d", vec![b'd'; 300_000]);
    let home = Home::new();
    let layers = |arguments: &[&str]| -> Vec<String> {
        let out = tempdir();
        let layout = out.path().join("layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        run(home.build(&context).args(["-o", &output]).args(arguments)).ok();
        let image = Image::open(layout, Some(out));
        let layers = image.manifest["layers"].as_array().expect("layers");
        layers.iter().map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect()
    };
    let first = layers(&[]);
    let later = || std::thread::sleep(Duration::from_millis(1_100));
    later();
    assert_eq!(layers(&[]), first, "again");
    // Steps that are done again although they need not be make new times where they make something: the directories of COPY and WORKDIR, the
    // files of RUN. A file that is copied has its own.
    let anew = layers(&["--no-cache"]);
    assert_eq!((&anew[0], &anew[4], &anew[5]), (&first[0], &first[4], &first[5]), "nothing of its own");
    assert_eq!(layers(&[]), anew, "what was made last counts");
    let touch = |name: &str, time: SystemTime| {
        let file = fs::File::options().append(true).open(context.path().join(name)).expect("open");
        file.set_modified(time).expect("set a time");
    };
    touch("a", SystemTime::now());
    touch("c/d", SystemTime::now() - Duration::from_secs(86_400));
    assert_eq!(layers(&[]), anew, "other times of files");
    context.write("a", "other\n");
    assert_ne!(layers(&[]), anew, "another file");
    later();
    context.write("a", "a\n");
    assert_eq!(layers(&[]), anew, "a change that is undone");
    // Blobs that went are packed again.
    let blobs = home.path().join("blobs/sha256-v1");
    let blob = |digest: &String| blobs.join(&digest[7..9]).join(&digest[7..]);
    anew[1..].iter().for_each(|digest| fs::remove_file(blob(digest)).expect("remove a blob"));
    assert_eq!(layers(&[]), anew, "packed again");
    assert!(anew.iter().all(|digest| blob(digest).is_file()));
}
