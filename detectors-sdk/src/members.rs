//! The members of a group, and a map of what is known of each.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};

/// A symbol, as a row names it. It is a key of [`ByMember`], and can't be saved, since its id differs from run to run.
///
/// ```
/// use tickhound_sdk::{ByMember, Tick};
///
/// fn count(seen: &mut ByMember<u32>, tick: &Tick<'_>) {
///     *seen.entry(tick.symbol_id()) += 1;
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    pub(crate) id: u32,
    pub(crate) name: &'a str,
}

impl<'a> Member<'a> {
    /// Returns the name of the symbol.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }
}

impl AsRef<str> for Member<'_> {
    fn as_ref(&self) -> &str {
        self.name
    }
}

/// What a state knows of each member of its group, in the order of their names.
///
/// Unlike a `HashMap` it has the same order in every run, and unlike a `BTreeMap` by name it finds a member without comparing
/// texts. It is saved with names.
///
/// ```
/// use tickhound_sdk::{ByMember, Detection, Tick};
///
/// const VWAP: usize = 0; // the position of the column `vwap` in the manifest
///
/// /// The share of the members above their VWAP.
/// fn on_tick(above: &mut ByMember<bool>, tick: &Tick<'_>) -> Option<Detection> {
///     *above.entry(tick.symbol_id()) = tick.price > tick.column(VWAP);
///     let share = above.values().filter(|is_above| **is_above).count() as f64 / above.len() as f64;
///     (share > 0.8).then(|| Detection::up(share).members(above.iter().filter(|(_, is_above)| **is_above).map(|(name, _)| name)))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ByMember<T> {
    /// In the order in which they were added.
    items: Vec<(String, T)>,
    /// The indices of the items, in the order of their names.
    order: Vec<u32>,
    /// The ids that are known so far, ascending, each with the index of its item.
    ids: Vec<(u32, u32)>,
}

impl<T> ByMember<T> {
    /// Returns an empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: Vec::new(), order: Vec::new(), ids: Vec::new() }
    }

    /// Returns the value of a member. It is `Default` if the member is new.
    pub fn entry(&mut self, member: Member<'_>) -> &mut T
    where
        T: Default,
    {
        let index = match self.ids.binary_search_by_key(&member.id, |(id, _)| *id) {
            Ok(at) => self.ids[at].1,
            Err(_) => self.meet(member),
        };
        &mut self.items[index as usize].1
    }

    /// Returns the value of a member, given the member or its name.
    #[must_use]
    pub fn get<K: AsRef<str>>(&self, member: K) -> Option<&T> {
        Some(&self.items[self.find(member.as_ref())?].1)
    }

    /// Returns the value of a member, to change it.
    #[must_use]
    pub fn get_mut<K: AsRef<str>>(&mut self, member: K) -> Option<&mut T> {
        let index = self.find(member.as_ref())?;
        Some(&mut self.items[index].1)
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns the names and values, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.order.iter().map(|&index| {
            let (name, value) = &self.items[index as usize];
            (name.as_str(), value)
        })
    }

    /// Returns the values, in the order of names.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    /// Calls `change` for each member, in the order of names.
    pub fn update(&mut self, mut change: impl FnMut(&str, &mut T)) {
        for &index in &self.order {
            let (name, value) = &mut self.items[index as usize];
            change(name, value);
        }
    }

    /// Keeps the members for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut T) -> bool) {
        let mut kept = Self::new();
        for (name, mut value) in std::mem::take(self).into_items() {
            if keep(&name, &mut value) {
                kept.append(name, value);
            }
        }
        *self = kept;
    }

    /// Removes all members.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Returns the index of a member whose id is not known yet, and remembers the id.
    #[cold]
    fn meet(&mut self, member: Member<'_>) -> u32
    where
        T: Default,
    {
        let index = match self.search(member.name) {
            Ok(at) => {
                let index = self.order[at];
                // A symbol that was dropped and came back has another id.
                self.ids.retain(|(_, known)| *known != index);
                index
            }
            Err(at) => {
                let index = self.items.len() as u32;
                self.order.insert(at, index);
                self.items.push((member.name.to_owned(), T::default()));
                index
            }
        };
        let at = self.ids.partition_point(|(id, _)| *id < member.id);
        self.ids.insert(at, (member.id, index));
        index
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.search(name).ok().map(|at| self.order[at] as usize)
    }

    /// Returns the position of a name in the order, or where it belongs.
    fn search(&self, name: &str) -> Result<usize, usize> {
        self.order.binary_search_by(|&index| self.items[index as usize].0.as_str().cmp(name))
    }

    fn into_items(self) -> impl Iterator<Item = (String, T)> {
        let Self { items, order, .. } = self;
        let mut items: Vec<Option<(String, T)>> = items.into_iter().map(Some).collect();
        order.into_iter().filter_map(move |index| items[index as usize].take())
    }

    /// Adds a member whose name follows those of all others.
    fn append(&mut self, name: String, value: T) {
        self.order.push(self.items.len() as u32);
        self.items.push((name, value));
    }
}

