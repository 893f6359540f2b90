use transport::{Again, Backoff};

use super::process::{Failure, Git, Session, Trouble};
use super::remote::{Remote, check_reference, checksum, is_object_id};
use super::{Access, Checkout, Resolved};
use crate::client::Client;
use crate::error::Error;

impl Client {
    /// Finds out which commit is meant. A full commit id needs no network.
    pub async fn resolve(&self, checkout: &Checkout, access: &Access<'_>) -> Result<Resolved, Error> {
        let remote = Remote::new(&checkout.remote, &self.config.git, access.secrets)?;
        let resolved = match pinned(checkout)?.or_else(|| self.meanings.commit(checkout)) {
            Some(resolved) => resolved,
            None => {
                let mut session = Session::new(&self.config, access, remote.clone())?;
                let reference = checkout.reference.as_deref();
                let asked = match ask(&session, reference).await {
                    Err(Trouble::Git(failure)) if session.may_follow(&failure) => {
                        session.follow(&self.transport).await?;
                        ask(&session, reference).await
                    }
                    other => other,
                };
                asked.map_err(|trouble| session.error(trouble))?
            }
        };
        verify(checkout, &remote.url, &resolved)?;
        self.meanings.note_commit(checkout, &resolved);
        Ok(resolved)
    }
}

/// What needs not be asked for.
fn pinned(checkout: &Checkout) -> Result<Option<Resolved>, Error> {
    let reference = checkout.reference.as_deref();
    reference.map(check_reference).transpose()?;
    let pinned = |reference: &str, object: &str| {
        Some(Resolved { reference: reference.to_owned(), object: object.to_owned(), peeled: None })
    };
    if let Some(id) = reference.filter(|reference| is_object_id(reference)) {
        return Ok(pinned(id, id));
    }
    if !checkout.fetch_by_commit {
        return Ok(None);
    }
    let id = checkout.checksum.as_deref().map(checksum).transpose()?.filter(|id| is_object_id(id));
    let id = id.ok_or_else(|| {
        let needs = "fetching by commit needs a full commit id, as the reference or as the checksum";
        Error::Invalid(needs.to_owned())
    })?;
    Ok(match reference {
        None => pinned(&id, &id),
        Some(full) if full.starts_with("refs/") => pinned(full, &id),
        Some(branch) => pinned(&format!("refs/heads/{branch}"), &id),
    })
}

/// Whether the commit, or the tag that names it, is the one asked for.
pub(super) fn verify(checkout: &Checkout, url: &str, resolved: &Resolved) -> Result<(), Error> {
    let Some(expected) = checkout.checksum.as_deref().map(checksum).transpose()? else { return Ok(()) };
    let ids = [Some(&resolved.object), resolved.peeled.as_ref()];
    let mut ids = ids.into_iter().flatten();
    if ids.clone().any(|id| id.starts_with(&expected)) {
        return Ok(());
    }
    let mut found = ids.next().cloned().unwrap_or_default();
    for id in ids {
        found += &format!(" (tag), {id}");
    }
    Err(Error::Commit { remote: url.to_owned(), reference: resolved.reference.clone(), expected, found })
}

/// Asks the remote.
async fn ask(session: &Session<'_>, reference: Option<&str>) -> Result<Resolved, Trouble> {
    let url = session.remote.address.as_str();
    let missing = |message| Error::Fetch { url: session.remote.url.clone(), message };
    let Some(reference) = reference else {
        let printed = persist(&session.git(), &["ls-remote", "--symref", "--", url, "HEAD"]).await?;
        let found = default_branch(&printed);
        return Ok(found.ok_or_else(|| missing("it has no default branch, or is empty".to_owned()))?);
    };
    let peeled = format!("{reference}^{{}}");
    let printed = persist(&session.git(), &["ls-remote", "--", url, reference, &peeled]).await?;
    let found = choose(&printed, reference).ok_or_else(|| {
        let short = reference.len() >= 7 && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hint = if short { " (a commit is given by its full id)" } else { "" };
        missing(format!("it has no branch or tag `{reference}`{hint}"))
    })?;
    Ok(found)
}

/// Repeats what may pass.
pub(super) async fn persist(git: &Git<'_>, arguments: &[&str]) -> Result<String, Failure> {
    let mut backoff = Backoff::new(git.retry());
    loop {
        let failure = match git.run(arguments).await {
            Ok(printed) => return Ok(printed),
            Err(failure) => failure,
        };
        let Failure::Refused(said) = &failure else { return Err(failure) };
        let again = if may_pass(said) { Again::Later } else { Again::Never };
        if backoff.wait(again, said).await.is_err() {
            return Err(failure);
        }
    }
}

