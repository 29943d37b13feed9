//! What a bucket will cost, before it does: estimates, by AWS's list prices.

use df_cache::s3::objects::Requests;
use df_cache::store::Stats;

use crate::render::units::seconds;

/// Bytes a second that are reckoned with, each way: one request's share by AWS's planning figures.
const UP: u64 = 20_000_000;
const DOWN: u64 = 90_000_000;
/// US dollars, S3 Standard, us-east-1.
const PUTS: f64 = 0.005 / 1000.0;
const GETS: f64 = 0.0004 / 1000.0;
const GB_MONTH: f64 = 0.023;

/// What something costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Requests of all kinds.
    pub requests: u64,
    /// Dollars for the requests.
    pub once: f64,
    /// Dollars a month for what is stored besides.
    pub monthly: f64,
    /// How long it takes.
    pub seconds: f64,
}

/// Estimates what some requests and bytes cost. Deleting costs nothing, listing as much as writing.
pub fn estimate(work: &Requests) -> Estimate {
    let (up, down) = (work.bytes_up as f64, work.bytes_down as f64);
    Estimate {
        requests: work.get + work.put + work.list + work.delete,
        once: (work.put + work.list) as f64 * PUTS + work.get as f64 * GETS,
        monthly: up / 1e9 * GB_MONTH,
        seconds: up / UP as f64 + down / DOWN as f64,
    }
}

/// Returns what putting takes, by what the bucket says: should another release than these be the newest here, it is put again with them, and who vouches for it is read before.
pub fn of_put(work: Requests) -> Requests {
    Requests { get: work.get + 2, put: work.put + 1, ..work }
}

/// Adds what is done besides.
pub fn and(work: Requests, more: Requests) -> Requests {
    Requests { get: work.get + more.get, put: work.put + more.put, ..work }
}

/// Returns what taking so many bytes out takes, in so many requests.
pub fn of_get(taken_bytes: u64, requests: u64) -> Requests {
    Requests { get: requests, bytes_down: taken_bytes, ..Requests::default() }
}

/// How long a body is that goes in parts, and how long these are.
const IN_PARTS: u64 = 64 << 20;
const PART_LEN: u64 = 16 << 20;
/// How much of an object a node asks for in one request.
const FETCHED_LEN: u64 = 4 << 20;

/// Returns what it takes at most that a node fetches an object of so many bytes; `is_first`: it is asked for before, and put there.
pub fn of_fetch(len: u64, is_first: bool) -> Requests {
    let fetched = Requests { get: len.div_ceil(FETCHED_LEN), bytes_down: len, ..Requests::default() };
    if !is_first {
        return fetched;
    }
    // The parts, and their beginning and end.
    let put = if len > IN_PARTS { len.div_ceil(PART_LEN) + 2 } else { 1 };
    Requests { get: fetched.get + 1, put, bytes_up: len, ..fetched }
}

/// Objects of a bucket that one request lists or deletes.
const LISTED: u64 = 1000;
/// What a listing goes through: packs, segments, tables, documents, records, two kinds of what is made again, probes, uploads.
const LISTINGS: u64 = 9;

/// Returns what a collection takes at most: four commits, a manifest for each image, and each pack written again that is used by less than half.
pub fn of_gc(stats: &Stats) -> Requests {
    Requests {
        get: 24 + stats.n_images + stats.n_packs,
        put: 20 + stats.n_packs,
        bytes_up: stats.stored_bytes / 2,
        bytes_down: stats.stored_bytes / 2,
        ..of_flush(stats)
    }
}

/// Bytes of files that one pack takes at least and at most, and that one piece of a file has; of how many changes a piece is at most.
const PACK_LEN: (u64, u64) = (48 << 20, 256 << 20);
const PIECE_LEN: u64 = 8 << 20;
const CHANGES: u64 = 8;
/// How often all is read where something is damaged: to find it, what holds the cache together once more, and twice because a list of files that is whole again names others.
const READINGS: u64 = 4;

/// Returns what mending takes at most when another copy has what is damaged: by what it took to find it in so many places.
pub fn of_repair(stats: &Stats, looked: &Requests, n_damages: u64) -> Requests {
    let sweep = of_gc(stats);
    let rows = stats.n_images + 3 * stats.n_releases;
    let (again, moved) = match n_damages {
        0 => (0, 0),
        // What is whole in a damaged pack is read to compare it, and to send it again.
        n => (
            stats.blob_bytes.min(n * PACK_LEN.1),
            2 * (1 + CHANGES) * (stats.n_blobs + stats.n_images + stats.blob_bytes / PIECE_LEN),
        ),
    };
    Requests {
        get: sweep.get + READINGS * looked.get + moved + rows,
        // Two commits, with a pack each at least, and what a release has beside it.
        put: sweep.put + 2 * again.div_ceil(PACK_LEN.0) + 2 * 5 + rows,
        list: sweep.list + READINGS * looked.list,
        delete: sweep.delete,
        bytes_up: sweep.bytes_up + again,
        bytes_down: sweep.bytes_down + READINGS * looked.bytes_down + 2 * again,
    }
}

/// Returns what emptying takes at most.
pub fn of_flush(stats: &Stats) -> Requests {
    // A release has an image, documents, a commit of its own, deltas and a whole stream, at most.
    let pages = (stats.n_packs + 16 * (stats.n_releases + stats.n_images)).div_ceil(LISTED);
    Requests { get: 12, put: 10, list: LISTINGS + pages, delete: LISTINGS + pages, ..Requests::default() }
}

