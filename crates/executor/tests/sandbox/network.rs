//! A private network with a way out.

use std::io::Write;
use std::net::{IpAddr, TcpListener};
use std::process::ExitCode;

use executor::{Executor, Network, NetworkKind, ProcessSpec, Sandbox};

use crate::support::{Case, Fixture, Needs, eventually};

pub(crate) const CASES: &[Case] = &[
    Case { name: "network::reaches_others", needs: Needs::Nothing, run: reaches_others },
    Case { name: "network::is_shared", needs: Needs::Nothing, run: is_shared },
    Case { name: "network::ports_are_free_again", needs: Needs::Nothing, run: ports_are_free_again },
    Case { name: "network::host_without_helper", needs: Needs::Nothing, run: host_without_helper },
    Case { name: "network::ends_with_the_caller", needs: Needs::Nothing, run: ends_with_the_caller },
];

/// Whether a helper is installed.
fn has_helper() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .any(|dir| ["pasta", "slirp4netns"].iter().any(|name| dir.join(name).is_file()))
}

fn private(fixture: &Fixture, script: &str) -> ProcessSpec {
    let mut spec = fixture.shell(script);
    spec.network = Network::Private;
    spec.resolv_conf = Some("nameserver 127.0.0.53\nsearch example\n".into());
    spec
}

/// A server of the host that greets whoever connects.
fn greeter(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _gone = stream.and_then(|mut stream| stream.write_all(b"greetings\n"));
        }
    });
    port
}

fn reaches_others(fixture: &Fixture) {
    let network = fixture.runtime.block_on(fixture.sandbox.private_network()).unwrap();
    let expected = match network.kind() {
        NetworkKind::Host if !has_helper() => return,
        NetworkKind::Nat => "search example\nwithout a way to the host's loopback\n",
        NetworkKind::Slirp4netns | NetworkKind::Pasta => {
            "nameserver 10.0.2.3\nsearch example\nwithout a way to the host's loopback\n"
        }
        NetworkKind::Host => panic!("{:?}", network.note()),
    };
    // What is no router yet stays none; end-to-end tests have a machine of their own that is one.
    let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim() == "1";
    assert_eq!(network.kind() == NetworkKind::Nat, fixture.is_root() && forwards, "{network:?}");
    assert_eq!(network.reason().is_some(), fixture.is_root() && !forwards, "{network:?}");
    assert_eq!(network.note(), None, "{network:?}");
    let (everywhere, loopback) = (greeter("0.0.0.0"), greeter("127.0.0.1"));
    let Some(IpAddr::V4(host)) = network.host_gateway() else { panic!("{network:?}") };
    let output = fixture.output_of(private(
        fixture,
        &format!(
            "nc -w 50 {host} {everywhere} < /dev/null; cat /etc/resolv.conf
             for to in 127.0.0.1 10.0.2.2 {host}; do nc -w 1 $to {loopback} < /dev/null > /dev/null 2>&1 && echo reached $to; done
             echo \"without a way to the host's loopback\"
             ls /sys/class/net; ping -c 1 -w 30 127.0.0.1 > /dev/null && echo loopback"
        ),
    ));
    assert_eq!(output, format!("greetings\n{expected}eth0\nlo\nloopback\n"));
    assert_eq!(fixture.run(private(fixture, "nc -w 1 127.0.0.1 1")).0, 1);
}

/// One after another processes have the same network, at once each has its own: both listen on a port that they chose.
fn is_shared(fixture: &Fixture) {
    let show = "readlink /proc/self/ns/net";
    let first = fixture.output_of(private(fixture, show));
    assert_eq!(fixture.output_of(private(fixture, show)), first, "one network for all steps");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let is_host = first.trim() == own.to_str().unwrap();
    assert_eq!(is_host, !has_helper() && !fixture.is_root());
    if is_host {
        return;
    }
    // Each waits until all are there.
    let together = fixture.dir.path().join("together");
    std::fs::create_dir(&together).unwrap();
    let specs: Vec<ProcessSpec> = (0..3)
        .map(|index| {
            let dir = |name: &str| {
                let dir = fixture.dir.path().join(format!("{name}{index}"));
                std::fs::create_dir(&dir).unwrap();
                dir
            };
            let mut spec = private(
                fixture,
                &format!(
                    "{show}; mkdir /together/{index}; tries=0; until [ $(ls /together | wc -l) = 3 ]; do \
                     usleep 10000; [ $((tries+=1)) = 6000 ] && exit 9; done; timeout 0.5 nc -l -p 80 || test $? = 143"
                ),
            );
            spec.mounts.push(crate::support::bind(&together, "/together", false));
            spec.rootfs = executor::Rootfs::Overlay {
                lower: vec![fixture.lower.clone()],
                upper: dir("upper"),
                work: dir("work"),
                userxattr: fixture.identity.needs_userxattr(),
                volatile: true,
            };
            spec
        })
        .collect();
    let networks: Vec<String> = fixture.runtime.block_on(async {
        let start = |spec| {
            let sandbox = fixture.sandbox.clone();
            tokio::spawn(async move {
                let recorder = crate::support::Recorder::default();
                let outcome = sandbox.run(spec, &recorder).await.unwrap();
                assert!(outcome.status.success(), "{}", recorder.text(executor::OutputStream::Stderr));
                recorder.text(executor::OutputStream::Stdout)
            })
        };
        let tasks: Vec<_> = specs.into_iter().map(start).collect();
        let mut networks = Vec::new();
        for task in tasks {
            networks.push(task.await.unwrap());
        }
        networks
    });
    let different: std::collections::BTreeSet<&String> = networks.iter().collect();
    assert_eq!(different.len(), 3, "{networks:?}");
    assert!(networks.contains(&first), "{networks:?} {first}");
}

