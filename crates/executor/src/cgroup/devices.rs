//! Which devices a step may use: Docker's list, and those asked for.

use std::io;
use std::path::Path;

use rustix::fs::FileType;

use crate::HostDevice;
use crate::fault::{Context, Fault};
use crate::sys::Code;

/// What may be done with devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    block: bool,
    /// `None` is every number.
    major: Option<u32>,
    minor: Option<u32>,
    read: bool,
    write: bool,
    make: bool,
}

/// Nodes of every device can be made, but of these alone used: null, zero, full, random, urandom, tty, console, ptmx
/// and pseudo-terminals (runc's `AllowedDevices`).
const USUAL: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// The rules for a step with these devices.
pub(crate) fn rules(devices: &[HostDevice]) -> Result<Vec<Rule>, Fault> {
    let make = |block| Rule { block, major: None, minor: None, read: false, write: false, make: true };
    let mut rules = vec![make(false), make(true)];
    rules.extend(USUAL.iter().map(|&(major, minor)| Rule {
        block: false,
        major: Some(major),
        minor,
        read: true,
        write: true,
        make: true,
    }));
    for device in devices {
        let found = rustix::fs::stat(&device.path)
            .context(|| format!("look at the device {}", device.path.display()))?;
        let has = |letter| device.permissions.contains(letter);
        rules.push(Rule {
            block: FileType::from_raw_mode(found.st_mode) == FileType::BlockDevice,
            major: Some(rustix::fs::major(found.st_rdev)),
            minor: Some(rustix::fs::minor(found.st_rdev)),
            read: has('r'),
            write: has('w'),
            make: has('m'),
        });
    }
    Ok(rules)
}

/// Tells them to a group of version 1.
pub(crate) fn write_rules(group: &Path, rules: &[Rule]) -> io::Result<()> {
    super::write(&group.join("devices.deny"), "a")?;
    rules.iter().try_for_each(|rule| super::write(&group.join("devices.allow"), &rule.text()))
}

impl Rule {
    fn text(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        format!("{} {}:{} {}", self.kind(), number(self.major), number(self.minor), self.letters())
    }

    fn kind(&self) -> char {
        if self.block { 'b' } else { 'c' }
    }

    fn letters(&self) -> String {
        let letters = [(self.read, 'r'), (self.write, 'w'), (self.make, 'm')];
        letters.iter().filter(|(allowed, _)| *allowed).map(|(_, letter)| letter).collect()
    }

    /// In the words of the OCI runtime specification.
    pub(crate) fn in_json(&self) -> serde_json::Value {
        let mut rule = serde_json::json!({"allow": true, "type": self.kind(), "access": self.letters()});
        for (key, number) in [("major", self.major), ("minor", self.minor)] {
            if let Some(number) = number {
                rule[key] = number.into();
            }
        }
        rule
    }

    /// `BPF_DEVCG_ACC_*` of linux/bpf.h.
    fn access(&self) -> u32 {
        u32::from(self.make) | u32::from(self.read) << 1 | u32::from(self.write) << 2
    }
}

/// The rules as a program for version 2 (`BPF_PROG_TYPE_CGROUP_DEVICE`). It gets the kind and the access asked for in
/// one word, then the numbers, and answers 1 when a rule allows all of it.
pub(crate) fn program(rules: &[Rule]) -> Vec<Code> {
    // BPF_DEVCG_DEV_BLOCK and _CHAR.
    const BLOCK: i32 = 1;
    const CHARACTER: i32 = 2;
    let load = |register: u8, offset| Code { code: 0x61, registers: register | 1 << 4, offset, value: 0 };
    let immediate = |code, register, value| Code { code, registers: register, offset: 0, value };
    let mut program = vec![
        load(2, 0),
        Code { code: 0xbc, registers: 3 | 2 << 4, offset: 0, value: 0 },
        immediate(0x54, 2, 0xffff),
        immediate(0x74, 3, 16),
        load(4, 4),
        load(5, 8),
    ];
    for rule in rules {
        let mut tests = vec![(0x55, 2, if rule.block { BLOCK } else { CHARACTER })];
        // Jump if any bit is asked for that is not allowed.
        tests.push((0x45, 3, !rule.access().cast_signed() & 7));
        tests.extend(rule.major.map(|major| (0x55, 4, major.cast_signed())));
        tests.extend(rule.minor.map(|minor| (0x55, 5, minor.cast_signed())));
        let mut left = i16::try_from(tests.len()).unwrap_or(i16::MAX);
        for (code, register, value) in tests {
            left -= 1;
            program.push(Code { code, registers: register, offset: left + 2, value });
        }
        program.extend(answer(1));
    }
    program.extend(answer(0));
    program
}

