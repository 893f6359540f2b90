//! The exported image against the tools that others read images with.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::{Context, Home, Image, Tree, need_root, run, tempdir, tool};

/// Everything that a layer can hold, made in several layers that change one another.
const EVERYTHING: &str = r#"
FROM busybox
COPY context/ /copied/
RUN mkdir -p /dirs/sticky /dirs/private /dirs/empty && chmod 1777 /dirs/sticky && chmod 700 /dirs/private \
 && echo setuid > /setuid && chmod 6755 /setuid \
 && echo owned > /owned && chown 1234:5678 /owned \
 && echo large > /large-ids && chown 3000000:4000000 /large-ids \
 && ln -s ../somewhere/else /dangling && ln -s dirs /link-to-dirs \
 && echo shared > /hard.a && ln /hard.a /hard.b && ln /hard.a /dirs/hard.c \
 && mkfifo -m 640 /fifo && mknod -m 600 /null c 1 3 \
 && ln /fifo /dirs/fifo && ln /null /dirs/null && ln /dangling /dirs/dangling \
 && dd if=/dev/zero of=/sparse bs=1 count=1 seek=5000000 2>/dev/null \
 && mkdir -p /replaced/by/file /emptied/a /gone/b && touch /emptied/a/1 /emptied/2 /gone/b/1 \
 && touch "$(printf '/with\nnewline')" "/with space" '/with"quote' /ünïcode /-dash \
 && d=/deep; for i in 1 2 3 4 5 6 7 8; do d=$d/a-directory-with-a-long-name-number-$i; done; mkdir -p $d && echo deep > $d/file \
 && f=; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do f=${f}twenty-characters-..; done; echo long > /$f \
 && ln -s $d/$f /long-link
RUN rm -r /replaced && echo now a file > /replaced \
 && rm -r /emptied && mkdir /emptied && touch /emptied/new \
 && rm -r /gone && rm /hard.b && echo changed >> /owned && chmod 711 /dirs \
 && mv /dirs/private /dirs/moved && mkdir /again && rmdir /again \
 && rm -r /copied/removed
COPY --chown=7:8 --chmod=0640 context/plain /chowned
WORKDIR /made/by/workdir
RUN echo new > /copied/nested/file
"#;

fn everything() -> Context {
    let context = Context::new(EVERYTHING)
        .file("context/plain", "plain\n")
        .file("context/executable", "#!/bin/sh\n")
        .file("context/nested/file", "old\n")
        .file("context/removed/1", "1\n")
        .file("context/hard.1", "linked\n");
    context.chmod("context/executable", 0o751);
    let path = |name: &str| context.path().join("context").join(name);
    fs::hard_link(path("hard.1"), path("hard.2")).expect("a hard link");
    std::os::unix::fs::symlink("plain", path("symlink")).expect("a symlink");
    // A value with a newline and a NUL: written as text somewhere, it would be cut.
    set(&path("plain"), "user.note", b"first\nsecond\0third=x");
    // cap_net_bind_service and cap_chown, effective (capabilities(7), VFS_CAP_REVISION_2), little-endian.
    let capability = [&[1, 0, 0, 2][..], &[0x01, 0x0a, 0, 0], &[0; 4], &[0; 4], &[0; 4]].concat();
    set(&path("executable"), "security.capability", &capability);
    context
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
        .unwrap_or_else(|error| panic!("set {name} on {}: {error}; this part needs root", path.display()));
}

/// What the sandbox puts over the tree while a process runs.
fn sandbox(path: &str) -> bool {
    let files = ["etc/resolv.conf", "etc/hosts", "etc/hostname"];
    ["dev", "proc", "sys"].iter().any(|dir| path.starts_with(&format!("{dir}/"))) || files.contains(&path)
}

