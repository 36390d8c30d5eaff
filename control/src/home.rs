//! A node's directory: who holds its lock is the only live process of that node.
//!
//! The random id in it lets others tell a restarted process (same id, so its predecessor is dead) from a second one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Length of a home's id in hexadecimal digits: 128 random bits.
const ID_DIGITS: usize = 32;

/// A locked node directory. The lock is held until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    id: String,
    _locked: File,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another process has it.
    #[error("home {}: in use by another process; every node needs a directory of its own (--home)", .0.display())]
    Locked(PathBuf),
    /// The file `home` in it was not written by us.
    #[error("home {}: the file `home` holds no id of {ID_DIGITS} hexadecimal digits; is this a node's directory?", .0.display())]
    Foreign(PathBuf),
    /// It can't be created, read or written.
    #[error("home {}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl Home {
    /// Creates the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// If it is locked by another process, or can't be read and written.
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let failed = |source| HomeError::Io { dir: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let path = dir.join("home");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HomeError::Locked(dir.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut text = Vec::new();
        (&mut file).take(1024).read_to_end(&mut text).map_err(failed)?;
        let id = match parse(&text) {
            Content::Id(id) => id,
            // A process that died while writing has not used its id yet: a new one does no harm.
            Content::Unfinished => create(&mut file, dir).map_err(failed)?,
            Content::Foreign => return Err(HomeError::Foreign(dir.to_owned())),
        };
        Ok(Self { dir: dir.to_owned(), id, _locked: file })
    }

    /// The random id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

enum Content {
    Id(String),
    Unfinished,
    Foreign,
}

fn parse(text: &[u8]) -> Content {
    let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    match text.strip_suffix(b"\n") {
        Some(id) if id.len() == ID_DIGITS && id.iter().all(hex) => {
            Content::Id(String::from_utf8_lossy(id).into_owned())
        }
        None if text.len() <= ID_DIGITS && text.iter().all(hex) => Content::Unfinished,
        _ => Content::Foreign,
    }
}

/// Writes a new id so that it is on disk, with its directory entry, before anyone hears of it.
fn create(file: &mut File, dir: &Path) -> io::Result<String> {
    let id = format!("{:032x}", rand::random::<u128>());
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_id_and_its_lock() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        let home = Home::open(&dir).unwrap();
        assert_eq!(home.id().len(), ID_DIGITS);
        // A second open file description is refused, as another process's would be.
        let error = Home::open(&dir).unwrap_err();
        assert!(matches!(error, HomeError::Locked(_)));
        assert!(error.to_string().contains(&dir.display().to_string()));
        let id = home.id().to_owned();
        drop(home);
        assert_eq!(Home::open(&dir).unwrap().id(), id);
        assert_ne!(Home::open(&temp.path().join("c")).unwrap().id(), id);
    }

    #[test]
    fn finishes_what_a_dying_process_began_and_leaves_foreign_files_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("home"), "0123abc").unwrap();
        let id = Home::open(temp.path()).unwrap().id().to_owned();
        assert_eq!(id.len(), ID_DIGITS);
        assert_eq!(Home::open(temp.path()).unwrap().id(), id);
        for foreign in ["hello\n", "0123abc\n", &format!("{}\n", "G".repeat(ID_DIGITS)), &"0".repeat(ID_DIGITS + 1)] {
            fs::write(temp.path().join("home"), foreign).unwrap();
            assert!(matches!(Home::open(temp.path()), Err(HomeError::Foreign(_))), "{foreign:?}");
            assert_eq!(fs::read_to_string(temp.path().join("home")).unwrap(), *foreign);
        }
    }
}