fn answer(value: i32) -> [Code; 2] {
    [
        Code { code: 0xb7, registers: 0, offset: 0, value },
        Code { code: 0x95, registers: 0, offset: 0, value: 0 },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on a question, as the kernel does.
    fn run(program: &[Code], block: bool, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | if block { 1 } else { 2 }, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let Code { code, registers: pair, offset, value } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            let mut jump =
                |condition: bool| at += if condition { usize::try_from(offset).unwrap() } else { 0 };
            match code {
                0x61 => registers[to] = context[usize::try_from(offset / 4).unwrap()].into(),
                0xbc => registers[to] = registers[from],
                0x54 => registers[to] &= u64::from(value.cast_unsigned()),
                0x74 => registers[to] >>= value,
                0x55 => jump(registers[to] != u64::from(value.cast_unsigned())),
                0x45 => jump(registers[to] & u64::from(value.cast_unsigned()) != 0),
                0xb7 => registers[to] = u64::from(value.cast_unsigned()),
                0x95 => return registers[0] == 1,
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn both_forms_allow_what_docker_allows() {
        let zero = HostDevice { permissions: "r".to_owned(), ..HostDevice::new("/dev/zero") };
        let mut rules = rules(&[zero]).unwrap();
        assert_eq!(rules[0].text(), "c *:* m");
        assert_eq!(rules[1].text(), "b *:* m");
        assert_eq!(rules[2].text(), "c 1:3 rwm");
        assert_eq!(rules[10].text(), "c 136:* rwm");
        assert_eq!(rules[11].text(), "c 1:5 r");
        rules[11].major = Some(77);
        let program = program(&rules);
        let (make, read, write) = (1, 2, 4);
        assert!(run(&program, false, make, 1, 1) && run(&program, true, make, 8, 0), "anything can be made");
        assert!(!run(&program, false, read, 1, 1) && !run(&program, true, read, 8, 0), "not used");
        assert!(run(&program, false, read | write, 1, 3) && run(&program, false, read | write | make, 5, 2));
        assert!(!run(&program, true, read, 1, 3), "a disk of the same number");
        assert!(run(&program, false, read | write, 136, 99) && !run(&program, false, read, 137, 0));
        assert!(run(&program, false, read, 77, 5) && !run(&program, false, read | write, 77, 5));
    }

    /// In a real group, where there is one that root may use.
    #[test]
    fn the_kernel_takes_the_program() {
        let top = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let top = top.into_iter().find(|top| top.join("cgroup.subtree_control").exists());
        let Some(top) = top.filter(|_| rustix::process::geteuid().is_root()) else {
            eprintln!("not run: it takes root and cgroups v2");
            return;
        };
        let group = top.join(format!("executor-unit-test-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let guarded = crate::sys::guard_devices(&group, &program(&rules(&[]).unwrap()));
        let script =
            "echo 0 > $0/cgroup.procs && head -c 1 /dev/zero > /dev/null && echo usual; head -c 1 /dev/kmsg";
        let output = std::process::Command::new("sh").args(["-c", script]).arg(&group).output().unwrap();
        std::fs::remove_dir(&group).unwrap();
        guarded.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "usual\n");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains("Operation not permitted"), "{errors}");
    }
}
