//! From places to what rules are about. The kernel goes by files and folders as they are, wherever links lead there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::part_paths;

use super::needs::Place;

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// What a rule has to name for a place, each as the file system has it; nothing where there is nothing.
pub(super) fn reach(place: &Place) -> Vec<PathBuf> {
    let mut reached = match place {
        Place::Named(file) => through_links(file),
        Place::Model(file) => part_paths(file)
            .iter()
            .flat_map(|part| through_links(part))
            .collect(),
        Place::Models(folder) => all_models(folder),
        Place::Folder(folder) | Place::OwnFolder(folder) => as_it_is(folder),
        Place::File(file) => vec![file.clone()],
    };
    reached.retain(|path| path.exists());
    reached.sort();
    reached.dedup();
    reached
}

/// The folder of a name, of the link that it is, of each further link, and of the file at the end. In the root of the
/// file system it is the file alone.
fn through_links(file: &Path) -> Vec<PathBuf> {
    let mut reached = Vec::new();
    let mut name = file.to_owned();
    for _ in 0..MOST_LINKS {
        let folder = match name.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let Ok(folder) = folder.canonicalize() else {
            break;
        };
        match fs::read_link(&name) {
            Ok(target) => {
                name = folder.join(target);
                reached.push(folder);
            }
            Err(_) if folder == Path::new("/") => {
                reached.extend(name.canonicalize());
                break;
            }
            Err(_) => {
                reached.push(folder);
                break;
            }
        }
    }
    reached.retain(|folder| folder != Path::new("/"));
    reached
}

/// The folder, and what its models lead to if they are links.
fn all_models(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let models = entries
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|ending| ending == "gguf"));
    let mut reached: Vec<_> = models.flat_map(|model| through_links(&model)).collect();
    reached.extend(as_it_is(folder));
    reached
}

/// The folder itself, unless it is all there is.
fn as_it_is(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.canonicalize().ok();
    folder
        .into_iter()
        .filter(|folder| folder != Path::new("/"))
        .collect()
}
