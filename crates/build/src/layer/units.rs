//! What cargo would compile: the unit graph, and which of it belongs to a dependency layer.
//!
//! `cargo build --unit-graph` prints it as JSON (`version`, `units`, `roots`) and compiles nothing. A unit is one call of the compiler, or one run of a build
//! script. It names its package, target, profile, features and the units it needs.
//!
//! A package belongs to a layer when a registry or a git repository is its source and nothing that it needs, however far away, lies in the commit. Two
//! packages of one name are judged together, because file names in a target directory hold no more than the name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use df_core::Digest;
use serde::Deserialize;
use serde_json::Value;

use crate::fetch::{Lock, LockedPackage};

/// Raise it when a layer of an earlier df holds something else.
const LAYER_VERSION: u32 = 1;
/// The version of the format.
const FORMAT: u64 = 1;
/// How a unit that runs a build script is marked; it compiles nothing.
const RUN: &str = "run-custom-build";

/// What a build consists of.
#[derive(Debug)]
pub(crate) struct Units {
    units: Vec<Unit>,
    /// By position, whether a layer holds it.
    layered: Vec<bool>,
}

/// What else than its units decides what is in a layer.
#[derive(Debug)]
pub(crate) struct Ingredients<'a> {
    pub toolchain: &'a BTreeMap<String, String>,
    pub environment: &'a BTreeMap<String, String>,
    /// The arguments of the build.
    pub arguments: &'a [String],
    /// Files of the commit that dependencies may depend on, with their content.
    pub files: &'a [String],
    pub lock: &'a Lock,
}

impl Units {
    /// Reads a unit graph; `None` when it is none that is understood.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let graph: Graph = serde_json::from_slice(json).ok()?;
        let n_units = graph.units.len();
        let is_sound =
            graph.version == FORMAT && graph.units.iter().all(|unit| unit.needs.iter().all(|need| need.index < n_units));
        if !is_sound {
            return None;
        }
        let local = not_layered(&graph.units);
        let layered = graph.units.iter().map(|unit| !local.contains(name_of(&unit.pkg_id))).collect();
        Some(Self { units: graph.units, layered })
    }

    /// Returns the names of the packages that a layer holds.
    pub fn layered_names(&self) -> BTreeSet<&str> {
        self.layered().map(|(_, unit)| name_of(&unit.pkg_id)).collect()
    }

    /// Returns whether a layer holds the packages of an id.
    pub fn is_layered(&self, pkg_id: &str) -> bool {
        self.layered().any(|(_, unit)| unit.pkg_id == pkg_id)
    }

    /// Returns how many calls of the compiler fill a layer, and how many the rest of the build takes.
    pub fn n_compiled(&self) -> (usize, usize) {
        let compiled = self.units.iter().zip(&self.layered).filter(|(unit, _)| unit.mode != RUN);
        let (layered, rest): (Vec<_>, Vec<_>) = compiled.partition(|(_, layered)| **layered);
        (layered.len(), rest.len())
    }

    /// Returns whether any package of a layer lies below a directory.
    pub fn has_layered_below(&self, dir: &str) -> bool {
        self.layered().any(|(_, unit)| {
            unit.target
                .get("src_path")
                .and_then(Value::as_str)
                .is_some_and(|path| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')))
        })
    }

    /// Returns the key of the layer: equal keys, equal layers.
    ///
    /// Names, versions and files of the commit's own packages are not in it. Their kinds and profiles are: by them cargo decides how link-time optimisation
    /// wants its dependencies compiled. `None` when units need each other in a circle.
    pub fn layer_key(&self, of: &Ingredients<'_>) -> Option<Digest> {
        let described = self.descriptions()?;
        let units: BTreeSet<String> = self.layered().map(|(i, _)| described[&i].to_string()).collect();
        let rest: BTreeSet<String> = self
            .units
            .iter()
            .zip(&self.layered)
            .filter(|(_, layered)| !**layered)
            .map(|(unit, _)| {
                let (kind, crate_types) = (unit.target.get("kind"), unit.target.get("crate_types"));
                serde_json::json!([kind, crate_types, unit.profile, unit.platform, unit.mode]).to_string()
            })
            .collect();
        let names = self.layered_names();
        let locked: BTreeSet<String> = of.lock.packages.iter().filter(|p| names.contains(p.name.as_str())).map(locked).collect();
        let all = serde_json::json!({
            "version": LAYER_VERSION,
            "toolchain": of.toolchain,
            "environment": of.environment,
            "arguments": of.arguments,
            "files": of.files,
            "locked": locked,
            "units": units,
            "rest": rest,
        });
        Some(Digest::of(all.to_string().as_bytes()))
    }

    fn layered(&self) -> impl Iterator<Item = (usize, &Unit)> {
        self.units.iter().enumerate().filter(|(i, _)| self.layered[*i])
    }

    /// Describes each unit of the layer with all that it needs. No recursion: a chain may be longer than the stack.
    fn descriptions(&self) -> Option<HashMap<usize, Digest>> {
        let (mut described, mut begun) = (HashMap::new(), HashSet::new());
        let mut open: Vec<usize> = self.layered().map(|(i, _)| i).collect();
        while let Some(&i) = open.last() {
            if described.contains_key(&i) {
                open.pop();
                continue;
            }
            let unit = &self.units[i];
            let missing: Vec<usize> = unit.needs.iter().map(|need| need.index).filter(|i| !described.contains_key(i)).collect();
            if missing.is_empty() {
                described.insert(i, unit.describe(&described));
            } else if !begun.insert(i) {
                return None;
            } else {
                open.extend(missing);
            }
        }
        Some(described)
    }
}

