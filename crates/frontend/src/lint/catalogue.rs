//! The published rules with their descriptions, BuildKit's `frontend/dockerfile/linter/ruleset.go`, and two more about mistakes that
//! BuildKit is silent about.

/// A build check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// As it is skipped by: `StageNameCasing`.
    pub name: &'static str,
    description: &'static str,
    /// Of the page that explains it; the last component of its address. `None` where upstream has no page, or not the rule.
    page: Option<&'static str>,
}

impl Rule {
    /// What it asks for, in one sentence.
    pub fn description(&self) -> &'static str {
        self.description
    }

    /// Where it is explained: the address of upstream's page, or this project's file.
    pub fn url(&self) -> Option<String> {
        if super::OWN.contains(&self.name) {
            return Some(format!("docs/checks/{}.md", self.name));
        }
        self.page.map(|page| format!("https://docs.docker.com/go/dockerfile/rule/{page}/"))
    }
}

/// The rule of that name.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// All of them.
pub fn rules() -> &'static [Rule] {
    &RULES
}

const fn published(name: &'static str, page: &'static str, description: &'static str) -> Rule {
    Rule { name, description, page: Some(page) }
}

const RULES: [Rule; 24] = [
    published("StageNameCasing", "stage-name-casing", "Stage names should be lowercase"),
    published(
        "FromAsCasing",
        "from-as-casing",
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    published(
        "NoEmptyContinuation",
        "no-empty-continuation",
        "Empty continuation lines will become errors in a future release",
    ),
    published(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    published("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique"),
    published("ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names"),
    published(
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    published(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    published("UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs"),
    published(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base \
         image changes",
    ),
    published("UndefinedVar", "undefined-var", "Variables should be defined before their use"),
    published(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    published(
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    Rule {
        name: "InvalidBaseImagePlatform",
        description: "Base image platform does not match expected target platform",
        page: None,
    },
    published(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    published(
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    published(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    published(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value",
    ),
    published(
        "CopyIgnoredFile",
        "copy-ignored-file",
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    published(
        "InvalidDefinitionDescription",
        "invalid-definition-description",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not \
         intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ),
    published(
        "ExposeProtoCasing",
        "expose-proto-casing",
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    published(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future \
         release",
    ),
    Rule {
        name: "EmptyCopySource",
        description: "The sources of COPY and ADD should not be empty, which means everything",
        page: None,
    },
    Rule {
        name: "MalformedJSONArgs",
        description: "Arguments in brackets should be a JSON array of strings",
        page: None,
    },
];
