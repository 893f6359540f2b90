//! The profile as data: which rules of `default.json` hold on this machine, with names turned into numbers.
//!
//! The format is that of Moby's `seccomp` package: a rule holds when all of its `includes` hold (each list by any or
//! all of its members, as [`Condition`] says) and none of its `excludes`.

use std::collections::BTreeMap;

use serde::Deserialize;

pub(super) const PROFILE: &str = include_str!("default.json");
const SYSCALLS: &str = include_str!("syscalls.tsv");

/// Docker's default capabilities: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
pub(crate) const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

/// Names, in Moby's spelling, of the capabilities above; rules are conditional on some of them.
pub(crate) const DEFAULT_CAPABILITY_NAMES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// A system call ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
}

impl Arch {
    /// The ABI of this binary.
    pub(crate) fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            "riscv64" => Some(Self::Riscv64),
            _ => None,
        }
    }

    /// The other ABIs that a kernel of this one runs (`archMap` of the profile).
    pub(super) fn others(self) -> &'static [Self] {
        match self {
            Self::X86_64 => &[Self::X86, Self::X32],
            Self::Aarch64 => &[Self::Arm],
            _ => &[],
        }
    }

    /// Column in `syscalls.tsv`, the name first.
    fn column(self) -> usize {
        match self {
            Self::X86_64 => 1,
            Self::X86 => 2,
            Self::X32 => 3,
            Self::Aarch64 => 4,
            Self::Arm => 5,
            Self::Riscv64 => 6,
        }
    }

    /// Moby's (Go's) name, used in `arches` conditions, which are about the native ABI.
    fn go_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "x86",
            Self::X32 => "x32",
            Self::Aarch64 => "arm64",
            Self::Arm => "arm",
            Self::Riscv64 => "riscv64",
        }
    }

    /// `AUDIT_ARCH_*` of linux/audit.h. x32 shares that of x86-64.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// Whether arguments have 64 bits. The upper halves of 32-bit arguments mean nothing.
    pub(crate) fn wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64 | Self::Riscv64)
    }
}

/// What to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Errno(u16),
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Equal(u64),
    Less(u64),
    Greater(u64),
    /// Mask, then value.
    Masked(u64, u64),
}

/// A rule for one call: when every argument passes its test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) action: Action,
    pub(crate) args: Vec<(u8, Test)>,
}

/// All rules for one ABI.
#[derive(Clone, Debug)]
pub(crate) struct ArchRules {
    pub(crate) arch: Arch,
    /// By number. The first rule that matches counts; none: [`Rules::default`].
    pub(crate) calls: BTreeMap<u32, Vec<Rule>>,
    /// The highest number that the profile knows. Above it ENOSYS is given, so that libraries fall back when they
    /// try a call that is newer than the profile (runc does the same).
    pub(crate) newest: u32,
}

/// The profile for one machine.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) default: Action,
    pub(crate) arches: Vec<ArchRules>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) default_action: String,
    pub(super) default_errno_ret: u16,
    pub(super) syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) names: Vec<String>,
    pub(super) action: String,
    pub(super) errno_ret: Option<u16>,
    #[serde(default)]
    pub(super) args: Vec<Argument>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u8,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: String,
}

