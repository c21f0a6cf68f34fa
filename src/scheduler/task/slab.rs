//! Places for values that come and go, reached by a small index.
//!
//! Places lie in chunks, so that a slab grows without moving what it holds, and a chunk is given back once it is empty:
//! a queue of a million tasks leaves nothing behind. New values go into the lowest chunk with room.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;

/// Places in a chunk.
const CHUNK: u32 = 256;

/// A typed index of a slab.
pub(super) trait Ix: Copy + fmt::Debug {
    fn new(index: u32) -> Self;
    fn index(self) -> u32;
}

/// Defines an index type; `Option` of it is as small as itself.
macro_rules! ix {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(super) struct $name(std::num::NonZeroU32);

        impl $crate::scheduler::task::slab::Ix for $name {
            fn new(index: u32) -> Self {
                Self($crate::scheduler::task::slab::one_more(index))
            }

            fn index(self) -> u32 {
                self.0.get() - 1
            }
        }
    )+};
}
pub(super) use ix;

pub(super) fn one_more(index: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(index)
}

#[derive(Debug)]
enum Place<T> {
    Free { next: Option<NonZeroU32> },
    Used { generation: u32, value: T },
}

#[derive(Debug)]
struct Chunk<T> {
    /// Grows up to `CHUNK`.
    places: Vec<Place<T>>,
    /// The first of the places that were used and are free again.
    free: Option<NonZeroU32>,
    used: u32,
}

