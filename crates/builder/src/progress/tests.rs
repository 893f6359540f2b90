//! A scripted build in every mode, compared with `testdata/progress`. The live view is drawn on a terminal of our own, which
//! fails when anything wraps.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use graph::{
    Definition, Event, Input, LogStream, MissReason, Op, Outcome, PathChange, PathChangeKind, ProgressSink,
    Source, Vertex, VertexId,
};

use super::model::{Message, Model, Progressed, StepKey};
use super::plain::Plain;
use super::rawjson::RawJson;
use super::tty::Tty;
use super::{Display, Mode, Progress, Report, Settings};

/// What a display wrote.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// 2026-01-02T03:04:05Z and so many milliseconds.
fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_000 + milliseconds)
}

const NAMES: [&str; 7] = [
    "[base 1/1] FROM docker.io/library/debian:12@sha256:4abf773f2a570e6873259c4e3ba16de6c6268fb571fd46ec80be7c67822823b3",
    "[internal] load build context",
    "[build 2/4] COPY src /src",
    "[build 3/4] RUN make -C /src all",
    "[docs 2/2] RUN 東京 \x1b[31mdocs\x1b[0m",
    "[build 4/4] RUN never needed",
    "[stage-2 1/1] COPY --from=build /src/app /app",
];

fn definition() -> Definition {
    let mut definition = Definition::default();
    for (index, name) in NAMES.iter().enumerate() {
        let op = Op::Source(Source::Local { name: format!("vertex {index}") });
        let inputs = match index {
            0 | 1 => vec![],
            2 => vec![Input::whole(VertexId(0)), Input::whole(VertexId(1))],
            4 => vec![Input::whole(VertexId(0))],
            6 => vec![Input::whole(VertexId(3))],
            _ => vec![Input::whole(VertexId(2))],
        };
        definition.add(Vertex { op, inputs, name: (*name).to_owned(), lines: None, no_cache: false });
    }
    definition
}

fn started(vertex: usize, time: u64) -> (u64, Message) {
    (time, Message::Event(Event::Started { vertex: VertexId(vertex), at: at(time) }))
}

fn finished(vertex: usize, time: u64, outcome: Outcome) -> (u64, Message) {
    (time, Message::Event(Event::Finished { vertex: VertexId(vertex), outcome, at: at(time) }))
}

fn log(vertex: usize, time: u64, text: &str) -> (u64, Message) {
    let data = text.as_bytes().to_vec();
    (
        time,
        Message::Event(Event::Log {
            vertex: VertexId(vertex),
            stream: LogStream::Stdout,
            data,
            at: at(time),
        }),
    )
}

fn progress(vertex: usize, time: u64, current: u64) -> (u64, Message) {
    let id = "sha256:6c73f1d1fd1a49bb1e1d5a7f1d1c2ed1d2d1f5e9a2e2a8e3c6a6f1ea1b3c9a55".to_owned();
    let event = Event::Progress { vertex: VertexId(vertex), id, current, total: 27_092_274, at: at(time) };
    (time, Message::Event(event))
}

fn done() -> Outcome {
    Outcome::Done { reason: Some(MissReason::FirstBuild) }
}

/// It ran again.
fn changed() -> Outcome {
    let paths = vec![PathChange { path: "src/a.c".to_owned(), kind: PathChangeKind::Changed }];
    Outcome::Done { reason: Some(MissReason::ContentChanged { paths, more: 0 }) }
}