#[derive(Debug, Deserialize)]
struct Graph {
    version: u64,
    units: Vec<Unit>,
}

#[derive(Debug, Deserialize)]
struct Unit {
    pkg_id: String,
    target: Value,
    profile: Value,
    platform: Option<String>,
    mode: String,
    features: Vec<String>,
    #[serde(default)]
    is_std: bool,
    #[serde(rename = "dependencies")]
    needs: Vec<Need>,
}

#[derive(Debug, Deserialize)]
struct Need {
    index: usize,
    extern_crate_name: String,
}

impl Unit {
    fn describe(&self, described: &HashMap<usize, Digest>) -> Digest {
        let needs: Vec<(String, &str)> =
            self.needs.iter().map(|need| (described[&need.index].to_string(), need.extern_crate_name.as_str())).collect();
        let parts = (&self.pkg_id, &self.target, &self.profile, &self.platform, &self.mode, &self.features, self.is_std, needs);
        Digest::of(serde_json::to_string(&parts).expect("texts and numbers").as_bytes())
    }
}

/// Returns the names of packages that no layer may hold.
fn not_layered(units: &[Unit]) -> HashSet<&str> {
    let mut names: HashSet<&str> =
        units.iter().filter(|unit| unit.is_std || !is_foreign(&unit.pkg_id)).map(|unit| name_of(&unit.pkg_id)).collect();
    loop {
        let n_before = names.len();
        for unit in units {
            if unit.needs.iter().any(|need| names.contains(name_of(&units[need.index].pkg_id))) {
                names.insert(name_of(&unit.pkg_id));
            }
        }
        if names.len() == n_before {
            return names;
        }
    }
}

/// Returns whether a package comes from somewhere that cannot change under its id. What is unknown does not.
fn is_foreign(pkg_id: &str) -> bool {
    ["registry+", "sparse+", "git+"].iter().any(|scheme| pkg_id.starts_with(scheme))
}

