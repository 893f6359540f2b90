//! The network of RUN, on a machine of its own: a network namespace that is the host, and another that is the world.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::fuzz::Random;
use e2e::{
    Context, Done, Home, Running, User, bases, eventually, feed, need_root, processes_with, run, tempdir,
    tool,
};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// The host's address towards the world.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The world's.
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// Without any tool in it.
const NO_TOOLS: &str = "/nonexistent";
/// How the names of the devices begin that builds make on the host.
const DEVICE: &str = "builder";

/// A network namespace that a process keeps, and that is gone with it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        need_root();
        let mut command = tool("unshare");
        command.args(["--net", "sh", "-c", "echo made; exec sleep 6000"]).stdout(Stdio::piped());
        let mut keeper = command.spawn().expect("start unshare");
        let mut said = [0];
        keeper.stdout.take().expect("just asked for").read_exact(&mut said).expect("a new namespace");
        Self(keeper)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.0.id()))
    }

    /// A command in it.
    fn command(&self, program: &str) -> Command {
        let mut command = tool("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap_or_default());
        run(command.args(words)).ok().stdout
    }

    /// Does something in it.
    fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(self.path()).expect("open the namespace");
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).expect("enter it");
                work()
            });
            inside.join().expect("work inside")
        })
    }

    /// Serves whoever connects with its own address, and returns the port.
    fn serve(&self, address: Ipv4Addr) -> u16 {
        let listener = self.enter(|| TcpListener::bind((address, 0)).expect("bind a port"));
        let port = listener.local_addr().expect("its address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
        port
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers a request over HTTP with the address that it came from.
fn answer(mut stream: TcpStream) -> Option<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut bytes = [0; 1024];
        match stream.read(&mut bytes).ok()? {
            0 => break,
            length => request.extend_from_slice(&bytes[..length]),
        }
    }
    let from = format!("from {}\n", stream.peer_addr().ok()?.ip());
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{from}", from.len()).ok()
}

/// Answers every question for an address with [`WORLD`] (RFC 1035).
fn serve_names(socket: UdpSocket) {
    let mut packet = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let question = &packet[12..length];
        let Some(end) = question.iter().position(|byte| *byte == 0) else { continue };
        let question = &question[..(end + 5).min(question.len())];
        let is_address = question.get(end + 2) == Some(&1);
        let mut reply = vec![packet[0], packet[1], 0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0];
        reply.extend_from_slice(question);
        if is_address {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            reply.extend(WORLD.octets());
        }
        let _ = socket.send_to(&reply, from);
    }
}

/// A host and a world, connected, with a server of names and pages in the world.
struct Machine {
    host: Namespace,
    _world: Namespace,
    /// Of the server in the world.
    port: u16,
    home: Home,
    files: TempDir,
}

impl Machine {
    fn new() -> Self {
        let (host, world) = (Namespace::new(), Namespace::new());
        host.run(&format!("ip link add up0 type veth peer name down0 netns {}", world.0.id()));
        for (namespace, address, device) in [(&host, HOST, "up0"), (&world, WORLD, "down0")] {
            namespace.run(&format!("ip addr add {address}/24 dev {device}"));
            namespace.run(&format!("ip link set {device} up"));
            namespace.run("ip link set lo up");
        }
        host.run(&format!("ip route add default via {WORLD}"));
        host.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("make the host a router"));
        let names = world.enter(|| UdpSocket::bind((WORLD, 53)).expect("bind a port"));
        std::thread::spawn(move || serve_names(names));
        let port = world.serve(WORLD);
        let machine = Self { host, _world: world, port, home: Home::new(), files: tempdir() };
        machine.resolvers(&format!("nameserver {WORLD}\nsearch example\n"), "");
        machine
    }

    /// What the host's resolv.conf says, and that of systemd-resolved.
    fn resolvers(&self, own: &str, upstream: &str) {
        fs::write(self.files.path().join("resolv.conf"), own).expect("write resolv.conf");
        fs::write(self.files.path().join("upstream.conf"), upstream).expect("write resolv.conf");
    }

    /// A command of the builder on this host.
    fn command(&self, command: &Command) -> Command {
        let mut inside = self.host.command("unshare");
        let script = "mount --bind \"$0/resolv.conf\" /etc/resolv.conf && mount -t tmpfs none /run \
                      && mkdir -p /run/systemd/resolve && cp \"$0/upstream.conf\" /run/systemd/resolve/resolv.conf \
                      && PATH=${TOOLS-$PATH} && exec \"$@\"";
        inside.args(["--mount", "sh", "-c", script]).arg(self.files.path());
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    fn build(&self, context: &Context, arguments: &[&str]) -> Command {
        let mut command = self.home.build(context);
        command.arg("--progress=rawjson").args(arguments);
        self.command(&command)
    }

    /// Builds everything anew, with progress for people, with these tools in place of those that are installed.
    fn plain(&self, context: &Context, tools: Option<&str>, arguments: &[&str]) -> Done {
        let mut command = self.home.build(context);
        let mut command = self.command(command.args(["--progress=plain", "--no-cache"]).args(arguments));
        if let Some(tools) = tools {
            command.env("TOOLS", tools);
        }
        run(&mut command)
    }

    #[track_caller]
    fn built(&self, context: &Context, arguments: &[&str]) -> Done {
        run(&mut self.build(context, arguments)).ok()
    }

    /// What the host's network has of builds.
    fn traces(&self) -> String {
        let links = self.host.run("ip -o link");
        let links = links.lines().filter(|line| line.contains(&format!(": {DEVICE}")));
        links.chain(self.host.run("nft list tables").lines().filter(|line| line.contains(DEVICE))).collect()
    }

    #[track_caller]
    fn is_clean(&self) {
        eventually(Duration::from_secs(20), "nothing of builds to be left", || self.traces().is_empty());
    }
}

