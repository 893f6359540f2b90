//! The pages of `builder compare --format=html` and `builder build --timings` in a real browser: what their pictures show is what the
//! numbers say.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Context, Done, Home, bases, json, run, tempdir};
use serde_json::Value;

/// As the style sheet has them for light pages, in the order of what an edit does to a step.
const COLORS: [(&str, [u8; 3]); 4] = [
    ("runs", [0xcf, 0x22, 0x2e]),
    ("at most", [0xbf, 0x87, 0x00]),
    ("cached", [0x2d, 0xa4, 0x4e]),
    ("source", [0x8c, 0x95, 0x9f]),
];

/// A picture, three bytes a pixel.
struct Picture {
    width: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// Reads a PNG of eight bits a sample that is not interlaced, as browsers write them (W3C, Portable Network Graphics).
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("the picture");
        assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "a PNG");
        let number =
            |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let (mut at, mut packed, mut header) = (8, Vec::new(), (0, 0, 0));
        while at + 8 <= bytes.len() {
            let (length, kind, data) = (number(at), &bytes[at + 4..at + 8], at + 8);
            match kind {
                b"IHDR" => {
                    assert_eq!((bytes[data + 8], bytes[data + 12]), (8, 0), "eight bits, not interlaced");
                    let samples = if bytes[data + 9] == 6 { 4 } else { 3 };
                    header = (number(data), number(data + 4), samples);
                }
                b"IDAT" => packed.extend_from_slice(&bytes[data..data + length]),
                _ => {}
            }
            at = data + length + 4;
        }
        let (width, height, samples) = header;
        let mut raw = Vec::new();
        flate2::read::ZlibDecoder::new(&packed[..]).read_to_end(&mut raw).expect("inflate");
        let stride = width * samples;
        let mut before = vec![0; stride];
        let mut pixels = Vec::new();
        for line in raw.chunks(stride + 1).take(height) {
            let mut line = (line[0], line[1..].to_vec());
            for at in 0..stride {
                let left = if at < samples { 0 } else { line.1[at - samples] };
                let corner = if at < samples { 0 } else { before[at - samples] };
                let add = match line.0 {
                    0 => 0,
                    1 => left,
                    2 => before[at],
                    3 => u8::midpoint(left, before[at]),
                    _ => paeth(left, before[at], corner),
                };
                line.1[at] = line.1[at].wrapping_add(add);
            }
            line.1.chunks(samples).for_each(|pixel| pixels.extend_from_slice(&pixel[..3]));
            before = line.1;
        }
        Self { width, pixels }
    }

    /// The longest run of a colour in some line: where it begins and how long it is.
    fn longest(&self, color: [u8; 3]) -> (usize, usize) {
        let mut longest = (0, 0);
        for line in self.pixels.chunks(self.width * 3) {
            let mut length = 0;
            for (x, pixel) in line.chunks(3).enumerate() {
                length = if pixel == color { length + 1 } else { 0 };
                if length > longest.1 {
                    longest = (x + 1 - length, length);
                }
            }
        }
        longest
    }

    /// How many bars of a colour stand between two columns: the borders of steps.
    fn bars(&self, color: [u8; 3], from: usize, to: usize) -> usize {
        let is = |x: usize, y: usize| self.pixels[(y * self.width + x) * 3..][..3] == color;
        let height = self.pixels.len() / 3 / self.width;
        let mut bars = 0;
        for x in from..to {
            // A bar is counted at its left edge, where it is at least ten pixels high and four wide.
            let mut high = 0;
            for y in 0..height {
                let begins = is(x, y) && (x == 0 || !is(x - 1, y)) && x + 4 < self.width && is(x + 3, y);
                high = if begins { high + 1 } else { 0 };
                bars += usize::from(high == 10);
            }
        }
        bars
    }
}

fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let [a, b, c] = [left, above, corner].map(i16::from);
    let distance = |value: i16| (a + b - c - value).abs();
    if distance(a) <= distance(b) && distance(a) <= distance(c) {
        left
    } else if distance(b) <= distance(c) {
        above
    } else {
        corner
    }
}

/// A browser of the Chromium family.
fn browser() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let names = ["chromium-headless-shell", "chromium"];
    let found =
        names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|path| path.is_file());
    found.expect("no browser: `cargo xtask test` installs chromium-headless-shell as root")
}

const WIDTH: usize = 1200;

/// A picture of a page.
fn screenshot(page: &Path) -> Picture {
    screenshot_of(page, WIDTH)
}