#[test]
fn the_unpacked_tree_is_the_built_tree() {
    need_root();
    let home = Home::new();
    let context = everything();
    let image = home.export(&context, &["-t", "everything"]);
    let unpacked = image.tree();

    // A few facts first: two trees that lack the same things would be equal, too.
    assert_eq!(unpacked.at("setuid").mode, 0o6755);
    assert_eq!((unpacked.at("owned").uid, unpacked.at("owned").gid), (1234, 5678));
    assert_eq!((unpacked.at("large-ids").uid, unpacked.at("large-ids").gid), (3_000_000, 4_000_000));
    assert_eq!(
        (unpacked.at("chowned").uid, unpacked.at("chowned").gid, unpacked.at("chowned").mode),
        (7, 8, 0o640)
    );
    assert_eq!(unpacked.at("fifo").kind, "fifo");
    assert_eq!(unpacked.at("null").kind, "char 1:3");
    assert_eq!(unpacked.at("dangling").content, "../somewhere/else");
    assert_eq!(unpacked.at("hard.a").links.as_deref(), Some("dirs/hard.c"));
    assert_eq!(unpacked.at("copied/hard.1").links.as_deref(), Some("copied/hard.1"));
    assert_eq!(unpacked.at("copied/hard.2").links.as_deref(), Some("copied/hard.1"));
    for name in ["fifo", "null", "dangling"] {
        assert!(unpacked.at(name).links.is_some(), "{name}");
    }
    assert_eq!(unpacked.at("replaced").kind, "file");
    assert_eq!(unpacked.at("copied/plain").xattrs["user.note"], b"first\nsecond\0third=x");
    assert_eq!(unpacked.at("copied/executable").xattrs["security.capability"].len(), 20);
    assert_eq!(unpacked.at("copied/executable").mode, 0o751);
    assert_eq!(unpacked.at("made/by/workdir").mode, 0o755);
    for gone in ["emptied/a", "emptied/2", "gone", "hard.b", "copied/removed", "again", "dirs/private"] {
        assert!(!unpacked.0.contains_key(gone), "{gone} was removed");
    }
    assert!(!unpacked.0.keys().any(|path| path.contains(".wh.")), "whiteouts are no files");

    // The tree as the builder itself reads it.
    let dir = tempdir();
    let file = dir.path().join("tree.tar");
    run(home.build(&context).args(["-o", &format!("type=tar,dest={}", file.display())])).ok();
    let built = Tree::from_tar(&fs::read(&file).expect("the tar"));
    unpacked.same(&built, "unpacked from the layout, and exported as one tar");
    run(home.builder("export").arg("everything").arg("-o").arg(&file)).ok();
    let built = Tree::from_tar(&fs::read(&file).expect("the tar"));
    unpacked.same(&built, "unpacked from the layout, and exported from the store");

    // The tree as a process in it sees it.
    let list = "cd / && find . -mindepth 1 \\( -path ./proc -o -path ./sys -o -path ./dev \\) -prune -o -print0 \
                | xargs -0 stat -c '%f %u %g %h %t:%T %s %n'";
    let seen = run(home.builder("run").args(["everything", "sh", "-c", list])).ok().stdout;
    for (path, node) in unpacked.0.iter().filter(|(path, _)| !sandbox(path) && !path.contains('\n')) {
        if ["dev", "proc", "sys"].contains(&path.as_str()) {
            continue;
        }
        let line = seen.lines().find(|line| line.ends_with(&format!(" ./{path}")));
        let line = line.unwrap_or_else(|| panic!("{path} is not seen from inside:\n{seen}"));
        let fields: Vec<&str> = line.split(' ').collect();
        let mode = u32::from_str_radix(fields[0], 16).expect("a mode in hexadecimal");
        if node.kind != "symlink" {
            assert_eq!(mode & 0o7777, node.mode, "mode of {path}: {line}");
        }
        assert_eq!(
            (fields[1], fields[2]),
            (&*node.uid.to_string(), &*node.gid.to_string()),
            "owner of {path}"
        );
    }
}

