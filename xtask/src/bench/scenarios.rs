//! The scenarios of benches/README.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bases::Registry;
use crate::bench::Lab;
use crate::bench::contexts::{Content, Context};
use crate::bench::tools::{Build, Run, Tool};
use crate::shell::Result;

/// Something that people wait for.
pub(crate) struct Scenario {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    /// In seconds; `None` where none was set.
    pub(crate) target: Option<f64>,
    /// Peak memory, in bytes, likewise.
    pub(crate) target_memory: Option<u64>,
    /// Takes so long that memory can be measured on the way: time(1) adds a millisecond.
    long: bool,
    content: Content,
    dockerfile: &'static str,
    /// Another Dockerfile of the context.
    file: Option<&'static str>,
    state: State,
    /// Writes an archive, with this compression.
    archive: Option<Option<&'static str>>,
    /// By an ordinary user.
    user: bool,
}

/// What was there before the build that is measured.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The same build.
    Built,
    /// The same build, of a context that one file has changed in since.
    Changed,
    /// The same build, but the cache is not to be used.
    Disabled,
    /// Nothing, not even results of other builds; peers have the base image.
    Empty,
    /// The same build into an empty store, without an archive: what is measured is the export.
    Fresh,
    /// Nothing, and the base image is in a registry on this machine.
    Remote,
}

pub(crate) const THREE_STEPS: &str = "FROM busybox\nCOPY file /file\nRUN cat /file > /copy\nRUN rm /copy\n";
pub(crate) const COPY_ALL: &str = "FROM busybox\nCOPY . /src\nRUN true\n";
pub(crate) const COPY_LARGE: &str = "FROM busybox\nCOPY large /large\n";
const REMOTE: &str = "FROM 127.0.0.1:5999/debian\nRUN true\n";
const TWENTY: &str = "\
FROM busybox
RUN echo 1 > /1
RUN echo 2 > /2
RUN echo 3 > /3
RUN echo 4 > /4
RUN echo 5 > /5
RUN echo 6 > /6
RUN echo 7 > /7
RUN echo 8 > /8
RUN echo 9 > /9
RUN echo 10 > /10
RUN echo 11 > /11
RUN echo 12 > /12
RUN echo 13 > /13
RUN echo 14 > /14
RUN echo 15 > /15
RUN echo 16 > /16
RUN echo 17 > /17
RUN echo 18 > /18
RUN echo 19 > /19
RUN echo 20 > /20
";
/// What it installs does not depend on the source, but its step does.
const WRONG_ORDER: &str = "\
FROM busybox
WORKDIR /app
COPY . .
RUN sleep 1 && cp packages installed
RUN cat installed touched > program
";
const PARALLEL: &str = "\
FROM busybox AS a
RUN sleep 2 && echo a > /a
FROM busybox AS b
RUN sleep 2 && echo b > /b
FROM busybox AS c
RUN sleep 2 && echo c > /c
FROM busybox
COPY --from=a /a /
COPY --from=b /b /
COPY --from=c /c /
";

const fn scenario(id: &'static str, what: &'static str, target: f64) -> Scenario {
    Scenario {
        id,
        what,
        target: if target > 0.0 { Some(target) } else { None },
        target_memory: None,
        long: false,
        content: Content::Small,
        dockerfile: THREE_STEPS,
        file: None,
        state: State::Built,
        archive: None,
        user: false,
    }
}

