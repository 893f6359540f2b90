//! What `--check` says.

use frontend::{Checks, Options};
use insight::{Listing, Subject, advise};
use parser::Diagnostic;

use crate::invented::plan;

/// All that `--check` says of a text.
pub(crate) fn check(
    text: &str,
    options: &Options,
    context: Option<&Listing>,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let parsed = parser::parse(text);
    let plan = plan(&parsed, options)?;
    let checks = Checks::new(&parsed.dockerfile, options).unwrap_or_default();
    let subject = Subject { source: text, parsed: &parsed, plan: &plan, context, checks: &checks };
    let mut findings = plan.warnings.clone();
    findings.extend(advise(&subject));
    Ok(findings)
}
