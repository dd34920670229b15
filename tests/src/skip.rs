//! What a test needs of the machine, and what happens when it is not there: the test is skipped with its reason, except
//! in CI, where the set-up has to provide it.

use std::fmt;

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be root.
    Root,
    /// A loop device and a file system, named as in `/proc/filesystems`.
    FileSystem(&'static str),
    /// A PostgreSQL server of this major version; 0 for any.
    PostgreSql(u32),
    /// An S3 server.
    S3,
    /// The fakes of the clouds.
    Clouds,
    /// The stock `barman-cloud-*` commands.
    Barman,
    /// Our own command line, built.
    CommandLine,
    /// PgBouncer.
    Pooler,
    /// Another program.
    Tool(&'static str),
}

impl Need {
    /// Whether `tools/setup.sh test` provides it on every machine that CI runs on, so that a skip hides a defect.
    pub fn must_be_there_in_ci(self) -> bool {
        match self {
            Self::Root
            | Self::FileSystem(_)
            | Self::S3
            | Self::Clouds
            | Self::Barman
            | Self::CommandLine
            | Self::Pooler => true,
            // These are fetched; another one is whatever the distribution has.
            Self::PostgreSql(version) => matches!(version, 0 | 17 | 18),
            // Needs modules that the kernel of the machine may not have, ZFS for one.
            Self::Tool(_) => false,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::FileSystem(name) => write!(f, "a {name} file system"),
            Self::PostgreSql(0) => f.write_str("PostgreSQL"),
            Self::PostgreSql(version) => write!(f, "PostgreSQL {version}"),
            Self::S3 => f.write_str("an S3 server"),
            Self::Clouds => f.write_str("the fakes of the clouds"),
            Self::Barman => f.write_str("the stock Barman"),
            Self::CommandLine => f.write_str("barman-snap"),
            Self::Pooler => f.write_str("PgBouncer"),
            Self::Tool(name) => f.write_str(name),
        }
    }
}

/// A need that this machine does not meet, and why.
#[derive(Clone, Debug)]
pub struct Missing {
    /// What is missing.
    pub need: Need,
    /// Why, and what would help.
    pub reason: String,
}

impl Missing {
    /// `need` is not met, because of `reason`.
    pub fn new(need: Need, reason: impl Into<String>) -> Self {
        Self { need, reason: reason.into() }
    }

    /// Tells the person who runs the tests that one is skipped. In CI, fails the test where the need has to be met.
    pub fn report(&self) {
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!in_ci || !self.need.must_be_there_in_ci(), "CI must have {}: {}", self.need, self.reason);
        eprintln!("skipped: needs {}: {}", self.need, self.reason);
    }
}

/// The value of a `Result<T, Missing>`; where it is missing, the test ends here, with the reason.
#[macro_export]
macro_rules! need {
    ($found:expr) => {
        match $found {
            Ok(found) => found,
            Err(missing) => {
                $crate::skip::Missing::report(&missing);
                return;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_insists_on_what_the_set_up_provides_and_on_nothing_else() {
        assert!(Need::PostgreSql(18).must_be_there_in_ci());
        assert!(!Need::PostgreSql(13).must_be_there_in_ci());
        assert!(Need::FileSystem("btrfs").must_be_there_in_ci());
        assert!(!Need::Tool("zfs").must_be_there_in_ci());
    }
}