#[test]
fn the_world_is_reached_and_its_names_are_known() {
    let machine = Machine::new();
    let port = machine.port;
    let context = Context::new(&format!(
        "FROM busybox\n\
         RUN wget -q -O - http://{WORLD}:{port}/ && cat /etc/resolv.conf\n\
         RUN nslookup anything.example && wget -q -O - http://server.example:{port}/\n\
         RUN ls /sys/class/net && ping -c 1 -w 30 127.0.0.1 > /dev/null && readlink /proc/self/ns/net\n\
         RUN readlink /proc/self/ns/net\n"
    ));
    let done = machine.built(&context, &[]);
    let steps = done.steps();
    let first = format!("from {HOST}\nnameserver {WORLD}\nsearch example\n");
    assert_eq!(steps.named("cat /etc/resolv.conf").log, first, "{done}");
    let names = &steps.named("RUN nslookup").log;
    assert!(names.contains(&WORLD.to_string()) && names.ends_with(&format!("from {HOST}\n")), "{done}");
    let own = steps.named("RUN readlink").log.clone();
    assert_eq!(steps.named("RUN ls").log, format!("eth0\nlo\n{own}"), "one set-up for all of a build");
    assert!(!done.stderr.contains("network of the host"), "{done}");
    machine.is_clean();
    // A build that runs nothing sets up nothing: here it could not.
    machine.host.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("no router any more"));
    let mut again = machine.build(&context, &[]);
    let again = run(again.env("TOOLS", NO_TOOLS)).ok();
    again.steps().all_cached();
    assert!(!again.stderr.contains("ip_forward"), "{again}");
}

#[test]
fn what_listens_on_the_host_alone_is_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    let machine = Machine::new();
    let name = format!("e2e-network-{}", std::process::id());
    let abstract_socket = machine.host.enter(|| {
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
        std::os::unix::net::UnixListener::bind_addr(&address).expect("bind an abstract socket")
    });
    let (loopback, everywhere) =
        (machine.host.serve(Ipv4Addr::LOCALHOST), machine.host.serve(Ipv4Addr::UNSPECIFIED));
    let look = format!(
        "for to in 127.0.0.1 {HOST} $(ip route | awk '/default/ {{print $3}}'); do \
         timeout 30 wget -q -O - http://$to:{loopback}/ 2> /dev/null && echo loopback; \
         timeout 30 wget -q -O - http://$to:{everywhere}/ 2> /dev/null > /dev/null && echo everywhere; done; \
         grep -c {name} /proc/net/unix; true"
    );
    let context = Context::new(&format!("FROM busybox\nRUN {look}\n"));
    let seen =
        |arguments: &[&str]| machine.built(&context, arguments).steps().named("RUN for to").log.clone();
    assert_eq!(seen(&[]), "everywhere\neverywhere\n0\n", "at the host's addresses, not on its loopback");
    assert_eq!(seen(&["--network=none"]), "0\n");
    let host = seen(&["--network=host"]);
    assert!(host.starts_with("from 127.0.0.1\nloopback\neverywhere\n") && host.ends_with("\n1\n"), "{host}");
    drop(abstract_socket);
    machine.is_clean();
}