impl Entry {
    /// Whether it holds on a machine.
    pub(super) fn is_chosen(&self, native: Arch, kernel: (u32, u32)) -> bool {
        self.includes.holds(native, kernel) && !self.excludes.forbids(native, kernel)
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

impl Condition {
    /// As `includes`: one of the architectures, all of the capabilities, the kernel.
    fn holds(&self, native: Arch, kernel: (u32, u32)) -> bool {
        (self.arches.is_empty() || self.arches.iter().any(|arch| arch == native.go_name()))
            && self.caps.iter().all(|cap| DEFAULT_CAPABILITY_NAMES.contains(&cap.as_str()))
            && self.min_kernel.as_deref().is_none_or(|least| kernel >= parse_version(least))
    }

    /// As `excludes`: any of them.
    fn forbids(&self, native: Arch, kernel: (u32, u32)) -> bool {
        self.arches.iter().any(|arch| arch == native.go_name())
            || self.caps.iter().any(|cap| DEFAULT_CAPABILITY_NAMES.contains(&cap.as_str()))
            || self.min_kernel.as_deref().is_some_and(|least| kernel >= parse_version(least))
    }
}

/// Major and minor number of the running kernel.
pub(crate) fn kernel_version() -> (u32, u32) {
    parse_version(&rustix::system::uname().release().to_string_lossy())
}

fn parse_version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The rules that hold for a machine of this architecture and kernel.
pub(crate) fn resolve(native: Arch, kernel: (u32, u32)) -> Result<Rules, String> {
    let document: Document = serde_json::from_str(PROFILE).map_err(|error| error.to_string())?;
    let entries: Vec<&Entry> =
        document.syscalls.iter().filter(|entry| entry.is_chosen(native, kernel)).collect();
    let mut arches = Vec::new();
    for &arch in [native].iter().chain(native.others()) {
        arches.push(resolve_arch(arch, &entries)?);
    }
    Ok(Rules { default: action(&document.default_action, Some(document.default_errno_ret))?, arches })
}

fn resolve_arch(arch: Arch, entries: &[&Entry]) -> Result<ArchRules, String> {
    let numbers = numbers(arch);
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for entry in entries {
        let action = action(&entry.action, entry.errno_ret)?;
        let args = entry.args.iter().map(argument).collect::<Result<Vec<_>, _>>()?;
        for number in entry.names.iter().filter_map(|name| numbers.get(name.as_str())) {
            let rule = Rule { action, args: args.clone() };
            let rules = calls.entry(*number).or_default();
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    // An unconditional rule makes those with arguments pointless, wherever it stands; libseccomp merges likewise.
    for rules in calls.values_mut() {
        if let Some(whole) = rules.iter().find(|rule| rule.args.is_empty()).cloned() {
            *rules = vec![whole];
        }
    }
    // Those of 32-bit ARM's private range are not newer than anything.
    let newest = numbers.values().copied().filter(|number| *number & 0xf_0000 == 0).max().unwrap_or(0);
    Ok(ArchRules { arch, calls, newest })
}

/// Numbers by name for one ABI.
fn numbers(arch: Arch) -> BTreeMap<&'static str, u32> {
    let rows = SYSCALLS.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.filter_map(|row| {
        let number = row.split('\t').nth(arch.column())?.parse().ok()?;
        Some((row.split('\t').next()?, number))
    })
    .collect()
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    match name {
        "SCMP_ACT_ALLOW" => Ok(Action::Allow),
        "SCMP_ACT_ERRNO" => Ok(Action::Errno(errno.unwrap_or(1))),
        other => Err(format!("the seccomp profile has an unknown action {other}")),
    }
}

fn argument(argument: &Argument) -> Result<(u8, Test), String> {
    let test = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Test::Equal(argument.value),
        "SCMP_CMP_LT" => Test::Less(argument.value),
        "SCMP_CMP_GT" => Test::Greater(argument.value),
        "SCMP_CMP_MASKED_EQ" => Test::Masked(argument.value, argument.value_two),
        other => return Err(format!("the seccomp profile has an unknown comparison {other}")),
    };
    Ok((argument.index, test))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHES: [Arch; 3] = [Arch::X86_64, Arch::Aarch64, Arch::Riscv64];

    #[test]
    fn every_name_has_a_number_somewhere() {
        let document: Document = serde_json::from_str(PROFILE).unwrap();
        let known: Vec<&str> = SYSCALLS.lines().filter_map(|line| line.split('\t').next()).collect();
        let elsewhere = ["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr", "swapcontext"];
        for name in document.syscalls.iter().flat_map(|entry| &entry.names) {
            assert!(known.contains(&name.as_str()) || elsewhere.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn numbers_agree_with_the_c_library() {
        #[cfg(target_arch = "x86_64")]
        let arch = Arch::X86_64;
        #[cfg(target_arch = "aarch64")]
        let arch = Arch::Aarch64;
        #[cfg(target_arch = "riscv64")]
        let arch = Arch::Riscv64;
        let numbers = numbers(arch);
        for (name, number) in [
            ("read", libc::SYS_read),
            ("openat2", libc::SYS_openat2),
            ("clone", libc::SYS_clone),
            ("clone3", libc::SYS_clone3),
            ("socket", libc::SYS_socket),
            ("personality", libc::SYS_personality),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("unshare", libc::SYS_unshare),
        ] {
            assert_eq!(numbers.get(name).copied().map(i64::from), Some(number), "{name}");
        }
        assert!(numbers.values().all(|number| *number < 1000));
    }

    #[test]
    fn names_the_default_capabilities() {
        assert_eq!(DEFAULT_CAPABILITIES.count_ones() as usize, DEFAULT_CAPABILITY_NAMES.len());
    }

    #[test]
    fn conditions_choose_as_docker_does() {
        for native in ARCHES {
            let rules = resolve(native, (6, 1)).unwrap();
            assert_eq!(rules.default, Action::Errno(1));
            for arch in &rules.arches {
                let numbers = numbers(arch.arch);
                let of = |name: &str| numbers.get(name).and_then(|number| arch.calls.get(number));
                assert!(of("mount").is_none(), "needs CAP_SYS_ADMIN");
                assert!(of("unshare").is_none() && of("setns").is_none() && of("keyctl").is_none());
                assert!(of("chroot").is_some(), "CAP_SYS_CHROOT is granted");
                assert!(of("ptrace").is_some(), "since 4.8");
                let allow = |args| Rule { action: Action::Allow, args };
                assert_eq!(of("clone").unwrap(), &[allow(vec![(0, Test::Masked(0x7e02_0000, 0))])]);
                assert_eq!(of("clone3").unwrap(), &[Rule { action: Action::Errno(38), args: vec![] }]);
                assert_eq!(of("personality").unwrap().len(), 5);
            }
        }
        let old = resolve(Arch::X86_64, (4, 7)).unwrap();
        assert!(!old.arches[0].calls.contains_key(&101), "ptrace before 4.8");
    }
}
