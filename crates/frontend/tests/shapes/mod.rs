//! Files of any length, in shapes each of which repeats what might cost more the more of it there is.

use std::ops::Range;

use graph::{Definition, Op};
use hash::{CacheKey, ContentDigest};
use solver::keys::{DefinitionInput, definition_key};

/// A name, and what makes a file of about so many lines.
pub(crate) type Shape = (&'static str, fn(usize) -> String);

pub(crate) const SHAPES: [Shape; 14] = [
    ("mixed", mixed),
    ("ENV, then RUN", variables_then_steps),
    ("ENV, RUN in turn", variables_and_steps),
    ("ARG, RUN in turn", arguments_and_steps),
    ("ENV that use ENV", variables_of_variables),
    ("RUN alone", steps),
    ("stages", stages),
    ("stages, each ENV", stages_with_variables),
    ("COPY --from", copies),
    ("RUN --mount", mounts),
    ("RUN --mount of contexts", mounts_of_contexts),
    ("heredocs", heredocs),
    ("one heredoc", heredoc),
    ("one RUN, continued", continued),
];

/// The definition keys of all steps; of sources as if each held nothing.
pub(crate) fn keys(definition: &Definition) -> Vec<CacheKey> {
    let mut keys: Vec<CacheKey> = Vec::with_capacity(definition.len());
    for (_, vertex) in definition.iter() {
        let inputs = vertex.inputs.iter().map(|input| match definition.vertex(input.vertex).op {
            Op::Source(_) => DefinitionInput::Content(ContentDigest::from_bytes([0; 32])),
            _ => DefinitionInput::Vertex { key: keys[input.vertex.0], selection: &input.selection },
        });
        let inputs: Vec<DefinitionInput<'_>> = inputs.collect();
        keys.push(definition_key(&vertex.op, &inputs));
    }
    keys
}

/// A beginning, and so many pieces after it, each made from its number.
fn file(beginning: &str, pieces: Range<usize>, piece: impl Fn(usize) -> String) -> String {
    pieces.fold(beginning.to_owned(), |text, number| text + &piece(number))
}

fn mixed(lines: usize) -> String {
    file("# syntax=docker/dockerfile:1\nFROM scratch AS first\n", 0..lines / 10, |line| {
        format!(
            "# what this does\nARG VERSION_{0}=1.{1}\nENV PATH_{0}=/opt/$VERSION_{0}:$PATH\nWORKDIR /src/{1}\n\
             COPY --link --chown=1000:1000 src/{1} lib/*.c ./\n\
             RUN --mount=type=cache,target=/root/.cache make \\\n    --jobs=4 \\\n    -C part-{1}\n\
             LABEL part.{0}=\"number {1}\"\nEXPOSE {2}/tcp\n",
            line % 10,
            line,
            1 + line % 60_000,
        )
    })
}

fn variables_then_steps(lines: usize) -> String {
    let variables = |line| format!("ENV NAME_{line}=value-{line}\n");
    let text = file("FROM scratch\n", 0..lines / 2, variables);
    file(&text, 0..lines / 2, |line| format!("RUN make part-{line}\n"))
}

fn variables_and_steps(lines: usize) -> String {
    file("FROM scratch\nARG VERSION=1\n", 0..lines / 2, |line| {
        format!("ENV NAME_{line}=value-{line}\nRUN make part-{line}\n")
    })
}

/// What a RUN says of itself in the history of an image has all arguments: ten are enough.
fn arguments_and_steps(lines: usize) -> String {
    file("FROM scratch\n", 0..lines / 2, |line| {
        format!("ARG NAME_{}=value-{line}\nRUN make part-{line}\n", line % 10)
    })
}

fn variables_of_variables(lines: usize) -> String {
    file("FROM scratch\nENV NAME_0=value\n", 1..lines, |line| {
        format!("ENV NAME_{line}=\"${{NAME_{}:-none}}\" OTHER_{line}=$NAME_0\n", line - 1)
    })
}

fn steps(lines: usize) -> String {
    file("FROM scratch\n", 0..lines, |line| {
        format!("RUN apt-get install -y package-{line} && rm -rf /var/lib/apt/lists/*\n")
    })
}

fn stages(lines: usize) -> String {
    file("FROM scratch AS stage0\n", 1..lines / 3, |line| {
        format!("FROM stage{} AS stage{line}\nCOPY --from=stage{} a b{line}\nRUN x\n", line - 1, line / 2)
    })
}

fn stages_with_variables(lines: usize) -> String {
    file("FROM scratch AS stage0\n", 1..lines / 3, |line| {
        format!("FROM stage{} AS stage{line}\nENV NAME_{line}=value-{line}\nRUN x\n", line - 1)
    })
}

fn copies(lines: usize) -> String {
    let text = file("", 0..lines / 4, |line| format!("FROM scratch AS stage{line}\nCOPY a b\n"));
    file(&(text + "FROM scratch\n"), 0..lines / 2, |line| {
        format!("COPY --from=stage{} /b /b{line}\n", line % (lines / 4))
    })
}

fn mounts(lines: usize) -> String {
    file("FROM scratch AS tools\nCOPY a b\nFROM scratch\n", 0..lines, |line| {
        format!(
            "RUN --mount=from=tools,target=/t --mount=type=secret,id=s{line} --mount=type=ssh --mount=type=tmpfs,target=/x make {line}\n"
        )
    })
}

fn mounts_of_contexts(lines: usize) -> String {
    file("FROM scratch\nENV API_TOKEN=hunter22\n", 0..lines, |line| {
        format!("RUN --mount=source=d{line},target=/d make {line}\n")
    })
}

fn heredoc(lines: usize) -> String {
    file("FROM scratch\nRUN <<END\n", 0..lines, |line| format!("make $PATH part-{line}\n")) + "END\n"
}

fn heredocs(lines: usize) -> String {
    file("FROM scratch\n", 0..lines / 8, |line| {
        format!("COPY <<A <<\"B\" /d/\n$PATH {line}\nA\n$PATH\nB\nRUN <<E\nset -e\nE\n")
    })
}

fn continued(lines: usize) -> String {
    file("FROM scratch\nRUN true", 0..lines, |line| format!(" \\\n  && make part-{line}")) + "\n"
}
