//! Acceptance of signed policies, and protection against older ones. The format and the scope of a
//! signature are documented in [`crate::policy::resolve::signature`].

use std::path::Path;

use super::{
    dataplane::{Change, Dataplane},
    documents::Accepted,
    lifecycle::Lifecycle,
};
use crate::{
    daemon::{install_error::InstallError, trusted_files::TrustedFiles},
    policy::{
        Bundle, Files as _,
        resolve::signature::{self, Key, Signed, Verified},
    },
};

/// Why a policy is rejected.
#[derive(Debug, PartialEq, Eq)]
enum Rejection {
    /// The policy is not what the holder of the key has signed.
    Bad(String),
    /// The policy was signed, but has been replaced since.
    Replayed(String),
}

fn bad(why: impl Into<String>) -> Rejection {
    Rejection::Bad(why.into())
}

/// Fails if a newer policy was accepted before, or a different one with the same serial number.
fn check_serial(new: &Accepted, last: Option<&Accepted>) -> Result<(), Rejection> {
    let Some(last) = last else { return Ok(()) };
    if new.serial < last.serial {
        return Err(Rejection::Replayed(format!(
            "its serial number is {}, and {} was accepted before: a policy that was replaced is \
             not accepted again; to return to it, sign it again with a higher number",
            new.serial, last.serial
        )));
    }
    if new.serial == last.serial && new.sums != last.sums {
        return Err(Rejection::Replayed(format!(
            "its serial number is {}, with which another policy was accepted before; sign it with \
             a higher number",
            new.serial
        )));
    }
    Ok(())
}

impl Lifecycle {
    /// Checks the signature of a policy, if only signed policies are accepted. Returns the record to
    /// save once the policy is in force.
    pub(super) fn check_signature(
        &self,
        bundle: &Bundle,
        signed: impl FnOnce() -> Result<Option<Signed>, String>,
        dataplane: &mut dyn Dataplane,
    ) -> Result<Option<Accepted>, InstallError> {
        let Some(key) = &self.options.policy_key else { return Ok(None) };
        let verified = self.verified(key, bundle, signed).map_err(|rejection| {
            let (why, replayed) = match rejection {
                Rejection::Bad(why) => (why, false),
                Rejection::Replayed(why) => (why, true),
            };
            dataplane.report(Change::SignatureRejected { replayed });
            InstallError::unfit(format_args!("policy not accepted: {why}"))
        })?;
        if verified.has_expired() {
            tracing::warn!(
                serial = verified.serial,
                "policy signature expired; the policy comes into force nevertheless"
            );
        }
        Ok(Some(verified.into()))
    }

    fn verified(
        &self,
        key: &Path,
        bundle: &Bundle,
        signed: impl FnOnce() -> Result<Option<Signed>, String>,
    ) -> Result<Verified, Rejection> {
        let text = TrustedFiles.read(key).map_err(|error| {
            bad(format!("the policy key `{}` cannot be read: {error}", key.display()))
        })?;
        let signed = signed().map_err(bad)?.ok_or_else(|| {
            let missing = signature::missing(&bundle.manifest);
            bad(format!("this daemon accepts only signed policies, and {missing}"))
        })?;
        let verified = Key::parse(&text).and_then(|key| key.verify(&signed, bundle));
        let verified = verified.map_err(bad)?;
        let last = self.state_dir.accepted().map_err(|error| {
            bad(format!(
                "the last accepted serial number cannot be read: {error:#}; remove the file to \
                 accept any serial number"
            ))
        })?;
        check_serial(&verified.clone().into(), last.as_ref())?;
        Ok(verified)
    }

    /// Saves the record of a signature whose policy has come into force.
    pub(super) fn accept(&mut self, accepted: Option<&Accepted>) {
        self.serial = accepted.map(|accepted| accepted.serial);
        let Some(accepted) = accepted else { return };
        if let Err(error) = self.state_dir.keep_accepted(accepted) {
            tracing::error!("{error:#}");
            self.problems.push(format!("{error:#}; the next daemon could accept an older policy"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case 129: an older policy, with a valid signature.
    #[test]
    fn an_older_policy_is_not_accepted() {
        let one = |serial, sums: &str| Accepted { serial, sums: sums.to_owned() };
        let last = one(7, "a");
        assert_eq!(check_serial(&one(0, "a"), None), Ok(()));
        for (new, good) in
            [(one(8, "b"), true), (one(7, "a"), true), (one(7, "b"), false), (one(6, "a"), false)]
        {
            let result = check_serial(&new, Some(&last));
            assert_eq!(result.is_ok(), good, "{new:?}");
            if !good {
                assert!(matches!(result, Err(Rejection::Replayed(_))), "{new:?}");
            }
        }
    }
}
