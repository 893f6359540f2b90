//! Known ways out by system calls.

use executor::ProcessSpec;

use crate::isolation::with_host_libraries;
use crate::support::Fixture;

/// System calls that Docker's profile or the capabilities forbid, by their x86-64 numbers; each with the errors that
/// are right.
#[cfg(target_arch = "x86_64")]
pub(crate) const CALLS: &[(&str, &str)] = &[
    ("keyctl", "250,0,-3,0"),
    ("add_key", "248,0,0,0,0,0"),
    ("request_key", "249,0,0,0,0"),
    ("bpf", "321,0,0,0"),
    ("perf_event_open", "298,0,0,-1,-1,0"),
    ("userfaultfd", "323,0"),
    ("io_uring_setup", "425,1,0"),
    ("open_by_handle_at", "304,0,0,0"),
    ("mount_setattr", "442,-100,0,0,0,0"),
    ("move_mount", "429,-100,0,-100,0,0"),
    ("fsopen", "430,0,0"),
    ("fspick", "433,-100,0,0"),
    ("setns", "308,0,0"),
    ("unshare user", "272,0x10000000"),
    ("unshare mount", "272,0x20000"),
    ("kexec_load", "246,0,0,0,0"),
    ("init_module", "175,0,0,0"),
    ("finit_module", "313,0,0,0"),
    ("delete_module", "176,0,0"),
    ("reboot", "169,0xfee1dead,672274793,0,0"),
    ("swapon", "167,0,0"),
    ("settimeofday", "164,0,0"),
    ("iopl", "172,3"),
    ("ioperm", "173,0,1,1"),
    ("quotactl", "179,0,0,0,0"),
    ("acct", "163,0"),
    ("pivot_root", "155,0,0"),
    ("sethostname", "170,0,0"),
    ("vhangup", "153"),
    ("lookup_dcookie", "212,0,0,0"),
    ("personality", "135,0x0040000"),
    ("ptrace host", "101,16,HOST,0,0"),
    ("kill host", "62,HOST,0"),
    ("process_vm_readv host", "310,HOST,$v,1,$v,1,0"),
    ("pidfd_open host", "434,HOST,0"),
    // A directory of /proc stands for its process (pidfd_send_signal(2)).
    ("signal by /proc", "424,syscall(2,$p,0x10000,0),0,0,0"),
    ("setns by /proc", "308,syscall(2,$p.$n,0,0),0"),
    ("socket vsock", "41,40,1,0"),
    ("clone3", "435,0,0"),
];

#[cfg(not(target_arch = "x86_64"))]
pub(crate) const CALLS: &[(&str, &str)] = &[];

/// Tries each, and prints its name with the number of the error.
pub(crate) fn calling(fixture: &Fixture) -> ProcessSpec {
    let host = std::process::id().to_string();
    let mut script = format!("$|=1;$b='x'x8;$v=pack('PQ',$b,8);$p='/proc/{host}';$n='/ns/mnt';");
    for (name, arguments) in CALLS {
        let arguments = arguments.replace("HOST", &host);
        script.push_str(&format!("$!=0;$r=syscall({arguments});printf(\"%s: %d\\n\",'{name}',$r<0?$!+0:0);"));
    }
    with_host_libraries(fixture, &["/usr/bin/perl", "-e", &script])
}
