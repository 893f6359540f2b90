//! Serves the base images from Debian's docker-registry.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::packages;
use crate::shell::{self, Result};

/// Pushes the layouts in `bases` to a new registry on 127.0.0.1 and stays until it ends (Ctrl-C reaches it, too).
pub(crate) fn serve(bases: &Path, port: u16) -> Result {
    let mut registry = Registry::start(&shell::target().join("registry"), port)?;
    for name in ["busybox", "debian"] {
        registry.push(&bases.join(name), name)?;
        println!("docker-image://127.0.0.1:{port}/{name}:latest");
    }
    println!("serving until Ctrl-C");
    registry.child.wait()?;
    Ok(())
}

/// A running docker-registry, ended when dropped.
pub(crate) struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    /// Starts an empty registry whose state lies in `dir`, which is emptied first.
    ///
    /// # Errors
    /// When the port is taken, or the registry does not answer within ten seconds.
    pub(crate) fn start(dir: &Path, port: u16) -> Result<Self> {
        packages::ensure(packages::REGISTRY)?;
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Err(format!("port {port} of 127.0.0.1 is in use").into());
        }
        shell::remove(dir)?;
        fs::create_dir_all(dir)?;
        let config = dir.join("config.yml");
        let data = dir.join("data");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: \
                 {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\", secret: local}}\n",
                data.display()
            ),
        )?;
        let log = fs::File::create(dir.join("log"))?;
        let child = shell::command("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let registry = Self { child, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(
                    format!("docker-registry does not answer; see {}", dir.join("log").display()).into()
                );
            }
            sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// Copies the image `latest` of an OCI layout into the registry as `name:latest`.
    pub(crate) fn push(&self, layout: &Path, name: &str) -> Result {
        self.push_from(&format!("oci:{}:latest", layout.display()), name)
    }

    /// Copies an image that skopeo knows by this name likewise.
    pub(crate) fn push_from(&self, image: &str, name: &str) -> Result {
        shell::output(
            shell::command("skopeo")
                .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", image])
                .arg(format!("docker://127.0.0.1:{}/{name}:latest", self.port)),
        )?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
