//! Docker's default seccomp profile, compiled for the running machine.

mod bpf;
pub(crate) mod oci;
mod profile;

use std::sync::OnceLock;

use crate::sys::Instruction;

/// Linux capabilities that a sandboxed process has, as bits: Docker's default set.
pub(crate) use profile::{DEFAULT_CAPABILITIES, DEFAULT_CAPABILITY_NAMES, kernel_version};

/// How the kernel names the ABI of this binary; `None` for one without a profile.
pub(crate) fn native_audit() -> Option<u32> {
    profile::Arch::native().map(profile::Arch::audit)
}

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) program: Vec<Instruction>,
}

impl Filter {
    /// The filter for this machine, compiled once in a process. `Err` names what this machine lacks.
    pub(crate) fn default_profile() -> Result<&'static Self, String> {
        static FILTER: OnceLock<Result<Filter, String>> = OnceLock::new();
        FILTER
            .get_or_init(|| {
                let native = profile::Arch::native().ok_or_else(|| {
                    format!("no seccomp profile for the architecture {}", std::env::consts::ARCH)
                })?;
                let rules = profile::resolve(native, profile::kernel_version())?;
                Ok(Self { program: bpf::compile(&rules)? })
            })
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The program in the machine's byte order, eight bytes an instruction.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.program.len() * 8);
        for instruction in &self.program {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jump_true, instruction.jump_false]);
            bytes.extend(instruction.value.to_ne_bytes());
        }
        bytes
    }

    /// Reads [`Self::to_bytes`] back.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (instructions, rest) = bytes.as_chunks::<8>();
        let decode = |&[c0, c1, jump_true, jump_false, v0, v1, v2, v3]: &[u8; 8]| Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            jump_true,
            jump_false,
            value: u32::from_ne_bytes([v0, v1, v2, v3]),
        };
        rest.is_empty().then(|| Self { program: instructions.iter().map(decode).collect() })
    }
}
