//! What an application shall do on this node, kept for the next boot: `ROOT/apps/<app>/wanted.json`.
//!
//! Format 1: `{"format":1,"wanted":true,"listen":"127.0.0.1"}`. A file that is missing or damaged means: not wanted, and nothing is started on a guess.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use df_cache::durable;
use df_core::AppName;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// What an application shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    format: u32,
    /// Whether it is meant to run.
    pub wanted: bool,
    /// The address for ports that name none.
    pub listen: IpAddr,
}

impl Settings {
    /// Returns settings.
    pub fn new(wanted: bool, listen: IpAddr) -> Self {
        Self { format: 1, wanted, listen }
    }
}

/// Reads the settings of an application.
pub fn read(layout: &Layout, app: &AppName) -> Settings {
    let stored = fs::read(path(layout, app)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    stored.filter(|settings: &Settings| settings.format == 1).unwrap_or(Settings::new(false, Ipv4Addr::LOCALHOST.into()))
}

/// Writes them down, durably; nothing is written when they are so already.
///
/// # Errors
/// They cannot be written.
pub fn write(layout: &Layout, app: &AppName, settings: Settings) -> io::Result<()> {
    if read(layout, app) == settings && path(layout, app).exists() {
        return Ok(());
    }
    let json = serde_json::to_vec(&settings).expect("settings are plain data");
    durable::write(&path(layout, app), &json, 0o644)
}

fn path(layout: &Layout, app: &AppName) -> PathBuf {
    layout.app(app).join("wanted.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, layout};

    #[test]
    fn what_is_damaged_is_not_wanted() {
        let (_dir, node) = fixture::layout();
        let app: AppName = "a".parse().expect("a name");
        layout::make_dir(&node.app(&app)).expect("made");
        assert!(!read(&node, &app).wanted);
        let settings = Settings::new(true, Ipv4Addr::new(127, 77, 0, 1).into());
        write(&node, &app, settings).expect("written");
        assert_eq!(read(&node, &app), settings);
        fs::write(path(&node, &app), "{\"format\":1,").expect("torn");
        assert!(!read(&node, &app).wanted);
    }
}