/// Judged by what git and its helpers say, in the C locale; they have no other way of telling.
fn may_pass(said: &str) -> bool {
    const PASSING: &[&str] = &[
        "The requested URL returned error: 408",
        "The requested URL returned error: 429",
        "The requested URL returned error: 50",
        "Connection reset by peer",
        "Connection timed out",
        "Operation timed out",
        "Operation too slow",
        "early EOF",
        "the remote end hung up unexpectedly",
        "unexpected disconnect while reading sideband packet",
        "GnuTLS recv error",
        "SSL_ERROR_SYSCALL",
        "Empty reply from server",
        "transfer closed with",
        "kex_exchange_identification",
    ];
    let final_word = ["not our ref", "Permission denied", "does not appear to be a git repository"];
    PASSING.iter().any(|text| said.contains(text)) && !final_word.iter().any(|text| said.contains(text))
}

/// Lines of `ls-remote`: id, reference.
fn entries(printed: &str) -> impl Iterator<Item = (&str, &str)> {
    printed.lines().filter_map(|line| line.split_once('\t')).filter(|(id, _)| is_object_id(id))
}

fn default_branch(printed: &str) -> Option<Resolved> {
    let target = printed.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
    let target = target.filter(|target| target.starts_with("refs/heads/") && check_reference(target).is_ok());
    let (object, _) = entries(printed).find(|(_, name)| *name == "HEAD")?;
    let reference = target.unwrap_or("HEAD").to_owned();
    Some(Resolved { reference, object: object.to_owned(), peeled: None })
}

/// A full name first, then a branch, then a tag.
fn choose(printed: &str, reference: &str) -> Option<Resolved> {
    let bare = |prefix: &str| reference.strip_prefix(prefix).unwrap_or(reference).to_owned();
    let names = [
        format!("refs/{}", bare("refs/")),
        format!("refs/heads/{}", bare("refs/heads/")),
        format!("refs/tags/{}", bare("refs/tags/")),
    ];
    let find = |name: &str| entries(printed).find(|(_, found)| *found == name).map(|(id, _)| id.to_owned());
    names.into_iter().find_map(|reference| {
        let object = find(&reference)?;
        let peeled = find(&format!("{reference}^{{}}"));
        Some(Resolved { reference, object, peeled })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn a_branch_comes_before_a_tag() {
        let printed = format!("{A}\trefs/heads/x\n{B}\trefs/tags/x\n{A}\trefs/tags/x^{{}}\n");
        let chosen = |reference| choose(&printed, reference).unwrap();
        assert_eq!(chosen("x").reference, "refs/heads/x");
        assert_eq!(chosen("x").commit(), A);
        let tag = Resolved { reference: "refs/tags/x".into(), object: B.into(), peeled: Some(A.into()) };
        assert_eq!(chosen("refs/tags/x"), tag);
        assert_eq!(chosen("tags/x"), tag);
        assert_eq!(choose(&printed, "y"), None);
        // A branch that ends alike is another one.
        assert_eq!(choose(&format!("{A}\trefs/heads/a/x\n"), "x"), None);
    }

    #[test]
    fn finds_the_default_branch() {
        let printed = format!("ref: refs/heads/trunk\tHEAD\n{A}\tHEAD\n");
        assert_eq!(default_branch(&printed).unwrap().reference, "refs/heads/trunk");
        assert_eq!(default_branch(&format!("{A}\tHEAD\n")).unwrap().reference, "HEAD");
        assert_eq!(default_branch(""), None);
    }

    #[test]
    fn a_commit_is_pinned_and_compared() {
        let mut checkout = Checkout { reference: Some(A.to_owned()), ..Checkout::default() };
        let resolved = pinned(&checkout).unwrap().unwrap();
        assert_eq!(resolved.commit(), A);
        checkout.checksum = Some("AAAA".to_owned());
        verify(&checkout, "r", &resolved).unwrap();
        checkout.checksum = Some("b".to_owned());
        let error = verify(&checkout, "r", &resolved).unwrap_err().to_string();
        assert!(error.contains(A) && error.contains("checksum b"), "{error}");
        checkout.checksum = Some("xyz".to_owned());
        assert!(verify(&checkout, "r", &resolved).is_err());

        let mut checkout =
            Checkout { fetch_by_commit: true, checksum: Some(B.into()), ..Checkout::default() };
        assert_eq!(pinned(&checkout).unwrap().unwrap().reference, B);
        checkout.reference = Some("main".into());
        let resolved = pinned(&checkout).unwrap().unwrap();
        assert_eq!((resolved.reference.as_str(), resolved.commit()), ("refs/heads/main", B));
        checkout.checksum = Some("bb".into());
        assert!(pinned(&checkout).is_err());
    }
}
