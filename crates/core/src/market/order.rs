//! The order of symbols by their names, in which rows of bars and snapshots come: it is the same whatever numbers the symbols have.

use std::sync::Arc;

/// So many times as many symbols as are to be sorted: then the order of all symbols is not worth to be found for it.
const FEW: usize = 16;

/// Sorts symbols by name, and remembers the order of all of them until there is a new one.
#[derive(Clone, Debug, Default)]
pub struct NameOrder {
    /// The position of each symbol in the order, by its number.
    ranks: Vec<u32>,
    /// Whether symbols have changed since `ranks` was made.
    is_stale: bool,
}

impl NameOrder {
    /// Notes that a number has got another name.
    pub fn note_change(&mut self) {
        self.is_stale = true;
    }

    /// Sorts items by the names of their symbols, and by `then` if the symbol is the same. `names` has the name of each symbol
    /// by its number.
    pub fn sort<T>(&mut self, names: &[Arc<str>], items: &mut [T], key: impl Fn(&T) -> (u32, u32)) {
        let is_current = !self.is_stale && self.ranks.len() == names.len();
        if !is_current && items.len() < names.len() / FEW {
            items.sort_unstable_by(|a, b| {
                let ((a, then_a), (b, then_b)) = (key(a), key(b));
                names[a as usize].cmp(&names[b as usize]).then(then_a.cmp(&then_b))
            });
            return;
        }
        if !is_current {
            self.rank(names);
        }
        items.sort_unstable_by_key(|item| {
            let (symbol, then) = key(item);
            (self.ranks[symbol as usize], then)
        });
    }

    fn rank(&mut self, names: &[Arc<str>]) {
        let mut order: Vec<u32> = (0..names.len() as u32).collect();
        order.sort_unstable_by(|a, b| names[*a as usize].cmp(&names[*b as usize]));
        self.ranks.clear();
        self.ranks.resize(names.len(), 0);
        for (rank, symbol) in order.into_iter().enumerate() {
            self.ranks[symbol as usize] = rank as u32;
        }
        self.is_stale = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_sorted_by_name_few_or_many_and_after_a_change() {
        let mut names: Vec<Arc<str>> = (0..200).map(|n| format!("S{}", n * 7919 % 1000).into()).collect();
        let mut order = NameOrder::default();
        for round in 0..4 {
            for count in [0, 1, 5, 100, 200] {
                let mut items: Vec<(u32, u32)> = (0..count).flat_map(|n| [(n, 1), (n, 0)]).collect();
                order.sort(&names, &mut items, |item| *item);
                let mut expected: Vec<(&str, u32)> =
                    (0..count).flat_map(|n| [0, 1].map(|then| (&*names[n as usize], then))).collect();
                expected.sort_unstable();
                let sorted: Vec<(&str, u32)> = items.iter().map(|(n, then)| (&*names[*n as usize], *then)).collect();
                assert_eq!(sorted, expected, "round {round}, {count} symbols");
            }
            names[round * 3] = format!("A{round}").into();
            names.push(format!("B{round}").into());
            order.note_change();
        }
    }
}
