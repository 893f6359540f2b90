//! The build contexts of the scenarios, made once and kept.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::{Lab, scenarios};
use crate::long::Random;
use crate::shell::{self, Result};

/// A build context and what to say about it.
pub(crate) struct Context {
    pub(crate) dir: PathBuf,
    pub(crate) about: String,
}

impl Context {
    /// Removes it from the disk.
    pub(crate) fn remove(self) -> Result {
        fs::remove_file(self.dir.with_extension("about"))?;
        shell::remove(&self.dir)
    }
}

/// What is in a context besides its Dockerfile.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// One file of a few bytes.
    Small,
    /// A real source tree of 7,578 files.
    Source,
    /// So many tenths of it: one, or a multiple of ten.
    SourceTenths(u32),
    /// So many directories of 250 files of 100 to 4,000 random bytes.
    Many(u32),
    /// One file of 1.1 GB: a tar of /usr/lib, repeated or cut.
    Large,
    /// So many tenths of that: one, or a multiple of ten.
    LargeTenths(u32),
    /// A list of packages and a source file, under two orders of instructions.
    Order,
}

/// A tree that real people work on, pinned so that figures can be compared between machines and months.
const SOURCE: (&str, &str) = ("golang-1.19", "1.19.8-2");

/// The packages are installed before the source is copied; the other order is in the Dockerfile of the scenario.
const RIGHT_ORDER: &str = "\
FROM busybox
WORKDIR /app
COPY packages .
RUN sleep 1 && cp packages installed
COPY . .
RUN cat installed touched > program
";

impl Content {
    /// The folder of the context, where scenarios share it.
    pub(crate) fn name(self) -> String {
        match self {
            Content::Small => "small".to_owned(),
            Content::Source => "source".to_owned(),
            Content::SourceTenths(tenths) => format!("source-{tenths}"),
            Content::Many(directories) => format!("many-{}", directories * 250),
            Content::Large => "large".to_owned(),
            Content::LargeTenths(tenths) => format!("large-{tenths}"),
            Content::Order => "order".to_owned(),
        }
    }

    /// The context with this content, made when it is not there yet.
    pub(crate) fn make(self, lab: &Lab, name: &str, dockerfile: &str) -> Result<Context> {
        let dir = lab.dir.join("contexts").join(name);
        let stamp = dir.with_extension("about");
        let about = match fs::read_to_string(&stamp) {
            Ok(about) => about,
            Err(_) => {
                shell::remove(&dir)?;
                fs::create_dir_all(&dir)?;
                let about = self.fill(&dir, lab)?;
                fs::write(&stamp, &about)?;
                about
            }
        };
        fs::write(dir.join("Dockerfile"), dockerfile)?;
        Ok(Context { dir, about })
    }

    fn fill(self, dir: &Path, lab: &Lab) -> Result<String> {
        match self {
            Content::Small => {
                fs::write(dir.join("file"), "a few bytes\n")?;
                Ok("one small file".to_owned())
            }
            Content::Source => source(dir, lab),
            Content::SourceTenths(tenths) => {
                let whole = Content::Source.make(lab, &Content::Source.name(), scenarios::COPY_ALL)?;
                part_of_source(&whole.dir, dir, tenths)
            }
            Content::Many(directories) => {
                let mut random = Random(3);
                let bytes = tree(dir, directories, 250, || random.between(100, 4_001), 3)?;
                Ok(format!("generated: {} files, {} MB", directories * 250, bytes / 1_000_000))
            }
            Content::Large => large(dir),
            Content::LargeTenths(tenths) => {
                let whole = Content::Large.make(lab, &Content::Large.name(), scenarios::COPY_LARGE)?;
                part_of_large(&whole.dir, dir, tenths)
            }
            Content::Order => {
                fs::write(dir.join("packages"), "one\ntwo\n")?;
                fs::write(dir.join("right.Dockerfile"), RIGHT_ORDER)?;
                Ok("a list of packages, and a source file that changes".to_owned())
            }
        }
    }
}