#[test]
fn every_mode_is_what_it_says() {
    let machine = Machine::new();
    let context = Context::new(
        "FROM busybox\nRUN --network=none ls /sys/class/net && ping -c 1 -w 30 127.0.0.1 > /dev/null\n\
         RUN ls /sys/class/net && { grep eth0 /proc/net/if_inet6 | grep -v ' 20 '; readlink /proc/self/ns/net; }\n",
    );
    let host = machine.host.run("readlink /proc/self/ns/net");
    let mode = |arguments: &[&str]| {
        let steps = machine.built(&context, &[&["--no-cache"], arguments].concat()).steps();
        assert_eq!(steps.named("RUN --network=none").log, "lo\n");
        steps.named("RUN ls").log.clone()
    };
    assert_eq!(mode(&["--network=none"]).lines().count(), 2, "lo and the name of the namespace");
    assert!(mode(&["--network=host"]).ends_with(&format!("up0\n{host}")));
    for private in [&["--network=default"][..], &["--network=private"]] {
        let seen = mode(private);
        assert!(seen.starts_with("eth0\nlo\n") && !seen.contains(host.trim()), "{seen}");
        assert_eq!(seen.lines().count(), 3, "no address of IPv6 but that of the link: {seen}");
    }
    // The network is part of what identifies a step.
    machine.built(&context, &[]).steps().all_cached();
    machine.built(&context, &["--network=host"]).steps().all_cached();
    let refused = Context::new("FROM busybox\nRUN --network=host ip route\n");
    run(&mut machine.build(&refused, &[])).code_is(1).says("--allow network.host");
    machine.built(&refused, &["--allow=network.host"]);
}

/// A program has the network that a step has.
#[test]
fn programs_have_the_network_of_steps() {
    let machine = Machine::new();
    let context = Context::new("FROM busybox\nENTRYPOINT [\"sh\", \"-c\"]\n");
    machine.built(&context, &["-t", "app"]);
    let host = machine.host.run("readlink /proc/self/ns/net");
    let seen = "ls /sys/class/net; readlink /proc/self/ns/net";
    let program = |tools: Option<&str>, mode: &[&str], command: &str| {
        let mut program = machine.home.builder("run");
        let mut program = machine.command(program.args(mode).args(["app", command]));
        if let Some(tools) = tools {
            program.env("TOOLS", tools);
        }
        run(&mut program)
    };
    for private in [&[][..], &["--network=default"], &["--network=private"]] {
        let done = program(None, private, seen).ok();
        assert!(done.stdout.starts_with("eth0\nlo\n") && !done.stdout.contains(host.trim()), "{done}");
    }
    let port = machine.port;
    let fetched = program(None, &[], &format!("wget -q -O - http://{WORLD}:{port}/")).ok();
    assert_eq!(fetched.stdout, format!("from {HOST}\n"));
    let none = program(None, &["--network=none"], seen).ok();
    assert!(none.stdout.starts_with("lo\n") && !none.stdout.contains(host.trim()), "{none}");
    assert!(program(None, &["--network=host"], seen).ok().stdout.ends_with(&format!("up0\n{host}")));
    program(None, &["--network=other"], seen).code_is(125).says("use default, private, host or none");
    program(None, &["-p", "80:80"], seen).code_is(125).says("--network=host");
    machine.is_clean();
    // Where there is none, that is said, or refused.
    machine.host.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("no router any more"));
    assert_eq!(program(None, &[], seen).ok().stderr, "", "a helper gives the same");
    let done = program(Some(NO_TOOLS), &[], seen).ok().says("WARNING: ").says("ip_forward");
    assert!(done.stdout.ends_with(&host), "{done}");
    program(Some(NO_TOOLS), &["--network=private"], seen).code_is(125).says("--network=private");
}

