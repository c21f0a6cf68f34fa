//! Applies the limits, the oldest finished records first.

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;

use super::{MongoStore, codec};
use crate::protocol::Timestamp;
use crate::taskdb::retention::Retention;

/// Records that one call drops at most, so that what waits to be written does not wait for long.
const PIECE: u64 = 2000;

impl MongoStore {
    /// Bytes of the collection's documents, before the server compresses them.
    pub(super) fn document_bytes(&self) -> Result<u64, Error> {
        let command = doc! {"collStats": self.reader.records.name()};
        let stats = self.database.run_command(command).run()?;
        // A server writes numbers as it likes.
        let bytes = match stats.get("size") {
            Some(Bson::Int32(bytes)) => i64::from(*bytes),
            Some(Bson::Int64(bytes)) => *bytes,
            Some(Bson::Double(bytes)) => *bytes as i64,
            _ => 0,
        };
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// Drops a piece of what is over the limits.
    pub(super) fn retain(&mut self, now: Timestamp) -> Result<u64, Error> {
        if self.retention == Retention::default() {
            return Ok(0);
        }
        let mut dropped = 0;
        if let Some(oldest) = self.retention.oldest(now.as_micros()) {
            let old = doc! {"$lt": codec::date(Timestamp::from_micros(oldest))};
            dropped += self.drop_finished(Some(old), PIECE)?;
        }
        let records = self.reader.records.estimated_document_count().run()?;
        let bytes = match self.retention.bytes {
            Some(_) => self.document_bytes()?,
            None => 0,
        };
        let excess = self.retention.excess(records, bytes);
        dropped += self.drop_finished(None, excess.min(PIECE))?;
        Ok(dropped)
    }

    fn drop_finished(&mut self, submitted: Option<Document>, count: u64) -> Result<u64, Error> {
        let Ok(count @ 1..) = i64::try_from(count) else {
            return Ok(0);
        };
        let mut finished = doc! {"completed": {"$ne": null}};
        if let Some(submitted) = submitted {
            finished.insert("submitted", submitted);
        }
        let oldest = self.reader.records.find(finished);
        let oldest = oldest
            .projection(doc! {"_id": 1})
            .sort(doc! {"submitted": 1, "_id": 1})
            .limit(count)
            .allow_disk_use(true)
            .run()?;
        let ids = oldest.map(|found| Ok(found?.get("_id").cloned().unwrap_or(Bson::Null)));
        let ids: Vec<Bson> = ids.collect::<Result<_, Error>>()?;
        if ids.is_empty() {
            return Ok(0);
        }
        self.known.clear();
        let gone = self.reader.records.delete_many(doc! {"_id": {"$in": ids}});
        Ok(gone.run()?.deleted_count)
    }
}