static ALL: &[Scenario] = &[
    Scenario { target_memory: Some(15_000_000), ..scenario("S1", "nothing changed, 3 steps", 0.01) },
    Scenario {
        content: Content::Source,
        dockerfile: COPY_ALL,
        ..scenario("S2", "nothing changed, COPY of 7,578 files", 0.03)
    },
    Scenario {
        content: Content::Many(400),
        dockerfile: COPY_ALL,
        ..scenario("S3", "nothing changed, COPY of 100,000 files", 0.2)
    },
    Scenario {
        content: Content::Source,
        dockerfile: COPY_ALL,
        state: State::Changed,
        ..scenario("S4", "S2, one file changed", 0.13)
    },
    Scenario {
        content: Content::Source,
        dockerfile: COPY_ALL,
        state: State::Changed,
        archive: Some(None),
        ..scenario("S5", "S4 and an OCI archive", 0.24)
    },
    Scenario {
        content: Content::Many(400),
        dockerfile: COPY_ALL,
        state: State::Changed,
        long: true,
        ..scenario("S6", "S3, one file changed", 0.8)
    },
    Scenario {
        content: Content::Many(400),
        dockerfile: COPY_ALL,
        state: State::Changed,
        archive: Some(None),
        long: true,
        ..scenario("S7", "S6 and an OCI archive", 1.5)
    },
    Scenario {
        content: Content::Source,
        dockerfile: COPY_ALL,
        state: State::Empty,
        ..scenario("S8", "first build of S2", 0.6)
    },
    Scenario {
        content: Content::Many(400),
        dockerfile: COPY_ALL,
        state: State::Empty,
        long: true,
        target_memory: Some(80_000_000),
        ..scenario("S9", "first build of S3", 3.0)
    },
    Scenario {
        dockerfile: TWENTY,
        state: State::Disabled,
        ..scenario("S10", "20 RUN steps, no cache", 0.11)
    },
    Scenario {
        dockerfile: TWENTY,
        state: State::Disabled,
        user: true,
        ..scenario("S10u", "S10 by an ordinary user", 0.11)
    },
    Scenario {
        dockerfile: TWENTY,
        state: State::Disabled,
        archive: Some(None),
        ..scenario("S11", "S10 and an OCI archive", 0.16)
    },
    Scenario {
        content: Content::Large,
        dockerfile: COPY_LARGE,
        state: State::Empty,
        long: true,
        ..scenario("S12", "COPY of one file of 1.1 GB", 1.5)
    },
    Scenario {
        content: Content::Large,
        dockerfile: COPY_LARGE,
        state: State::Fresh,
        archive: Some(None),
        long: true,
        ..scenario("S13", "S12 exported, gzip", 6.0)
    },
    Scenario {
        content: Content::Large,
        dockerfile: COPY_LARGE,
        state: State::Fresh,
        archive: Some(Some("zstd")),
        long: true,
        ..scenario("S13z", "S12 exported, zstd", 2.5)
    },
    Scenario {
        content: Content::Large,
        dockerfile: COPY_LARGE,
        state: State::Fresh,
        archive: Some(Some("uncompressed")),
        long: true,
        ..scenario("S13u", "S12 exported, uncompressed", 1.5)
    },
    Scenario {
        dockerfile: REMOTE,
        state: State::Remote,
        ..scenario("S14", "pull the debian base, one RUN", 0.9)
    },
    Scenario {
        dockerfile: PARALLEL,
        state: State::Disabled,
        ..scenario("S15", "three stages of sleep 2", 2.05)
    },
    Scenario {
        content: Content::Order,
        dockerfile: WRONG_ORDER,
        state: State::Changed,
        ..scenario("S16", "COPY before the install, one source file changed", 0.0)
    },
    Scenario {
        content: Content::Order,
        dockerfile: WRONG_ORDER,
        file: Some("right.Dockerfile"),
        state: State::Changed,
        ..scenario("S16r", "S16 in the right order", 0.0)
    },
];

/// The scenarios with these names; all of them for no name, unless growth alone was asked for.
///
/// # Errors
/// When there is no scenario of a name.
pub(crate) fn select(names: &[String], growth_alone: bool) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() && !growth_alone {
        return Ok(ALL.iter().collect());
    }
    let mut chosen = Vec::new();
    for name in names {
        let name = name.to_uppercase();
        // Memory is measured in every scenario; M1 asks for those of these two.
        let ids: &[&str] = if name == "M1" { &["S1", "S9"] } else { &[&name] };
        for id in ids {
            let found = ALL.iter().find(|scenario| scenario.id.eq_ignore_ascii_case(id));
            chosen.push(found.ok_or_else(|| format!("no scenario {id}; there are S1 to S16, M1 and G"))?);
        }
    }
    Ok(chosen)
}

