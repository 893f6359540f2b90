//! Turns rules into a classic BPF program (seccomp(2), "Filters").
//!
//! Each ABI gets a section of its own. In it, calls with conditions come first, one block each; then the other allowed
//! numbers as ascending ranges, searched by halving: profiles allow long runs of numbers.

use super::profile::{Action, ArchRules, Rule, Rules, Test};
use crate::sys::Instruction;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

// Codes of linux/bpf_common.h: load a word, and with a constant, jump, return.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// Return values of linux/seccomp.h.
const KILL_PROCESS: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

const ENOSYS: u16 = 38;
/// The bit that marks x32 calls.
const X32_BIT: u32 = 0x4000_0000;
/// The kernel's limit.
const MAXIMUM: usize = 4096;

fn instruction(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

/// A conditional jump over `jump_true` or `jump_false` instructions.
fn branch(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, value }
}

fn give(action: Action) -> Instruction {
    let value = match action {
        Action::Allow => ALLOW,
        Action::Errno(errno) => ERRNO | u32::from(errno),
    };
    instruction(RETURN, value)
}

/// Compiles the program. A call through an ABI that the rules do not name kills the process, as with libseccomp.
pub(crate) fn compile(rules: &Rules) -> Result<Vec<Instruction>, String> {
    let mut program = Vec::new();
    for arch in &rules.arches {
        let section = section(arch, &rules.arches, rules.default)?;
        let length = u32::try_from(section.len()).map_err(|error| error.to_string())?;
        program.push(instruction(LOAD, ARCH));
        program.push(branch(JUMP_EQUAL, arch.arch.audit(), 1, 0));
        program.push(instruction(JUMP, length));
        program.extend(section);
    }
    program.push(instruction(RETURN, KILL_PROCESS));
    if program.len() > MAXIMUM {
        return Err("the seccomp profile is too long for the kernel".to_owned());
    }
    Ok(program)
}

/// What follows once the ABI is known. Where x32 shares the audit number, its calls jump past the end.
fn section(arch: &ArchRules, all: &[ArchRules], default: Action) -> Result<Vec<Instruction>, String> {
    let mut body = Vec::new();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for (&number, rules) in &arch.calls {
        match rules.as_slice() {
            [Rule { action: Action::Allow, args }] if args.is_empty() => match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            },
            conditional => body.extend(block(number, conditional, arch.arch.wide(), default)?),
        }
    }
    // What holds from a number on, up to the next one's.
    let mut steps = vec![(0, default)];
    for (first, last) in ranges {
        if first == 0 {
            steps.clear();
        }
        steps.extend([(first, Action::Allow), (last + 1, default)]);
    }
    body.extend(search(&steps)?);

    let mut section = vec![instruction(LOAD, NUMBER)];
    let twin = |other: &ArchRules| other.arch != arch.arch && other.arch.audit() == arch.arch.audit();
    if all.iter().any(twin) {
        let own = arch.newest & X32_BIT == 0;
        section.push(branch(JUMP_GREATER_EQUAL, X32_BIT, u8::from(own), u8::from(!own)));
        section.push(instruction(JUMP, 1));
        let length = u32::try_from(body.len() + 2).map_err(|error| error.to_string())?;
        section.push(instruction(JUMP, length));
    }
    section.push(branch(JUMP_GREATER, newest(arch), 0, 1));
    section.push(give(Action::Errno(ENOSYS)));
    section.extend(body);
    Ok(section)
}

/// Halves until one step is left. The kernel runs the program for every number when it is installed, so that short ways count.
fn search(steps: &[(u32, Action)]) -> Result<Vec<Instruction>, String> {
    let (lower, upper) = steps.split_at(steps.len() / 2);
    let [(first, action), ..] = *upper else { return Err("a seccomp profile without a rule".to_owned()) };
    if lower.is_empty() {
        return Ok(vec![give(action)]);
    }
    let (lower, upper) = (search(lower)?, search(upper)?);
    let mut code = match u8::try_from(lower.len()) {
        Ok(length) => vec![branch(JUMP_GREATER_EQUAL, first, length, 0)],
        Err(_) => {
            let length = u32::try_from(lower.len()).map_err(|error| error.to_string())?;
            vec![branch(JUMP_GREATER_EQUAL, first, 0, 1), instruction(JUMP, length)]
        }
    };
    code.extend(lower);
    code.extend(upper);
    Ok(code)
}

