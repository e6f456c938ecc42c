//! What operators want gone: kept in a table, so that it is gone in the end whatever happens.

use std::sync::Arc;

use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use super::{REST, STEP, blocks::Block};
use crate::{
    rooms::{
        NewRoom, Preset, Rooms, error::RoomError, record::EventNumber, timeline_key::TimelineKey,
        writer::Sender,
    },
    storage::{
        Batch, Json, Range,
        intern::{RoomNumber, UserNumber},
        schema::{ALIASES, BLOCKED_ROOMS, PUBLIC_ROOMS, PURGE_JOBS, ROOM_ALIASES, TIMELINE},
    },
    users::session::Session,
};

/// What a job is asked about by.
pub(crate) type JobId = String;

/// How long one can ask how a job ended, in ms.
const KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
/// How often it is looked whether a job is done.
const WATCH: std::time::Duration = std::time::Duration::from_millis(100);
/// How many members are written down before the job is.
const NOTED_AT_ONCE: usize = 50;

/// A job.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Job {
    /// The room.
    pub(crate) room_id: OwnedRoomId,
    /// The same, as tables know it; 0 for a room that was never here.
    room: u64,
    /// What to do.
    pub(crate) work: Work,
    /// How far it is.
    pub(crate) status: Status,
    /// When it was ordered, in ms since the Unix epoch.
    pub(crate) created_ms: u64,
    /// What came of it.
    #[serde(default)]
    pub(crate) outcome: Outcome,
}

/// What a job does.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// Removes what came before this timeline key.
    History {
        /// The first that stays.
        before_key: TimelineKey,
        /// Whether the messages of this server's users go too.
        local_too: bool,
    },
    /// Closes the room for this server's users, and removes it.
    Deletion(Deletion),
}

/// How a room is deleted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Deletion {
    /// Who ordered it.
    pub(crate) by: OwnedUserId,
    /// Whether nobody may come into it any more.
    pub(crate) block: bool,
    /// Whether everything that is known of it goes.
    pub(crate) purge: bool,
    /// Who makes a room that tells the members what happened; its name and what it says.
    pub(crate) new_room: Option<(OwnedUserId, String, String)>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// It is under way, or waits for its turn.
    Active,
    /// It is done.
    Complete,
    /// It can't be done.
    Failed,
}

/// What came of a job.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Outcome {
    /// Members of this server who were taken out.
    pub(crate) left: Vec<OwnedUserId>,
    /// Those whom the room's rules keep in.
    pub(crate) stayed: Vec<OwnedUserId>,
    /// The room's aliases here.
    pub(crate) aliases: Vec<OwnedRoomAliasId>,
    /// The room that tells what happened.
    pub(crate) new_room: Option<OwnedRoomId>,
    /// How many events were removed.
    pub(crate) events: usize,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

impl Rooms {
    /// Orders the removal of what came before a timeline key. The order outlives a restart.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`].
    pub(crate) async fn order_history_purge(
        &self,
        room_id: &RoomId,
        before_key: TimelineKey,
        local_too: bool,
    ) -> Result<JobId, RoomError> {
        self.room(room_id).await?;
        self.order(room_id, Work::History { before_key, local_too }).await
    }

