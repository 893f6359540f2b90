/// A check that looks at more than one instruction, or at the files of the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// As it is skipped by: `AptGetUpdateAlone`.
    pub name: &'static str,
    /// What it asks for, in one sentence.
    pub description: &'static str,
}

impl Rule {
    /// Where it is explained, in this project's files.
    pub fn url(&self) -> String {
        format!("docs/checks/{}.md", self.name)
    }
}

/// The rule of that name.
pub fn rule(name: &str) -> Option<&'static Rule> {
    rules().iter().find(|rule| rule.name == name)
}

/// All of them.
pub fn rules() -> &'static [Rule] {
    &[
        Rule {
            name: "CopyBeforeExpensiveRun",
            description: "Packages should be installed before files are copied that the installation does not need",
        },
        Rule {
            name: "AptGetUpdateAlone",
            description: "Package lists should be fetched in the step that installs from them",
        },
        Rule {
            name: "CopyOverwritten",
            description: "Files should not be copied that a later instruction overwrites before anything reads them",
        },
        Rule {
            name: "ArgReachesUnrelatedRun",
            description: "Arguments that change with each build should be declared after the steps that do not use them",
        },
        Rule {
            name: "LargeUnusedContextFile",
            description: "Large files that no instruction uses should be excluded by .dockerignore",
        },
    ]
}