/// Says what removing costs.
pub fn words_of_removal(work: &Requests) -> String {
    let estimate = estimate(work);
    let again = if work.bytes_up > 0 { " when packs are written again" } else { "" };
    format!(
        "at most {} requests; estimates by AWS's list prices: ${}, {}{again}",
        estimate.requests,
        dollars(estimate.once),
        seconds(estimate.seconds)
    )
}

/// Says what something costs, and that nobody should take it for a bill.
pub fn words(work: &Requests) -> String {
    let estimate = estimate(work);
    let rate = if work.bytes_up > 0 { UP } else { DOWN };
    let stored = if work.bytes_up > 0 { format!(" and ${} a month", dollars(estimate.monthly)) } else { String::new() };
    let transfer = if work.bytes_down > 0 { ", without AWS's price of transfer out" } else { "" };
    format!(
        "at most {} requests; estimates by AWS's list prices: ${}{stored}{transfer}; {} at {}/s",
        estimate.requests,
        dollars(estimate.once),
        seconds(estimate.seconds),
        format_args!("{} MB", rate / 1_000_000)
    )
}

fn dollars(amount: f64) -> String {
    if amount >= 0.01 { format!("{amount:.2}") } else { format!("{amount:.6}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_follow_the_price_list() {
        let requests = |get, put, list, delete, bytes_up, bytes_down| Requests { get, put, list, delete, bytes_up, bytes_down };
        // Work, requests, dollars once, dollars a month, seconds.
        let table = [
            (requests(0, 0, 0, 0, 0, 0), (0, 0.0, 0.0, 0.0)),
            (requests(0, 1000, 0, 0, 0, 0), (1000, 0.005, 0.0, 0.0)),
            (requests(1000, 0, 0, 0, 0, 0), (1000, 0.0004, 0.0, 0.0)),
            (requests(0, 0, 1000, 0, 0, 0), (1000, 0.005, 0.0, 0.0)),
            (requests(0, 0, 0, 1000, 0, 0), (1000, 0.0, 0.0, 0.0)),
            (requests(0, 0, 0, 0, 1_000_000_000, 0), (0, 0.0, 0.023, 50.0)),
            (requests(0, 0, 0, 0, 0, 900_000_000), (0, 0.0, 0.0, 10.0)),
            (requests(2000, 2000, 0, 0, 100_000_000_000, 0), (4000, 0.0108, 2.3, 5000.0)),
        ];
        for (work, (n, once, monthly, seconds)) in table {
            let found = estimate(&work);
            let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
            assert!(
                found.requests == n && near(found.once, once) && near(found.monthly, monthly) && near(found.seconds, seconds),
                "{work:?}: {found:?}"
            );
        }
    }

    #[test]
    fn a_get_takes_the_requests_that_the_bucket_says() {
        assert_eq!(estimate(&of_get(33 << 20, 5)).requests, 5);
    }

    #[test]
    fn what_nodes_fetch_is_put_there_by_the_first_and_asked_for_in_pieces_by_each() {
        let n = |len, is_first| {
            let work = of_fetch(len, is_first);
            (work.get, work.put, work.bytes_up, work.bytes_down)
        };
        let mib = 1 << 20;
        // One that asks whether it is there, one that puts it, and two pieces.
        assert_eq!(n(5 * mib, true), (3, 1, 5 * mib, 5 * mib));
        assert_eq!(n(5 * mib, false), (2, 0, 0, 5 * mib));
        assert_eq!(n(65 * mib, true), (18, 5 + 2, 65 * mib, 65 * mib));
        assert_eq!(n(64 * mib, true), (17, 1, 64 * mib, 64 * mib));
    }

    #[test]
    fn what_is_put_again_afterwards_counts() {
        let (work, more) =
            (Requests { get: 1, put: 5, bytes_up: 9, ..Requests::default() }, Requests { get: 1, put: 3, ..Requests::default() });
        assert_eq!(and(work, more), Requests { get: 2, put: 8, bytes_up: 9, ..Requests::default() });
    }

    #[test]
    fn a_removal_is_a_listing_and_a_deletion_for_each_thousand_objects_and_some_commits() {
        let stats =
            |n_packs, n_images| Stats { n_packs, n_images, n_releases: n_images, stored_bytes: 40_000_000, ..Stats::default() };
        let n = |work: Requests| estimate(&work).requests;
        assert_eq!((n(of_flush(&stats(0, 0))), n(of_flush(&stats(1000, 0))), n(of_flush(&stats(1000, 100)))), (40, 42, 50));
        assert_eq!(n(of_gc(&stats(1000, 100))), 44 + 28 + 100 + 2 * 1000);
        let gc = words_of_removal(&of_gc(&stats(2, 2)));
        assert_eq!(gc, "at most 70 requests; estimates by AWS's list prices: $0.000171, 1.2 s when packs are written again");
    }

    #[test]
    fn the_words_say_that_they_are_estimates() {
        let put = words(&of_put(Requests { get: 0, put: 33, bytes_up: 1_000_000_000, ..Requests::default() }));
        assert!(put.starts_with("at most 36 requests; estimates by AWS's list prices: $0.000171 and $0.02 a month"), "{put}");
        assert!(words(&of_get(1 << 20, 4)).contains("without AWS's price of transfer out"));
    }
}