/// The same in a window of some width.
fn screenshot_of(page: &Path, width: usize) -> Picture {
    let dir = tempdir();
    let picture = dir.path().join("picture.png");
    let size = format!("--window-size={width},1400");
    let done = open(page, &[&size, &format!("--screenshot={}", picture.display())]);
    assert!(picture.is_file(), "{done}");
    Picture::read(&picture)
}

/// Shows a page in the browser, which asks nobody for anything.
fn open(page: &Path, arguments: &[&str]) -> Done {
    let dir = tempdir();
    let mut browser = Command::new(browser());
    browser.env("HOME", dir.path()).args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
    ]);
    browser.args(["--disable-dev-shm-usage", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"]);
    browser.args(arguments).arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
    run(browser.arg(format!("file://{}", page.display()))).ok()
}

/// What a script gives at the end of a page, in the browser; JSON.
fn asked(page: &str, script: &str) -> Value {
    let pages = tempdir();
    let path = pages.path().join("page.html");
    let script = format!(
        "<pre id=asked></pre><script>document.getElementById('asked').textContent = JSON.stringify((() => {{{script}}})())</script></body>"
    );
    fs::write(&path, page.replace("</body>", &script)).expect("write the page");
    let done = open(&path, &["--dump-dom"]);
    let answer = done.stdout.split("<pre id=\"asked\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    serde_json::from_str(answer.expect("an answer")).expect("JSON")
}

#[test]
fn the_picture_shows_what_each_edit_reruns() {
    let home = Home::new();
    let context = Context::new("")
        .file("A", "FROM busybox\nCOPY . /app\nRUN cat /app/lock > /installed\nRUN cat /installed\n")
        .file("B", "FROM busybox AS deps\nCOPY lock /\nRUN cat /lock > /installed\nRUN cat /installed\nFROM deps\nCOPY . /app\n")
        .file(".dockerignore", "A\nB\nDockerfile\n.dockerignore\nreport.*\n")
        .file("lock", "1\n")
        .file("main", "1\n");
    let compare = |format: &str| {
        let mut command = home.builder("compare");
        command.args(bases()).args([
            "--change=main",
            "--change=lock",
            "--change=none",
            &format!("--format={format}"),
        ]);
        command.args([context.path().join("A"), context.path().join("B")]).arg(context.path());
        run(&mut command).ok().stdout
    };
    let told: Value = serde_json::from_str(&compare("json")).expect("JSON");
    let page = compare("html");
    let pages = tempdir();
    for edit in 0..3 {
        // As a user does.
        let clicked = page.replace(
            "</body>",
            &format!("<script>document.querySelectorAll('tr[data-edit]')[{edit}].click()</script></body>"),
        );
        let path = pages.path().join("report.html");
        fs::write(&path, clicked).expect("write the page");
        let picture = screenshot(&path);
        for (ordering, (from, to)) in [(0, WIDTH / 2), (WIDTH / 2, WIDTH)].into_iter().enumerate() {
            let of = |name: &str| {
                told["edits"][edit]["orderings"][ordering][name].as_array().expect("a list").len()
            };
            let steps = [3, 4][ordering];
            let want = [of("runs"), of("at_most"), steps - of("runs") - of("at_most")];
            for ((name, color), want) in COLORS.into_iter().zip(want) {
                // The legend stands on the left and has one of each.
                let want = want + usize::from(ordering == 0);
                let seen = picture.bars(color, from, to);
                assert_eq!(seen, want, "{name} of ordering {ordering}, edit {edit}: {told:#}");
            }
        }
    }
}

/// As the style sheet of timings has it for light pages.
const RUN: [u8; 3] = [0xcf, 0x22, 0x2e];

#[test]
fn timings_are_drawn_to_scale() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox AS quick\nRUN sleep 0.3\nFROM busybox\nRUN sleep 5\nCOPY --from=quick /bin/busybox /other\n",
    );
    let pages = tempdir();
    let page = pages.path().join("timings.html");
    let mut build = home.build(&context);
    run(build.arg(format!("--timings={}", page.display()))).ok();
    // The bar of a step, as the page says it.
    let text = fs::read_to_string(&page).expect("the page");
    let steps = text.split("class=\"chart steps\"").nth(1).expect("steps");
    let widths = steps.split("<span class=\"bar run").skip(1).map(|bar| {
        let percent = bar.split("width:").nth(1).and_then(|rest| rest.split('%').next()).expect("a width");
        percent.parse::<f64>().expect("a number")
    });
    let widest = widths.fold(0.0, f64::max) / 100.0;
    assert!(widest > 0.5, "the second sleep takes most of it: {widest}");
    let mut scales = Vec::new();
    for width in [WIDTH, 1000, 800] {
        let picture = screenshot_of(&page, width);
        // Two steps, each in its row, and the legend; what is in the lanes is not as high.
        assert_eq!(picture.bars(RUN, 0, width), 3, "{width} wide");
        let (from, length) = picture.longest(RUN);
        assert!(from + length < width, "nothing is cut off");
        scales.push(length as f64 / widest / width as f64);
    }
    // The time takes most of the width, whatever that is.
    assert!(scales.iter().all(|scale| (0.6..0.8).contains(scale)), "{scales:?}");
}