/// Changes one file to what it never was before.
pub(crate) fn touch(context: &Context) -> Result {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    fs::write(context.dir.join("touched"), format!("{now}\n"))?;
    Ok(())
}

impl Scenario {
    /// The context, made when it is not there.
    pub(crate) fn context(&self, lab: &Lab) -> Result<Context> {
        // Scenarios that build something else from the same content must not overwrite each other's Dockerfile.
        let name = match self.content {
            Content::Small => self.id.to_owned(),
            content => content.name(),
        };
        let context = self.content.make(lab, &name, self.dockerfile)?;
        touch(&context)?;
        Ok(context)
    }

    /// Brings a tool into the state that the scenario begins with, as far as it lasts for all turns.
    pub(crate) fn prepare(&self, tool: &mut Tool, context: &Context, lab: &Lab) -> Result {
        if self.archive.is_some_and(|compression| compression.is_some()) && tool.name == "buildah" {
            return Err("buildah has no choice of compression for an archive".into());
        }
        if self.user {
            tool.become_user()?;
        }
        let _registry = self.registry(lab)?;
        if matches!(self.state, State::Built | State::Changed | State::Disabled) {
            tool.ensure_bases()?;
            // What other scenarios built stays, as it would; twice, so that a first build's files are no longer new in the second.
            tool.run(&self.build(context, None), false)?;
            sleep(SETTLED);
            tool.run(&self.build(context, None), false)?;
        }
        Ok(())
    }

    /// One measured build. Memory and processor time are known only of long ones: learning them takes a millisecond.
    pub(crate) fn once(&self, tool: &mut Tool, context: &Context, lab: &Lab) -> Result<Run> {
        let _registry = self.before(tool, context, lab)?;
        tool.run(&self.measured(context, &archive(lab)), self.long)
    }

    /// The same build again, measured for its memory.
    pub(crate) fn watched(&self, tool: &mut Tool, context: &Context, lab: &Lab) -> Result<Run> {
        let _registry = self.before(tool, context, lab)?;
        tool.run(&self.measured(context, &archive(lab)), true)
    }

    fn build<'a>(&self, context: &'a Context, archive: Option<(&'a Path, Option<&'a str>)>) -> Build<'a> {
        Build { context: &context.dir, dockerfile: self.file, no_cache: false, archive, user: self.user }
    }

    fn measured<'a>(&self, context: &'a Context, archive: &'a Path) -> Build<'a> {
        let no_cache = self.state == State::Disabled;
        Build { no_cache, ..self.build(context, self.archive.map(|compression| (archive, compression))) }
    }

    /// What comes before each measured build and is not measured.
    fn before(&self, tool: &mut Tool, context: &Context, lab: &Lab) -> Result<Option<Registry>> {
        match self.state {
            State::Built | State::Disabled => {}
            State::Changed => touch(context)?,
            State::Empty => tool.reset(true)?,
            State::Remote => tool.reset(false)?,
            State::Fresh => {
                tool.reset(true)?;
                tool.run(&self.build(context, None), false)?;
            }
        }
        if matches!(self.content, Content::Large) {
            tool.discard()?;
        }
        let _ = fs::remove_file(archive(lab));
        self.registry(lab)
    }

    fn registry(&self, lab: &Lab) -> Result<Option<Registry>> {
        if self.state != State::Remote {
            return Ok(None);
        }
        let registry = Registry::start(&lab.dir.join("registry"), 5999)?;
        registry.push(&lab.bases.join("debian"), "debian")?;
        Ok(Some(registry))
    }
}

/// Files that changed within the last two seconds are read again, whatever their times say: a build right after the first one would
/// measure that.
pub(crate) const SETTLED: Duration = Duration::from_millis(2_100);

fn archive(lab: &Lab) -> PathBuf {
    lab.dir.join("archive.tar")
}
