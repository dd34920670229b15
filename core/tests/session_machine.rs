//! The matrix, the graph and the table of steps as they were reviewed. A change here is a change of the state machine.
//!
//! After a deliberate change: `INSTA_UPDATE=always cargo test -p barman-snap --test session_machine`, then read the diff.

use barman_snap::session::phase;
use barman_snap::session::step::TABLE;

#[test]
fn the_transition_matrix_is_the_reviewed_one() {
    insta::assert_snapshot!("matrix", phase::matrix());
}

#[test]
fn the_graph_is_the_reviewed_one() {
    insta::assert_snapshot!("graph", phase::graph());
}

#[test]
fn the_table_of_steps_is_the_reviewed_one() {
    let rows: Vec<String> = TABLE
        .iter()
        .map(|row| {
            let undo = row.undo.map_or_else(|| "-".to_owned(), |undo| undo.to_string());
            format!(
                "{:<16} {:?} intent {:?} result {:?} undo {undo}",
                row.step.to_string(),
                row.phase,
                row.intent,
                row.result
            )
        })
        .collect();
    insta::assert_snapshot!("steps", rows.join("\n"));
}