/// Returns the name in `registry+https://host/index#name@1.0.0`, `git+https://host/repo#name@1.0.0` or `path+file:///df/src/name#1.0.0`.
pub(crate) fn name_of(pkg_id: &str) -> &str {
    let (url, fragment) = pkg_id.rsplit_once('#').unwrap_or((pkg_id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None if fragment.starts_with(|c: char| c.is_ascii_digit()) || fragment.is_empty() => {
            let path = url.split('?').next().unwrap_or(url);
            path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
        }
        None => fragment,
    }
}

fn locked(package: &LockedPackage) -> String {
    format!("{} {} {:?} {:?}", package.name, package.version, package.source, package.checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One unit: id, mode, positions of what it needs.
    fn units(table: &[(&str, &str, &[usize])]) -> Units {
        let unit = |(id, mode, needs): &(&str, &str, &[usize])| {
            let needs: Vec<Value> = needs.iter().map(|i| serde_json::json!({"index": i, "extern_crate_name": "x"})).collect();
            serde_json::json!({
                "pkg_id": id, "target": {"kind": ["lib"], "crate_types": ["lib"], "name": "x", "src_path": "/df/cargo/x.rs"},
                "profile": {"name": "release"}, "platform": null, "mode": mode, "features": [], "dependencies": needs,
            })
        };
        let json = serde_json::json!({"version": 1, "units": table.iter().map(unit).collect::<Vec<_>>(), "roots": [0]});
        Units::parse(json.to_string().as_bytes()).expect("a graph")
    }

    const APP: &str = "path+file:///df/src#app@0.1.0";
    const SERDE: &str = "registry+https://host/index#serde@1.0.0";
    const LOG: &str = "git+https://host/log?rev=1#0.4.0";
    const NOTHING: BTreeMap<String, String> = BTreeMap::new();

    fn key(units: &Units) -> Digest {
        let lock = Lock { packages: vec![] };
        let of = Ingredients { toolchain: &NOTHING, environment: &NOTHING, arguments: &[], files: &[], lock: &lock };
        units.layer_key(&of).expect("no circle")
    }

    #[test]
    fn a_name_is_found_in_every_form_of_an_id() {
        for (id, name) in [
            (APP, "app"),
            (SERDE, "serde"),
            (LOG, "log"),
            ("path+file:///df/src/sub/app#1.0.0", "app"),
            ("path+file:///x/y", "y"),
        ] {
            assert_eq!(name_of(id), name, "{id}");
        }
    }

    #[test]
    fn only_what_needs_nothing_of_the_commit_is_layered() {
        let plain = units(&[(APP, "build", &[1, 2]), (SERDE, "build", &[3]), (LOG, "build", &[]), (SERDE, RUN, &[])]);
        assert_eq!(plain.layered_names(), BTreeSet::from(["log", "serde"]));
        assert_eq!(plain.n_compiled(), (2, 1));
        assert!(plain.is_layered(SERDE) && !plain.is_layered(APP));
        // What a patch put into the commit, and all that needs it, however far above.
        let other = "registry+https://host/index#other@1.0.0";
        let patched = units(&[
            (APP, "build", &[1]),
            (other, "build", &[2]),
            (SERDE, "build", &[3]),
            ("path+file:///df/src/log#0.4.0", "build", &[]),
        ]);
        assert!(patched.layered_names().is_empty());
        // A name that is both counts as the commit's.
        let both = units(&[("path+file:///df/src/serde#1.0.0", "build", &[1]), (SERDE, "build", &[]), (LOG, "build", &[])]);
        assert_eq!(both.layered_names(), BTreeSet::from(["log"]));
        // A place that nobody knows may change.
        assert!(units(&[("directory+file:///df/src/vendor#x@1.0.0", "build", &[])]).layered_names().is_empty());
    }

    #[test]
    fn the_key_follows_dependencies_alone() {
        let base = key(&units(&[(APP, "build", &[1]), (SERDE, "build", &[])]));
        let bumped = APP.replace("0.1.0", "0.2.0");
        assert_eq!(key(&units(&[(&bumped, "build", &[1]), (SERDE, "build", &[])])), base, "a version of the commit's own");
        assert_eq!(key(&units(&[(SERDE, "build", &[]), (APP, "build", &[0])])), base, "another order");
        assert_ne!(key(&units(&[(APP, "build", &[1]), (LOG, "build", &[])])), base, "another dependency");
        assert_ne!(key(&units(&[(APP, "build", &[1, 2]), (SERDE, "build", &[2]), (LOG, "build", &[])])), base, "one more");
        let mut other = units(&[(APP, "build", &[1]), (SERDE, "build", &[])]);
        other.units[1].features = vec!["std".into()];
        assert_ne!(key(&other), base, "a feature");
        other = units(&[(APP, "build", &[1]), (SERDE, "build", &[])]);
        other.units[0].profile = serde_json::json!({"name": "release", "lto": "true"});
        assert_ne!(key(&other), base, "a profile of the commit's own package");
        other = units(&[(APP, "build", &[1]), (SERDE, "build", &[2]), (LOG, "build", &[])]);
        let before = key(&other);
        other.units[2].profile = serde_json::json!({"name": "dev"});
        assert_ne!(key(&other), before, "a profile far below");
    }

    #[test]
    fn everything_besides_the_units_counts_too() {
        let units = units(&[(APP, "build", &[1]), (SERDE, "build", &[])]);
        let map = |value: &str| BTreeMap::from([("rustc".to_owned(), value.to_owned())]);
        let package = |checksum: &str| LockedPackage {
            name: "serde".into(),
            version: "1.0.0".into(),
            source: None,
            checksum: Some(checksum.into()),
            dependencies: vec![],
        };
        let (one, two) = (map("1"), map("2"));
        let (texts, none) = (["x".to_owned()], []);
        let (lock, changed) = (Lock { packages: vec![package("a")] }, Lock { packages: vec![package("b")] });
        let base = || Ingredients { toolchain: &one, environment: &one, arguments: &none, files: &none, lock: &lock };
        let keys: BTreeSet<String> = [
            base(),
            Ingredients { toolchain: &two, ..base() },
            Ingredients { environment: &two, ..base() },
            Ingredients { arguments: &texts, ..base() },
            Ingredients { files: &texts, ..base() },
            Ingredients { lock: &changed, ..base() },
        ]
        .iter()
        .map(|of| units.layer_key(of).expect("no circle").to_string())
        .collect();
        assert_eq!(keys.len(), 6);
    }

    #[test]
    fn what_is_no_graph_is_none() {
        for json in ["", "{}", "{\"version\":2,\"units\":[],\"roots\":[]}", "not json"] {
            assert!(Units::parse(json.as_bytes()).is_none(), "{json}");
        }
        let beyond = "{\"version\":1,\"units\":[{\"pkg_id\":\"a\",\"target\":{},\"profile\":{},\"platform\":null,\"mode\":\"build\",\"features\":[],\"dependencies\":[{\"index\":9,\"extern_crate_name\":\"x\"}]}],\"roots\":[]}";
        assert!(Units::parse(beyond.as_bytes()).is_none());
        let circle = units(&[(SERDE, "build", &[1]), (LOG, "build", &[0])]);
        let lock = Lock { packages: vec![] };
        let of = Ingredients { toolchain: &NOTHING, environment: &NOTHING, arguments: &[], files: &[], lock: &lock };
        assert!(circle.layer_key(&of).is_none());
    }
}
