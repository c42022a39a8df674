//! The keys that are good now, and finding the one that a client sent.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::admission::{PrefixGroup, Principal, Quota, Tenant, TenantId};
use crate::engine::sandbox_hint;
use crate::file_stamp::{FileFollower, FileStamp};
use crate::sync::{Mutex, RwLock};
use crate::tls::{ClientCertificate, SubjectPattern};

use super::digest::KeyDigest;
use super::file::{Expiry, KeyEntry, KeysFileError, parse};
use super::files;

/// Longer ones are no keys, and hashing them would be work for nothing.
const LONGEST_KEY: usize = 512;

/// Why what a client sent is no good key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRejection {
    /// No such key.
    Unknown,
    /// It has ended.
    Expired,
}

/// A digest that is known, whose it is, and when it ends.
#[derive(Debug)]
struct KnownKey {
    digest: KeyDigest,
    ends: Option<Expiry>,
    principal: Arc<Principal>,
}

/// Everybody who is known.
#[derive(Debug, Default)]
struct Known {
    keys: Vec<KnownKey>,
    /// Whose certificates are whose, and when that ends.
    certificates: HashMap<SubjectPattern, (Option<Expiry>, Arc<Principal>)>,
}

/// What lasts longer than one reading of the file, by the names in it.
#[derive(Debug, Default)]
struct Identities {
    tenants: HashMap<String, (TenantId, Arc<Quota>)>,
    groups: HashMap<String, PrefixGroup>,
}

impl Identities {
    /// A number for each tenant; 0 is whoever asks where there are no keys.
    fn tenant(&mut self, entry: &KeyEntry) -> (TenantId, Arc<Quota>) {
        let next = TenantId(number(self.tenants.len()));
        let (id, quota) = self
            .tenants
            .entry(entry.name.clone())
            .or_insert_with(|| (next, Arc::new(Quota::new(entry.limits()))));
        quota.set_limits(entry.limits());
        (*id, Arc::clone(quota))
    }

    fn group(&mut self, entry: &KeyEntry) -> PrefixGroup {
        let next = PrefixGroup(number(self.groups.len()));
        // A key without a group must not fall into a group that is called like it.
        let name = match &entry.group {
            Some(group) => format!("group {group}"),
            None => format!("key {}", entry.name),
        };
        *self.groups.entry(name).or_insert(next)
    }
}

/// The number after `count` others, which begin with 1.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1)
}

/// What a new reading of the file changed, by names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyChanges {
    /// Keys in all.
    pub keys: usize,
    /// Names that are new.
    pub added: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
    /// Names whose key, rights or limits are others.
    pub changed: Vec<String>,
}

/// The keys of a file.
#[derive(Debug)]
pub struct KeyRing {
    file: PathBuf,
    /// Whether each group has cached prefixes of its own.
    separates_groups: bool,
    known: RwLock<Arc<Known>>,
    read: Mutex<ReadState>,
}

#[derive(Debug)]
struct ReadState {
    entries: Vec<KeyEntry>,
    /// Of the file that `entries` is of.
    follower: FileFollower<FileStamp>,
    identities: Identities,
}