#[test]
fn a_local_export_is_the_tree() {
    need_root();
    let home = Home::new();
    let context = everything();
    let image = home.export(&context, &[]);
    let dir = tempdir();
    let dest = dir.path().join("tree");
    run(home.build(&context).args(["-o", &format!("type=local,dest={}", dest.display())])).ok();
    let exported = Tree::from_dir(&dest);
    let mut unpacked = image.tree();
    // A directory of this machine belongs to whoever exports it; device nodes have no business there.
    let mut exported = exported.without(|path| path.ends_with("null"));
    unpacked = unpacked.without(|path| path.ends_with("null"));
    for tree in [&mut exported, &mut unpacked] {
        for node in tree.0.values_mut() {
            (node.uid, node.gid) = (0, 0);
        }
    }
    unpacked.same(&exported, "unpacked from the layout, and exported as a directory");
    // A bare path means the same.
    let plain = dir.path().join("plain");
    run(home.build(&context).arg("-o").arg(&plain)).ok();
    assert_eq!(Tree::from_dir(&plain).0.len(), Tree::from_dir(&dest).0.len());
}

#[test]
fn skopeo_accepts_the_layout() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nRUN echo 1 > /1\nRUN rm /1\nCOPY Dockerfile /\nLABEL a.b=c\nENV X=y\nEXPOSE 80 53/udp\n\
         VOLUME /data\nUSER 5:6\nWORKDIR /w\nSTOPSIGNAL SIGQUIT\nENTRYPOINT [\"e\"]\nCMD [\"c\"]\n\
         HEALTHCHECK --interval=5s CMD true\nONBUILD RUN true\n",
    );
    let image = home.export(&context, &[]);
    let from = format!("oci:{}", image.layout.display());
    let skopeo = |arguments: &[&str]| run(tool("skopeo").arg("--insecure-policy").args(arguments)).ok();
    let inspected: serde_json::Value =
        serde_json::from_str(&skopeo(&["inspect", &from]).stdout).expect("JSON");
    assert_eq!(inspected["Digest"], image.digest.as_str());
    assert_eq!(inspected["Labels"]["a.b"], "c");
    assert_eq!(inspected["Os"], "linux");
    let config: serde_json::Value =
        serde_json::from_str(&skopeo(&["inspect", "--config", &from]).stdout).expect("JSON");
    assert_eq!(config["config"]["User"], "5:6");
    assert_eq!(config["config"]["WorkingDir"], "/w");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["e"]));
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["c"]));
    assert_eq!(config["config"]["ExposedPorts"], serde_json::json!({ "53/udp": {}, "80/tcp": {} }));
    assert_eq!(config["config"]["Volumes"], serde_json::json!({ "/data": {} }));
    assert_eq!(config["config"]["StopSignal"], "SIGQUIT");
    // What skopeo's own type leaves out is read from the blob.
    assert_eq!(image.config["config"]["Healthcheck"]["Interval"], 5_000_000_000_u64);
    assert_eq!(image.config["config"]["OnBuild"], serde_json::json!(["RUN true"]));
    let with_layer = image.config["history"]
        .as_array()
        .expect("a history")
        .iter()
        .filter(|entry| entry["empty_layer"] != true);
    assert_eq!(with_layer.count(), image.layers().len(), "as many layers as the history tells of");

    let dir = tempdir();
    let copy = dir.path().join("copy");
    skopeo(&["copy", "--quiet", &from, &format!("oci:{}:x", copy.display())]);
    assert_eq!(Image::open(copy, None).digest, image.digest, "a copy is the same image");
    skopeo(&[
        "copy",
        "--quiet",
        &from,
        &format!("docker-archive:{}:x:y", dir.path().join("docker.tar").display()),
    ]);
}

