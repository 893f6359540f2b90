//! One function a rule: the finding in BuildKit's words, where BuildKit has the rule.

use parser::{Diagnostic, Span};

use crate::go::quote;

fn rule(name: &'static str, span: Span, message: String) -> Diagnostic {
    Diagnostic::warning(span, message).with_rule(name)
}

fn hint(sign: &str, suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!(" (did you mean {sign}{name}?)")).unwrap_or_default()
}

/// `whole` is what an empty path stands for, and `unset` has the variables without a value that made it empty.
pub(crate) fn empty_copy_source(span: Span, unset: &[String], whole: &str) -> Diagnostic {
    let why = match unset {
        [] => String::new(),
        [name] => format!(": `{name}` has no value"),
        names => format!(": `{}` have no values", names.join("` and `")),
    };
    rule("EmptyCopySource", span, format!("The source is empty{why}, so {whole} is copied"))
}

pub(crate) fn stage_name_casing(span: Span, name: &str) -> Diagnostic {
    rule("StageNameCasing", span, format!("Stage name '{name}' should be lowercase"))
}

pub(crate) fn from_as_casing(span: Span, from: &str, alias: &str) -> Diagnostic {
    rule("FromAsCasing", span, format!("'{alias}' and '{from}' keywords' casing do not match"))
}

pub(crate) fn consistent_instruction_casing(span: Span, keyword: &str, casing: &str) -> Diagnostic {
    let message = format!("Command '{keyword}' should match the case of the command majority ({casing})");
    rule("ConsistentInstructionCasing", span, message)
}

pub(crate) fn duplicate_stage_name(span: Span, name: &str) -> Diagnostic {
    let message = format!("Duplicate stage name {}, stage names should be unique", quote(name));
    rule("DuplicateStageName", span, message)
}

pub(crate) fn reserved_stage_name(span: Span, name: &str) -> Diagnostic {
    let message = format!("Stage name should not use the same name as reserved stage {}", quote(name));
    rule("ReservedStageName", span, message)
}

pub(crate) fn json_args_recommended(span: Span, keyword: &str) -> Diagnostic {
    let message = format!(
        "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
    );
    rule("JSONArgsRecommended", span, message)
}

pub(crate) fn maintainer_deprecated(span: Span) -> Diagnostic {
    rule(
        "MaintainerDeprecated",
        span,
        "Maintainer instruction is deprecated in favor of using label".to_owned(),
    )
}

pub(crate) fn undefined_arg_in_from(span: Span, name: &str, suggestion: Option<&str>) -> Diagnostic {
    let message = format!("FROM argument '{name}' is not declared{}", hint("", suggestion));
    rule("UndefinedArgInFrom", span, message)
}

pub(crate) fn workdir_relative_path(span: Span, path: &str) -> Diagnostic {
    let message =
        format!("Relative workdir {} can have unexpected results if the base image changes", quote(path));
    rule("WorkdirRelativePath", span, message)
}

pub(crate) fn undefined_var(span: Span, name: &str, suggestion: Option<&str>) -> Diagnostic {
    rule("UndefinedVar", span, format!("Usage of undefined variable '${name}'{}", hint("$", suggestion)))
}

pub(crate) fn multiple_instructions_disallowed(span: Span, keyword: &str) -> Diagnostic {
    let message = format!(
        "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
    );
    rule("MultipleInstructionsDisallowed", span, message)
}

pub(crate) fn legacy_key_value_format(span: Span, keyword: &str) -> Diagnostic {
    let message =
        format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
    rule("LegacyKeyValueFormat", span, message)
}

pub(crate) fn invalid_base_image_platform(
    span: Span,
    image: &str,
    expected: &str,
    actual: &str,
) -> Diagnostic {
    let (expected, actual) = (quote(expected), quote(actual));
    let message = format!(
        "Base image {image} was pulled with platform {actual}, expected {expected} for current build"
    );
    rule("InvalidBaseImagePlatform", span, message)
}

pub(crate) fn redundant_target_platform(span: Span, word: &str) -> Diagnostic {
    let message =
        format!("Setting platform to predefined {word} in FROM is redundant as this is the default behavior");
    rule("RedundantTargetPlatform", span, message)
}

pub(crate) fn from_platform_flag_const_disallowed(span: Span, platform: &str) -> Diagnostic {
    let message = format!("FROM --platform flag should not use constant value {}", quote(platform));
    rule("FromPlatformFlagConstDisallowed", span, message)
}

pub(crate) fn invalid_default_arg_in_from(span: Span, base: &str) -> Diagnostic {
    let message = format!("Default value for ARG {base} results in empty or invalid base image name");
    rule("InvalidDefaultArgInFrom", span, message)
}

/// `keyword` is `Copy` or `Add`.
pub(crate) fn copy_ignored_file(span: Span, keyword: &str, path: &str) -> Diagnostic {
    let message = format!("Attempting to {keyword} file {} that is excluded by .dockerignore", quote(path));
    rule("CopyIgnoredFile", span, message)
}

pub(crate) fn invalid_definition_description(span: Span, keyword: &str, name: &str) -> Diagnostic {
    let message = format!("Comment for {keyword} should follow the format: `# {name} <description>`");
    rule("InvalidDefinitionDescription", span, message)
}

pub(crate) fn expose_proto_casing(span: Span, port: &str) -> Diagnostic {
    let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
    rule("ExposeProtoCasing", span, message)
}

pub(crate) fn expose_invalid_format(span: Span, port: &str) -> Diagnostic {
    let message =
        format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'");
    rule("ExposeInvalidFormat", span, message)
}

/// Nothing when `name` does not look like a secret: a word of it is one of a list, and none says otherwise.
pub(crate) fn secrets_used_in_arg_or_env(span: Span, keyword: &str, name: &str) -> Option<Diagnostic> {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let has =
        |words: &[&str]| name.split('_').any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)));
    (has(&SECRET) && !has(&HARMLESS)).then(|| {
        let message =
            format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {})", quote(name));
        rule("SecretsUsedInArgOrEnv", span, message)
    })
}