/// What steps have is what shells inside them have: at once, later, and behind an instruction; root's and an ordinary user's.
#[test]
fn shells_have_the_private_network_of_their_steps() {
    let (machine, user) = (Machine::new(), User::with_one_id());
    let port = machine.port;
    let loopback = machine.host.serve(Ipv4Addr::LOCALHOST);
    let look = format!(
        "ls /sys/class/net; readlink /proc/self/ns/net; ip -o -4 addr show dev eth0 | awk '{{print $4}}' | cut -d. -f1-2; cat /etc/resolv.conf; \
         cat /etc/hosts | grep db; wget -q -O - http://server.example:{port}/; \
         timeout 9 wget -q -T 2 -O - http://127.0.0.1:{loopback}/ 2> /dev/null || echo unreachable"
    );
    let host = machine.host.run("readlink /proc/self/ns/net");
    let context = Context::new(&format!("FROM busybox\nRUN {look}\nRUN {look}; exit 7\n"));
    let bases_of_user =
        vec![format!("--build-context=busybox=oci-layout://{}", user.at("busybox").display())];
    // Without the name of the namespace, of which each builder makes one.
    let nameless = |seen: &str| {
        assert!(seen.contains("net:[") && !seen.contains(host.trim()), "{seen}");
        seen.lines()
            .filter(|line| !line.starts_with("net:["))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let pasta = only("pasta");
    for mode in ["default", "private"] {
        let arguments = [&format!("--network={mode}"), "--add-host=db:10.9.8.7"];
        for root in [true, false] {
            let build = || match root {
                true => machine.home.build(&context),
                false => user.build(&context),
            };
            let debug = |words: &[&str]| {
                let mut debug = if root { machine.home.builder("debug") } else { user.builder("debug") };
                debug.args(words);
                debug
            };
            let run_here = |command: &Command, input: &str| {
                let mut command = machine.command(command);
                if !root {
                    command.env("TOOLS", pasta.path());
                }
                feed(&mut command, input.as_bytes())
            };
            let what = format!("{mode}, root: {root}");
            let build_first = run_here(build().args(arguments).arg("--progress=rawjson"), "").code_is(1);
            let step = nameless(&build_first.steps().named(&format!("RUN {look}")).log);
            assert!(
                step.starts_with("eth0\nlo\n") && step.contains(&format!("\nfrom {HOST}\nunreachable\n")),
                "{what}: {step}"
            );
            assert!(step.contains("10.9.8.7\tdb\n"), "{what}: {step}");
            let at_once =
                run_here(build().args(arguments).arg("--on-error=shell"), &format!("{look}\n")).code_is(1);
            assert_eq!(nameless(&at_once.stdout), step, "{what}, at once");
            let later = run_here(&debug(&["--command", &look]), "").ok();
            assert_eq!(nameless(&later.stdout), step, "{what}, later");
            let mut behind = debug(&["--at=2", "--command", &look]);
            behind
                .args(arguments)
                .args(if root { bases() } else { bases_of_user.clone() })
                .arg(context.path());
            assert_eq!(nameless(&run_here(&behind, "").ok().stdout), step, "{what}, behind an instruction");
        }
        machine.is_clean();
    }
}

#[test]
fn the_host_has_a_name() {
    let machine = Machine::new();
    let port = machine.host.serve(Ipv4Addr::UNSPECIFIED);
    let context = Context::new(&format!(
        "FROM busybox\nRUN grep -v localhost /etc/hosts; wget -q -O - http://gate:{port}/ 2> /dev/null || true\n"
    ));
    let hosts = |mode: &str| {
        let arguments = ["--add-host=gate:host-gateway", "--add-host=db:10.9.8.7", "--no-cache", mode];
        machine.built(&context, &arguments).steps().named("RUN grep").log.clone()
    };
    let private = hosts("--network=default");
    let lines: Vec<&str> = private.lines().collect();
    let gate = lines[0].strip_suffix("\tgate").expect("an address");
    assert!(gate.parse::<Ipv4Addr>().is_ok_and(|address| address.is_private()), "{private}");
    assert_eq!(lines[1], "10.9.8.7\tdb");
    let own = lines[2].strip_prefix("from ").expect("the host was reached");
    assert!(
        own != gate && own.rsplit_once('.').map(|cut| cut.0) == gate.rsplit_once('.').map(|cut| cut.0),
        "{private}"
    );
    assert_eq!(hosts("--network=host"), "127.0.0.1\tgate\n10.9.8.7\tdb\nfrom 127.0.0.1\n");
    let none = hosts("--network=none");
    assert!(none.starts_with("127.0.0.1\tgate\n10.9.8.7\tdb\n") && !none.contains("from"), "{none}");
}

/// Two builds at once, each with two steps at once that listen on the same port.
#[test]
fn builds_and_steps_do_not_meet() {
    let machine = Machine::new();
    let port = machine.port;
    let step = format!(
        "nc -l -p 80 > /dev/null & server=$!; tries=0; until grep -q ':0050 [^ ]* 0A ' /proc/net/tcp /proc/net/tcp6 || [ $((tries+=1)) = 3000 ]; do \
         usleep 10000; done; own=$(ip -o -4 addr show dev eth0 | awk '{{print $4}}'); for to in 2 3; do \
         patience=1; [ $own = 10.213.0.$to/16 ] && patience=30; \
         timeout $((patience * 2)) nc -w $patience 10.213.0.$to 80 < /dev/null > /dev/null 2>&1 && echo met $to; done; kill $server 2> /dev/null; \
         wget -q -O - http://{WORLD}:{port}/ && ip -o -4 addr show dev eth0 | awk '{{print $4}}'"
    );
    let context = |name: &str| {
        Context::new(&format!(
            "FROM busybox AS a\nRUN echo {name} a; {step}\nFROM busybox AS b\nRUN echo {name} b; {step}\n\
             FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"
        ))
    };
    let contexts = [context("one"), context("two")];
    let logs: Vec<String> = std::thread::scope(|scope| {
        let machine = &machine;
        let start = |context| scope.spawn(move || machine.built(context, &[]).steps());
        let builds: Vec<_> = contexts.iter().map(start).collect();
        let steps = builds.into_iter().map(|build| build.join().expect("a build"));
        steps.flat_map(|steps| [" a;", " b;"].map(|name| steps.named(name).log.clone())).collect()
    });
    let mut addresses: Vec<&str> = logs
        .iter()
        .map(|log| {
            let lines: Vec<&str> = log.lines().collect();
            assert!(lines.contains(&format!("from {HOST}").as_str()), "{logs:#?}");
            let own = lines.last().copied().expect("an address");
            // Each reaches itself, and nobody else.
            let own_number = own.trim_start_matches("10.213.0.").trim_end_matches("/16");
            let met = lines.iter().filter_map(|line| line.strip_prefix("met "));
            assert!(met.eq(["2", "3"].into_iter().filter(|number| *number == own_number)), "{logs:#?}");
            own
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 4, "{logs:#?}");
    machine.is_clean();
}

#[test]
fn a_killed_builder_leaves_nothing() {
    let machine = Machine::new();
    let context = Context::new("FROM busybox\nRUN sleep 600\n");
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let mut command = machine.build(&context, &[]);
        // nsenter and the shell become the builder.
        let mut build = Running::start(command.stdin(Stdio::null()).stderr(Stdio::null()));
        eventually(Duration::from_secs(20), "the network to be there", || {
            let traces = machine.traces();
            traces.contains("table") && traces.contains("UP")
        });
        build.signal(signal);
        build.wait(Duration::from_secs(20));
        machine.is_clean();
    }
    assert_eq!(machine.host.run("nft list ruleset"), "");
}

/// At whatever moment, root's or an ordinary user's with either helper: what a builder made for the network ends with it.
/// `BUILDER_KILLS` says how many times (default 12), `BUILDER_KILLS_SEED` repeats a run.
#[test]
fn builders_killed_at_any_moment_leave_no_network() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("BUILDER_KILLS_SEED").unwrap_or(u64::from(std::process::id()));
    println!("seed {seed}");
    let mut random = Random(seed);
    let (machine, user) = (Machine::new(), User::with_one_id());
    let helpers = ["slirp4netns", "pasta"].map(only);
    // Without a connection that is open: the kernel keeps one whose ends cannot speak any more, and its network with it, for 100 seconds.
    let context = Context::new(
        "FROM busybox\nRUN nslookup anything.example\nRUN nslookup other.example && sleep 0.1\n",
    );
    // In turn: root, one with slirp4netns, root, one with pasta.
    let build = |turn: u64| {
        let mut build = match turn % 2 {
            0 => machine.command(machine.home.build(&context).arg("--no-cache")),
            _ => machine.command(user.build(&context).arg("--no-cache")),
        };
        if turn % 2 == 1 {
            build.env("TOOLS", helpers[(turn / 2 % 2) as usize].path());
        }
        build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        build
    };
    let mut whole = [0, 1, 2, 3].map(|turn| {
        let start = Instant::now();
        assert!(build(turn).status().expect("a build").success(), "undisturbed");
        start.elapsed()
    });
    let places = [machine.home.path(), user.at("home")].map(|place| place.display().to_string());
    let devices = || machine.host.run("ip -o link").lines().count();
    let clean = devices();
    let (mut killed, mut in_use) = (0, 0);
    let kills = number("BUILDER_KILLS").unwrap_or(12);
    for turn in 0.. {
        if killed >= kills {
            break;
        }
        let after = Duration::from_micros(random.below(whole[(turn % 4) as usize].as_micros() as u64));
        let signal = [Signal::KILL, Signal::TERM, Signal::INT][(random.below(3)) as usize];
        let mut running = Running::start(&mut build(turn));
        std::thread::sleep(after);
        // It may not have begun with the network.
        let connected = turn % 2 == 0 && !machine.traces().is_empty();
        if running.0.try_wait().expect("look at a build").is_none() {
            running.signal(signal);
            killed += 1;
            in_use += u64::from(connected);
        } else {
            // It takes less long, with a machine that has less to do.
            whole[(turn % 4) as usize] = after.max(Duration::from_millis(10));
        }
        running.wait(Duration::from_secs(20));
        let how = format!("turn {turn}: {signal:?} after {after:?}");
        // A network namespace lives as long as a process in it.
        eventually(Duration::from_secs(20), &format!("all processes to end; {how}"), || {
            places.iter().all(|place| processes_with(place).is_empty())
        });
        let start = Instant::now();
        while !machine.traces().is_empty() || devices() != clean {
            let left = (machine.host.run("ip -o link"), machine.host.run("nft list tables"));
            assert!(start.elapsed() < Duration::from_secs(60), "{how}: {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(machine.host.run("nft list ruleset"), "");
    println!(
        "{killed} builds killed, {in_use} of root's while devices or tables were there; one takes {whole:?}"
    );
    (0..4).for_each(|turn| assert!(build(turn).status().expect("a build").success(), "afterwards"));
}

/// A directory of programs with this helper alone, and what tests need to become an ordinary user.
fn only(helper: &str) -> TempDir {
    let dir = tempdir();
    for name in [helper, "sh", "mount", "mknod", "setpriv"] {
        let program = tool(name).get_program().to_owned();
        std::os::unix::fs::symlink(program, dir.path().join(name)).expect("make a link");
    }
    dir
}

/// A firewall that drops what is forwarded is found by trying.
#[test]
fn a_firewall_is_found_and_gone_around() {
    let machine = Machine::new();
    machine.host.run("nft add table ip wall");
    machine.host.run("nft add chain ip wall forward { type filter hook forward priority 0; policy drop; }");
    let port = machine.port;
    let context = Context::new(&format!(
        "FROM busybox\nRUN wget -q -O - http://{WORLD}:{port}/\nRUN nslookup anything.example\n"
    ));
    let firewall = "a firewall of this machine drops what it should forward";
    // Everything works through a helper: only who asks is told.
    let helped = machine.plain(&context, None, &[]).ok().says(&format!("from {HOST}"));
    assert!(!helped.stderr.contains(firewall) && !helped.stderr.contains("WARN"), "{helped}");
    for helper in ["slirp4netns", "pasta"] {
        let tools = only(helper);
        let helped = machine.plain(&context, tools.path().to_str(), &["--network=private"]).ok();
        drop(helped.says(&format!("from {HOST}")));
        let info = run(machine.command(&machine.home.builder("info")).env("TOOLS", tools.path())).ok();
        assert!(info.stdout.contains(&format!("through {helper}, since {firewall}")), "{info}");
    }
    let alone = machine.plain(&context, Some(NO_TOOLS), &[]).ok();
    let note =
        "neither pasta (package passt) nor slirp4netns is installed: steps use the network of the host";
    assert_eq!(alone.stderr.matches(note).count(), 1, "said once\n{alone}");
    let alone = alone.says(firewall).says(&format!("from {HOST}"));
    drop(alone);
    // Asked for a private one, there is no other.
    let private = machine.plain(&context, Some(NO_TOOLS), &["--network=private"]);
    drop(private.code_is(1).says("--network=private").says(firewall));
    // What was built so is the same for a machine with other means.
    machine.host.run("nft delete table ip wall");
    machine.built(&context, &[]).steps().all_cached();
    let info = run(&mut machine.command(&machine.home.builder("info"))).ok();
    assert!(info.stdout.contains("through the kernel"), "{info}");
}

#[test]
fn a_machine_that_forwards_nothing_says_so() {
    let machine = Machine::new();
    machine.host.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("no router any more"));
    let context = Context::new("FROM busybox\nRUN readlink /proc/self/ns/net\n");
    let done = machine.plain(&context, Some(NO_TOOLS), &[]).ok();
    let done = done.says("sysctl net.ipv4.ip_forward is not 1").says("steps use the network of the host");
    drop(done.says(machine.host.run("readlink /proc/self/ns/net").trim()));
    let info = run(machine.command(&machine.home.builder("info")).env("TOOLS", NO_TOOLS)).ok();
    assert!(info.stdout.contains("the host's, since sysctl net.ipv4.ip_forward"), "{info}");
    // To an ordinary user that is no news: only root's steps need it.
    let user = User::with_one_id();
    let info = run(&mut machine.command(&user.builder("info"))).ok();
    assert!(info.stdout.contains("through slirp4netns\n") && !info.stdout.contains("ip_forward"), "{info}");
}

/// A name server on the host's loopback is replaced by those that it asks, or by a helper that asks it.
#[test]
fn a_name_server_on_the_loopback_is_replaced() {
    let machine = Machine::new();
    let context =
        Context::new("FROM busybox\nRUN cat /etc/resolv.conf; nslookup anything.example 2>&1; true\n");
    let stub = "nameserver 127.0.0.53\noptions edns0\n";
    let asked = |arguments: &[&str]| {
        let done = machine.built(&context, &[&["--no-cache"], arguments].concat());
        done.steps().named("RUN cat").log.clone()
    };
    machine.resolvers(stub, &format!("nameserver {WORLD}\n"));
    let seen = asked(&[]);
    assert!(seen.starts_with(&format!("nameserver {WORLD}\noptions edns0\n")), "{seen}");
    assert!(seen.matches(&WORLD.to_string()).count() > 1, "{seen}");
    assert!(asked(&["--network=host"]).starts_with(stub));
    // Nobody says whom it asks.
    machine.resolvers(stub, "");
    let names = machine.host.enter(|| UdpSocket::bind(("127.0.0.53", 53)).expect("bind a port"));
    std::thread::spawn(move || serve_names(names));
    let seen = asked(&[]);
    assert!(
        seen.starts_with("nameserver 10.0.2.3\noptions edns0\n") && seen.contains(&WORLD.to_string()),
        "{seen}"
    );
}

/// Of builds, shells and programs. What this machine asks by itself answers nobody.
#[test]
fn name_servers_of_ones_own() {
    let machine = Machine::new();
    machine.resolvers("nameserver 192.0.2.77\nsearch lan\noptions edns0\n", "");
    let look = "cat /etc/resolv.conf; nslookup anything.example > /dev/null 2>&1 && echo found";
    let context = Context::new(&format!("FROM busybox\nRUN {look}\n"));
    let world = format!("--dns={WORLD}");
    let done = machine.built(&context, &[&world]);
    let wanted = format!("nameserver {WORLD}\nsearch lan\noptions edns0\nfound\n");
    assert_eq!(done.steps().named("RUN cat").log, wanted);
    machine.built(&context, &["--dns=192.0.2.1"]).steps().all_cached();
    let all =
        [&*world, "--dns-search=a.example", "--dns-search=b.example", "--dns-opt=ndots:2", "--no-cache"];
    let wanted = format!("nameserver {WORLD}\nsearch a.example b.example\noptions ndots:2\nfound\n");
    assert_eq!(machine.built(&context, &all).steps().named("RUN cat").log, wanted);
    // Through a helper, where the host forwards nothing; it puts its own server first for the host's.
    machine.host.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("no router any more"));
    assert_eq!(machine.built(&context, &all).steps().named("RUN cat").log, wanted);
    machine.host.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router again"));
    // Shells: at once, later, and behind an instruction. Each has those of its own command.
    let failing = Context::new(&format!("FROM busybox\nRUN {look}; exit 7\n"));
    let shell = |command: &Command, input: &str| feed(&mut machine.command(command), input.as_bytes());
    let mut at_once = machine.home.build(&failing);
    at_once.args(all).arg("--on-error=shell");
    assert_eq!(shell(&at_once, &format!("{look}\n")).code_is(1).stdout, wanted);
    let debug = |arguments: &[&str]| {
        let mut debug = machine.home.builder("debug");
        debug.args(arguments).args(["--command", look]);
        debug
    };
    assert_eq!(shell(&debug(&all[..4]), "").ok().stdout, wanted);
    assert!(shell(&debug(&[]), "").stdout.starts_with("nameserver 192.0.2.77\n"));
    let mut behind = debug(&all[..4]);
    behind.arg("--at=2").args(bases()).arg(context.path());
    assert_eq!(shell(&behind, "").ok().stdout, wanted);
    // Programs, and what no private network reaches.
    machine.built(&Context::new("FROM busybox\n"), &["-t", "app"]);
    let program = |arguments: &[&str]| {
        let mut program = machine.home.builder("run");
        program.args(arguments).args(["app", "sh", "-c", look]);
        run(&mut machine.command(&program))
    };
    assert_eq!(program(&all[..4]).ok().stdout, wanted);
    for far in ["127.0.0.53", "::1"] {
        let (flag, why) = (format!("--dns={far}"), format!("--dns {far}: "));
        program(&[&flag]).code_is(125).says(&why).says("--network=host");
        run(&mut machine.build(&context, &[&flag, "--no-cache"]))
            .code_is(1)
            .says(&why)
            .says("--network=host");
        let beside = program(&[&flag, "--network=host"]);
        assert!(beside.stdout.starts_with(&format!("nameserver {far}\n")), "{beside}");
    }
    program(&["--dns=a.example"]).code_is(125).says("--dns");
    machine.is_clean();
}

#[test]
fn a_proxy_on_the_loopback_keeps_working() {
    let machine = Machine::new();
    let proxy = machine.host.serve(Ipv4Addr::LOCALHOST);
    let context =
        Context::new("FROM busybox\nRUN timeout 30 wget -q -O - http://nowhere.example/ || echo none\n");
    let argument = format!("--build-arg=HTTP_PROXY=http://localhost:{proxy}");
    let done = machine.plain(&context, None, &[&argument]).ok();
    let done = done.says("from 127.0.0.1").says("the proxy in --build-arg HTTP_PROXY listens");
    drop(done.says("steps use the network of the host"));
    // The Dockerfile cannot ask for that.
    let sly = format!(
        "FROM busybox\nENV http_proxy=http://127.0.0.1:{proxy}\nRUN timeout 30 wget -q -O - http://x.example/ 2> /dev/null || echo none\n"
    );
    let done = machine.built(&Context::new(&sly), &[]);
    assert_eq!(done.steps().named("RUN timeout").log, "none\n");
}

/// An ordinary user has what a helper gives, the same from each: others and their names, and no way to what listens on the host's
/// loopback.
#[test]
fn users_have_a_private_network() {
    let (machine, user) = (Machine::new(), User::with_one_id());
    let (port, loopback) = (machine.port, machine.host.serve(Ipv4Addr::LOCALHOST));
    let context = Context::new(&format!(
        "FROM busybox\nRUN ip -o -4 addr show dev eth0 | awk '{{print $4}}'; wget -q -O - http://server.example:{port}/\n\
         RUN for to in 127.0.0.1 10.0.2.2; do timeout 9 wget -q -T 2 -O - http://$to:{loopback}/ 2> /dev/null || echo unreachable; done\n\
         RUN ls /sys/class/net && ping -c 1 -w 30 127.0.0.1 > /dev/null && echo own loopback\n"
    ));
    for helper in ["slirp4netns", "pasta"] {
        let tools = only(helper);
        let mut command = machine.command(user.build(&context).args(["--progress=rawjson", "--no-cache"]));
        let done = run(command.env("TOOLS", tools.path())).ok();
        let steps = done.steps();
        assert_eq!(steps.named("RUN ip").log, format!("10.0.2.100/24\nfrom {HOST}\n"), "{helper}: {done}");
        assert_eq!(steps.named("RUN for").log, "unreachable\nunreachable\n", "{helper}: {done}");
        assert_eq!(steps.named("RUN ls").log, "eth0\nlo\nown loopback\n", "{helper}: {done}");
        let info = run(machine.command(&user.builder("info")).env("TOOLS", tools.path())).ok();
        assert!(info.stdout.contains(&format!("through {helper}\n")), "{info}");
    }
    // The helper itself asks a name server that listens on the loopback.
    machine.resolvers("nameserver 127.0.0.53\n", "");
    let names = machine.host.enter(|| UdpSocket::bind(("127.0.0.53", 53)).expect("bind a port"));
    std::thread::spawn(move || serve_names(names));
    for helper in ["slirp4netns", "pasta"] {
        let tools = only(helper);
        let mut command = machine.command(user.build(&context).args(["--progress=rawjson", "--no-cache"]));
        let done = run(command.env("TOOLS", tools.path())).ok();
        assert!(done.steps().named("RUN ip").log.ends_with(&format!("from {HOST}\n")), "{helper}: {done}");
    }
}

#[test]
fn users_that_may_make_no_device_are_told() {
    let user = User::with_one_id().without_tun();
    let context = Context::new("FROM busybox\nRUN true\n");
    let why = "a private network cannot be made: open /dev/net/tun: Permission denied";
    run(user.build(&context).arg("--progress=plain"))
        .ok()
        .says(why)
        .says("steps use the network of the host");
    let info = run(&mut user.builder("info")).ok();
    assert!(info.stdout.contains(&format!("the host's, since {why}\n")), "{info}");
}
