//! AppArmor and SELinux, which can confine processes beyond what a sandbox does.

use std::path::Path;

/// Which of them are active on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SecurityModules {
    apparmor: bool,
    /// Whether it refuses what its policy does not allow, or only notes it.
    selinux: Option<bool>,
}

impl SecurityModules {
    /// Looks below `root`, the machine's own root but for tests.
    pub(crate) fn find(root: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
        Self {
            // Documentation/admin-guide/LSM/apparmor.rst
            apparmor: read("sys/module/apparmor/parameters/enabled")
                .is_some_and(|text| text.starts_with('Y')),
            selinux: read("sys/fs/selinux/enforce").map(|text| text.starts_with('1')),
        }
    }

    /// For people: `Err` where Docker would do more than is done here.
    pub(crate) fn describe(self) -> Result<String, String> {
        let mut lacking = Vec::new();
        if self.apparmor {
            lacking.push(
                "AppArmor is active; Docker's profile docker-default is not applied to steps".to_owned(),
            );
        }
        if let Some(enforcing) = self.selinux {
            let mode = if enforcing { "enforcing" } else { "permissive" };
            lacking.push(format!(
                "SELinux is {mode}; steps keep the builder's label, not container_t as with Docker's --selinux-enabled"
            ));
        }
        if lacking.is_empty() {
            return Ok("neither AppArmor nor SELinux is active, so Docker would add nothing".to_owned());
        }
        Err(format!("{}; capabilities, seccomp and namespaces are as Docker has them", lacking.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_active_is_told() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let describe = || SecurityModules::find(root.path()).describe();
        assert!(describe().unwrap().contains("neither"));
        put("sys/module/apparmor/parameters/enabled", "N\n");
        assert!(describe().is_ok());
        put("sys/module/apparmor/parameters/enabled", "Y\n");
        let told = describe().unwrap_err();
        assert!(told.contains("docker-default is not applied") && !told.contains("SELinux"), "{told}");
        put("sys/fs/selinux/enforce", "1");
        let told = describe().unwrap_err();
        assert!(told.contains("AppArmor") && told.contains("SELinux is enforcing"), "{told}");
        put("sys/module/apparmor/parameters/enabled", "N\n");
        put("sys/fs/selinux/enforce", "0");
        let told = describe().unwrap_err();
        assert!(told.contains("SELinux is permissive") && !told.contains("AppArmor"), "{told}");
    }
}