// Not derived, since `T` need not be `Default`.
impl<T> Default for ByMember<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: PartialEq> PartialEq for ByMember<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Serialize> Serialize for ByMember<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByMember<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Saved(std::marker::PhantomData))
    }
}

struct Saved<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Saved<T> {
    type Value = ByMember<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of members in the order of their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ByMember<T>, A::Error> {
        let mut members = ByMember::new();
        while let Some((name, value)) = map.next_entry::<String, T>()? {
            let is_in_order = members.items.last().is_none_or(|(last, _)| *last < name);
            if !is_in_order {
                return Err(serde::de::Error::custom("members are not in the order of their names"));
            }
            members.append(name, value);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u32, name: &str) -> Member<'_> {
        Member { id, name }
    }

    #[test]
    fn a_member_that_comes_back_under_another_id_is_the_same() {
        let mut members = ByMember::<u32>::new();
        *members.entry(member(7, "B")) += 1;
        *members.entry(member(3, "A")) += 10;
        *members.entry(member(9, "B")) += 1;
        *members.entry(member(9, "B")) += 1;
        assert_eq!(members.iter().collect::<Vec<_>>(), [("A", &10), ("B", &3)]);
        assert_eq!(members.ids, [(3, 1), (9, 0)]);
        assert_eq!((members.get("B"), members.get(member(3, "A")), members.get("C")), (Some(&3), Some(&10), None));
    }

    #[test]
    fn what_is_kept_keeps_its_order_and_is_found() {
        let mut members = ByMember::<u32>::new();
        for (id, name) in [(5, "D"), (1, "B"), (2, "C"), (4, "A")] {
            *members.entry(member(id, name)) = id;
        }
        members.retain(|name, _| name != "C");
        *members.entry(member(2, "C")) = 9;
        *members.entry(member(5, "D")) += 1;
        *members.get_mut("A").unwrap() += 1;
        members.update(|_, value| *value *= 2);
        assert_eq!(members.iter().collect::<Vec<_>>(), [("A", &10), ("B", &2), ("C", &18), ("D", &12)]);
        assert_eq!(members.len(), 4);
        members.clear();
        assert!(members.is_empty());
    }

    #[test]
    fn it_is_saved_by_name_and_rejects_what_it_has_not_saved() {
        let mut members = ByMember::<u32>::new();
        *members.entry(member(5, "D")) = 4;
        *members.entry(member(1, "B")) = 2;
        let saved = postcard::to_allocvec(&members).unwrap();
        assert_eq!(saved, [2, 1, b'B', 2, 1, b'D', 4]);
        let restored: ByMember<u32> = postcard::from_bytes(&saved).unwrap();
        assert_eq!(restored, members);
        for twice in [[2, 1, b'B', 2, 1, b'B', 4], [2, 1, b'D', 2, 1, b'B', 4]] {
            assert!(postcard::from_bytes::<ByMember<u32>>(&twice).is_err());
        }
    }
}
