//! Changes of owners where there is a single id.

use std::path::Path;

use executor::{Identity, OutputStream};

use crate::support::{Case, Fixture, Needs, Recorder};

pub(crate) const CASES: &[Case] = &[
    Case { name: "owners::are_recorded", needs: Needs::Nothing, run: are_recorded },
    Case { name: "owners::of_what_is_no_file", needs: Needs::Nothing, run: of_what_is_no_file },
    Case { name: "owners::that_cannot_be_recorded", needs: Needs::Nothing, run: that_cannot_be_recorded },
    Case { name: "owners::every_form_of_call", needs: Needs::Nothing, run: every_form_of_call },
    Case { name: "owners::errors_stay", needs: Needs::Nothing, run: errors_stay },
    Case { name: "owners::many_at_once", needs: Needs::Nothing, run: many_at_once },
];

fn is_single(fixture: &Fixture) -> bool {
    matches!(fixture.identity, Identity::SingleId { .. })
}

/// The owner that a layer made from the upper directory has.
fn owner(path: &Path) -> String {
    let mut value = [0; 64];
    if let Ok(length) = rustix::fs::lgetxattr(path, "user.builder.owner", &mut value) {
        return String::from_utf8(value[..length].to_vec()).unwrap();
    }
    match rustix::fs::lgetxattr(path, "security.capability", &mut value) {
        Ok(20) if value[12..20] == *b"bown\0\0\0\0" => {
            let number = |at: usize| u32::from_le_bytes(*value[at..].first_chunk().unwrap());
            format!("{}:{}", number(4), number(8))
        }
        Ok(length) => format!("{:?}", &value[..length]),
        Err(_) => "none".to_owned(),
    }
}

fn are_recorded(fixture: &Fixture) {
    if !is_single(fixture) {
        return;
    }
    std::fs::write(fixture.lower.join("etc/below"), "below").unwrap();
    let script = "mkdir -p /srv/a; touch /srv/a/file /srv/a/set; chmod 6755 /srv/a/set; ln -s a/file /srv/link; ln -s nowhere /srv/dangling
        chown 5:6 /srv/a; chown 7 /srv/a/file; chgrp 8 /srv/a/file; chown 0:0 /srv/a/file && chown -R 33:34 /srv/a
        chown 9:9 /srv/link; chown 12:13 /etc/below; chown 0:0 /etc/passwd; chown -h 3:3 /srv/dangling; stat -c %a /srv/a/set
        cp -a /srv/a/file /srv/copy; (cd /srv/a && chown 44:45 ../copy); echo done";
    let recorder = Recorder::default();
    let outcome = fixture.run_with(fixture.shell(script), &recorder).unwrap();
    assert_eq!(recorder.text(OutputStream::Stderr), "");
    assert_eq!(recorder.text(OutputStream::Stdout), "755\ndone\n");
    assert_eq!(outcome.notes, Vec::<String>::new());
    for (path, expected) in [
        ("srv/a", "33:34"),
        ("srv/a/file", "9:9"),
        ("srv/a/set", "33:34"),
        ("srv/copy", "44:45"),
        ("srv/dangling", "3:3"),
        ("srv/link", "none"),
        ("srv", "none"),
        ("etc/below", "12:13"),
    ] {
        assert_eq!(owner(&fixture.upper.join(path)), expected, "{path}");
    }
    assert!(!fixture.upper.join("etc/passwd").exists(), "what changes nothing is not copied up");
    assert_eq!(owner(&fixture.lower.join("etc/below")), "none");
    // Whoever looks sees it, also in a later step: busybox's chown reads what it is to keep.
    let look = "stat -c '%u:%g %a %s' /srv/a /srv/copy /etc/below /etc/passwd /srv; ls -ln /srv | awk '/copy/ {print $3, $4}'
        chown :78 /srv/a; stat -c %u:%g /srv/a; chown :34 /srv/a; find /srv -user 9 | sort; [ -r /etc/below ] && echo readable; stat /missing";
    let (_, output, errors) = fixture.run(fixture.shell(look));
    let sizes: Vec<&str> =
        output.lines().map(|line| line.rsplit_once(' ').map_or(line, |(rest, _)| rest)).collect();
    assert_eq!(
        sizes,
        [
            "33:34 755",
            "44:45 644",
            "12:13 644",
            "0:0 644",
            "0:0 755",
            "44",
            "33:78",
            "/srv/a/file",
            "readable"
        ],
        "{output} {errors}"
    );
    assert_eq!(errors, "stat: can't stat '/missing': No such file or directory\n");
    // A later step begins with what an earlier one recorded.
    assert_eq!(fixture.output("chown 0:0 /srv/copy"), "");
    let keep = "chown(-1, 77, '/srv/a') == 1 or die $!; chown(-1, -1, '/srv/a/file') == 1 or die $!";
    fixture.output_of(crate::isolation::with_host_libraries(fixture, &["/usr/bin/perl", "-e", keep]));
    assert_eq!(owner(&fixture.upper.join("srv/a")), "33:77");
    assert_eq!(owner(&fixture.upper.join("srv/a/file")), "9:9");
    assert_eq!(owner(&fixture.upper.join("srv/copy")), "0:0");
}