impl KeyRing {
    /// Reads the keys of `file`.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn open(file: &Path, separates_groups: bool) -> Result<Self, KeysFileError> {
        let (entries, stamp) = load(file)?;
        let mut identities = Identities::default();
        let known = know(&entries, &mut identities, separates_groups);
        Ok(Self {
            file: file.to_owned(),
            separates_groups,
            known: RwLock::new(Arc::new(known)),
            read: Mutex::new(ReadState {
                entries,
                follower: FileFollower::new(stamp),
                identities,
            }),
        })
    }

    /// The file that it was read from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let read = self.read.lock();
        read.entries.len()
    }

    /// Finds whose key a client sent. The time that takes tells nothing about other keys.
    ///
    /// # Errors
    /// When it is nobody's, or has ended.
    pub fn find(&self, sent: &str, now: SystemTime) -> Result<Arc<Principal>, KeyRejection> {
        if sent.is_empty() || sent.len() > LONGEST_KEY {
            return Err(KeyRejection::Unknown);
        }
        let digest = KeyDigest::of(sent);
        let known = Arc::clone(&self.known.read());
        let mut found = None;
        // All of them are compared, wherever the one is.
        for key in &known.keys {
            if key.digest.matches(&digest) {
                found = Some(key);
            }
        }
        let key = found.ok_or(KeyRejection::Unknown)?;
        unless_ended(key.ends, &key.principal, now)
    }

    /// Finds whose certificate a client has. One that is named with its whole subject is before one that is named with
    /// its common name.
    ///
    /// # Errors
    /// When it is nobody's, or that has ended.
    pub fn find_certificate(
        &self,
        certificate: &ClientCertificate,
        now: SystemTime,
    ) -> Result<Arc<Principal>, KeyRejection> {
        let known = Arc::clone(&self.known.read());
        let whole = SubjectPattern::Whole(certificate.subject.clone());
        let name = certificate.common_name.clone();
        let patterns = [Some(whole), name.map(SubjectPattern::CommonName)];
        let mut found = patterns.iter().flatten();
        let found = found.find_map(|pattern| known.certificates.get(pattern));
        let (ends, principal) = found.ok_or(KeyRejection::Unknown)?;
        unless_ended(*ends, principal, now)
    }

    /// Looks whether the file has changed, and reads it if it has stayed the same since the look before:
    /// so a file that is being written is not read. What cannot be read, or is wrong, changes nothing.
    ///
    /// # Errors
    /// What is wrong with the file, once for each new problem.
    pub fn look(&self) -> Result<Option<KeyChanges>, KeysFileError> {
        let mut read = self.read.lock();
        match self.read_changes(&mut read) {
            Err(error) if !read.follower.is_news(&error.to_string()) => Ok(None),
            outcome => outcome,
        }
    }

    fn read_changes(&self, read: &mut ReadState) -> Result<Option<KeyChanges>, KeysFileError> {
        let stamp = FileStamp::look(&self.file).map_err(|error| unreadable(&self.file, &error))?;
        if !read.follower.is_to_be_read(stamp) {
            return Ok(None);
        }
        let (entries, stamp) = load(&self.file)?;
        let changes = changes(&read.entries, &entries);
        let known = know(&entries, &mut read.identities, self.separates_groups);
        *self.known.write() = Arc::new(known);
        read.entries = entries;
        read.follower.took(stamp);
        Ok(Some(changes))
    }
}

fn unless_ended(
    ends: Option<Expiry>,
    principal: &Arc<Principal>,
    now: SystemTime,
) -> Result<Arc<Principal>, KeyRejection> {
    if ends.is_some_and(|end| end.has_come(now)) {
        return Err(KeyRejection::Expired);
    }
    Ok(Arc::clone(principal))
}

fn load(file: &Path) -> Result<(Vec<KeyEntry>, FileStamp), KeysFileError> {
    let (text, stamp) = files::read(file).map_err(|error| unreadable(file, &error))?;
    Ok((parse(&text)?, stamp))
}

fn unreadable(file: &Path, error: &std::io::Error) -> KeysFileError {
    KeysFileError::Unreadable(format!("{error}{}", sandbox_hint(file, error)))
}

fn know(entries: &[KeyEntry], identities: &mut Identities, separates_groups: bool) -> Known {
    let mut known = Known::default();
    for entry in entries {
        let (id, quota) = identities.tenant(entry);
        let prefix_group = if separates_groups {
            identities.group(entry)
        } else {
            PrefixGroup::default()
        };
        let principal = Arc::new(Principal {
            name: Some(entry.name.clone()),
            tenant: Tenant {
                id,
                weight: entry.share,
                prefix_group,
            },
            highest_tier: entry.tier,
            models: entry.models.clone(),
            is_admin: entry.admin,
            quota,
        });
        known
            .keys
            .extend(entry.digests().map(|(digest, ends)| KnownKey {
                digest,
                ends,
                principal: Arc::clone(&principal),
            }));
        if let Some(certificates) = entry.certificates() {
            let certificate = (entry.expires, principal);
            known.certificates.insert(certificates, certificate);
        }
    }
    known
}

fn changes(old: &[KeyEntry], new: &[KeyEntry]) -> KeyChanges {
    let before: HashMap<&str, &KeyEntry> = old.iter().map(|entry| (&*entry.name, entry)).collect();
    let after: HashSet<&str> = new.iter().map(|entry| &*entry.name).collect();
    let mut changes = KeyChanges {
        keys: new.len(),
        ..KeyChanges::default()
    };
    for entry in new {
        match before.get(&*entry.name) {
            None => changes.added.push(entry.name.clone()),
            Some(old) if *old != entry => changes.changed.push(entry.name.clone()),
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|entry| !after.contains(&*entry.name));
    changes.removed = gone.map(|entry| entry.name.clone()).collect();
    changes
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