impl<T> Chunk<T> {
    fn new() -> Self {
        Self {
            places: Vec::with_capacity(CHUNK as usize),
            free: None,
            used: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Slab<I, T> {
    chunks: Vec<Option<Box<Chunk<T>>>>,
    /// Chunks with a free place.
    roomy: BTreeSet<u32>,
    /// Numbers of chunks that were given back.
    vacant: BTreeSet<u32>,
    /// One empty chunk is kept, so that a slab at a boundary does not allocate with every value.
    spare: Option<u32>,
    len: usize,
    generation: u32,
    index: PhantomData<I>,
}

impl<I: Ix, T> Slab<I, T> {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            roomy: BTreeSet::new(),
            vacant: BTreeSet::new(),
            spare: None,
            len: 0,
            generation: 0,
            index: PhantomData,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> I {
        let number = match self.roomy.first() {
            Some(number) => *number,
            None => self.add_chunk(),
        };
        if self.spare == Some(number) {
            self.spare = None;
        }
        self.generation = self.generation.wrapping_add(1);
        let used = Place::Used {
            generation: self.generation,
            value,
        };
        let chunk = self.chunks[number as usize]
            .as_mut()
            .expect("a chunk with room exists");
        let offset = match chunk.free {
            Some(free) => {
                let offset = free.get() - 1;
                let place = &mut chunk.places[offset as usize];
                let Place::Free { next } = *place else {
                    unreachable!("the free list holds free places");
                };
                chunk.free = next;
                *place = used;
                offset
            }
            None => {
                chunk.places.push(used);
                chunk.places.len() as u32 - 1
            }
        };
        chunk.used += 1;
        if chunk.used == CHUNK {
            self.roomy.remove(&number);
        }
        self.len += 1;
        I::new(number * CHUNK + offset)
    }

    pub(super) fn remove(&mut self, index: I) -> T {
        let (number, offset) = (index.index() / CHUNK, index.index() % CHUNK);
        let chunk = self.chunks[number as usize]
            .as_mut()
            .expect("the place is in use");
        let free = Place::Free { next: chunk.free };
        let Place::Used { value, .. } = std::mem::replace(&mut chunk.places[offset as usize], free)
        else {
            unreachable!("the place is in use");
        };
        chunk.free = Some(one_more(offset));
        if chunk.used == CHUNK {
            self.roomy.insert(number);
        }
        chunk.used -= 1;
        self.len -= 1;
        if chunk.used == 0 {
            self.put_by(number);
        }
        value
    }

    pub(super) fn get(&self, index: I) -> Option<&T> {
        match self.place(index)? {
            Place::Used { value, .. } => Some(value),
            Place::Free { .. } => None,
        }
    }

    /// Tells the value at a place from those that were there before it.
    pub(super) fn generation(&self, index: I) -> Option<u32> {
        match self.place(index)? {
            Place::Used { generation, .. } => Some(*generation),
            Place::Free { .. } => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.chunks.iter().zip(0..).flat_map(|(chunk, number)| {
            let places = chunk.iter().flat_map(|chunk| &chunk.places);
            places
                .zip(0..)
                .filter_map(move |(place, offset)| match place {
                    Place::Used { value, .. } => Some((I::new(number * CHUNK + offset), value)),
                    Place::Free { .. } => None,
                })
        })
    }

    fn place(&self, index: I) -> Option<&Place<T>> {
        let chunk = self
            .chunks
            .get((index.index() / CHUNK) as usize)?
            .as_ref()?;
        chunk.places.get((index.index() % CHUNK) as usize)
    }

    fn add_chunk(&mut self) -> u32 {
        let number = self.vacant.pop_first().unwrap_or_else(|| {
            self.chunks.push(None);
            self.chunks.len() as u32 - 1
        });
        self.chunks[number as usize] = Some(Box::new(Chunk::new()));
        self.roomy.insert(number);
        number
    }

    /// Keeps the lower of two empty chunks and gives the other back.
    fn put_by(&mut self, number: u32) {
        let Some(spare) = self.spare else {
            self.spare = Some(number);
            return;
        };
        let (keep, drop) = (spare.min(number), spare.max(number));
        self.spare = Some(keep);
        self.roomy.remove(&drop);
        self.chunks[drop as usize] = None;
        self.vacant.insert(drop);
        while matches!(self.chunks.last(), Some(None)) {
            self.chunks.pop();
            self.vacant.remove(&(self.chunks.len() as u32));
        }
        if self.chunks.len() * 4 < self.chunks.capacity() {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }
}

impl<I: Ix, T> std::ops::Index<I> for Slab<I, T> {
    type Output = T;

    fn index(&self, index: I) -> &T {
        self.get(index).expect("the place is in use")
    }
}

impl<I: Ix, T> std::ops::IndexMut<I> for Slab<I, T> {
    fn index_mut(&mut self, index: I) -> &mut T {
        let chunk = self.chunks[(index.index() / CHUNK) as usize]
            .as_mut()
            .expect("the place is in use");
        match &mut chunk.places[(index.index() % CHUNK) as usize] {
            Place::Used { value, .. } => value,
            Place::Free { .. } => unreachable!("the place is in use"),
        }
    }
}

#[cfg(test)]
impl<I: Ix, T> Slab<I, T> {
    /// Bytes that the slab's own structures take.
    pub(super) fn bytes(&self) -> usize {
        let chunks = self.chunks.iter().flatten().count();
        chunks * (size_of::<Chunk<T>>() + CHUNK as usize * size_of::<Place<T>>())
            + self.chunks.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    ix! { TestIx }

    #[test]
    fn an_index_costs_nothing_as_an_option() {
        assert_eq!(size_of::<Option<TestIx>>(), 4);
        assert_eq!(TestIx::new(7).index(), 7);
    }

    #[test]
    fn a_place_used_again_has_another_generation() {
        let mut slab = Slab::<TestIx, _>::new();
        let first = slab.insert("a");
        let generation = slab.generation(first);
        assert_eq!(slab.remove(first), "a");
        assert_eq!(slab.get(first), None);
        let second = slab.insert("b");
        assert_eq!(first, second);
        assert_ne!(slab.generation(second), generation);
        assert_eq!(slab[second], "b");
    }

    #[test]
    fn empty_chunks_are_given_back_in_any_order_of_removal() {
        let mut slab = Slab::<TestIx, _>::new();
        let count = CHUNK * 40 + 3;
        for round in 0..3 {
            let mut all: Vec<_> = (0..count).map(|n| slab.insert(n)).collect();
            assert_eq!(slab.len(), count as usize);
            assert_eq!(slab.iter().count(), count as usize);
            let mut random = fastrand::Rng::with_seed(round);
            if round == 1 {
                all.reverse();
            } else if round == 2 {
                random.shuffle(&mut all);
            }
            for index in &all {
                slab.remove(*index);
            }
            assert_eq!(slab.len(), 0);
            assert!(slab.chunks.iter().flatten().count() <= 1, "one spare");
            assert!(slab.bytes() < 64 * 1024);
        }
    }
}
