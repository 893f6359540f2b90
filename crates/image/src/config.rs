use std::collections::BTreeMap;

use hash::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::descriptor::null_is_empty;

/// An image config (image spec, `config.md`) with Docker's additions. Keys that this program does not know survive a
/// round trip in `extra`; maps are sorted, so that equal configs have equal bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// From MAINTAINER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Go's name.
    #[serde(default)]
    pub architecture: String,
    /// Go's name.
    #[serde(default)]
    pub os: String,
    /// For Windows.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// For Windows.
    #[serde(default, rename = "os.features", skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// `v7`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What a container starts with.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: ContainerConfig,
    /// The layers.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub rootfs: RootFs,
    /// One entry an instruction.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Whatever else was there.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The part of an image config that a container starts with. The keys have Go's capitals.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`, unresolved; empty means root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Keys as `80/tcp`; the values are empty objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    /// `NAME=value` in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// `None` when never set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `None` when never set or reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Keys are paths; the values are empty objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Value>>,
    /// Absolute.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Sorted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// `SIGTERM` or a number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Docker: the shell form of CMD was used (Windows).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Docker's HEALTHCHECK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker's ONBUILD: instructions as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Docker's SHELL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Whatever else was there.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Docker's health check. Times are nanoseconds, 0 means inherit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures until unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// The layers of an image config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// sha256 of the uncompressed layers, bottom first. Some writers say `null` for none.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// How a layer, or a change of the config alone, came to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// From MAINTAINER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// `buildkit.dockerfile.v0` in BuildKit's images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Docker writes, with keys of its own and some that nobody knows.
    const DOCKER: &str = r#"{"architecture":"amd64","config":{"Hostname":"","Domainname":"","User":"app",
        "AttachStdin":false,"ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin","A=b=c"],"Cmd":null,
        "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":30000000000,"StartInterval":5000000000,"Retries":3},
        "ArgsEscaped":true,"Image":"sha256:0","Volumes":{"/data":{}},"WorkingDir":"/w","Entrypoint":["/e"],
        "OnBuild":["RUN a"],"Labels":{"b":"2","a":"1"},"StopSignal":"SIGINT","Shell":["/bin/ash","-c"],
        "StopTimeout":7},"container":"abc","created":"2020-01-01T00:00:00Z","docker_version":"20.10.1",
        "history":[{"created":"2020-01-01T00:00:00Z","created_by":"x"},{"created_by":"y","empty_layer":true}],
        "os":"linux","os.version":"1","os.features":["f"],"variant":"v2",
        "rootfs":{"type":"layers","diff_ids":null},"x":{"deep":[1,2.5,{"z":1,"a":2}]}}"#;

    #[test]
    fn unknown_keys_survive_and_the_bytes_are_stable() {
        let config: ImageConfig = serde_json::from_str(DOCKER).unwrap();
        assert_eq!(config.config.healthcheck.as_ref().unwrap().start_interval, 5_000_000_000);
        assert_eq!(config.config.on_build.as_deref(), Some(&["RUN a".to_owned()][..]));
        assert_eq!(config.config.cmd, None);
        assert!(config.config.args_escaped);
        let bytes = serde_json::to_vec(&config).unwrap();
        let again: ImageConfig = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(again, config);
        assert_eq!(serde_json::to_vec(&again).unwrap(), bytes);
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let original: Value = serde_json::from_str(DOCKER).unwrap();
        for key in ["container", "docker_version", "x", "os.version", "os.features", "variant", "history"] {
            assert_eq!(value[key], original[key], "{key}");
        }
        for key in ["Hostname", "StopTimeout", "Image", "Healthcheck", "Shell", "Labels", "Volumes"] {
            assert_eq!(value["config"][key], original["config"][key], "{key}");
        }
        // An empty list is written as such: consumers index it.
        assert_eq!(value["rootfs"]["diff_ids"], serde_json::json!([]));
    }

    #[test]
    fn the_text_of_a_config_is_fixed() {
        let mut config =
            ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
        config.config.labels = Some([("b".into(), "2".into()), ("a".into(), "1".into())].into());
        config.config.env = Some(vec!["PATH=/bin".into()]);
        config.config.entrypoint = Some(vec![]);
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Entrypoint":[],"Labels":{"a":"1","b":"2"}},"rootfs":{"type":"layers","diff_ids":[]}}"#
        );
    }

    #[test]
    fn nulls_of_go_are_read() {
        let text = r#"{"architecture":"a","os":"b","config":null,"rootfs":null,"history":null}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.rootfs, RootFs::default());
    }

    #[test]
    fn numbers_that_do_not_fit_64_bits_stay_what_they_are() {
        // Read as the nearest number of 64 bits, and written with as few digits as mean that one.
        let text = r#"{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[]},"own":118446744073709551111}"#;
        let read: ImageConfig = serde_json::from_str(text).unwrap();
        let written = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<ImageConfig>(&written).unwrap(), read);
        assert_eq!(read.extra["own"].as_f64(), Some(118_446_744_073_709_551_111.0));
    }
}
