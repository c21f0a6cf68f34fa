//! Who waits for which engine, so that an engine with room finds its next task without looking through the others.
//!
//! A *class* is a set of engines that tasks are restricted to; tasks with the same set share one. [`ANY`] is the class of
//! tasks that any engine may have. A *lane* holds those tasks of one client and one class that wait for an engine, in
//! the order of submission. Tasks that must stay away from some engines (which refused them, or failed them) wait in a
//! *picky* lane of their own, and each engine remembers how far it has seen that all tasks in it are not for it: it
//! passes by each of them once, however often it looks.
//!
//! An engine finds the lanes of `ANY` by the *ring* of clients, and those of other classes at its own *stand*.
//!
//! # Fairness
//! The client that was served longest ago goes first; a new client is before all others. So each of n clients gets every
//! nth turn, whatever the others have queued. Of one client, tasks that came back from an engine go first, then the
//! order is that of submission, among tasks for the same engines. Where an engine has tasks that only some engines may
//! have beside tasks for any, neither kind waits for more than one round of the other.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashSet, HashTable};

use super::ids::JobIx;
use super::roster::{Serial, Slot};
use super::slab::{Ix, Slab, ix};
use super::types::ClientWaiting;
use crate::protocol::Identity;

ix! {
    ClientIx,
    ClassIx,
    LaneIx,
}

#[derive(Debug)]
struct Class {
    /// Engines that are there or expected, sorted. Those that go are taken out.
    members: Vec<Slot>,
    /// Whether new tasks with the same members find it.
    interned: bool,
    /// Jobs that hold it.
    jobs: u32,
    /// Jobs in lanes that are not picky: while there are any, no member has room.
    waiting: u32,
    lanes: Vec<LaneIx>,
    /// Jobs that wait for other tasks.
    blocked: HashSet<JobIx>,
}

#[derive(Debug)]
struct Lane {
    client: ClientIx,
    class: ClassIx,
    picky: bool,
    /// By the sequence of submission; in a picky lane by arrival.
    jobs: BTreeMap<u64, JobIx>,
    /// Members of the class at whose stand it is not listed.
    unlisted: Vec<Slot>,
    /// Picky: everything before this arrival is not for this engine.
    cursors: HashMap<Serial, u64>,
    /// Picky: no job that was here since the lane was empty had more attempts behind it.
    most_attempts: usize,
}

#[derive(Debug)]
struct Client {
    identity: Identity,
    /// With which the ids of its messages begin.
    session: Box<str>,
    jobs: u32,
    /// Of them, those that wait for other tasks.
    blocked: u32,
    /// Those that wait for an engine.
    ready: u32,
    /// When it was served last.
    served: u64,
    /// Its lanes of `ANY`: plain, picky.
    lanes: [Option<LaneIx>; 2],
}

/// What waits for one engine in particular.
#[derive(Debug, Default)]
struct Stand {
    classes: HashSet<ClassIx>,
    /// Lanes by client and turn. A lane that has run empty is dropped when the engine next sees it.
    lanes: BTreeSet<(ClientIx, u64, LaneIx)>,
    turns: HashMap<LaneIx, u64>,
    next_turn: u64,
    last_client: Option<ClientIx>,
    /// How often tasks for any engine went before, since a lane here was served.
    passed_over: usize,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    client: ClientIx,
    lane: LaneIx,
    order: u64,
    job: JobIx,
    plain: bool,
}

#[derive(Debug)]
pub(super) struct Queues {
    classes: Slab<ClassIx, Class>,
    interned: HashTable<ClassIx>,
    hasher: DefaultHashBuilder,
    lanes: Slab<LaneIx, Lane>,
    lane_of: HashMap<(ClassIx, ClientIx, bool), LaneIx>,
    clients: Slab<ClientIx, Client>,
    by_identity: HashMap<Identity, ClientIx>,
    /// Clients with tasks for any engine, in the order of their last service.
    ring: BTreeSet<(u64, ClientIx)>,
    stands: Vec<Stand>,
    any: ClassIx,
    arrivals: u64,
    services: u64,
}

impl Queues {
    pub(super) fn new() -> Self {
        let mut classes = Slab::new();
        let any = classes.insert(Class::new(Vec::new()));
        Self {
            classes,
            interned: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            lanes: Slab::new(),
            lane_of: HashMap::new(),
            clients: Slab::new(),
            by_identity: HashMap::new(),
            ring: BTreeSet::new(),
            stands: Vec::new(),
            any,
            arrivals: 0,
            services: 0,
        }
    }

    // Clients.

