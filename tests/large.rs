//! A large layer: how much memory it takes to make, send, fetch, save and load it, and how long the network takes. And output that is larger than the
//! memory of who prints it.
//!
//! `LARGE_LAYER_MB` says how large the layer is (160 without it); `cargo xtask test` runs it small, 10,240 takes some minutes and 35 GB of disk, where
//! `BUILDER_E2E_DIR` or the directory for temporary files is. From 1,000 on, 1 GB is printed, and times are held against what copying and hashing alone
//! take; below, and on a busy machine, they would say little. What was measured is printed as a table (`--nocapture`).

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{Context, Home, Registry, run, tempdir, tool};
use sha2::{Digest as _, Sha256};

/// More than this is too much, in KiB.
const MEMORY: u64 = 100 << 10;

/// From this size on, in bytes, times are compared.
const COMPARED: u64 = 1000 << 20;

fn size() -> u64 {
    let number = std::env::var("LARGE_LAYER_MB").ok().and_then(|text| text.parse::<u64>().ok());
    number.unwrap_or(160) << 20
}

/// What a step that prints a lot may take, in KiB: a third of what it prints, at the most.
const PRINTING: u64 = 64 << 10;

/// Bytes that such a step prints, at least.
fn output() -> u64 {
    if size() >= COMPARED { 1_000_000_000 } else { 3 * (PRINTING << 10) }
}

/// Half noise, which no compression makes smaller, half zeros, which take no room.
fn write(path: &Path, size: u64) {
    let mut file = File::create(path).expect("create a file");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..size / (2 << 20) {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).expect("write");
    }
    file.set_len(size).expect("make a hole");
}

/// The last of what somebody says; it may be more than memory holds.
fn end_of(mut stream: impl Read) -> String {
    let (mut end, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        end.drain(..end.len().saturating_sub(1 << 16));
        end.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&end).into_owned()
}

/// What was measured of one thing that was done.
struct Figure {
    what: String,
    took: Duration,
    /// In KiB.
    peak: u64,
    /// What the network copy and hashing alone take, of what only does that.
    alone: Option<Duration>,
}

impl Figure {
    /// How many times longer it took than it has to.
    fn ratio(&self) -> Option<f64> {
        self.alone.map(|alone| self.took.as_secs_f64() / alone.as_secs_f64())
    }
}

/// As the documentation has tables.
fn table(figures: &[Figure]) -> String {
    let mut text =
        format!("\n| {} MiB | time | peak memory | of copying and hashing alone |\n", size() >> 20);
    text += "|---|---|---|---|\n";
    for figure in figures {
        let alone = figure.alone.zip(figure.ratio());
        let alone = alone.map(|(alone, ratio)| format!("{ratio:.2} × {:.2} s", alone.as_secs_f64()));
        let (seconds, mebibytes) = (figure.took.as_secs_f64(), figure.peak >> 10);
        let alone = alone.unwrap_or_default();
        text += &format!("| {} | {seconds:.2} s | {mebibytes} MiB | {alone} |\n", figure.what);
    }
    text
}

/// Before it is filled: what a run needs is some 3.5 times the layer.
fn need_disk(at: &Path) {
    let free = run(tool("df").args(["--output=avail", "--block-size=1"]).arg(at)).ok().stdout;
    let free: u64 = free.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number");
    let needed = size() / 2 * 7;
    assert!(
        free > needed,
        "{} has {} MiB free, this takes {}: BUILDER_E2E_DIR names another place",
        at.display(),
        free >> 20,
        needed >> 20
    );
}

/// Runs a command and gives its time and memory. Fails when it does, or when it took more memory than any layer needs.
#[track_caller]
fn within_memory(command: &mut Command, most: u64) -> Figure {
    listening(command, most, |stderr| ((), end_of(stderr))).0
}

