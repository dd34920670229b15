//! Deleting, as the engine offers it.

use super::Engine;
use crate::catalog::delete::{DeletePlan, DeleteRequest};
use crate::error::Result;

impl Engine {
    /// Plans a deletion; changes nothing.
    ///
    /// # Errors
    /// If a backup must not be deleted, or the catalog cannot be read.
    pub async fn plan_delete(&self, request: &DeleteRequest) -> Result<DeletePlan> {
        self.catalog().plan_delete(request, self.clock().now()).await
    }

    /// Carries out a plan. What fails can be done again.
    ///
    /// # Errors
    /// Of the first thing that failed.
    pub async fn delete(&self, plan: &DeletePlan) -> Result<()> {
        self.catalog()
            .carry_out(plan, Some(self.provider().as_ref()))
            .await
            .map_err(|error| error.with_operation("delete"))
    }
}
