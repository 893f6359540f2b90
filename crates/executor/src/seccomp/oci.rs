//! The profile in the words of the OCI runtime specification, for whoever has a runtime apply it.

use serde_json::{Value, json};

use super::profile::{Arch, Document, Entry, PROFILE, kernel_version};

/// `linux.seccomp` of `config.json` for this machine. `Err` names what this machine lacks.
pub(crate) fn profile() -> Result<Value, String> {
    let native = Arch::native()
        .ok_or_else(|| format!("no seccomp profile for the architecture {}", std::env::consts::ARCH))?;
    let document: Document = serde_json::from_str(PROFILE).map_err(|error| error.to_string())?;
    let kernel = kernel_version();
    let chosen = document.syscalls.iter().filter(|entry| entry.is_chosen(native, kernel));
    let architectures: Vec<&str> =
        std::iter::once(&native).chain(native.others()).map(|arch| name(*arch)).collect();
    Ok(json!({
        "defaultAction": document.default_action,
        "defaultErrnoRet": document.default_errno_ret,
        "architectures": architectures,
        "syscalls": chosen.map(rule).collect::<Vec<_>>(),
    }))
}

fn rule(entry: &Entry) -> Value {
    let mut rule = json!({"names": entry.names, "action": entry.action});
    if let Some(errno) = entry.errno_ret {
        rule["errnoRet"] = errno.into();
    }
    if !entry.args.is_empty() {
        let args = entry.args.iter().map(
            |arg| json!({"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op}),
        );
        rule["args"] = args.collect();
    }
    rule
}

/// libseccomp's name.
fn name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "SCMP_ARCH_X86_64",
        Arch::X86 => "SCMP_ARCH_X86",
        Arch::X32 => "SCMP_ARCH_X32",
        Arch::Aarch64 => "SCMP_ARCH_AARCH64",
        Arch::Arm => "SCMP_ARCH_ARM",
        Arch::Riscv64 => "SCMP_ARCH_RISCV64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_rules_of_this_machine() {
        let profile = profile().unwrap();
        let rules = profile["syscalls"].as_array().unwrap();
        let of = |call: &str| -> Vec<&Value> {
            let has = |rule: &&Value| rule["names"].as_array().unwrap().iter().any(|name| name == call);
            rules.iter().filter(has).collect()
        };
        assert!(of("mount").is_empty() && of("keyctl").is_empty());
        assert_eq!(of("clone3")[0]["errnoRet"], 38);
        assert_eq!(of("clone")[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    }
}