/// The same, and what `listen` makes of what it says: that, and the last of it.
#[track_caller]
fn listening<T: Send + 'static>(
    command: &mut Command,
    most: u64,
    listen: impl FnOnce(ChildStderr) -> (T, String) + Send + 'static,
) -> (Figure, T) {
    let start = Instant::now();
    if size() < COMPARED {
        // Each thread that compresses holds pieces of its own, and this binary maps twice as much as an optimised one: on any machine as many as
        // on one with two processors.
        command.env("RAYON_NUM_THREADS", "2");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the builder");
    let stderr = child.stderr.take().expect("just asked for");
    let said = std::thread::spawn(move || listen(stderr));
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        // The highest so far, which the kernel keeps: the last look comes close to the end.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(number.unwrap_or(0));
        if let Some(ended) = child.try_wait().expect("wait for the builder") {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = start.elapsed();
    let words: Vec<String> =
        command.get_args().take(2).map(|word| word.to_string_lossy().into_owned()).collect();
    println!("{}: {} MiB, {:.2} s", words.join(" "), peak >> 10, took.as_secs_f64());
    let (heard, said) = said.join().expect("a thread");
    assert!(ended.success(), "{command:?}: {said}");
    assert!(peak > 0 && peak < most, "{command:?} took {peak} KiB of memory");
    (Figure { what: words[0].clone(), took, peak, alone: None }, heard)
}

/// What the network copy and hashing alone take: the blob from the registry into a file, hashed on the way.
fn copied_and_hashed(registry: &Registry, repository: &str, digest: &str, to: &Path) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(&registry.address).expect("connect");
    write!(stream, "GET /v2/{repository}/blobs/{digest} HTTP/1.0\r\nHost: {}\r\n\r\n", registry.address)
        .expect("ask");
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    let mut line = String::new();
    while reader.read_line(&mut line).expect("a header") > 2 {
        line.clear();
    }
    let (mut file, mut hash, mut buffer) =
        (File::create(to).expect("create"), Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = reader.read(&mut buffer).expect("read");
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).expect("write");
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(format!("sha256:{found}"), digest);
    start.elapsed()
}

/// The same the other way: a file into the registry, hashed on the way, in one request.
fn hashed_and_sent(registry: &Registry, repository: &str, digest: &str, from: &Path) -> Duration {
    let start = Instant::now();
    let ask = |head: &str, body: Option<&Path>| -> String {
        let mut stream = TcpStream::connect(&registry.address).expect("connect");
        let length = body.map_or(0, |path| fs::metadata(path).expect("stat").len());
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n",
            registry.address
        )
        .expect("ask");
        if let Some(path) = body {
            let (mut file, mut hash, mut buffer) =
                (File::open(path).expect("open"), Sha256::new(), vec![0; 1 << 20]);
            loop {
                let read = file.read(&mut buffer).expect("read");
                if read == 0 {
                    break;
                }
                hash.update(&buffer[..read]);
                stream.write_all(&buffer[..read]).expect("send");
            }
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let begun = ask(&format!("POST /v2/{repository}/blobs/uploads/"), None);
    let place =
        begun.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place for the upload");
    let place = place.trim().trim_start_matches("http://").trim_start_matches(&registry.address);
    let sent = ask(&format!("PUT {place}&digest={digest}"), Some(from));
    assert!(sent.starts_with("HTTP/1.1 201"), "{sent}");
    start.elapsed()
}

/// How much was printed, and the hash of it.
#[derive(Debug, PartialEq)]
struct Printed {
    bytes: u64,
    hash: String,
}

impl Printed {
    fn of(lines: impl Iterator<Item = Vec<u8>>) -> Self {
        let (mut bytes, mut hash) = (0, Sha256::new());
        for line in lines {
            bytes += line.len() as u64;
            hash.update(&line);
        }
        Self { bytes, hash: hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect() }
    }
}

/// What the step printed whose lines stand behind its number and the seconds since it began (`--progress=plain`), and the rest.
fn printed(stderr: impl Read) -> (Printed, String) {
    let (mut stderr, mut rest) = (BufReader::with_capacity(1 << 20, stderr), Vec::new());
    let lines = std::iter::from_fn(|| {
        loop {
            let mut line = Vec::new();
            stderr.read_until(b'\n', &mut line).ok().filter(|length| *length > 0)?;
            let mut parts = line.splitn(3, |byte| *byte == b' ');
            let number = parts.next().is_some_and(|word| word.starts_with(b"#"));
            let time = parts.next().and_then(|word| std::str::from_utf8(word).ok()?.parse::<f64>().ok());
            match parts.next().filter(|_| number && time.is_some()) {
                Some(text) => return Some(text.to_vec()),
                None => rest.extend(line),
            }
        }
    });
    let printed = Printed::of(lines);
    (printed, String::from_utf8_lossy(&rest).into_owned())
}

/// What a step prints goes through, and none of it is held. All of it is stored, in little room, and can be seen again.
#[test]
fn a_step_prints_more_than_memory_holds() {
    let home = Home::new();
    // Each line says where it stands. Nothing comes between them, such as a warning about the network.
    let lines = output() / 64;
    let context =
        Context::new(&format!("FROM busybox\nRUN --network=none od -v -N {} /dev/zero\n", lines * 16));
    let zeros = " 000000".repeat(8);
    let line = |number: u64| match number < lines {
        true => format!("{:07o}{zeros}\n", number * 16),
        false => format!("{:07o}\n", number * 16),
    };
    let wanted = Printed::of((0..=lines).map(|number| line(number).into_bytes()));
    assert!(wanted.bytes >= output());
    let mut build = home.build(&context);
    let (_, seen) = listening(build.args(["--progress=plain", "--log-size=-1"]), PRINTING, printed);
    assert_eq!(seen, wanted, "as it is printed");
    let logs: Vec<_> = fs::read_dir(home.path().join("logs-v1")).expect("the logs").flatten().collect();
    let [log] = &logs[..] else { panic!("one step printed: {logs:?}") };
    let stored = log.metadata().expect("stat").len();
    println!("{} bytes printed, {stored} stored", wanted.bytes);
    let mut magic = [0; 4];
    File::open(log.path()).and_then(|mut log| log.read_exact(&mut magic)).expect("read the log");
    assert_eq!(magic, [0x28, 0xb5, 0x2f, 0xfd], "a frame of zstd, RFC 8878");
    assert!(stored * 20 < wanted.bytes, "{stored} bytes for {wanted:?}");
    let mut again = home.build(&context);
    let (_, seen) = listening(again.args(["--progress=plain", "--replay"]), PRINTING, |stderr| {
        let (seen, rest) = printed(stderr);
        ((seen, rest.contains("CACHED")), rest)
    });
    assert_eq!(seen, (wanted, true), "as it was stored");
    let mut build = home.build(&context);
    within_memory(build.args(["--progress=rawjson", "--log-size=-1", "--no-cache"]), PRINTING);
}

#[test]
fn memory_does_not_grow_with_a_layer() {
    let (home, dir, registry) = (Home::new(), tempdir(), Registry::start(None));
    need_disk(dir.path());
    let context = Context::new("FROM scratch\nCOPY large /large\n");
    write(&context.path().join("large"), size());
    let name = format!("{}/large:1", registry.address);
    let archive = dir.path().join("archive");
    let made = within_memory(home.build(&context).args(["-t", &name]), MEMORY);
    fs::remove_file(context.path().join("large")).expect("remove");
    let mut pushed = within_memory(home.builder("push").arg(&name), MEMORY);
    let saved = within_memory(home.builder("save").arg(&name).arg("-o").arg(&archive), MEMORY);
    drop(home);
    let other = Home::new();
    let mut pulled = within_memory(other.builder("pull").arg(&name), MEMORY);
    // Unpacked, copied, and both packed as one file, for which there need not be room.
    let on_top = Context::new(&format!("FROM {name}\nCOPY --from={name} /large /copy\n"));
    let mut copied = within_memory(other.build(&on_top).args(["-o", "type=tar,dest=-"]), MEMORY);
    copied.what = "build on top of it, to a tar of both".to_owned();
    drop(other);
    let loaded = Home::new();
    let load = within_memory(loaded.builder("load").arg("-i").arg(&archive), MEMORY);
    fs::remove_file(&archive).expect("remove");

    let manifest = registry.manifest("large:1");
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let blob = dir.path().join("blob");
    let mut fetched = copied_and_hashed(&registry, "large", digest, &blob);
    let mut sent = hashed_and_sent(&Registry::start(None), "large", digest, &blob);
    let best = |figure: &mut Figure, again: Figure| {
        figure.took = figure.took.min(again.took);
        figure.peak = figure.peak.max(again.peak);
    };
    // Turn and turn about, the best of each: what else the machine does meanwhile is nobody's fault.
    for _ in 0..if size() >= COMPARED { 2 } else { 0 } {
        let elsewhere = Registry::start(None);
        let other = format!("{}/large:1", elsewhere.address);
        run(loaded.builder("tag").args([&name, &other])).ok();
        best(&mut pushed, within_memory(loaded.builder("push").arg(&other), MEMORY));
        drop(elsewhere);
        sent = sent.min(hashed_and_sent(&Registry::start(None), "large", digest, &blob));
        best(&mut pulled, within_memory(Home::new().builder("pull").arg(&name), MEMORY));
        fetched = fetched.min(copied_and_hashed(&registry, "large", digest, &blob));
    }
    (pulled.alone, pushed.alone) = (Some(fetched), Some(sent));
    let slow: Vec<String> = [&pulled, &pushed]
        .into_iter()
        .filter_map(|figure| figure.ratio().filter(|ratio| *ratio > 1.3).map(|ratio| (figure, ratio)))
        .map(|(figure, ratio)| format!("{} takes {ratio:.2} times as long", figure.what))
        .collect();
    println!("{}", table(&[made, pushed, saved, pulled, copied, load]));
    assert!(size() < COMPARED || slow.is_empty(), "{slow:?}");
}

/// What steps print, at once and without end, a line or lines.
#[test]
fn what_steps_print_is_not_kept_in_memory() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox AS line\nRUN dd if=/dev/zero bs=64k count=2000\n\
         FROM busybox AS lines\nRUN yes one of very many lines | head -c 20000000\n\
         FROM busybox\nCOPY --from=line /etc/passwd /1\nCOPY --from=lines /etc/passwd /2\n",
    );
    within_memory(home.build(&context).args(["--progress=plain", "--log-size=-1"]), MEMORY);
}