    /// Counts one more job of a client.
    pub(super) fn join(&mut self, identity: Identity, session: &str) -> ClientIx {
        if let Some(client) = self.by_identity.get(&identity) {
            self.clients[*client].jobs += 1;
            return *client;
        }
        let client = self.clients.insert(Client {
            identity: identity.clone(),
            session: session.into(),
            jobs: 1,
            blocked: 0,
            ready: 0,
            served: 0,
            lanes: [None; 2],
        });
        self.by_identity.insert(identity, client);
        client
    }

    /// Counts one job less; a client without jobs is forgotten.
    pub(super) fn leave(&mut self, client: ClientIx) -> Identity {
        let known = &mut self.clients[client];
        known.jobs -= 1;
        if known.jobs > 0 {
            return known.identity.clone();
        }
        let known = self.clients.remove(client);
        self.by_identity.remove(&known.identity);
        for lane in known.lanes.into_iter().flatten() {
            self.lanes.remove(lane);
        }
        known.identity
    }

    /// What waits of every client that has jobs.
    pub(super) fn waiting(&self) -> impl Iterator<Item = ClientWaiting<'_>> {
        self.clients.iter().map(|(_, client)| ClientWaiting {
            session: &client.session,
            blocked: client.blocked.into(),
            ready: client.ready.into(),
        })
    }

    /// It is the last in the ring now.
    pub(super) fn served(&mut self, client: ClientIx) {
        self.services += 1;
        let known = &mut self.clients[client];
        let before = std::mem::replace(&mut known.served, self.services);
        if self.ring.remove(&(before, client)) {
            self.ring.insert((self.services, client));
        }
    }

    // Classes.

    /// The class of tasks that any engine may have.
    pub(super) fn any(&self) -> ClassIx {
        self.any
    }

    /// The class of a set of engines, held by one more job.
    pub(super) fn hold_class(&mut self, mut members: Vec<Slot>) -> ClassIx {
        members.sort_unstable();
        members.dedup();
        let hash = self.hasher.hash_one(&members[..]);
        let found = self
            .interned
            .find(hash, |class| self.classes[*class].members == members);
        if let Some(class) = found {
            self.classes[*class].jobs += 1;
            return *class;
        }
        let mut class = Class::new(members);
        (class.interned, class.jobs) = (true, 1);
        let class = self.classes.insert(class);
        let (classes, hasher) = (&self.classes, &self.hasher);
        self.interned.insert_unique(hash, class, |class| {
            hasher.hash_one(&classes[*class].members[..])
        });
        for slot in &classes[class].members {
            let index = slot.index() as usize;
            if index >= self.stands.len() {
                self.stands.resize_with(index + 1, Stand::default);
            }
            self.stands[index].classes.insert(class);
        }
        class
    }

    /// One more job holds the same class.
    pub(super) fn hold_again(&mut self, class: ClassIx) -> ClassIx {
        self.classes[class].jobs += u32::from(class != self.any);
        class
    }

    /// A job does not hold it any more. A class that nobody holds is forgotten.
    pub(super) fn let_go(&mut self, class: ClassIx) {
        if class == self.any {
            return;
        }
        let known = &mut self.classes[class];
        known.jobs -= 1;
        if known.jobs > 0 {
            return;
        }
        self.unintern(class);
        let known = self.classes.remove(class);
        for lane in known.lanes {
            let Lane { client, picky, .. } = self.lanes.remove(lane);
            self.lane_of.remove(&(class, client, picky));
            for slot in &known.members {
                let stand = &mut self.stands[slot.index() as usize];
                if let Some(turn) = stand.turns.remove(&lane) {
                    stand.lanes.remove(&(client, turn, lane));
                }
            }
        }
        for slot in &known.members {
            self.stands[slot.index() as usize].classes.remove(&class);
        }
    }

    /// The engines of a class; none for any engine.
    pub(super) fn members(&self, class: ClassIx) -> Option<&[Slot]> {
        (class != self.any).then(|| &self.classes[class].members[..])
    }

    /// Whether tasks wait here that any member with room would have taken.
    pub(super) fn has_waiting(&self, class: ClassIx) -> bool {
        self.classes[class].waiting > 0
    }

    pub(super) fn block(&mut self, client: ClientIx, class: ClassIx, job: JobIx) {
        self.clients[client].blocked += 1;
        if class != self.any {
            self.classes[class].blocked.insert(job);
        }
    }

    pub(super) fn unblock(&mut self, client: ClientIx, class: ClassIx, job: JobIx) {
        self.clients[client].blocked -= 1;
        if class != self.any {
            self.classes[class].blocked.remove(&job);
        }
    }

    /// Jobs of a class without engines that are on none, in no order. The class may be forgotten already.
    pub(super) fn stranded(&self, class: ClassIx) -> Vec<JobIx> {
        let Some(class) = self
            .classes
            .get(class)
            .filter(|class| class.members.is_empty())
        else {
            return Vec::new();
        };
        let lanes = class.lanes.iter();
        lanes
            .flat_map(|lane| self.lanes[*lane].jobs.values().copied())
            .chain(class.blocked.iter().copied())
            .collect()
    }

    /// Takes an engine out of every class; the classes that it was in.
    pub(super) fn engine_gone(&mut self, slot: Slot) -> Vec<ClassIx> {
        let Some(stand) = self.stands.get_mut(slot.index() as usize) else {
            return Vec::new();
        };
        let mut classes: Vec<_> = std::mem::take(stand).classes.into_iter().collect();
        classes.sort_unstable();
        for class in &classes {
            self.unintern(*class);
            let class = &mut self.classes[*class];
            class.members.retain(|member| *member != slot);
            for lane in &class.lanes {
                self.lanes[*lane].unlisted.retain(|member| *member != slot);
            }
        }
        classes
    }

    fn unintern(&mut self, class: ClassIx) {
        if !std::mem::take(&mut self.classes[class].interned) {
            return;
        }
        let hash = self.hasher.hash_one(&self.classes[class].members[..]);
        if let Ok(entry) = self.interned.find_entry(hash, |found| *found == class) {
            entry.remove();
        }
    }

    // Lanes.

    /// Lets a job wait; its lane and its place in it. `attempts` is zero for a job that any engine of its class may
    /// have, and at least the number of engines that it stays away from.
    pub(super) fn push(
        &mut self,
        job: JobIx,
        sequence: u64,
        client: ClientIx,
        class: ClassIx,
        attempts: usize,
    ) -> (LaneIx, u64) {
        let picky = attempts > 0;
        self.clients[client].ready += 1;
        let lane = self.lane(client, class, picky);
        let order = if picky {
            self.arrivals += 1;
            self.arrivals
        } else {
            self.classes[class].waiting += 1;
            sequence
        };
        let known = &mut self.lanes[lane];
        known.most_attempts = known.most_attempts.max(attempts);
        known.jobs.insert(order, job);
        if known.jobs.len() > 1 {
            return (lane, order);
        }
        if class == self.any {
            self.ring.insert((self.clients[client].served, client));
        } else {
            for slot in std::mem::take(&mut known.unlisted) {
                let stand = &mut self.stands[slot.index() as usize];
                stand.next_turn += 1;
                stand.lanes.insert((client, stand.next_turn, lane));
                stand.turns.insert(lane, stand.next_turn);
            }
        }
        (lane, order)
    }

    pub(super) fn remove(&mut self, lane: LaneIx, order: u64) {
        let known = &mut self.lanes[lane];
        known.jobs.remove(&order);
        let (client, class) = (known.client, known.class);
        self.clients[client].ready -= 1;
        if !known.picky {
            self.classes[class].waiting -= 1;
        }
        if !known.jobs.is_empty() {
            return;
        }
        known.cursors = HashMap::new();
        known.most_attempts = 0;
        if class == self.any {
            let client_lanes = self.clients[client].lanes;
            if client_lanes
                .into_iter()
                .flatten()
                .all(|lane| self.lanes[lane].jobs.is_empty())
            {
                self.ring.remove(&(self.clients[client].served, client));
            }
        }
    }

    fn lane(&mut self, client: ClientIx, class: ClassIx, picky: bool) -> LaneIx {
        let mut new = Lane {
            client,
            class,
            picky,
            jobs: BTreeMap::new(),
            unlisted: Vec::new(),
            cursors: HashMap::new(),
            most_attempts: 0,
        };
        if class == self.any {
            let lane = &mut self.clients[client].lanes[usize::from(picky)];
            return *lane.get_or_insert_with(|| self.lanes.insert(new));
        }
        *self
            .lane_of
            .entry((class, client, picky))
            .or_insert_with(|| {
                let class = &mut self.classes[class];
                new.unlisted.clone_from(&class.members);
                let lane = self.lanes.insert(new);
                class.lanes.push(lane);
                lane
            })
    }

    /// Takes out the job that is next for an engine. `excluded`: whether a job must stay away from it.
    pub(super) fn next_for(
        &mut self,
        slot: Slot,
        serial: Serial,
        excluded: impl Fn(JobIx) -> bool,
    ) -> Option<JobIx> {
        let any = self.next_of_ring(serial, &excluded);
        let own = self.next_of_stand(slot, serial, &excluded);
        let own_is_next = match (any, own) {
            (Some(any), Some(own)) => self.goes_before(slot, own, any),
            (_, own) => own.is_some(),
        };
        let next = if own_is_next { own } else { any }?;
        self.remove(next.lane, next.order);
        if let Some(stand) = self.stands.get_mut(slot.index() as usize) {
            if own_is_next {
                stand.passed_over = 0;
                stand.last_client = Some(next.client);
                stand.next_turn += 1;
                if let Some(turn) = stand.turns.insert(next.lane, stand.next_turn) {
                    stand.lanes.remove(&(next.client, turn, next.lane));
                }
                let turn = (next.client, stand.next_turn, next.lane);
                stand.lanes.insert(turn);
            } else if own.is_some() {
                stand.passed_over += 1;
            }
        }
        Some(next.job)
    }

    /// Whether a task for this engine in particular goes before one for any engine.
    fn goes_before(&self, slot: Slot, own: Candidate, any: Candidate) -> bool {
        if own.client == any.client {
            return (own.plain, own.order) < (any.plain, any.order);
        }
        let served = |candidate: Candidate| self.clients[candidate.client].served;
        served(own) < served(any)
            || self.stands[slot.index() as usize].passed_over >= self.ring.len()
    }

    fn next_of_ring(
        &mut self,
        serial: Serial,
        excluded: &impl Fn(JobIx) -> bool,
    ) -> Option<Candidate> {
        let Self {
            ring,
            clients,
            lanes,
            ..
        } = self;
        ring.iter().find_map(|(_, client)| {
            let [plain, picky] = clients[*client].lanes;
            let mut next = |lane: LaneIx| lanes[lane].next_for(lane, serial, excluded);
            picky.and_then(&mut next).or_else(|| plain.and_then(next))
        })
    }

    fn next_of_stand(
        &mut self,
        slot: Slot,
        serial: Serial,
        excluded: &impl Fn(JobIx) -> bool,
    ) -> Option<Candidate> {
        let Self { stands, lanes, .. } = self;
        let stand = stands.get_mut(slot.index() as usize)?;
        if stand.lanes.is_empty() {
            return None;
        }
        let first = ClientIx::new(0);
        let start = stand
            .last_client
            .map_or(first, |client| ClientIx::new(client.index() + 1));
        let start = (start, 0, LaneIx::new(0));
        let mut empty = Vec::new();
        let found = stand
            .lanes
            .range(start..)
            .chain(stand.lanes.range(..start))
            .find_map(|entry| {
                let lane = &mut lanes[entry.2];
                if lane.jobs.is_empty() {
                    empty.push(*entry);
                }
                lane.next_for(entry.2, serial, excluded)
            });
        for entry in empty {
            stand.lanes.remove(&entry);
            stand.turns.remove(&entry.2);
            lanes[entry.2].unlisted.push(slot);
        }
        found
    }

    /// Picky jobs that may have lost the last engine that they do not stay away from, now that one is gone; of
    /// these classes, some may be forgotten already. `present`: how many engines are there or expected.
    pub(super) fn at_risk(&self, classes: &[ClassIx], present: usize) -> Vec<JobIx> {
        let clients = self.ring.iter().map(|(_, client)| &self.clients[*client]);
        let any = clients
            .filter_map(|client| client.lanes[1])
            .map(|lane| (lane, present));
        let others = classes
            .iter()
            .filter_map(|class| self.classes.get(*class))
            .flat_map(|class| class.lanes.iter().map(|lane| (*lane, class.members.len())));
        any.chain(others)
            .map(|(lane, engines)| (&self.lanes[lane], engines))
            .filter(|(lane, engines)| lane.picky && lane.most_attempts >= *engines)
            .flat_map(|(lane, _)| lane.jobs.values().copied())
            .collect()
    }
}

impl Class {
    fn new(members: Vec<Slot>) -> Self {
        Self {
            members,
            interned: false,
            jobs: 0,
            waiting: 0,
            lanes: Vec::new(),
            blocked: HashSet::new(),
        }
    }
}

impl Lane {
    /// The first job that the engine may have. `here` is this lane.
    fn next_for(
        &mut self,
        here: LaneIx,
        serial: Serial,
        excluded: &impl Fn(JobIx) -> bool,
    ) -> Option<Candidate> {
        let candidate = |(order, job): (&u64, &JobIx)| Candidate {
            client: self.client,
            lane: here,
            order: *order,
            job: *job,
            plain: !self.picky,
        };
        if !self.picky {
            return self.jobs.first_key_value().map(candidate);
        }
        let start = self.cursors.get(&serial).copied().unwrap_or_default();
        let mut past = start;
        let found = self.jobs.range(start..).find(|(order, job)| {
            let passes = excluded(**job);
            past = **order + u64::from(passes);
            !passes
        });
        let found = found.map(candidate);
        if past != start {
            self.cursors.insert(serial, past);
        }
        found
    }
}

#[cfg(test)]
mod sanity;