/// A layer of several MiB is a gzip stream of several members, which everybody reads as one; so is an empty layer.
#[test]
fn members_are_one_stream_to_everybody() {
    need_root();
    let numbers: String = (0..600_000).map(|n| format!("{n}\n")).collect();
    let home = Home::new();
    let dockerfile = "FROM busybox\nCOPY numbers /numbers\nRUN seq 600000 >> /numbers\nRUN true\n";
    let context = Context::new(dockerfile).file("numbers", &numbers);
    let image = home.export(&context, &[]);
    let whole = numbers + &(1..=600_000).map(|n| format!("{n}\n")).collect::<String>();

    let mut members = Vec::new();
    for layer in image.manifest["layers"].as_array().expect("layers") {
        let digest = layer["digest"].as_str().expect("a digest");
        let blob = image.layout.join("blobs").join(digest.replace(':', "/"));
        let bytes = fs::read(&blob).expect("a blob");
        e2e::feed(tool("gzip").arg("--test"), &bytes).ok();
        let script = "import sys, tarfile\nfor entry in tarfile.open(sys.argv[1], 'r:gz'): print(entry.name)";
        run(Command::new("python3").args(["-c", script]).arg(&blob)).ok();
        let mut rest = &bytes[..];
        let mut count = 0;
        while !rest.is_empty() {
            let mut one = flate2::bufread::GzDecoder::new(rest);
            std::io::copy(&mut one, &mut std::io::sink()).expect("a member");
            rest = one.into_inner();
            count += 1;
        }
        members.push(count);
    }
    assert!(members[1] > 3 && members[2] > 6, "{members:?}");

    let from = format!("oci:{}", image.layout.display());
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name);
    // skopeo unpacks what it makes a Docker archive of, and checks the config's digests.
    let archive = format!("docker-archive:{}:numbers:1", at("docker.tar").display());
    run(tool("skopeo").args(["--insecure-policy", "copy", "--quiet", &from, &archive])).ok();
    let unpacked = e2e::unpack(&image.layout);
    image.tree().same(&unpacked, "as it was packed, and as umoci unpacks it");
    let buildah = |arguments: &[&str]| {
        let mut buildah = tool("buildah");
        buildah.arg("--root").arg(at("root")).arg("--runroot").arg(at("run")).arg("--storage-driver=vfs");
        run(buildah.args(arguments)).ok().stdout.trim().to_owned()
    };
    let ours = format!("type=docker,name=numbers:1,dest={}", at("ours.tar").display());
    run(home.build(&context).args(["-o", &ours])).ok();
    let pulled = buildah(&["pull", "--quiet", &format!("docker-archive:{}", at("ours.tar").display())]);
    let container = buildah(&["from", &pulled]);
    let root = buildah(&["mount", &container]);
    let read = fs::read_to_string(format!("{root}/numbers")).expect("the file, as buildah has it");
    buildah(&["rm", &container]);
    assert!(read == whole);
    // And by this program, into an empty store.
    let other = Home::new();
    run(other.builder("load").arg("-i").arg(at("ours.tar"))).ok();
    let sum = run(other.builder("run").args(["numbers:1", "md5sum", "/numbers"])).ok().stdout;
    let expected = e2e::feed(&mut tool("md5sum"), whole.as_bytes()).ok().stdout;
    assert_eq!(sum.split(' ').next(), expected.split(' ').next());
}

#[test]
fn archives_hold_the_same_image() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo 1 > /1\nRUN rm /1\nCOPY Dockerfile /\n");
    let image = home.export(&context, &[]);
    let dir = tempdir();
    let (oci, docker) = (dir.path().join("oci.tar"), dir.path().join("docker.tar"));
    run(home
        .build(&context)
        .args(["-o", &format!("type=oci,dest={}", oci.display())])
        .args(["-o", &format!("type=docker,name=example:1,dest={}", docker.display())]))
    .ok();
    let unpacked = dir.path().join("oci");
    fs::create_dir(&unpacked).expect("make a directory");
    run(Command::new("tar").arg("-xf").arg(&oci).arg("-C").arg(&unpacked)).ok();
    assert_eq!(
        Image::open(unpacked, None).id(),
        image.id(),
        "the same image in the archive and in the directory"
    );
    let inspect = run(tool("skopeo")
        .args(["--insecure-policy", "inspect", "--config"])
        .arg(format!("docker-archive:{}", docker.display())))
    .ok();
    let config: serde_json::Value = serde_json::from_str(&inspect.stdout).expect("JSON");
    assert_eq!(config["rootfs"]["diff_ids"], image.config["rootfs"]["diff_ids"]);
    let inspect = run(tool("skopeo")
        .args(["--insecure-policy", "inspect"])
        .arg(format!("docker-archive:{}:example:1", docker.display())));
    inspect.ok();
}

