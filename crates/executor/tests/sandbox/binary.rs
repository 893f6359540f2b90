//! The file of the sandbox's own program, which a process inside can execute by `/proc/self/exe` and could overwrite (CVE-2019-5736).

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use executor::ProcessSpec;

use crate::isolation::{run_spec, with_host_libraries};
use crate::support::{Case, Fixture, Needs};

pub(crate) const CASES: &[Case] = &[
    Case { name: "binary::is_out_of_reach", needs: Needs::Nothing, run: is_out_of_reach },
    Case { name: "binary::is_out_of_reach_when_replaced", needs: Needs::Nothing, run: replaced },
];

/// The sandbox's program, executed inside by that link only.
pub(crate) fn own(fixture: &Fixture, args: &[&str]) -> ProcessSpec {
    let args: Vec<&str> = std::iter::once("/proc/self/exe").chain(args.iter().copied()).collect();
    let mut spec = with_host_libraries(fixture, &args);
    spec.mounts.remove(0);
    spec
}

fn is_out_of_reach(fixture: &Fixture) {
    let before = std::fs::metadata("/proc/self/exe").unwrap().modified().unwrap();
    let output = fixture.output_of(own(fixture, &["probe"]));
    assert!(output.starts_with("inet ok"), "{output}");
    // Not that it is being executed stops it: the mount that it is on.
    let (code, _, error) = fixture.run(own(fixture, &["write-self"]));
    assert!(code != 0 && error.contains("Read-only file system"), "{code}: {error}");
    assert_eq!(std::fs::metadata("/proc/self/exe").unwrap().modified().unwrap(), before);
}

/// A program whose file was replaced while it runs is executed from a copy in memory.
fn replaced(fixture: &Fixture) {
    let program = fixture.dir.path().join("program");
    std::fs::copy("/proc/self/exe", &program).unwrap();
    let spec = fixture.dir.path().join("spec");
    std::fs::write(&spec, serde_json::to_string(&own(fixture, &["write-self"])).unwrap()).unwrap();
    let output = Command::new(&program).arg("run-replaced").arg(spec).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Who guards the step executes it too; without that, its seals are in the way.
    assert!(!output.status.success() && errors.contains("Text file busy"), "{errors}");
    let all = ["SEAL", "SHRINK", "GROW", "WRITE"];
    assert!(all.iter().all(|seal| said.split([' ', '(', ')']).any(|word| word == *seal)), "{said} {errors}");
    assert_eq!(std::fs::read(&program).unwrap(), NEXT);
}

/// What the file is replaced with.
const NEXT: &[u8] = b"the next version";

/// The caller of the one above: replaces its file, as an update does, and runs what a file says.
pub(crate) fn run_replaced(spec: &str) -> ExitCode {
    let own = std::env::current_exe().unwrap();
    let next = own.with_extension("next");
    std::fs::write(&next, NEXT).unwrap();
    std::fs::rename(next, own).unwrap();
    run_spec(spec)
}

/// The other side: tells how the file is sealed, becomes a shell, so that it does not execute the file any more, and writes to it.
pub(crate) fn write_self() -> ExitCode {
    let exe = std::fs::File::open("/proc/self/exe").unwrap();
    println!("{:?}", rustix::fs::fcntl_get_seals(&exe));
    rustix::io::fcntl_setfd(&exe, rustix::io::FdFlags::empty()).unwrap();
    let script = format!("echo overwritten > /proc/self/fd/{}", exe.as_raw_fd());
    panic!("{}", Command::new("/bin/sh").args(["-c", &script]).exec());
}