/// A port that a process used does not bother the next one, although the kernel remembers its connections.
fn ports_are_free_again(fixture: &Fixture) {
    // The server is the first to close: what the client reads for it to send has no end.
    let serve = "busybox nc -l -p 8080 -e echo served & [ -p /tmp/endless ] || mkfifo /tmp/endless; exec 3<>/tmp/endless
                 until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1F90 [^ ]* 0A '; do usleep 10000; done
                 nc 127.0.0.1 8080 <&3; wait
                 until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1F90 [^ ]* 06 '; do usleep 10000; done
                 cat /proc/net/tcp /proc/net/tcp6 | grep -c ':1F90 [^ ]* 06 '; readlink /proc/self/ns/net";
    let run = || {
        let output = fixture.output_of(private(fixture, serve));
        output.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let first = run();
    if is_host_network(&first[2]) {
        // There it does, as in any program.
        return;
    }
    // In the network as it was left there would be two. Its number tells nothing: the next one may get it when it is gone.
    let second = run();
    assert_eq!((&first[..2], &second[..2]), (&["served".to_owned(), "1".to_owned()][..], &first[..2]));
}

fn is_host_network(name: &str) -> bool {
    std::fs::read_link("/proc/self/ns/net").unwrap().to_str() == Some(name)
}

/// Starts `run-private`. As root it is in a network where the kernel cannot help, so that it takes what a user has.
fn private_runner(fixture: &Fixture) -> std::process::Command {
    let mut command = match fixture.is_root() {
        true => {
            let mut command = std::process::Command::new("/usr/bin/unshare");
            let script = "echo 0 > /proc/sys/net/ipv4/ip_forward; exec \"$@\"";
            command
                .args(["--net", "--", "/bin/sh", "-c", script, "sh"])
                .arg(std::env::current_exe().unwrap());
            command
        }
        false => std::process::Command::new("/proc/self/exe"),
    };
    command
        .arg("run-private")
        .arg(fixture.dir.path())
        .env("EXECUTOR_TEST_XATTR", fixture.identity.needs_userxattr().to_string());
    command
}

/// Without a helper there is a note, once.
fn host_without_helper(fixture: &Fixture) {
    let output = private_runner(fixture).env("PATH", "/nonexistent").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let why = match fixture.is_root() {
        true => {
            "sysctl net.ipv4.ip_forward is not 1, so this machine forwards nothing, and neither pasta (package passt) nor \
             slirp4netns is installed"
        }
        false => "a private network needs pasta (package passt) or slirp4netns, and neither is installed",
    };
    let note = format!("{why}: steps use the network of the host");
    assert_eq!(text, format!("true [{note:?}]\ntrue []\nHost Some(127.0.0.1)\n"));
}

/// The other side of the case above.
pub(crate) fn run_private(dir: &str) -> ExitCode {
    let spec = |script: &str| {
        let mut spec = crate::leaving::spec_in(std::path::Path::new(dir), script);
        spec.network = Network::Private;
        spec
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sandbox = Sandbox::new();
        for _ in 0..2 {
            let recorder = crate::support::Recorder::default();
            let outcome = sandbox.run(spec("readlink /proc/self/ns/net"), &recorder).await.unwrap();
            let inside = recorder.text(executor::OutputStream::Stdout);
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            println!("{} {:?}", inside.trim() == own.to_str().unwrap(), outcome.notes);
        }
        let network = sandbox.private_network().await.unwrap();
        println!("{:?} {:?}", network.kind(), network.host_gateway());
        if std::env::var_os("EXECUTOR_TEST_HOLD").is_some() {
            std::fs::write(std::path::Path::new(dir).join("ready"), "").unwrap();
            std::future::pending::<()>().await;
        }
    });
    ExitCode::SUCCESS
}

/// The helper goes with the network, and with a caller that is killed.
fn ends_with_the_caller(fixture: &Fixture) {
    if !has_helper() {
        return;
    }
    let helpers = |of: u32| -> Vec<u32> {
        let named = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let is_helper = |name: String| name.starts_with("slirp4netns") || name.starts_with("pasta");
        crate::leaving::descendants(of).into_iter().filter(|pid| is_helper(named(*pid))).collect()
    };
    let parent = |pid: u32| -> u32 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(1).unwrap().parse().unwrap()
    };
    if !fixture.is_root() {
        let own = std::process::id();
        {
            let sandbox = Sandbox::new();
            fixture.runtime.block_on(sandbox.private_network()).unwrap();
            assert!(!helpers(own).is_empty());
        }
        eventually("the helper ends with the network", || helpers(own).is_empty());
    }
    for which in 0..3 {
        let mut command = private_runner(fixture);
        command.env("EXECUTOR_TEST_HOLD", "1").stdout(std::process::Stdio::null());
        let mut caller = crate::leaving::Caller(command.spawn().unwrap());
        let ready = fixture.dir.path().join("ready");
        eventually("the network is there", || ready.exists());
        std::fs::remove_file(&ready).unwrap();
        let helpers = helpers(caller.0.id());
        let init = parent(helpers[0]);
        let guard = parent(init);
        assert_eq!(parent(guard), caller.0.id());
        let victim = [caller.0.id(), guard, init][which];
        crate::leaving::kill(&[victim]);
        eventually("the helper is gone", || {
            helpers.iter().chain([&guard, &init]).all(|pid| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                status.is_empty() || status.contains(") Z ")
            })
        });
        let _gone = caller.0.kill();
    }
}
