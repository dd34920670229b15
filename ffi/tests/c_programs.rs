//! The C programs, compiled against the committed header with every warning an error, and run: the conventions of the
//! library (also under valgrind where there is one), and a backup that becomes a server again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use barman_snap_tests::command::{as_server_user, attempt, run};
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::scratch::Scratch;

/// Where the programs of this build are.
fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a test has a program");
    program.ancestors().nth(2).expect("a test lies in target/<profile>/deps").to_owned()
}

/// The shared library. A test of a crate that is only a C library does not make cargo build it, so this does, unless a build
/// of everything has just made it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = target_dir().join("libbarman_snap.so");
        if !is_up_to_date(&library) {
            build_library();
        }
        library
    })
}

/// Whether no source is younger than the library. Built for this crate alone it has other features than in a build of the
/// whole workspace, so building it once more would build the clouds' libraries once more.
fn is_up_to_date(library: &Path) -> bool {
    let changed = |file: &Path| file.metadata().and_then(|file| file.modified());
    let (Ok(built), Ok(sources)) = (changed(library), std::fs::read_to_string(library.with_extension("d"))) else {
        return false;
    };
    let sources = sources.split_once(':').map(|(_, sources)| sources).unwrap_or_default();
    sources.split_whitespace().all(|source| changed(Path::new(source)).is_ok_and(|changed| changed <= built))
}

fn build_library() {
    let mut build = Command::new(env!("CARGO"));
    // What a test is told of its own package makes some build scripts believe that they have to run again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            build.env_remove(name);
        }
    }
    build.args(["build", "--quiet", "-p", env!("CARGO_PKG_NAME"), "--target-dir"]);
    build.arg(target_dir().parent().expect("target/<profile> has a parent")).current_dir(env!("CARGO_MANIFEST_DIR"));
    run(&mut build);
}

/// Compiles the C programs into `place`, with the library beside them: the server user may be unable to enter the target
/// folder.
fn compile_into(place: &Path) {
    std::fs::copy(library(), place.join("libbarman_snap.so")).expect("the library can be copied");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/c");
    run(Command::new("make").arg("-C").arg(examples).args([
        "--silent",
        "all",
        &format!("OUT={}", place.display()),
        &format!("LIBDIR={}", place.display()),
    ]));
}

#[test]
fn the_library_keeps_the_conventions_of_its_header() {
    let scratch = Scratch::new();
    compile_into(scratch.path());
    let ran = run(&mut Command::new(scratch.path().join("conventions")));
    assert_eq!(ran.text(), "the conventions hold");
}

#[test]
fn the_library_neither_leaks_nor_touches_what_is_not_its_own() {
    if attempt(Command::new("sh").args(["-c", "command -v valgrind"])).code() != 0 {
        eprintln!("skipped: needs valgrind: it is not installed");
        return;
    }
    let scratch = Scratch::new();
    compile_into(scratch.path());
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
    let ran = run(valgrind.arg(scratch.path().join("conventions")).arg("without-fork"));
    assert_eq!(ran.text(), "the conventions hold");
}

#[test]
fn a_backup_taken_from_c_becomes_a_server_again() {
    let installation = need!(Installation::newest());
    let scratch = Scratch::new();
    compile_into(scratch.path());
    let cluster = Cluster::builder(&installation).start();
    cluster.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10000) g");

    let target = scratch.path().join("restored");
    let mut example = as_server_user(&scratch.path().join("backup_restore"), installation.bin());
    example.arg(scratch.path().join("catalog")).args(["pg1", &cluster.dsn()]).arg(&target);
    let ran = run(&mut example);
    assert!(ran.text().contains("is published after"), "{}", ran.text());
    cluster.sql("DROP TABLE t");

    let restored = Cluster::adopt(&installation, &target);
    restored.start();
    assert_eq!(restored.sql("SELECT count(*), sum(g) FROM t"), "10000|50005000");
}