/// A base that is pulled, a cached copy, two runs at once, one of which talks long; `fails` decides how it ends.
fn script(fails: bool) -> Vec<(u64, Message)> {
    let mut events = vec![
        (
            0,
            Message::Task {
                number: 0,
                name: "[internal] load build definition from Dockerfile".into(),
                at: at(0),
            },
        ),
        (
            20,
            Message::Finished { key: StepKey::Task(0), outcome: Outcome::Done { reason: None }, at: at(20) },
        ),
        (30, Message::define(&definition())),
        started(0, 40),
        started(1, 45),
        progress(0, 100, 0),
        progress(0, 400, 3_151_234),
        finished(1, 450, Outcome::Done { reason: None }),
        progress(0, 900, 27_092_274),
        finished(0, 1500, done()),
        finished(2, 1510, Outcome::Cached { saved: Duration::from_secs(3) }),
        started(3, 1600),
        started(4, 1600),
        log(3, 1700, "cc -c a.c\ncc -c b.c\n"),
        log(4, 1800, "building \x1b[32mdocs\x1b[0m ..."),
        log(
            3,
            1912,
            "warning: \x1b]0;owned\x07a very long line that goes on and on until it does not fit into any terminal\n",
        ),
    ];
    for line in 0..8u64 {
        events.push(log(3, 2000 + line * 50, &format!("line {line}\r\n")));
    }
    events.push(log(4, 2600, " halfway\rnearly done"));
    events.push((
        2700,
        Message::Warning { key: StepKey::Vertex(VertexId(3)), message: "the clock is skewed".into() },
    ));
    for second in 3..16u64 {
        events.push(log(3, second * 1000, &format!("still at it {second}\n")));
    }
    if fails {
        let message =
            "process \"/bin/sh -c make -C /src all\" did not complete successfully: exit code: 2".to_owned();
        events.push(log(3, 16_000, "make: *** [all] Error 2"));
        events.push(finished(3, 16_010, Outcome::Failed { message }));
        events.push(finished(4, 16_020, Outcome::Cancelled));
        return events;
    }
    events.push(finished(4, 16_000, done()));
    events.push(finished(3, 17_234, changed()));
    events.push(started(6, 17_240));
    events.push(finished(6, 17_300, done()));
    let key = StepKey::Task(1);
    events.push((17_310, Message::Task { number: 1, name: "exporting to image".into(), at: at(17_310) }));
    for (time, id, complete) in [
        (17_310, "exporting layers", false),
        (17_910, "exporting layers", true),
        (17_920, "naming to docker.io/library/app:latest", false),
        (17_920, "naming to docker.io/library/app:latest", true),
    ] {
        let progressed = Progressed { id: id.into(), current: 0, total: 0, at: at(time), complete };
        events.push((time, Message::Progress { key, progressed }));
    }
    events.push((17_930, Message::Finished { key, outcome: Outcome::Done { reason: None }, at: at(17_930) }));
    events
}

/// Plays a script as the display's thread does, with the script's clock; `seen` is called after each drawing.
fn play(display: &mut dyn Display, events: Vec<(u64, Message)>, mut seen: impl FnMut(u64)) -> Report {
    let mut model = Model::new(display.repeated_lines());
    let mut clock = 0;
    let end = events.last().map_or(0, |(time, _)| *time);
    let mut events = events.into_iter().peekable();
    while clock <= end + 100 {
        while let Some((time, message)) = events.next_if(|(time, _)| *time <= clock) {
            for change in model.apply(message) {
                display.note(&model, &change, at(time)).unwrap();
            }
        }
        display.draw(&model, at(clock)).unwrap();
        seen(clock);
        clock += 100;
    }
    display.finish(&model, at(clock)).unwrap();
    seen(clock);
    model.report()
}

/// Compares with a file of `testdata/progress`; `UPDATE_EXPECT=1` writes it.
fn expect(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/progress").join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{name} differs (UPDATE_EXPECT=1 accepts it); it is now:\n{text}");
}

#[test]
fn plain_is_what_buildkit_writes() {
    for (name, fails) in [("plain.txt", false), ("plain-failed.txt", true)] {
        let written = Written::default();
        let report = play(&mut Plain::new(written.clone()), script(fails), |_| {});
        let mut text = String::from_utf8(written.take()).unwrap();
        for step in report.failed {
            text += &step.to_string();
        }
        expect(name, &text);
    }
}