/// The owner of a link goes where the link goes, and nowhere else.
fn of_what_is_no_file(fixture: &Fixture) {
    if !is_single(fixture) {
        return;
    }
    // As a layer below has them.
    for (name, gid) in [("moved", 21), ("given", 22), ("named", 23), ("touched", 24), ("replaced", 25)] {
        let path = fixture.lower.join("etc").join(name);
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let words = [0x0200_0000, 20, gid, u32::from_le_bytes(*b"bown"), 0];
        let value: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        rustix::fs::lsetxattr(&path, "security.capability", &value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let seen = fixture.output(
        "stat -c '%n %u:%g' /etc/moved /etc/given; cd /etc; mv moved was-moved; chown -h 1:1 given; ln named other-name
         touch -h touched; rm replaced; ln -s x replaced; chown -h :9 touched
         mkdir /s; cd /s; ln -s nowhere link; mkfifo pipe; chown -h 5:4294967294 link; chown 7:8 pipe; mv pipe renamed; ln link again
         ln -s a gone; chown -h 6:6 gone; rm gone; ln -s a gone; ln -s a back; chown -h 6:6 back; chown -h 0:0 back
         for i in 1 2 3 4 5 6 7 8 9; do ln -s $i again.$i; chown -h 3:$i again.$i; rm again.$i; ln -s $i again.$i; done
         chown -R -h 40:41 /s/. ; chown -h 5:6 link; mkdir d; ln -s x d/l; chown -h 3:3 d/l; mv d e; stat -c '%n %u:%g %F' link again renamed e/l",
    );
    let expected = "/etc/moved 20:21\n/etc/given 20:22\nlink 5:6 symbolic link\nagain 5:6 symbolic link\nrenamed 40:41 fifo\ne/l 3:3 symbolic link\n";
    assert_eq!(seen, expected);
    let fresh = (1..10).map(|i| (format!("s/again.{i}"), "40:41"));
    let others = [
        ("etc/was-moved", "20:21"),
        ("etc/given", "1:1"),
        ("etc/named", "20:23"),
        ("etc/other-name", "20:23"),
        ("etc/touched", "20:9"),
        ("etc/replaced", "none"),
        ("s/link", "5:6"),
        ("s/again", "5:6"),
        ("s/renamed", "40:41"),
        ("s/gone", "40:41"),
        ("s/e/l", "3:3"),
    ];
    for (path, expected) in fresh.chain(others.map(|(path, owner)| (path.to_owned(), owner))) {
        assert_eq!(owner(&fixture.upper.join(&path)), expected, "{path}");
    }
    // A new one in the place of one that was given away is nobody's, and so is one that was given back.
    let script = "mkdir /n; cd /n; for i in $(seq 200); do ln -s x l; chown -h 6:6 l; rm l; ln -s x l; stat -c %u:%g l; rm l; done | sort | uniq -c
        ln -s a back; chown -h 6:6 back; chown -h 0:0 back; stat -c %u:%g back; ln -s a gone; chown -h 6:6 gone; ln -sf b gone; stat -c %u:%g gone
        cp -a /s/link /s/renamed .; stat -c '%u:%g %F' link renamed; ls -ln /s/link | awk '{print $3, $4}'";
    let words = "200 0:0\n0:0\n0:0\n5:6 symbolic link\n40:41 fifo\n5 6\n";
    assert_eq!(fixture.output(script).trim_start(), words);
}

/// Whatever is no part of a layer: it works, and is said.
fn that_cannot_be_recorded(fixture: &Fixture) {
    if !is_single(fixture) {
        return;
    }
    let script = "chown 5:6 /dev/null && chown 0:0 /dev/zero && chown 5 /dev/stdout && chown 5:5 /proc/self/fd/2 && chown 6 /dev/fd/1 && echo well
        chown 5 /dev/fd/77 || chown 5 /proc/self/fd/x || chown 5 /proc/self/cwd/missing || echo none";
    let recorder = Recorder::default();
    let outcome = fixture.run_with(fixture.shell(script), &recorder).unwrap();
    assert_eq!(recorder.text(OutputStream::Stdout), "well\nnone\n");
    let errors = recorder.text(OutputStream::Stderr);
    assert_eq!(errors.lines().count(), 3, "{errors}");
    assert!(outcome.notes.len() == 1 && outcome.notes[0].contains("owners of devices"), "{outcome:?}");
}

/// By the numbers of x86-64: chown, fchown, lchown, fchownat with a directory, without a path, from another root.
#[cfg(target_arch = "x86_64")]
fn every_form_of_call(fixture: &Fixture) {
    if !is_single(fixture) {
        return;
    }
    let script = "mkdir('/t');mkdir('/t/d');mkdir('/t/jail');mkdir('/t/jail/in');
        for $f('a','b','c','d/e','d/f','jail/in/x'){open($h,'>',\"/t/$f\");close $h}
        sub t{my $r=syscall($_[0],@_[1..$#_]);print $r<0?$!+0:'ok',' '}
        $p='/t/a';t(92,$p,1,2);open($h,'<','/t/b');t(93,fileno($h),3,4);$p='/t/c';t(94,$p,5,6);
        open($d,'<','/t/d');$p='e';t(260,fileno($d),$p,7,8,0);
        open($h,'<','/t/d/f');$p='';t(260,fileno($h),$p,9,10,0x1000);
        chdir('/t/jail');chroot('/t/jail');symlink('/in','/link');$p='link/x';t(260,-100,$p,11,12,0);
        $p='../../../../t/a';t(92,$p,99,99)";
    let spec = crate::isolation::with_host_libraries(fixture, &["/usr/bin/perl", "-e", script]);
    let output = fixture.output_of(spec);
    assert_eq!(output, "ok ok ok ok ok ok 2 ");
    for (path, expected) in
        [("a", "1:2"), ("b", "3:4"), ("c", "5:6"), ("d/e", "7:8"), ("d/f", "9:10"), ("jail/in/x", "11:12")]
    {
        assert_eq!(owner(&fixture.upper.join("t").join(path)), expected, "{path}");
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn every_form_of_call(_: &Fixture) {}

fn errors_stay(fixture: &Fixture) {
    let outside = fixture.dir.path().join("outside");
    std::fs::write(&outside, "").unwrap();
    let script = format!(
        "chown 1:1 /missing; chown 1:1 {}; chown 1:1 /proc/1/root{}; chown 1:1 /etc/hosts; touch /f; chown 1:1 /f/x; echo end",
        outside.display(),
        outside.display()
    );
    let mut spec = fixture.shell(&script);
    spec.hosts = Some(String::new());
    let (_, output, errors) = fixture.run(spec);
    assert_eq!(output, "end\n");
    assert_eq!(errors.matches("No such file").count(), 3, "{errors}");
    assert_eq!(errors.matches("Not a directory").count(), 1, "{errors}");
    assert_eq!(errors.matches("Read-only file system").count(), 1, "{errors}");
    assert_eq!(owner(&outside), "none");
}

fn many_at_once(fixture: &Fixture) {
    if !is_single(fixture) {
        return;
    }
    let script = "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5 6 7 8 9; do touch /tmp/$i.$j; chown $i:$j /tmp/$i.$j; done) & done; wait";
    fixture.output(script);
    for i in 1..9 {
        for j in 1..10 {
            assert_eq!(owner(&fixture.upper.join(format!("tmp/{i}.{j}"))), format!("{i}:{j}"));
        }
    }
}
