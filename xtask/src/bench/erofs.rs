//! `cargo xtask bench erofs`: what a version of a layer costs, as it is, and as an image of metadata over a store of objects.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{XattrFlags, fsetxattr};

use crate::bench::contexts::{Content, Context};
use crate::bench::growth::once;
use crate::bench::scenarios::{self, SETTLED};
use crate::bench::tools::Tool;
use crate::bench::{Lab, report};
use crate::packages;
use crate::shell::{self, Result};

/// The name by which it is asked for. It is part of no other measurement.
pub(crate) const NAME: &str = "erofs";

const RUNS: usize = 5;

/// Wall time and processor time of each run.
type Times = Vec<(Duration, Duration)>;

/// Measures S6 without its RUN, of which nothing or one file has changed: the difference is what the version costs, and finding what is in it. Beside it
/// what would take its place: an image of all of the layer's metadata, made by mkfs.erofs, mounted with the files as a data-only lower layer.
pub(crate) fn run(tool: &mut Tool, lab: &Lab) -> Result {
    if !shell::is_root() {
        return Err("only root can mount an image".into());
    }
    packages::ensure(packages::EROFS)?;
    let content = Content::Many(400);
    let context = content.make(lab, &content.name(), "FROM busybox\nCOPY . /src\n")?;
    scenarios::touch(&context)?;
    let [same, changed] = builds(tool, &context)?;
    row("builder: nothing changed", &same);
    row("builder: one file changed", &changed);
    image(&context, lab)
}

fn builds(tool: &mut Tool, context: &Context) -> Result<[Times; 2]> {
    tool.reset(true)?;
    for _ in 0..2 {
        sleep(SETTLED);
        once(tool, context, false)?;
    }
    let mut times = [Times::new(), Times::new()];
    for _ in 0..RUNS {
        for (changes, times) in times.iter_mut().enumerate() {
            if changes > 0 {
                scenarios::touch(context)?;
            }
            let run = once(tool, context, false)?;
            times.push((run.wall, run.processor.unwrap_or_default()));
            if changes > 0 {
                // What has just changed would be read again by the next, which is to find it unchanged.
                sleep(SETTLED);
                once(tool, context, false)?;
            }
        }
    }
    Ok(times)
}

/// An image of the files' metadata: made, mounted, walked for the first time and again; then the directories.
fn image(Context { dir: files, about }: &Context, lab: &Lab) -> Result {
    let dir = tempfile::Builder::new().prefix("erofs.").tempdir_in(&lab.dir)?;
    // What mkfs.erofs reads is in memory, where that is possible: a program made for this would have it from the list of what is in the layer.
    let memory = tempfile::Builder::new().prefix("builder-erofs.").tempdir_in("/dev/shm")?;
    metadata(files, memory.path(), Path::new("/"))?;
    let image = dir.path().join("image");
    let (lower, merged) = (dir.path().join("lower"), dir.path().join("merged"));
    fs::create_dir(&lower)?;
    fs::create_dir(&merged)?;
    let walk = |dir: &Path| timed(dir, shell::command("find").arg(dir).args(["-printf", "%s\n"]));
    let mut times: [Times; 6] = Default::default();
    for _ in 0..RUNS {
        let _ = fs::remove_file(&image);
        let mut make = shell::command("mkfs.erofs");
        // Equal pieces are kept once: the files are holes.
        make.args(["--quiet", "--chunksize=4096"]).arg(&image).arg(memory.path());
        times[0].push(timed(dir.path(), &mut make)?);
        let begin = Instant::now();
        let _lower = Mount::new(&["-t", "erofs", "-o", "ro,loop"], &image, &lower)?;
        let layers =
            format!("ro,metacopy=on,redirect_dir=on,lowerdir={}::{}", lower.display(), files.display());
        let _merged = Mount::new(&["-t", "overlay", "-o", &layers], Path::new("overlay"), &merged)?;
        times[1].push((begin.elapsed(), Duration::ZERO));
        if fs::read(merged.join("touched"))? != fs::read(files.join("touched"))? {
            return Err("the image does not lead to the files".into());
        }
        times[2].push(walk(&merged)?);
        times[3].push(walk(&merged)?);
        // Directories and inodes are read anew, from pages that are in memory, as those of the image were.
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        times[4].push(walk(files)?);
        times[5].push(walk(files)?);
    }
    let names =
        ["mkfs.erofs", "mount", "first walk", "second walk", "directories: first walk", "second walk"];
    for (name, times) in names.iter().zip(&times) {
        row(name, times);
    }
    println!("the image: {:.1} MB, of {}", fs::metadata(&image)?.len() as f64 / 1e6, about);
    Ok(())
}

/// Makes a tree of the same directories, with files of the same sizes that hold nothing but where overlay finds their bytes.
fn metadata(from: &Path, to: &Path, place: &Path) -> Result {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (to, place) = (to.join(entry.file_name()), place.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir(&to)?;
            metadata(&entry.path(), &to, &place)?;
        } else {
            let file = File::create(&to)?;
            file.set_len(entry.metadata()?.len())?;
            fsetxattr(&file, "trusted.overlay.metacopy", b"", XattrFlags::empty())?;
            let place = place.as_os_str().as_encoded_bytes();
            fsetxattr(&file, "trusted.overlay.redirect", place, XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// Runs a command under time(1), whose report lies beside the directory.
fn timed(beside: &Path, command: &mut Command) -> Result<(Duration, Duration)> {
    let told = beside.with_extension("time");
    let mut time = shell::command("time");
    time.args(["-f", "%U %S", "-o"]).arg(&told).arg(command.get_program()).args(command.get_args());
    let begin = Instant::now();
    shell::run(time.stdout(Stdio::null()))?;
    let wall = begin.elapsed();
    let text = fs::read_to_string(&told)?;
    fs::remove_file(&told)?;
    let processor = text.split_whitespace().map(str::parse::<f64>).sum::<std::result::Result<f64, _>>()?;
    Ok((wall, Duration::from_secs_f64(processor)))
}

fn row(name: &str, times: &Times) {
    let [wall, processor] = [|time: &(Duration, _)| time.0, |time: &(_, Duration)| time.1]
        .map(|of| report::median(&times.iter().map(of).collect::<Vec<_>>()).unwrap_or_default());
    println!("{name:26} {:>9} ({} processor time)", shell::seconds(wall), shell::seconds(processor));
}

/// A mount, until it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(options: &[&str], what: &Path, at: &Path) -> Result<Mount> {
        shell::output(shell::command("mount").args(options).arg(what).arg(at))?;
        Ok(Mount(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = shell::output(shell::command("umount").arg(&self.0)) {
            eprintln!("note: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_leads_to_the_bytes() {
        // Attributes that only root may set.
        if !shell::is_root() {
            return;
        }
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("d")).unwrap();
        fs::write(from.path().join("d/f"), "bytes").unwrap();
        metadata(from.path(), to.path(), Path::new("/")).unwrap();
        assert_eq!(fs::read(to.path().join("d/f")).unwrap(), [0; 5]);
        let mut place = [0; 16];
        let attribute = "trusted.overlay.redirect";
        let length = rustix::fs::getxattr(to.path().join("d/f"), attribute, &mut place[..]).unwrap();
        assert_eq!(place[..length], *b"/d/f");
    }
}