/// What a step prints is written before there is much of it: also of a step that has to wait for its turn, and of a line without end.
#[test]
fn plain_keeps_little_of_what_is_not_shown() {
    let written = Written::default();
    let mut plain = Plain::new(written.clone());
    let mut model = Model::new(plain.repeated_lines());
    let mut note = |plain: &mut Plain<Written>, (time, message): (u64, Message)| {
        for change in model.apply(message) {
            plain.note(&model, &change, at(time)).unwrap();
        }
        if plain.is_full() {
            plain.draw(&model, at(time)).unwrap();
        }
    };
    for message in [(0, Message::define(&definition())), started(3, 1), started(4, 1), log(3, 2, "first\n")] {
        note(&mut plain, message);
    }
    let chunk = "x".repeat(1 << 15);
    let (mut given, mut most) = (0, 0);
    for time in 0..256 {
        // The one that does not have the floor.
        note(&mut plain, log(4, 3 + time / 64, &chunk));
        given += chunk.len();
        most = most.max(given - written.0.lock().unwrap().len().min(given));
    }
    assert!(most < 2 << 20, "{most} bytes of {given} were kept");
    let text = String::from_utf8(written.take()).unwrap();
    let longest = text.lines().map(str::len).max().unwrap();
    assert!(longest < 2 << 20, "a line of {longest} bytes");
    assert!(text.lines().count() > 4, "lines are broken");
}

#[test]
fn plain_warns_on_a_line_of_its_own() {
    let written = Written::default();
    let warning = Message::Warning { key: StepKey::Vertex(VertexId(3)), message: "late".into() };
    let events = vec![
        (0, Message::define(&definition())),
        started(3, 1),
        log(3, 2, "no end"),
        (300, warning),
        log(3, 600, " yet\n"),
    ];
    play(&mut Plain::new(written.clone()), events, |_| {});
    let text = String::from_utf8(written.take()).unwrap();
    assert!(text.contains("\n#1 WARN: late\n") && text.ends_with("no end yet\n"), "{text}");
}

#[test]
fn rawjson_is_a_status_a_line() {
    let written = Written::default();
    play(&mut RawJson::new(written.clone()), script(true), |_| {});
    let text = String::from_utf8(written.take()).unwrap();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 1, "{line}");
    }
    expect("rawjson.txt", &text);
}

#[test]
fn tty_draws_on_any_width() {
    for columns in [20, 60, 80, 200] {
        for (kind, fails) in [("", false), ("-failed", true)] {
            let (written, screen) = (Written::default(), Mutex::new(Screen::new(columns, 24)));
            let mut display =
                Tty::new(written.clone(), move || Some((columns as u16, 24)), &Settings::default());
            let mut shown = String::new();
            let report = play(&mut display, script(fails), |clock| {
                let mut screen = screen.lock().unwrap();
                screen.write(&written.take());
                assert!(!screen.wrapped, "a line wrapped at {clock} ms and {columns} columns");
                if matches!(clock, 400 | 2100 | 16_000) {
                    shown += &format!("--- {clock} ms\n{}", screen.text());
                }
            });
            drop(display);
            let mut screen = screen.into_inner().unwrap();
            screen.write(&written.take());
            assert!(screen.cursor_visible && screen.column == 0);
            shown += &format!("--- end\n{}", screen.text());
            if fails && columns == 80 {
                shown += &report.failed[0].to_string();
            }
            expect(&format!("tty-{columns}{kind}.txt"), &shown);
        }
    }
}

#[test]
fn tty_survives_a_low_window() {
    for rows in [1, 2, 3, 5, 8] {
        let (written, mut screen) = (Written::default(), Screen::new(60, rows));
        let mut display = Tty::new(written.clone(), move || Some((60, rows as u16)), &Settings::default());
        let mut scrolled = 0;
        play(&mut display, script(false), |clock| {
            // The last frame is drawn whole and may scroll; the ones before must not leave anything behind.
            if clock <= 18_000 {
                screen.write(&written.take());
                assert!(
                    rows < 3 || screen.history.is_empty(),
                    "{rows} rows at {clock} ms: {:?}",
                    screen.history
                );
            }
            scrolled = screen.history.len();
        });
        screen.write(&written.take());
        let whole = screen
            .history
            .iter()
            .chain(&screen.lines)
            .filter(|line| line.starts_with(&['[', '+', ']']))
            .count();
        assert!(rows < 3 || whole == 1, "{rows} rows, {scrolled} lines scrolled");
    }
}