/// The critical path is outlined and tied together, and the name that has the focus shows what its step uses and what uses it.
#[test]
fn timings_show_what_waited_for_what() {
    let context = Context::new(
        "FROM busybox AS quick\nRUN sleep 0.1\nFROM busybox\nRUN sleep 3\nCOPY --from=quick /bin/busybox /other\nRUN sleep 1\n",
    );
    let pages = tempdir();
    let timings = |name: &str| {
        let path = pages.path().join(name);
        run(Home::new().build(&context).arg(format!("--timings={}", path.display()))).ok();
        path
    };
    let page = fs::read_to_string(timings("timings.html")).expect("the page");
    // Of another build: what is quick may be on the path in one of them and not in the other.
    let told = json(&timings("timings.json"));
    let bars = asked(
        &page,
        "const is = (bar) => getComputedStyle(bar).boxShadow !== 'none';
         const bars = [...document.querySelectorAll('.steps .bar')];
         const shown = [...document.querySelectorAll('.steps .link.down')].filter((link) => link.offsetHeight >= 24);
         return { runs: bars.filter((bar) => bar.matches('.run')).map((bar) => [bar.dataset.row, is(bar)]),
           path: bars.filter(is).map((bar) => bar.dataset.row), links: shown.length };",
    );
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let spans = list(&told["spans"]).into_iter().filter(|span| span["work"] == "run");
    let want: BTreeSet<(String, bool)> =
        spans.map(|span| (span["row"].to_string(), span["critical"] == true)).collect();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let seen = list(&bars["runs"]).iter().map(|bar| (text(&bar[0]), bar[1] == true)).collect();
    assert_eq!(want, seen, "outlined bars: {told:#}");
    assert_eq!(want.iter().filter(|(_, critical)| *critical).count(), 2, "two of three: {want:?}");
    // From one step to the next.
    let path = list(&bars["path"]);
    let steps = path.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(steps >= 3 && bars["links"] == steps, "{steps}: {bars:#}");

    let rows = list(&told["rows"]);
    let inputs: Vec<BTreeSet<usize>> = rows
        .iter()
        .map(|row| list(&row["inputs"]).iter().map(|row| row.as_u64().expect("a number") as usize).collect())
        .collect();
    // For each name that has the focus, and for none, the colours of all. A page that nobody looks at gets no focus: events are sent.
    let colors = asked(
        &page,
        "const names = [...document.querySelectorAll('.name[data-row]')];
         const colors = () => names.map((name) => getComputedStyle(name).backgroundColor);
         const send = (name, event) => name.dispatchEvent(new FocusEvent(event));
         const focused = names.map((name) => { send(name, 'focus'); return colors(); });
         send(names[0], 'blur');
         return [...focused, colors()];",
    );
    let colors: Vec<Vec<String>> =
        list(&colors).iter().map(|colors| list(colors).iter().map(text).collect()).collect();
    assert_eq!(colors.len(), rows.len() + 1, "each step has a name");
    let none = &colors[rows.len()][0];
    assert!(colors[rows.len()].iter().all(|color| color == none), "no mark is left: {colors:#?}");
    let mut marks = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::from([none])];
    for here in 0..rows.len() {
        for (row, color) in colors[here].iter().enumerate() {
            let mark = match row {
                row if row == here => 0,
                row if inputs[here].contains(&row) => 1,
                row if inputs[row].contains(&here) => 2,
                _ => 3,
            };
            marks[mark].insert(color);
        }
    }
    assert!(marks.iter().all(|colors| colors.len() == 1), "one colour a mark: {marks:#?} of {inputs:?}");
    let all: BTreeSet<&&String> = marks.iter().flatten().collect();
    assert_eq!(all.len(), 4, "and no two alike: {marks:#?}");
}