/// The Debian source package where the machine's apt sources have it; else a generated tree of the same shape.
fn source(dir: &Path, lab: &Lab) -> Result<String> {
    let (package, version) = SOURCE;
    let unpacked = lab.dir.join("source");
    shell::remove(&unpacked)?;
    fs::create_dir_all(&unpacked)?;
    // The package index of sources is not on most machines; a list of its own leaves this one as it is.
    let fetch = format!(
        "set -e; mkdir -p lists/partial cache/archives/partial; : > sources.list; \
         for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do [ ! -f $f ] || sed -n 's/^deb /deb-src /p' $f >> sources.list; done; \
         mkdir parts; for f in /etc/apt/sources.list.d/*.sources; do [ ! -f $f ] || sed 's/^Types:.*/Types: deb-src/' $f > parts/$(basename $f); done; \
         apt='-o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=$PWD/parts -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root'; \
         eval apt-get $apt update -qq && eval apt-get $apt source -qq --only-source {package}={version}"
    );
    let fetched = shell::output(shell::command("sh").args(["-c", &fetch]).current_dir(&unpacked));
    if let Err(error) = &fetched {
        println!(
            "note: {package} {version} cannot be fetched: {}",
            error.to_string().lines().last().unwrap_or("")
        );
    }
    let tree_dir =
        fs::read_dir(&unpacked)?.filter_map(|entry| entry.ok()).map(|entry| entry.path()).find(|path| {
            path.is_dir()
                && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("golang-"))
        });
    if let (Ok(_), Some(tree_dir)) = (fetched, tree_dir) {
        let about = trim(&tree_dir, dir)?;
        shell::remove(&unpacked)?;
        return Ok(format!(
            "Debian source package {package} {version}, the first of less than 500 kB: {about}"
        ));
    }
    shell::remove(&unpacked)?;
    let mut random = Random(2);
    // Most source files are small, a few are large: sizes between 200 bytes and 70 kB, their logarithm even.
    let size = || (200.0 * 350f64.powf(random.between(0, 1_000_000) as f64 / 1e6)) as u64;
    let bytes = tree(dir, 842, 9, size, 2)?;
    Ok(format!("generated: 7,578 files, {} MB", bytes / 1_000_000))
}

/// Moves the first 7,578 files of less than 500 kB of a tree, in order of their paths, to `dir`.
fn trim(from: &Path, dir: &Path) -> Result<String> {
    let list = shell::output(
        shell::command("find").arg(".").args(["-type", "f", "-size", "-500000c"]).current_dir(from),
    )?;
    let mut paths: Vec<&str> = list.lines().collect();
    paths.sort_unstable();
    let mut bytes = 0;
    let mut count = 0;
    for path in paths.iter().take(7_578) {
        let to = dir.join(path);
        fs::create_dir_all(to.parent().unwrap_or(dir))?;
        fs::rename(from.join(path), &to)?;
        bytes += fs::metadata(&to)?.len();
        count += 1;
    }
    Ok(format!("{count} files, {} MB", bytes / 1_000_000))
}

/// The first files of a tree in order of their paths, or the whole tree several times.
fn part_of_source(from: &Path, to: &Path, tenths: u32) -> Result<String> {
    if tenths >= 10 {
        for number in 0..tenths / 10 {
            shell::copy(from, &to.join(format!("copy{number}")))?;
        }
        return Ok(format!("{} times the source tree", tenths / 10));
    }
    let script = "find . -type f ! -name touched ! -path ./Dockerfile | LC_ALL=C sort | head -n $2 | tar -c -T - | tar -x -C \"$1\"";
    let count = 7_578 * tenths / 10;
    shell::output(
        shell::command("sh").args(["-ec", script, "sh"]).arg(to).arg(count.to_string()).current_dir(from),
    )?;
    Ok(format!("the first {count} files of the source tree"))
}

/// The beginning of the large file, or all of it several times.
fn part_of_large(from: &Path, to: &Path, tenths: u32) -> Result<String> {
    let script = "i=0; while [ $i -lt $3 ]; do head -c $2 \"$1\"; i=$((i+1)); done > large";
    let (bytes, times) = if tenths < 10 { (110_000_000 * tenths, 1) } else { (1_100_000_000, tenths / 10) };
    let numbers = [bytes.to_string(), times.to_string()];
    shell::output(
        shell::command("sh")
            .args(["-ec", script, "sh"])
            .arg(from.join("large"))
            .args(numbers)
            .current_dir(to),
    )?;
    Ok(format!("one file of {} MB", u64::from(tenths) * 110))
}

/// `directories` directories of `files` files each; the sum of their sizes.
fn tree(dir: &Path, directories: u32, files: u32, mut size: impl FnMut() -> u64, seed: u64) -> Result<u64> {
    let mut random = Random(seed ^ 0xb17e5);
    let mut sum = 0;
    for directory in 0..directories {
        let directory = dir.join(format!("tree/d{directory:03}"));
        fs::create_dir_all(&directory)?;
        for file in 0..files {
            let bytes: Vec<u8> = (0..size()).map(|_| random.next() as u8).collect();
            sum += bytes.len() as u64;
            fs::write(directory.join(format!("f{file:03}")), bytes)?;
        }
    }
    Ok(sum)
}

/// 1.1 GB of what compresses as programs do.
fn large(dir: &Path) -> Result<String> {
    let script = "i=0; while :; do tar -c -C / --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner usr/lib; i=$((i+1)); \
                  [ $i -lt 20 ] || break; done 2>/dev/null | head -c 1100000000 > large";
    shell::output(shell::command("sh").args(["-c", script]).current_dir(dir))?;
    let size = fs::metadata(dir.join("large"))?.len();
    Ok(format!("one file of {} MB, a tar of /usr/lib", size / 1_000_000))
}