#[test]
fn tty_cleans_up_after_a_narrowed_window() {
    let written = Written::default();
    let columns = Arc::new(Mutex::new(100usize));
    let asked = Arc::clone(&columns);
    let size = move || Some((*asked.lock().unwrap() as u16, 60));
    let mut display = Tty::new(written.clone(), size, &Settings::default());
    let mut screen = Screen::new(100, 60);
    play(&mut display, script(false), |clock| {
        screen.write(&written.take());
        if clock == 2000 {
            *columns.lock().unwrap() = 40;
            screen.fold(40);
        }
    });
    let headers =
        screen.history.iter().chain(&screen.lines).filter(|line| line.starts_with(&['[', '+', ']'])).count();
    assert_eq!(headers, 1, "{}", screen.text());
}

#[test]
fn no_color_means_none() {
    let variable = |name: &str| (name == "NO_COLOR").then(|| "1".into());
    let written = Written::default();
    let mut display = Tty::new(written.clone(), || Some((80, 24)), &Settings::from_env(variable));
    play(&mut display, script(true), |_| {});
    let text = String::from_utf8(written.take()).unwrap();
    let sequences: Vec<char> =
        text.split("\x1b[").skip(1).filter_map(|rest| rest.chars().find(char::is_ascii_alphabetic)).collect();
    assert!(sequences.iter().all(|end| matches!(end, 'A' | 'J' | 'K' | 'h' | 'l')), "{sequences:?}");
}

/// A file that cannot be written after all steps went well.
#[test]
fn a_build_that_failed_is_not_finished() {
    for gives_up in [false, true] {
        let written = Written::default();
        let progress = Progress::new(Mode::Tty, &Settings::default(), written.clone(), || Some((80, 24)));
        progress.task("[internal] load build definition from Dockerfile").done();
        if gives_up {
            progress.give_up();
        }
        progress.finish();
        let text = String::from_utf8(written.take()).unwrap();
        assert_eq!(text.contains("FINISHED"), !gives_up, "{text}");
    }
}

#[test]
fn settings_come_from_the_environment() {
    let variable = |name: &str| match name {
        "BUILDKIT_TTY_LOG_LINES" => Some("12".into()),
        "TTY_DISPLAY_RATE" => Some("250".into()),
        _ => None,
    };
    let settings = Settings::from_env(variable);
    assert_eq!((settings.log_lines, settings.rate), (12, Duration::from_millis(250)));
    assert_eq!(Settings::from_env(|_| Some("0".into())).log_lines, 6);
    assert_eq!(Settings::from_env(|_| None), Settings::default());
    let dumb = Settings::from_env(|name| (name == "TERM").then(|| "dumb".into()));
    assert!(dumb.is_dumb && !Settings::default().is_dumb);
}

/// The whole of it: threads, tasks, the end.
#[test]
fn a_build_is_shown_and_reported() {
    let written = Written::default();
    let progress = Progress::new(Mode::Plain, &Settings::default(), written.clone(), || None);
    progress.task("[internal] load build definition from Dockerfile").done();
    progress.define(&definition());
    let (vertex, now) = (VertexId(3), SystemTime::now());
    progress.event(Event::Started { vertex, at: now });
    progress.event(Event::Log {
        vertex,
        stream: LogStream::Stderr,
        data: b"oh\x1b[31m no\n".to_vec(),
        at: now,
    });
    progress.event(Event::Finished {
        vertex,
        outcome: Outcome::Failed { message: "exit code: 2".into() },
        at: now,
    });
    let export = progress.task("exporting to image");
    export.part("exporting layers").done();
    export.part("exporting config");
    export.warn("it is large");
    drop(export);
    progress.task("other").failed("no space");
    let report = progress.finish();
    assert_eq!(report.failed.len(), 2);
    assert_eq!(report.failed[0].to_string(), format!("------\n > {}:\n0.000 oh no\n------\n", NAMES[3]));
    let text = String::from_utf8(written.take()).unwrap();
    for line in [
        "#1 DONE 0.0s\n",
        "ERROR: exit code: 2\n",
        "exporting layers done\n",
        "exporting config\n",
        "WARN: it is large\n",
        "CANCELED\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(progress.finish(), Report::default());
}

#[test]
fn nothing_to_do_shows_nothing() {
    assert_eq!(Progress::on_stderr(Mode::Auto, &Settings::default()).finish(), Report::default());
    for mode in [Mode::Plain, Mode::Tty, Mode::RawJson, Mode::Quiet] {
        let written = Written::default();
        Progress::new(mode, &Settings::default(), written.clone(), || None).finish();
        assert_eq!(written.take(), b"");
    }
}

#[test]
fn a_closed_pipe_does_not_matter() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for mode in [Mode::Plain, Mode::Tty, Mode::RawJson, Mode::Quiet] {
        let progress = Progress::new(mode, &Settings::default(), Closed, || None);
        progress.task("a").done();
        progress.task("b").failed("why");
        assert_eq!(progress.finish().failed.len(), 1);
    }
}