#[test]
fn metadata_makes_no_layers() {
    let home = Home::new();
    let base = home.export(&Context::new("FROM busybox\n"), &[]);
    let image = home.export(&Context::new("FROM busybox\nENV A=b\nLABEL c=d\nCMD [\"true\"]\n"), &[]);
    assert_eq!(image.layers().len(), 1);
    assert_eq!(
        image.manifest["layers"], base.manifest["layers"],
        "the base's layers are passed on as they are"
    );
    let empty = home.export(&Context::new("FROM scratch\nENV A=b\n"), &[]);
    assert_eq!(empty.manifest["layers"], serde_json::json!([]));
}

#[test]
fn the_sandbox_leaves_no_trace() {
    let home = Home::new();
    let image = home.export(
        &Context::new("FROM busybox\nRUN cat /etc/hosts /etc/resolv.conf > /dev/null; touch /here\n"),
        &[],
    );
    let layers = image.layers();
    let last = Tree::from_tar(layers.last().expect("a layer"));
    assert_eq!(last.0.keys().collect::<Vec<_>>(), ["here"]);
}

/// Several exports into one directory: the newest is what a tag means, here and for skopeo, and of two of somebody else's none is taken.
#[test]
fn a_tag_of_a_layout_is_one_image() {
    let (home, dir) = (Home::new(), tempdir());
    let layout = dir.path().join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let context = |text: &str| Context::new("FROM scratch\nCOPY text /text\n").file("text", text);
    let user = Context::new("FROM image\n");
    let asked = |name: &str| {
        let out = dir.path().join("out");
        let named = format!("--build-context=image=oci-layout://{}{name}", layout.display());
        let done = run(home.build(&user).arg(&named).arg("-o").arg(&out));
        (done, fs::read_to_string(out.join("text")).unwrap_or_default())
    };
    for (text, names) in [("one", &[][..]), ("two", &["-t", "app"]), ("three", &["-t", "web"]), ("four", &[])]
    {
        run(home.build(&context(text)).args(["-o", &output]).args(names)).ok();
        for name in ["", ":latest"] {
            let (done, found) = asked(name);
            done.ok();
            assert_eq!(found, text, "{name}");
        }
        let source = format!("oci:{}:latest", layout.display());
        let shown = run(tool("skopeo").args(["inspect", "--config", &source])).ok().stdout;
        let image = home.export(&context(text), &[]);
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["rootfs"], image.config["rootfs"], "{text}");
    }
    // As others write: two with one tag.
    let path = layout.join("index.json");
    let mut index: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).expect("an index")).expect("JSON");
    let entries = index["manifests"].as_array_mut().expect("a list");
    let digests: Vec<String> =
        entries.iter().map(|entry| entry["digest"].as_str().expect("a digest").to_owned()).collect();
    for entry in entries.iter_mut() {
        entry["annotations"]["org.opencontainers.image.ref.name"] = "latest".into();
    }
    fs::write(&path, index.to_string()).expect("write the index");
    for name in ["", ":latest"] {
        let done = asked(name).0.code_is(1).says("several images have this name");
        assert!(digests.len() == 3 && digests.iter().all(|digest| done.stderr.contains(digest)), "{done}");
    }
    let (done, found) = asked(&format!("@{}", digests[0]));
    done.ok();
    assert_eq!(found, "two");
}
