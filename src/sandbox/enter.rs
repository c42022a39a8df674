//! Makes rules for the kernel of what is needed, and has them kept.

use std::fs;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, make_bitflags,
};

use super::links::reach;
use super::needs::{Access, Need, Needs, Place};
use super::probe;

/// What is in force.
#[derive(Debug)]
pub(super) struct Entered {
    /// The version of the interface; at least 1.
    pub(super) abi: u32,
    /// Settings that name places where there is nothing.
    pub(super) missing: Vec<(&'static str, String)>,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSandbox {
    /// Linux before 5.13, or built without it; some containers refuse the calls.
    #[error("this kernel has no Landlock, or does not allow it here")]
    NoLandlock,
    /// It is there, and not among the security modules that were started.
    #[error("Landlock is switched off in this kernel (add it to its parameter lsm=)")]
    SwitchedOff,
    /// systemd before 257 knows the calls and does not count them among those of a service.
    #[error(
        "a filter of system calls ends the process that asks for it (for a systemd unit: \
         SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self)"
    )]
    Fatal,
    #[error("the kernel refused: {0}")]
    Refused(#[from] RulesetError),
}

/// Restricts the calling thread and what it starts, by no newer version of the interface than `newest`.
pub(super) fn enter(needs: &Needs, newest: u32) -> Result<Entered, NoSandbox> {
    let abi = ABI::from(i32::try_from(newest).unwrap_or(i32::MAX));
    if abi == ABI::Unsupported {
        return Err(NoSandbox::NoLandlock);
    }
    if !probe::is_survived() {
        return Err(NoSandbox::Fatal);
    }
    restrict(needs, newest, abi)
}

fn restrict(needs: &Needs, newest: u32, abi: ABI) -> Result<Entered, NoSandbox> {
    let mut missing = Vec::new();
    let mut ruleset = handled(needs, abi)?.create()?;
    for need in &needs.places {
        ruleset = allow(ruleset, need, abi, &mut missing)?;
    }
    if abi >= ABI::V4 {
        for port in &needs.ports {
            ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
        }
    }
    let status = ruleset.restrict_self()?;
    Ok(Entered {
        abi: in_force(&status, newest)?,
        missing,
    })
}

/// All that is forbidden unless a rule allows it.
fn handled(needs: &Needs, abi: ABI) -> Result<Ruleset, RulesetError> {
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(abi))?;
    if abi >= ABI::V4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::Signal)?;
        if !needs.abstract_sockets {
            ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
        }
    }
    Ok(ruleset)
}

fn allow(
    mut ruleset: RulesetCreated,
    need: &Need,
    abi: ABI,
    missing: &mut Vec<(&'static str, String)>,
) -> Result<RulesetCreated, RulesetError> {
    if let Place::OwnFolder(folder) = &need.place {
        // Whoever writes there says what is wrong with it.
        let _ = fs::create_dir_all(folder);
    }
    let reached = reach(&need.place);
    if let (true, Some(setting)) = (reached.is_empty(), need.setting) {
        missing.push((setting, need.place.path().display().to_string()));
    }
    for path in reached {
        // It has gone meanwhile, or its folder is closed to this user: then so is the file.
        let Ok(opened) = PathFd::new(&path) else {
            continue;
        };
        let rights = rights(need.access, &path, abi);
        ruleset = ruleset.add_rule(PathBeneath::new(opened, rights))?;
    }
    Ok(ruleset)
}

/// The kernel's words for an access.
fn rights(access: Access, path: &Path, abi: ABI) -> BitFlags<AccessFs> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = read | AccessFs::WriteFile | AccessFs::Truncate;
    let rights = match access {
        Access::Read => read,
        Access::Execute => read | AccessFs::Execute,
        Access::Write => write,
        Access::Keep => write | AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::RemoveFile,
        Access::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
    };
    let known = if path.is_dir() {
        AccessFs::from_all(abi)
    } else {
        AccessFs::from_file(abi)
    };
    rights & known
}

/// The version that the kernel and `newest` have in common.
fn in_force(status: &RestrictionStatus, newest: u32) -> Result<u32, NoSandbox> {
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. }
            if status.ruleset != RulesetStatus::NotEnforced =>
        {
            Ok(newest.min(effective_abi as u32))
        }
        LandlockStatus::NotEnabled => Err(NoSandbox::SwitchedOff),
        _ => Err(NoSandbox::NoLandlock),
    }
}
