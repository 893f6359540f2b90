//! Files that are meant to hurt: each is answered within a second of a processor's time, built or refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use frontend::{Lowered, Options, lower};

use crate::clock::used;

mod clock;

/// Without optimisation everything takes some twenty times as long.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 1 });

static TURN: Mutex<()> = Mutex::new(());

/// As long as a file gets; less without optimisation.
const MEGABYTE: usize = if cfg!(debug_assertions) { 1 << 17 } else { 1 << 20 };

/// Parses and lowers, and says what the first error is.
fn answer(bytes: &[u8]) -> Result<(), String> {
    // One after the other, so that each has the memory for itself.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = used();
    let (text, parsed) = parser::parse_bytes(bytes);
    let result = lower(&parsed, &Options::default(), &BTreeMap::new());
    let elapsed = used().saturating_sub(before);
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    assert!(elapsed < LIMIT, "{elapsed:?} for {beginning:?}");
    let findings = match result {
        Ok(Lowered::Plan(plan)) => {
            for finding in &plan.warnings {
                assert!(text.get(finding.span.range()).is_some(), "{finding:?}");
            }
            return Ok(());
        }
        Ok(Lowered::Missing(_)) => return Ok(()),
        Err(findings) => findings,
    };
    for finding in &findings {
        assert!(text.get(finding.span.range()).is_some(), "{finding:?}");
    }
    let first = findings.into_iter().find(parser::Diagnostic::is_error);
    Err(first.expect("an error").message)
}

fn refused(text: impl AsRef<[u8]>, part: &str) {
    let message = answer(text.as_ref()).expect_err("it is refused");
    assert!(message.contains(part), "{message}");
}

fn accepted(text: impl AsRef<[u8]>) {
    assert_eq!(answer(text.as_ref()), Ok(()));
}

/// Lines that differ by a number, a megabyte of them.
fn lines(head: &str, line: impl Fn(usize) -> String) -> String {
    let mut text = head.to_owned();
    let mut number = 0;
    while text.len() < MEGABYTE {
        text.push_str(&line(number));
        number += 1;
    }
    text
}

#[test]
fn nested_expansions() {
    refused(format!("FROM scratch\nENV A={}", "${A:-".repeat(MEGABYTE / 5)), "nested");
    refused(format!("FROM scratch\nENV A={}", "${".repeat(MEGABYTE / 2)), "bad substitution");
    refused(format!("FROM {}", "${A:-".repeat(MEGABYTE / 5)), "nested");
    let doubling = "ENV A=$A$A$A$A\n".repeat(1000);
    refused(format!("FROM scratch\nENV A=0123456789\n{doubling}"), "16 MiB");
    refused(format!("ARG A=0123456789\n{}FROM scratch\n", doubling.replace("ENV", "ARG")), "16 MiB");
    let long = "x".repeat(MEGABYTE / 2);
    for line in ["ENV B=$A\n", "RUN $A\n", "ARG B=$A\n", "WORKDIR /$A\n", "COPY <<E /\n$A\nE\n"] {
        refused(format!("FROM scratch\nARG A={long}\n{}", line.repeat(20_000)), "too long");
    }
    refused(format!("FROM scratch\nARG A={long}\n{}", "RUN x\n".repeat(20_000)), "too long");
    refused(format!("ARG A={long}\n{}FROM scratch\n", "ARG B=$A\n".repeat(20_000)), "too long");
    refused(format!("ARG A={long}\n{}", "FROM $A\n".repeat(20_000)), "1 KiB");
    let patterns = format!("ENV B=${{A//{}/x}}\n", "*a".repeat(2000));
    refused(format!("FROM scratch\nENV A={}\n{patterns}COPY a", "a".repeat(MEGABYTE)), "two arguments");
}

