//! Partitions of adapters, which come and go.

use super::{Cache, PartitionOwner};
use crate::engine::{AdapterError, AdapterId, Engine};

impl<E: Engine> Cache<E> {
    /// Loads an adapter and makes a partition for it.
    pub(in crate::scheduler) fn add_adapter(
        &mut self,
        id: AdapterId,
        file: E::AdapterFile,
    ) -> Result<(), AdapterError> {
        let partition = self.engine.add_adapter(file)?;
        self.add_places(partition + 1, PartitionOwner::Nobody);
        self.partitions[partition].owner = PartitionOwner::Adapter(id);
        Ok(())
    }

    /// Frees an adapter with which nothing is computed any more, and all that was kept of it.
    pub(in crate::scheduler) fn remove_adapter(&mut self, id: AdapterId) {
        let Some(partition) = self.partition_for(id) else {
            return;
        };
        let is_here = |cache: &Self, place: &usize| {
            let (parked, _) = cache.parked[*place];
            cache.partition_of(parked) == partition
        };
        while let Some(place) = (0..self.parked.len()).find(|place| is_here(self, place))
            && let Some(parked) = self.unpark(place)
        {
            self.release(parked);
        }
        self.offload.forget(id);
        self.engine.remove_adapter(partition);
        self.partitions[partition].owner = PartitionOwner::Nobody;
        self.partitions[partition].most_cells = 0;
    }

    /// Whether there is a partition for an adapter.
    pub(in crate::scheduler) fn has_adapter(&self, id: AdapterId) -> bool {
        self.partition_for(id).is_some()
    }

    fn partition_for(&self, id: AdapterId) -> Option<usize> {
        let owner = PartitionOwner::Adapter(id);
        (self.partitions.iter()).position(|partition| partition.owner == owner)
    }
}