/// The highest number for which the rules are asked at all.
fn newest(arch: &ArchRules) -> u32 {
    arch.calls.keys().copied().max().unwrap_or(0).max(arch.newest)
}

/// The rules of one call. Falls through with the number still loaded when it is another call.
fn block(number: u32, rules: &[Rule], wide: bool, default: Action) -> Result<Vec<Instruction>, String> {
    let mut block = Vec::new();
    for rule in rules {
        let mut tests = Vec::new();
        // Built from the back: a test that fails jumps over everything that follows it in this rule.
        let mut tail = vec![give(rule.action)];
        for &(index, test) in rule.args.iter().rev() {
            tests.clear();
            tests.extend(compare(index, test, wide, tail.len())?);
            tests.append(&mut tail);
            tail = std::mem::take(&mut tests);
        }
        block.extend(tail);
    }
    block.push(give(default));
    let length = u8::try_from(block.len()).map_err(|_| "a call has too many seccomp rules".to_owned())?;
    block.insert(0, branch(JUMP_EQUAL, number, 0, length));
    Ok(block)
}

/// Continues after the test when it holds, else jumps over `rest` more instructions.
fn compare(index: u8, test: Test, wide: bool, rest: usize) -> Result<Vec<Instruction>, String> {
    // Little-endian: the lower half comes first. All ABIs of `Arch` are.
    let low = instruction(LOAD, ARGS + 8 * u32::from(index));
    let high = instruction(LOAD, ARGS + 8 * u32::from(index) + 4);
    let rest = u8::try_from(rest)
        .ok()
        .filter(|rest| *rest < u8::MAX - 3)
        .ok_or_else(|| "a seccomp rule has too many arguments".to_owned())?;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    Ok(match test {
        Test::Equal(value) => {
            let (upper, lower) = halves(value);
            let last = branch(JUMP_EQUAL, lower, 0, rest);
            if wide { vec![high, branch(JUMP_EQUAL, upper, 0, rest + 2), low, last] } else { vec![low, last] }
        }
        Test::Masked(mask, value) => {
            let ((mask_upper, mask_lower), (upper, lower)) = (halves(mask), halves(value));
            let mut code = Vec::new();
            if wide {
                code.extend([high, instruction(AND, mask_upper), branch(JUMP_EQUAL, upper, 0, rest + 3)]);
            }
            code.extend([low, instruction(AND, mask_lower), branch(JUMP_EQUAL, lower, 0, rest)]);
            code
        }
        Test::Less(value) => {
            let (upper, lower) = halves(value);
            let last = branch(JUMP_GREATER_EQUAL, lower, rest, 0);
            if wide {
                vec![
                    high,
                    branch(JUMP_GREATER, upper, rest + 3, 0),
                    // Equal upper halves: the lower ones decide; smaller: it holds.
                    branch(JUMP_EQUAL, upper, 0, 2),
                    low,
                    last,
                ]
            } else {
                vec![low, last]
            }
        }
        Test::Greater(value) => {
            let (upper, lower) = halves(value);
            let last = branch(JUMP_GREATER, lower, 0, rest);
            if wide {
                vec![
                    high,
                    branch(JUMP_GREATER, upper, 3, 0),
                    branch(JUMP_EQUAL, upper, 0, rest + 2),
                    low,
                    last,
                ]
            } else {
                vec![low, last]
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::profile::{Arch, resolve};
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const X86: u32 = 0x4000_0003;
    const EPERM: u32 = ERRNO | 1;

    /// Runs a program on a call, as the kernel does.
    fn run(program: &[Instruction], arch: u32, number: u32, args: &[u64]) -> u32 {
        let mut data = vec![number, arch, 0, 0];
        for index in 0..6 {
            let arg = args.get(index).copied().unwrap_or(0);
            data.extend([arg as u32, (arg >> 32) as u32]);
        }
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, value } = program[at];
            at += 1;
            let decide = |condition: bool| usize::from(if condition { jump_true } else { jump_false });
            match code {
                LOAD => accumulator = data[value as usize / 4],
                AND => accumulator &= value,
                JUMP => at += value as usize,
                JUMP_EQUAL => at += decide(accumulator == value),
                JUMP_GREATER => at += decide(accumulator > value),
                JUMP_GREATER_EQUAL => at += decide(accumulator >= value),
                RETURN => return value,
                other => panic!("code {other:#x}"),
            }
        }
    }

    /// The rules, read naively.
    fn expected(rules: &Rules, arch: &ArchRules, number: u32, args: &[u64]) -> u32 {
        let narrow = |value: u64| if arch.arch.wide() { value } else { value & 0xffff_ffff };
        let holds = |&(index, test): &(u8, Test)| {
            let arg = narrow(args.get(usize::from(index)).copied().unwrap_or(0));
            match test {
                Test::Equal(value) => arg == value,
                Test::Less(value) => arg < value,
                Test::Greater(value) => arg > value,
                Test::Masked(mask, value) => arg & narrow(mask) == value,
            }
        };
        let of = |number: u32| arch.calls.get(&number).into_iter().flatten();
        let found = of(number).find(|rule| rule.args.iter().all(holds)).map(|rule| rule.action);
        let fallback = if number > newest(arch) { Action::Errno(ENOSYS) } else { rules.default };
        give(found.unwrap_or(fallback)).value
    }

    #[test]
    fn agrees_with_the_rules_for_every_number() {
        let samples: &[&[u64]] = &[
            &[],
            &[1, 0],
            &[8],
            &[37],
            &[38],
            &[39],
            &[40],
            &[41],
            &[0x2_0000],
            &[0x2_0008],
            &[0xffff_ffff],
            &[0xffff_ffff_ffff_ffff],
            &[1 << 32],
            &[(1 << 32) + 8],
            &[0x1000_0000],
            &[0x0002_0000],
            &[0x8000_0000],
            &[0x01_2000_0000],
        ];
        for native in [Arch::X86_64, Arch::Aarch64, Arch::Riscv64] {
            let rules = resolve(native, (6, 18)).unwrap();
            let program = compile(&rules).unwrap();
            for arch in &rules.arches {
                let base = arch.newest & X32_BIT;
                for number in (base..base + 700).chain(0xf_0000..0xf_0010).chain([0x3fff_ffff]) {
                    if arch.arch == Arch::X32 && number & X32_BIT == 0 {
                        continue;
                    }
                    for args in samples {
                        let (got, want) = (
                            run(&program, arch.arch.audit(), number, args),
                            expected(&rules, arch, number, args),
                        );
                        assert_eq!(got, want, "{:?} {number:#x} {args:x?}", arch.arch);
                    }
                }
            }
            assert_eq!(run(&program, 0x1234, 0, &[]), KILL_PROCESS);
        }
    }

    #[test]
    fn decides_as_docker_does() {
        let program = compile(&resolve(Arch::X86_64, (6, 18)).unwrap()).unwrap();
        let x86_64 = |number, args: &[u64]| run(&program, X86_64, number, args);
        assert_eq!(x86_64(0, &[]), ALLOW, "read");
        assert_eq!(x86_64(435, &[]), ERRNO | 38, "clone3");
        assert_eq!(x86_64(272, &[0x1000_0000]), EPERM, "unshare");
        assert_eq!(x86_64(56, &[0x1000_0000]), EPERM, "clone with a new user namespace");
        assert_eq!(x86_64(56, &[0x3d_0f00]), ALLOW, "clone of a thread");
        assert_eq!(x86_64(41, &[2]), ALLOW, "socket AF_INET");
        assert_eq!(x86_64(41, &[38]), EPERM, "socket AF_ALG");
        assert_eq!(x86_64(41, &[40]), EPERM, "socket AF_VSOCK");
        assert_eq!(x86_64(135, &[0x4_0000]), EPERM, "personality ADDR_NO_RANDOMIZE");
        assert_eq!(x86_64(135, &[0xffff_ffff]), ALLOW, "personality query");
        assert_eq!(x86_64(1000, &[]), ERRNO | 38, "a call of the future");
        assert_eq!(x86_64(X32_BIT, &[]), ALLOW, "read of x32");
        assert_eq!(x86_64(X32_BIT + 272, &[]), EPERM, "unshare of x32");
        assert_eq!(run(&program, X86, 3, &[]), ALLOW, "read of i386");
        assert_eq!(run(&program, X86, 310, &[]), EPERM, "unshare of i386");
    }
}