    /// Orders the deletion of a room. One that is not here can be blocked this way.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn order_deletion(
        &self,
        room_id: &RoomId,
        deletion: Deletion,
    ) -> Result<JobId, RoomError> {
        self.order(room_id, Work::Deletion(deletion)).await
    }

    async fn order(&self, room_id: &RoomId, work: Work) -> Result<JobId, RoomError> {
        let number = self.db().rooms().find(self.db(), room_id).await?;
        let job = Job {
            room_id: room_id.to_owned(),
            room: number.map_or(0, |number| number.0),
            work,
            status: Status::Active,
            created_ms: self.clock().now_ms(),
            outcome: Outcome::default(),
        };
        let id = self.shared.random.token::<12>();
        self.note_job(&id, &job).await?;
        self.shared.purge_ordered.notify_one();
        Ok(id)
    }

    async fn note_job(&self, id: &str, job: &Job) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        PURGE_JOBS.put(&mut batch, id, &Json(job.clone()));
        Ok(self.db().commit(batch).await?)
    }

    /// A job by its ID; none if there is none, or it was done long ago.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn job(&self, id: &str) -> Result<Option<Job>, RoomError> {
        Ok(PURGE_JOBS.get(self.db(), id).await?.map(|Json(job)| job))
    }

    /// The jobs of a room.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn jobs_of(&self, room: &RoomId) -> Result<Vec<(JobId, Job)>, RoomError> {
        let jobs = PURGE_JOBS.scan(self.db(), &Range::all(), usize::MAX).await?.into_iter();
        let jobs = jobs.map(|(id, Json(job))| (id, job));
        Ok(jobs.filter(|(_, job)| job.room_id == room).collect())
    }

    /// Waits until a job is done.
    ///
    /// # Errors
    /// [`RoomError::Storage`]; [`RoomError::Corrupt`] if there is no such job.
    pub(crate) async fn wait_for_job(&self, id: &str) -> Result<Job, RoomError> {
        loop {
            let job = self.job(id).await?.ok_or(RoomError::Corrupt { what: "a job" })?;
            if job.status != Status::Active {
                return Ok(job);
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Carries jobs out, those from before the start first, for as long as it is polled.
    pub(in crate::rooms) async fn run_purges(self) {
        loop {
            if let Err(error) = self.carry_out_jobs().await {
                tracing::error!(%error, "a purge will be tried again");
                tokio::time::sleep(REST).await;
                continue;
            }
            self.shared.purge_ordered.notified().await;
        }
    }

    /// The same, for those that are there.
    pub(in crate::rooms) async fn carry_out_jobs(&self) -> Result<(), RoomError> {
        let now_ms = self.clock().now_ms();
        for (id, Json(mut job)) in PURGE_JOBS.scan(self.db(), &Range::all(), usize::MAX).await? {
            if job.status != Status::Active {
                if job.created_ms.saturating_add(KEPT_MS) < now_ms {
                    let mut batch = Batch::unsynced();
                    PURGE_JOBS.delete(&mut batch, &id);
                    self.db().commit(batch).await?;
                }
                continue;
            }
            job.status = match self.carry_out(&id, &mut job).await {
                Ok(()) => Status::Complete,
                // The database may do better another time.
                Err(error @ RoomError::Storage(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, room = %job.room_id, "a purge failed");
                    job.outcome.error = Some(error.to_string());
                    Status::Failed
                }
            };
            self.note_job(&id, &job).await?;
        }
        Ok(())
    }

    async fn carry_out(&self, id: &str, job: &mut Job) -> Result<(), RoomError> {
        match job.work.clone() {
            Work::History { before_key, local_too } => {
                self.remove_history(job, before_key, local_too).await
            }
            Work::Deletion(deletion) => self.delete_room(id, job, &deletion).await,
        }
    }

    async fn remove_history(
        &self,
        job: &mut Job,
        before_key: TimelineKey,
        local_too: bool,
    ) -> Result<(), RoomError> {
        let room = self.room(&job.room_id).await?;
        self.note_purged(room.number, None).await?;
        let mut range = Range::prefix(&(room.number,)).before(&(room.number, before_key));
        loop {
            let rows = TIMELINE.scan(self.db(), &range, STEP).await?;
            let numbers: Vec<EventNumber> = rows.iter().map(|(_, number)| *number).collect();
            job.outcome.events += self
                .remove_events(&room, &numbers, |event| {
                    local_too || !self.is_local(&event.sender_id)
                })
                .await?;
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else { break };
            range = range.after(last);
        }
        let until_ms = self.time_of_key(&room, before_key).await?;
        job.outcome.events += self
            .remove_refused(&room, until_ms, |event| local_too || !self.is_local(&event.sender_id))
            .await?;
        self.note_purged(room.number, None).await
    }

    async fn delete_room(
        &self,
        id: &str,
        job: &mut Job,
        deletion: &Deletion,
    ) -> Result<(), RoomError> {
        // Nobody comes in while it is deleted.
        let block = Block { by: deletion.by.clone(), passing: !deletion.block };
        let old = self.block_of(&job.room_id).await?;
        if old.is_none_or(|old| old.passing) {
            let mut batch = Batch::new();
            BLOCKED_ROOMS.put(&mut batch, &job.room_id, &Json(block));
            self.db().commit(batch).await?;
        }
        match self.room(&job.room_id).await {
            Ok(room) => {
                let members = room.local_members();
                if let (Some(new), None) = (&deletion.new_room, &job.outcome.new_room) {
                    job.outcome.new_room = Some(self.tell_members(new, &members).await?);
                    self.note_job(id, job).await?;
                }
                self.take_out(id, job, &members).await?;
                self.take_names(job, room.number).await?;
            }
            Err(RoomError::UnknownRoom { .. }) => {}
            Err(error) => return Err(error),
        }
        if deletion.purge && job.room > 0 {
            job.outcome.events += self.remove_room(&job.room_id, RoomNumber(job.room)).await?;
        }
        if self.block_of(&job.room_id).await?.is_some_and(|block| block.passing) {
            let mut batch = Batch::new();
            BLOCKED_ROOMS.delete(&mut batch, &job.room_id);
            self.db().commit(batch).await?;
        }
        Ok(())
    }

    /// Has this server's members leave.
    async fn take_out(
        &self,
        id: &str,
        job: &mut Job,
        members: &Arc<[UserNumber]>,
    ) -> Result<(), RoomError> {
        for members in members.chunks(NOTED_AT_ONCE) {
            for user in members {
                let user_id = self.db().users().name(self.db(), *user).await?;
                let room = self.room(&job.room_id).await?;
                match self.leave(Sender { id: &user_id, number: *user }, &room).await {
                    Ok(()) => job.outcome.left.push(user_id),
                    Err(error @ RoomError::Storage(_)) => return Err(error),
                    Err(_) => job.outcome.stayed.push(user_id),
                }
            }
            self.note_job(id, job).await?;
        }
        Ok(())
    }

    /// Takes the room's aliases away, and the room out of the directory.
    async fn take_names(&self, job: &mut Job, room: RoomNumber) -> Result<(), RoomError> {
        let rows = ROOM_ALIASES.scan(self.db(), &Range::prefix(&(room,)), usize::MAX).await?;
        let mut batch = Batch::new();
        PUBLIC_ROOMS.delete(&mut batch, &room);
        for ((_, alias), ()) in rows {
            ALIASES.delete(&mut batch, &alias);
            ROOM_ALIASES.delete(&mut batch, &(room, &*alias));
            job.outcome.aliases.push(alias);
        }
        Ok(self.db().commit(batch).await?)
    }

    /// A room of `by` to which the members are invited.
    async fn tell_members(
        &self,
        (by, name, message): &(OwnedUserId, String, String),
        members: &[UserNumber],
    ) -> Result<OwnedRoomId, RoomError> {
        let session = self.without_device(by).await?;
        let mut invite = self.db().users().names(self.db(), members).await?;
        invite.retain(|user| user != by);
        let new = NewRoom {
            version: None,
            preset: Preset::Private,
            creation_content: ruma::CanonicalJsonObject::new(),
            initial_state: Vec::new(),
            power_levels: crate::rooms::create::object([("users_default", ruma::int!(-10).into())]),
            name: Some(name.clone()),
            topic: None,
            alias_name: None,
            invite: Vec::new(),
            is_direct: false,
            public: false,
        };
        let room_id = self.create(&session, &new).await?;
        let content = crate::rooms::create::object([
            ("msgtype", "m.text".into()),
            ("body", message.as_str().into()),
        ]);
        self.send(&session, &room_id, "m.room.message", "1".into(), content).await?;
        for user in invite {
            let invited = self
                .change_membership(&session, &room_id, &user, crate::rooms::Change::Invite, None)
                .await;
            if let Err(error) = invited {
                tracing::warn!(%error, %user, "a member was not told of a deletion");
            }
        }
        Ok(room_id)
    }

    /// A user of this server acting on the server's account.
    async fn without_device(&self, user_id: &UserId) -> Result<Session, RoomError> {
        let user = self.db().users().intern(self.db(), user_id).await?;
        Ok(Session {
            user_id: user_id.to_owned(),
            user,
            // No device that anybody can choose has such an ID.
            device_id: "\u{1}".into(),
            guest: false,
            appservice: None,
        })
    }
}
