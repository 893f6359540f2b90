//! The programs of Dockerfiles/, built and run.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::{
    Home, Running, dockerfiles, eventually, free_port, mounts_with, processes_with, run, tempdir, tool,
};

/// Builds one of the programs under its folder's name.
fn built(name: &str, arguments: &[&str]) -> Home {
    let home = Home::new();
    run(home.build(&folder(name)).args(["-t", name]).args(arguments)).ok();
    home
}

fn folder(name: &str) -> PathBuf {
    dockerfiles().join(name)
}

fn output(home: &Home, arguments: &[&str]) -> String {
    run(home.builder("run").args(arguments)).ok().stdout
}

#[test]
fn c_scratch() {
    let home = built("c-scratch", &[]);
    assert_eq!(output(&home, &["c-scratch"]), "6\n");
    assert_eq!(output(&home, &["c-scratch", "1071", "462"]), "21\n");
    run(home.builder("run").args(["c-scratch", "x"])).code_is(1).says("not a number");
    // Nothing but the program is in the image.
    let image = home.export(&folder("c-scratch"), &[]);
    let tree = image.tree();
    assert_eq!(tree.0.keys().collect::<Vec<_>>(), ["gcd"]);
    assert_eq!(tree.at("gcd").mode, 0o555);
    // A comment makes no other program: what stands on that is found.
    let edited = tempdir();
    run(tool("cp").arg("-a").arg(folder("c-scratch").join(".")).arg(edited.path())).ok();
    let source = edited.path().join("src/gcd.c");
    let text = fs::read_to_string(&source).expect("read the source");
    fs::write(&source, format!("{text}/* The oldest algorithm that is still in use. */\n")).expect("write");
    let steps = home.steps(edited.path(), &[]);
    let ran = steps.executed();
    assert_eq!(ran.len(), 2, "{ran:?}");
    assert!(ran.contains(&"COPY src/ .") && ran.iter().any(|step| step.starts_with("RUN gcc")), "{ran:?}");
    assert!(steps.cached().iter().any(|step| step.starts_with("COPY --from=build")), "{steps:#?}");
}

#[test]
fn go_hello() {
    let home = built("go-hello", &["--build-arg", "VERSION=1.2.3"]);
    assert_eq!(output(&home, &["go-hello"]), "Hello, world!\n");
    assert_eq!(output(&home, &["go-hello", "Ada", "Bo"]), "Hello, Ada and Bo!\n");
    assert_eq!(output(&home, &["go-hello", "--version"]), "hello 1.2.3\n");
}

#[test]
fn node_app() {
    let home = built("node-app", &[]);
    assert_eq!(output(&home, &["node-app"]), "- Fruit\n  - Apples\n  - Pears\n");
    run(home.builder("run").args(["node-app", "/no/such/file"])).code_is(1).says("ENOENT");
}

#[test]
fn python_web() {
    let home = built("python-web", &[]);
    let server = Service::start(&home, "python-web");
    let (head, body) = server.request("GET / HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    assert_eq!(body, r#"{"service": "word count", "user": "web"}"#);
    let text = "a rose is a rose";
    let (_, body) =
        server.request(&format!("POST /count HTTP/1.0\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    assert_eq!(body, r#"{"a": 2, "is": 1, "rose": 2}"#);
    let (head, _) = server.request("GET /nothing HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.0 404"), "{head}");
    server.end();
}

#[test]
fn nginx_static() {
    let home = built("nginx-static", &[]);
    let server = Service::start(&home, "nginx-static");
    let (head, body) = server.request("GET / HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/html"), "{head}");
    assert!(body.contains("It is served"), "{body}");
    let (head, _) = server
        .request("GET /style.css HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n");
    assert!(head.contains("Content-Encoding: gzip"), "{head}");
    let (head, body) = server.request("GET /nothing HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 404") && body.contains("Nothing here"), "{head}{body}");
    server.end();
    // The server does not run as root.
    assert_eq!(home.export(&folder("nginx-static"), &[]).config["config"]["User"], "www-data");
}

#[test]
fn shell_tool() {
    let home = Home::new();
    let context = folder("shell-tool");
    let parent = context.join("parent.Dockerfile");
    run(home.build(&context).arg("-f").arg(parent).args(["-t", "toolbox"])).ok();
    let arguments = ["-t", "shell-tool", "--build-arg", "VERSION=7", "--build-arg", "TITLE=My tool"];
    run(home.build(&context).args(arguments)).ok();
    assert_eq!(
        output(&home, &["shell-tool"]),
        "usage: tool COMMAND [ARGUMENT...]\ncommands: greet sum title\n"
    );
    assert_eq!(output(&home, &["shell-tool", "greet"]), "Hello, this is version 7.\n");
    assert_eq!(output(&home, &["shell-tool", "title"]), "My tool (tool)\n");
    assert_eq!(output(&home, &["shell-tool", "sum", "1", "2", "39"]), "42\n");
    run(home.builder("run").args(["shell-tool", "nonsense"])).code_is(1);
    // The child has run what the parent deferred, and defers nothing itself.
    let config = home.export(&context, &["--build-arg", "VERSION=7"]).config;
    assert!(config["config"]["OnBuild"].as_array().is_none_or(Vec::is_empty), "{config:#}");
    assert_eq!(config["config"]["Labels"]["version"], "7");
}

/// A server in a container, on a port of this machine.
struct Service {
    process: Running,
    port: u16,
    state: String,
}

impl Service {
    fn start(home: &Home, image: &str) -> Self {
        let port = free_port();
        let mut command: Command = home.builder("run");
        command.args(["--network=host", image, &port.to_string()]).stdin(Stdio::null());
        let process = Running::start(&mut command);
        eventually(Duration::from_secs(30), "the server to listen", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { process, port, state: home.path().display().to_string() }
    }

    /// Sends a request and returns head and body of the answer.
    fn request(&self, text: &str) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("set a limit");
        stream.write_all(text.as_bytes()).expect("send");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("receive");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        (head.to_owned(), body.to_owned())
    }

    /// Ends it as Ctrl-C does; nothing may be left.
    fn end(mut self) {
        self.process.signal(rustix::process::Signal::INT);
        self.process.wait(Duration::from_secs(10));
        eventually(Duration::from_secs(5), "the port to be free", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_err()
        });
        assert_eq!(processes_with(&format!("BUILDER_HOME={}", self.state)), [""; 0], "processes left");
        assert_eq!(mounts_with(&self.state), [""; 0], "mounts left");
    }
}
