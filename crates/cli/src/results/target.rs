//! Where an export goes: stdout, or a file that appears when it is complete.
//!
//! The previous file stays until the new one is complete and on the disk.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use tempfile::NamedTempFile;

use super::super::Failed;

/// An open target.
pub(super) enum Target {
    /// What cannot be replaced: stdout.
    Stdout(BufWriter<Stdout>),
    /// A pipe or device, written in place.
    Special(BufWriter<File>),
    /// A file beside the target, which takes its name at the end.
    Beside { temporary: BufWriter<NamedTempFile>, path: PathBuf },
}

impl Target {
    /// Opens `path`, or stdout for `-`. Binary data is not for terminals.
    pub(super) fn open(path: &Path, is_binary: bool) -> Result<Self, Failed> {
        if path == Path::new("-") {
            if is_binary && io::stdout().is_terminal() {
                let error = anyhow!(
                    "refusing to write Parquet to a terminal; name a file with -o, or pipe \
                    it"
                );
                return Err(Failed::Usage(error));
            }
            return Ok(Self::Stdout(BufWriter::new(io::stdout())));
        }
        let unusable = || format!("{} cannot be written", path.display());
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                return Err(Failed::Usage(anyhow!("{} is a folder; expected a file", path.display())));
            }
            Ok(found) if !found.is_file() => {
                let file = File::options().write(true).open(path).with_context(unusable);
                return Ok(Self::Special(BufWriter::new(file.map_err(Failed::Usage)?)));
            }
            _ => {}
        }
        // A link keeps pointing to the file that is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let name = path.file_name().ok_or_else(|| Failed::Usage(anyhow!(unusable())))?;
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{}.", name.to_string_lossy());
        builder.prefix(&prefix).suffix(".part");
        #[cfg(unix)]
        {
            // As any new file, by the umask; a temporary file would be its owner's alone.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(folder.unwrap_or(Path::new("."))).with_context(unusable);
        Ok(Self::Beside { temporary: BufWriter::new(temporary.map_err(Failed::Usage)?), path })
    }

    /// Makes what was written the target's.
    pub(super) fn keep(self) -> anyhow::Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush()?,
            Self::Special(mut out) => out.flush()?,
            Self::Beside { temporary, path } => {
                let temporary = temporary.into_inner().map_err(io::IntoInnerError::into_error)?;
                temporary.as_file().sync_all()?;
                temporary.persist(&path).map_err(|e| e.error)?;
            }
        }
        Ok(())
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::Special(out) => out.write(bytes),
            Self::Beside { temporary, .. } => temporary.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::Special(out) => out.flush(),
            Self::Beside { temporary, .. } => temporary.flush(),
        }
    }
}
