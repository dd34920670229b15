//! A tablespace that a backup leaves out, by the user's word.
//!
//! Kept in the plan of the session and in our record of the backup, because a restore has to know it: the tablespace comes back
//! empty. What that means for the tables in it is said in one place, here, and the same in every plan.

use serde::{Deserialize, Serialize};

/// See the [module documentation](self). Its location is in the list of tablespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludedTablespace {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// The databases that had something in it when the backup was planned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<String>,
    /// The volume that holds it all the same, because it holds other places of the cluster as well. Its content is in the snapshot
    /// then, and is not restored either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
}

impl ExcludedTablespace {
    /// Its name and the databases that had something in it, for people.
    pub fn described(&self) -> String {
        match self.databases.as_slice() {
            [] => format!("{:?} (no database had anything in it)", self.name),
            some => format!("{:?} (databases with something in it: {})", self.name, some.join(", ")),
        }
    }

    /// What a restored server has of it, and what has to be done there.
    pub fn consequences(&self) -> String {
        let list = "SELECT c.oid::regclass, c.relkind FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE \
                    c.relkind IN ('r', 'm', 'i') AND t.spcname =";
        let name = self.name.replace('\'', "''");
        format!(
            "tablespace {} was left out of the backup and comes back empty: what was in it is missing, or incomplete although it can \
             be read, as recovery brings back only pages that were changed after the backup began. In each of these databases list \
             it with: {list} '{name}'; then TRUNCATE or DROP each table (r), REFRESH or DROP each materialized view (m) and REINDEX \
             each index (i) before anybody uses them; DROP TABLESPACE when nothing is left",
            self.described()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_find_what_is_missing_can_be_copied_whatever_the_name() {
        let one = ExcludedTablespace { oid: 16_400, name: "it's".into(), databases: vec!["app".into()], volume: None };
        let said = one.consequences();
        assert!(
            said.contains("t.spcname = 'it''s';") && said.contains("databases with something in it: app"),
            "{said}"
        );
        let stored = serde_json::to_value(&one).unwrap();
        assert_eq!(stored, serde_json::json!({"oid": 16_400, "name": "it's", "databases": ["app"]}));
    }
}