#[test]
fn long_lines() {
    accepted(format!("FROM scratch\nRUN {}", "x".repeat(MEGABYTE)));
    accepted(format!("FROM scratch\nRUN {}", "$A ".repeat(MEGABYTE / 3)));
    accepted(format!("FROM scratch\nENV {}", "A=1 ".repeat(MEGABYTE / 4)));
    accepted(format!("FROM scratch\nCOPY {} /d/", "f ".repeat(MEGABYTE / 2)));
    accepted(format!("FROM scratch\nCMD [{}\"x\"]", "\"x\",".repeat(MEGABYTE / 4)));
    accepted(format!("FROM scratch\nRUN x{}\n  y", " \\\n".repeat(MEGABYTE / 3)));
    refused("x".repeat(MEGABYTE), "unknown instruction");
    refused(format!("FROM {}", "a".repeat(MEGABYTE)), "invalid image name");
    // Not JSON, so it is for the shell.
    accepted(format!("FROM scratch\nCMD {}", "[".repeat(MEGABYTE)));
    refused(format!("FROM scratch\nRUN {}x", "--a ".repeat(MEGABYTE / 4)), "unknown flag");
    refused(format!("FROM scratch\nCOPY {}a b", "--from=a ".repeat(MEGABYTE / 9)), "duplicate flag");
    accepted(format!("FROM scratch\nCOPY {}a b", "--exclude=a ".repeat(MEGABYTE / 12)));
    refused(format!("FROM scratch\nENV {}", "'".repeat(MEGABYTE + 1)), "");
}

#[test]
fn many_heredocs() {
    let text = lines("FROM scratch\n", |number| format!("COPY <<E{number} /{number}\n$PATH\nE{number}\n"));
    accepted(text);
    let names: Vec<String> = (0..10_000).map(|number| format!("<<E{number}")).collect();
    let bodies: String = (0..10_000).map(|number| format!("x\nE{number}\n")).collect();
    accepted(format!("FROM scratch\nCOPY {} /d/\n{bodies}", names.join(" ")));
    refused(format!("FROM scratch\nCOPY {} /d/\n", names.join(" ")), "heredoc");
    let unfinished = "RUN <<A\n".repeat(10_000);
    refused(format!("FROM scratch\n{unfinished}"), "heredoc");
}

#[test]
fn bytes_that_are_no_text() {
    refused(vec![0; MEGABYTE], "");
    refused(vec![0xff; MEGABYTE], "");
    refused([b"FROM scratch\nRUN ".as_slice(), &[0xc3; 1000]].concat(), "UTF-8");
    accepted("FROM scratch\nRUN a\0b\n");
    refused("FROM scratch\0\n", "invalid image name");
    refused("\u{feff}".repeat(1000), "");
}

#[test]
fn many_names() {
    accepted(lines("FROM scratch\n", |number| format!("ENV A{number}=$A{number}x\n")));
    accepted(lines("FROM scratch\n", |number| format!("ARG A{number}=$B{number}\n")));
    accepted(lines("", |number| format!("ARG A{number}=$B{number}\n")) + "FROM scratch\n");
    accepted(lines("FROM scratch\n", |number| format!("LABEL a{number}=b\n")));
    accepted(lines("FROM scratch\n", |number| format!("EXPOSE {}\n", number % 65_536)));
    accepted(format!("FROM scratch\n{}", "EXPOSE 1-65535\n".repeat(20)));
    refused(lines("FROM scratch\n", |number| format!("CPOY {number}\n")), "unknown instruction");
}

#[test]
fn many_stages() {
    accepted(lines("FROM scratch AS s0\n", |number| format!("FROM s{number} AS s{}\n", number + 1)));
    let copies = |number: usize| {
        format!(
            "FROM scratch AS s{}\nCOPY --from=s{number} a b\nRUN --mount=from=s0,target=/x y\n",
            number + 1
        )
    };
    accepted(lines("FROM scratch AS s0\n", copies));
    accepted(lines("", |number| format!("FROM image{number}\n")) + "FROM scratch\n");
    accepted(lines("FROM scratch AS a\n", |number| format!("COPY --from=image{number} a b\n")));
    let later = lines("FROM scratch AS a\n", |number| format!("COPY --from=b a {number}\n"));
    refused(format!("{later}FROM scratch AS b\nFROM a\n"), "comes after");
    let circle = lines("FROM scratch AS a\n", |number| format!("COPY --from=b a {number}\n"));
    refused(format!("{circle}FROM a AS b\nCOPY --from=a x y\nFROM a\n"), "wait for each other");
}

#[test]
fn many_triggers_and_mounts() {
    let triggers = lines("FROM scratch AS a\n", |number| format!("ONBUILD RUN {number}\n"));
    accepted(format!("{triggers}FROM a\n"));
    let mounts = lines("", |number| format!("--mount=type=cache,target=/{number} "));
    accepted(format!("FROM scratch\nRUN {mounts} x"));
    refused(format!("FROM scratch\nRUN --mount={} x", "type=cache,".repeat(MEGABYTE / 11)), "");
}
