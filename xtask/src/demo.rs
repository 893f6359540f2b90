//! `cargo xtask demo`: the main job, on a fresh machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{self, Result};
use crate::{bases, packages};

/// Shows what builder does, from nothing: builds a real multi-stage Dockerfile, builds it again from the cache,
/// changes a file and builds once more, exports the image and runs it.
///
/// Does all set-up: Debian packages, the release binary, base images. Everything it makes lies in target/.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Uses the unoptimised binary, which compiles sooner and runs slower.
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(args: &Args) -> Result {
    shell::heading("1. set-up: the binary and the base images");
    packages::ensure(packages::BASES)?;
    let demo = Demo {
        binary: shell::builder(!args.debug)?,
        bases: bases::ensure(false)?,
        dir: shell::target().join("demo"),
    };
    demo.clean()?;
    let context = demo.dir.join("context");
    shell::copy(&shell::root().join("Dockerfiles/c-scratch"), &context)?;

    shell::heading("2. the first build: everything is executed");
    shell::show(demo.build(&context).args(["-t", "gcd"]))?;

    shell::heading("3. the same again: everything is cached");
    let again = demo.observed(&context)?;
    if let Some(step) = again.executed.first() {
        return Err(format!("the second build executed a step again: {step}").into());
    }
    println!("checked: {} steps CACHED, none executed", again.cached);

    shell::heading(
        "4. a comment changed: the program is compiled again and is the same, so the rest is cached",
    );
    let source = context.join("src/main.c");
    let text = fs::read_to_string(&source)?;
    fs::write(&source, format!("{text}\n/* A comment. */\n"))?;
    demo.changed(&context)?;

    shell::heading("5. the program changed: only what depends on it is executed");
    fs::write(&source, text.replace("printf(\"%lu", "printf(\"gcd = %lu"))?;
    demo.changed(&context)?;

    shell::heading("6. exports: an OCI layout and a Docker archive");
    let layout = demo.dir.join("gcd.oci");
    let archive = demo.dir.join("gcd.docker.tar");
    let mut export = demo.build(&context);
    export.arg("-o").arg(format!("type=oci,tar=false,dest={}", layout.display()));
    export.arg("-o").arg(format!("type=docker,name=gcd:latest,dest={}", archive.display()));
    shell::show(&mut export)?;
    println!("{} bytes  {}", fs::metadata(&archive)?.len(), archive.display());
    println!("{}", fs::read_to_string(layout.join("index.json"))?);

    shell::heading("7. the program runs");
    shell::show(&mut demo.builder("images"))?;
    let mut run = demo.builder("run");
    run.args(["gcd", "1071", "462"]);
    println!("$ {}", shell::line(&run));
    let answer = shell::output(&mut run)?;
    print!("{answer}");
    if answer.trim() != "gcd = 21" {
        return Err(format!("the built program should have printed `gcd = 21`, it printed {answer:?}").into());
    }
    println!("\nThe demo is done. Its state is in {}; `rm -r` removes it.", demo.dir.display());
    Ok(())
}

struct Demo {
    binary: PathBuf,
    bases: PathBuf,
    dir: PathBuf,
}

/// What a build did, read from its plain progress.
struct Observed {
    cached: usize,
    executed: Vec<String>,
}

impl Demo {
    fn builder(&self, subcommand: &str) -> Command {
        let mut command = shell::command(&self.binary);
        command.env("BUILDER_HOME", self.dir.join("state")).env_remove("BUILDKIT_PROGRESS").arg(subcommand);
        command
    }

    fn build(&self, context: &Path) -> Command {
        let mut build = self.builder("build");
        for base in ["busybox", "debian"] {
            build
                .arg("--build-context")
                .arg(format!("{base}=oci-layout://{}", self.bases.join(base).display()));
        }
        build.arg(context);
        build
    }

    /// Builds with plain progress, shows it, and reads which steps were cached.
    fn observed(&self, context: &Path) -> Result<Observed> {
        let mut build = self.build(context);
        build.args(["-t", "gcd", "--progress=plain"]);
        println!("$ {}", shell::line(&build));
        let start = std::time::Instant::now();
        let output = build.output()?;
        let took = start.elapsed();
        let log = String::from_utf8_lossy(&output.stderr);
        print!("{log}");
        println!("  [{}]", shell::seconds(took));
        if !output.status.success() {
            return Err(format!("the build failed: {}", output.status).into());
        }
        Ok(observe(&log))
    }

    /// Builds after a change of a source file; what does not depend on it must not be executed.
    fn changed(&self, context: &Path) -> Result {
        let observed = self.observed(context)?;
        if let Some(step) = observed.executed.iter().find(|step| step.contains("apt-get")) {
            return Err(format!("a step that does not depend on the file was executed: {step}").into());
        }
        println!("checked: {} steps CACHED, executed:", observed.cached);
        for step in &observed.executed {
            println!("  {step}");
        }
        Ok(())
    }

    /// Leaves an empty directory; the store is emptied by the program that made it.
    fn clean(&self) -> Result {
        if self.dir.join("state").is_dir() {
            shell::output(self.builder("prune").args(["--all", "--force"]))?;
        }
        shell::remove(&self.dir)?;
        fs::create_dir_all(&self.dir)?;
        Ok(())
    }
}

/// Reads plain progress: `#4 [build 2/5] RUN …` names a step, `#4 CACHED` and `#4 DONE 0.1s` tell its end. Only the
/// numbered steps of stages count, without `FROM`, which executes nothing.
fn observe(log: &str) -> Observed {
    let numbered = |line: &str| -> Option<(u32, String)> {
        let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
        Some((number.parse().ok()?, rest.to_owned()))
    };
    let lines: Vec<(u32, String)> = log.lines().filter_map(numbered).collect();
    let is_step = |text: &str| {
        text.strip_prefix('[')
            .and_then(|text| text.split_once("] "))
            .is_some_and(|(stage, step)| stage.contains('/') && !step.starts_with("FROM "))
    };
    let mut observed = Observed { cached: 0, executed: Vec::new() };
    for (number, name) in lines.iter().filter(|(_, text)| is_step(text)) {
        let ended = |end: &str| lines.iter().any(|(of, text)| of == number && text.starts_with(end));
        if ended("CACHED") {
            observed.cached += 1;
        } else if ended("DONE") && !observed.executed.contains(name) {
            observed.executed.push(name.clone());
        }
    }
    observed
}

#[cfg(test)]
mod tests {
    use super::observe;

    #[test]
    fn plain_progress_tells_cached_from_executed() {
        let observed = observe(
            "#1 [internal] load build definition from Dockerfile\n#1 DONE 0.0s\n\n#2 [build 1/3] FROM debian\n\
             #2 CACHED\n\n#3 [build 2/3] RUN true\n#3 CACHED\n\n#4 [build 3/3] COPY a b\n#4 0.1 text\n#4 DONE 0.1s\n",
        );
        assert_eq!(observed.cached, 1);
        assert_eq!(observed.executed, ["[build 3/3] COPY a b"]);
    }
}