/// A terminal: what it understands is what the live view may use.
struct Screen {
    columns: usize,
    rows: usize,
    lines: Vec<Vec<char>>,
    history: Vec<Vec<char>>,
    row: usize,
    column: usize,
    wrapped: bool,
    cursor_visible: bool,
}

impl Screen {
    fn new(columns: usize, rows: usize) -> Screen {
        let (lines, history) = (vec![Vec::new()], Vec::new());
        Screen { columns, rows, lines, history, row: 0, column: 0, wrapped: false, cursor_visible: true }
    }

    fn write(&mut self, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).expect("a write holds whole characters");
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\x1b' => {
                    assert_eq!(characters.next(), Some('['));
                    let mut parameters = String::new();
                    let end = loop {
                        match characters.next().expect("the sequence ends") {
                            end @ '@'..='~' => break end,
                            parameter => parameters.push(parameter),
                        }
                    };
                    self.control(end, &parameters);
                }
                '\r' => self.column = 0,
                '\n' => self.next_line(),
                _ => self.put(character),
            }
        }
    }

    fn control(&mut self, end: char, parameters: &str) {
        match (end, parameters) {
            ('A', up) => self.row = self.row.saturating_sub(up.parse().unwrap()),
            ('K', "") => self.lines[self.row].truncate(self.column),
            ('J', "") => {
                self.lines.truncate(self.row + 1);
                self.lines[self.row].truncate(self.column);
            }
            ('h', "?25") => self.cursor_visible = true,
            ('l', "?25") => self.cursor_visible = false,
            ('m', _) => {}
            other => panic!("unexpected control sequence {other:?}"),
        }
    }

    fn put(&mut self, character: char) {
        assert!(!character.is_control(), "{character:?}");
        let width = unicode_width::UnicodeWidthChar::width(character).unwrap_or(0);
        if self.column + width > self.columns {
            self.wrapped = true;
            self.next_line();
        }
        let line = &mut self.lines[self.row];
        line.resize(line.len().max(self.column + width), ' ');
        if width > 0 {
            line[self.column] = character;
            // The second half of a wide character.
            line[self.column + 1..self.column + width].fill('\0');
        }
        self.column += width;
    }

    fn next_line(&mut self) {
        self.column = 0;
        self.row += 1;
        if self.row == self.lines.len() {
            self.lines.push(Vec::new());
        }
        while self.lines.len() > self.rows {
            self.history.push(self.lines.remove(0));
            self.row -= 1;
        }
    }

    /// Makes the window narrower as terminals do that fold long lines.
    fn fold(&mut self, columns: usize) {
        let fold = |line: &Vec<char>| -> Vec<Vec<char>> {
            if line.is_empty() {
                vec![Vec::new()]
            } else {
                line.chunks(columns).map(<[char]>::to_vec).collect()
            }
        };
        self.columns = columns;
        self.lines = self.lines.iter().flat_map(fold).collect();
        self.row = self.lines.len() - 1;
        while self.lines.len() > self.rows {
            self.history.push(self.lines.remove(0));
            self.row -= 1;
        }
    }

    fn text(&self) -> String {
        let line = |line: &Vec<char>| {
            let text: String = line.iter().filter(|character| **character != '\0').collect();
            format!("{}\n", text.trim_end())
        };
        self.history.iter().chain(&self.lines).map(line).collect::<String>().trim_end().to_owned() + "\n"
    }
}
